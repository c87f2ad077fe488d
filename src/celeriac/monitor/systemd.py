"""Telling systemd how a service fares (``Type=notify``, ``WatchdogSec=``).

Protocol: man 3 sd_notify. Where ``NOTIFY_SOCKET`` is not set, nothing is done.
"""

from __future__ import annotations

import os
import socket
import time


class Systemd:
    """systemd, to which this process is a service. Telling never blocks and never raises."""

    def __init__(self) -> None:
        path = os.environ.get("NOTIFY_SOCKET", "")
        self._address = "\0" + path[1:] if path.startswith("@") else path
        self._interval = _watchdog() if path else 0.0
        self._due = 0.0

    def ready(self, status: str) -> None:
        """The service is up; ``status`` is shown by ``systemctl status``."""
        self._tell(f"READY=1\nSTATUS={status}")

    def stopping(self) -> None:
        """It has begun to shut down."""
        self._tell("STOPPING=1\nSTATUS=Stopping")

    def alive(self) -> None:
        """It works; call it often. Told at half the time that systemd waits before it kills the service."""
        now = time.monotonic()
        if self._interval and now >= self._due:
            self._due = now + self._interval / 2
            self._tell("WATCHDOG=1")

    def _tell(self, state: str) -> None:
        if not self._address:
            return
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as end:
            end.setblocking(False)
            try:
                end.sendto(state.encode(), self._address)
            except OSError:
                pass  # nobody listens, or not now: it is a courtesy


def _watchdog() -> float:
    """Seconds without a sign after which systemd kills this process; 0 if it does not."""
    if os.environ.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return 0.0
    try:
        return int(os.environ.get("WATCHDOG_USEC", "0")) / 1e6
    except ValueError:
        return 0.0
