"""Waiting for file descriptors, by whatever call this process has: eventlet takes ``poll`` and ``epoll`` away."""

from __future__ import annotations

import select
from collections.abc import Collection


def readable(descriptors: Collection[int], timeout: float | None) -> list[int]:
    """Return those that are readable, or closed, within ``timeout`` seconds; ``None`` waits without limit."""
    if not hasattr(select, "poll"):
        return list(select.select(descriptors, [], [], timeout)[0])
    poll = select.poll()
    for descriptor in descriptors:
        poll.register(descriptor, select.POLLIN)
    # Rounded up: waking before the time is a wasted look.
    return [ready for ready, _ in poll.poll(None if timeout is None else timeout * 1000 + 0.5)]
