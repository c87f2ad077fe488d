"""Lamport's logical clock, by which events of many processes are put in order."""

from __future__ import annotations

import threading


class LamportClock:
    """A counter that each event and message advances, and that never falls behind one that is received."""

    def __init__(self, value: int = 0) -> None:
        self.value = value
        """The clock as it is now."""
        self._lock = threading.Lock()

    def forward(self, steps: int = 1) -> int:
        """Advance by ``steps``; return the new value."""
        with self._lock:
            self.value += steps
            return self.value

    def adjust(self, other: int) -> int:
        """Go beyond ``other``, the clock of a message that has come; return the new value."""
        with self._lock:
            self.value = max(self.value, other) + 1
            return self.value
