"""What a move has done so far, and what it had to leave where it was."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Report:
    """Counts of messages, by queue of the source."""

    ready: Counter[str] = field(default_factory=Counter)
    delayed: Counter[str] = field(default_factory=Counter)
    dead: Counter[str] = field(default_factory=Counter)
    repeated: int = 0
    """Messages that an earlier run, which was killed, had brought over; only taken out of the source now."""
    left: dict[str, list[str]] = field(default_factory=dict)
    """Queue -> sentences about what stays in it, and why."""

    @property
    def total(self) -> int:
        """How many messages are at the other end now that were not before."""
        return self.ready.total() + self.delayed.total() + self.dead.total()

    def leave(self, queue: str, sentence: str) -> None:
        """Note why something stays."""
        self.left.setdefault(queue, []).append(sentence)

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        names = sorted({*self.ready, *self.delayed, *self.dead})
        kinds = {"ready": self.ready, "delayed": self.delayed, "dead": self.dead}
        moved = {name: {kind: counts[name] for kind, counts in kinds.items()} for name in names}
        return {"moved": moved, "total": self.total, "repeated": self.repeated, "left": self.left}
