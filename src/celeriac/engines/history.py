"""The part of the engine contract that keeps what became of each attempt to run a task."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import msgspec


class Attempt(msgspec.Struct, omit_defaults=True):
    """One delivery of a task that was brought to an end, as its worker saw it. Times are epoch seconds."""

    id: str
    task: str
    state: str
    """The task's state after it (SUCCESS, RETRY, FAILURE, REVOKED, ...), or REJECTED, IGNORED, or LOST: its
    process died."""
    queue: str
    worker: str
    """The node's name."""
    ended: float
    received: float = 0.0
    started: float = 0.0
    """0: it was not run."""
    runtime: float = 0.0
    """Seconds."""
    retries: int = 0
    """How many times the task had asked for a retry before."""
    deliveries: int = 0
    """How many runs before this one ended with their process."""
    pid: int = 0
    args: str = ""
    """The arguments as they are shown: shortened, sensitive ones masked."""
    kwargs: str = ""
    result: str = ""
    """The return value as it is shown, shortened."""
    error: str = ""
    """The exception or reason, one line."""
    root: str = ""
    parent: str = ""
    group: str = ""


class Wanted(msgspec.Struct):
    """Which attempts are asked for; what is empty does not matter."""

    id: str = ""
    task: str = ""
    states: Sequence[str] = ()
    worker: str = ""
    queue: str = ""
    since: float | None = None
    """Ended at this epoch second or later."""
    until: float | None = None


class HistoryStore(Protocol):
    """Attempts, newest first. It belongs to the result store, and shares the settling step with it."""

    def note_attempts(self, attempts: Sequence[Attempt]) -> None:
        """Store attempts that no settle brought along (a dead worker's)."""
        ...

    def attempts(self, wanted: Wanted, limit: int = 100, before: str = "") -> tuple[list[Attempt], str]:
        """A page of the history, newest first, and where the next page begins ("" if there is none).

        ``before`` is what the last page gave.
        """
        ...

    def prune_history(self, keep: int, age: float) -> int:
        """Delete what is over ``keep`` attempts, and what ended over ``age`` seconds ago; return how many.

        In small batches, so that nobody waits for it; workers call it now and then.
        """
        ...
