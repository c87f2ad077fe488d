"""The worker's own beat (``-B``): a process beside the children, kept by the supervisor."""

from __future__ import annotations

import logging
import os
import signal
import time
from collections.abc import Callable

logger = logging.getLogger("celeriac.worker")

PATIENCE = 3.0
"""Seconds that it has to resign and end."""
FIRST_REST, LONGEST_REST = 0.5, 10.0
"""Seconds before it is started again after it died: doubling, so that one that cannot start does no harm."""


class EmbeddedBeat:
    """The process as its parent sees it. ``start`` forks it and returns its pid."""

    def __init__(self, start: Callable[[], int]) -> None:
        self.pid = 0
        self._start = start
        self._born = 0.0
        self._rest = FIRST_REST
        self._not_before = 0.0
        self._kill_at: float | None = None

    def keep(self) -> None:
        """Start it if it does not run."""
        now = time.monotonic()
        if not self.pid and now >= self._not_before:
            self._born = now
            self.pid = self._start()

    def reaped(self, pid: int, how: str, in_order: bool = False) -> bool:
        """Take note that a process ended; return whether it was this one.

        ``in_order``: it was sent SIGTERM, as all processes of a service are when that is stopped.
        """
        if pid != self.pid:
            return False
        self.pid = 0
        if self._kill_at is None:
            now = time.monotonic()
            self._rest = FIRST_REST if now - self._born > LONGEST_REST else min(2 * self._rest, LONGEST_REST)
            self._not_before = now + self._rest
            if in_order:
                logger.info(
                    "The embedded beat was told to stop; another is started unless the worker stops, too"
                )
            else:
                logger.error("The embedded beat %s; replacing it", how)
        return True

    def end(self) -> None:
        """Ask it to resign and end."""
        self._kill_at = time.monotonic() + PATIENCE
        if self.pid:
            os.kill(self.pid, signal.SIGTERM)

    @property
    def ended(self) -> bool:
        """Whether it has ended; one that takes too long is killed."""
        if self.pid and self._kill_at is not None and time.monotonic() >= self._kill_at:
            os.kill(self.pid, signal.SIGKILL)
        return not self.pid
