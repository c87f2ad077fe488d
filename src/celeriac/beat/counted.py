"""What a beat has done: counted for its metrics, and ticks that were late told in one line for all."""

from __future__ import annotations

import logging
import time

logger = logging.getLogger("celeriac.beat")

LATE = 10.0
"""Seconds from which ticks that are late are worth a warning: another beat has taken over by then."""


class Counted:
    """What a beat has done so far."""

    def __init__(self) -> None:
        self.sent = 0
        self.held = 0
        """Ticks left out because the task of the one before still ran."""
        self.late = 0.0
        """By how many seconds the last tick was late, jitter not counted."""
        self.wakes = time.monotonic()
        """When the loop goes round next, at the latest (``time.monotonic()``)."""
        self._untold: tuple[int, float, str] = (0, 0.0, "")
        """Ticks that were late and not warned of yet: how many, by how much at most, which that was."""

    def fired(self, name: str, after: float, jitter: float) -> None:
        """A tick was sent so many seconds after it was due, of which ``jitter`` are meant."""
        self.sent += 1
        self.late = late = max(0.0, after - jitter)
        if late >= LATE:
            count, longest, which = self._untold
            self._untold = (count + 1, *max((longest, which), (late, name)))

    def say_late(self) -> bool:
        """Warn of the ticks that were late since the last warning, if there are any; return whether."""
        count, longest, name = self._untold
        if count:
            logger.warning("beat: %d ticks were late, by up to %.1f s (%s)", count, longest, name)
            self._untold = (0, 0.0, "")
        return bool(count)
