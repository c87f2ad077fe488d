"""Waiting for file descriptors, and reading without waiting, in every pool.

eventlet takes ``poll`` and ``epoll`` away, and makes ``os.read`` wait where a non-blocking pipe is empty.
"""

from __future__ import annotations

import os
import select
import sys
from collections.abc import Collection

if sys.platform == "win32":
    _read = os.read
else:
    from posix import read as _read  # os.read before anybody patched it


def readable(descriptors: Collection[int], timeout: float | None) -> list[int]:
    """Return those that are readable, or closed, within ``timeout`` seconds; ``None`` waits without limit."""
    if not hasattr(select, "poll"):
        return list(select.select(descriptors, [], [], timeout)[0])
    poll = select.poll()
    for descriptor in descriptors:
        poll.register(descriptor, select.POLLIN)
    # Rounded up: waking before the time is a wasted look. Not waiting at all stays so.
    return [ready for ready, _ in poll.poll(timeout * 1000 + 0.5 if timeout else timeout)]


def drain(descriptor: int, size: int = 4096) -> bytes:
    """Return up to ``size`` bytes of what is there in a non-blocking descriptor; nothing if it is empty."""
    try:
        return _read(descriptor, size)
    except BlockingIOError:
        return b""
