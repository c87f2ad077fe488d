"""The store's clocks: epoch seconds for what people see, seconds since boot for who is alive.

``eta``, due times and expiries are epoch seconds. Whether a node still beats is measured by the machine's
uptime, which counts suspended time and never jumps: somebody who sets the wall clock kills no worker.
"""

from __future__ import annotations

import functools
import os
import platform
import time

_UPTIME = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


def now() -> float:
    """Epoch seconds."""
    return time.time()


def uptime() -> float:
    """Seconds since this machine booted, suspended time included where the system tells it."""
    return time.clock_gettime(_UPTIME)


@functools.cache
def boot_id() -> str:
    """Names this boot of this machine; uptimes can be compared within it."""
    return _first_line("/proc/sys/kernel/random/boot_id") or f"{machine_id()}/{round(now() - uptime(), -2)}"


@functools.cache
def machine_id() -> str:
    """Names this machine over its boots; a container without an id of its own is named by its host name."""
    return _first_line("/etc/machine-id") or platform.node()


def _first_line(path: str) -> str:
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except OSError:
        return ""
    try:
        return os.read(descriptor, 256).decode("ascii", "replace").strip()
    finally:
        os.close(descriptor)
