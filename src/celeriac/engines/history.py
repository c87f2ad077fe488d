"""The part of the engine contract that keeps what became of each attempt to run a task.

An attempt goes with its outcome (``Outcome.attempt``) and is stored in the settling step, where the broker's
store keeps a history; else (RabbitMQ) with the results, in the round trip that they make. What an outcome
that was refused brought along is not stored.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import msgspec


class Attempt(msgspec.Struct, array_like=True, gc=False):
    """One delivery of a task that was brought to an end, as its worker saw it. Times are epoch seconds.

    It is stored as an array, which takes half the time and room: append fields, never move one. For an object
    by names there is ``msgspec.structs.asdict``.
    """

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
    """The first task of its tree; empty if that is the task itself."""
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


@runtime_checkable
class HistoryStore(Protocol):
    """Attempts, newest first: in the order in which they were settled."""

    history_max: int
    """How many attempts it keeps where nothing else was said (``task_history_max``)."""

    def note_attempts(self, attempts: Sequence[Attempt]) -> None:
        """Store attempts that no settle brought along (a dead worker's)."""
        ...

    def attempts(self, wanted: Wanted, limit: int = 100, before: str = "") -> tuple[list[Attempt], str]:
        """A page of the history, newest first, and where the next page begins ("" if there is none).

        ``before`` is what the last page gave. ``Wanted.until`` passes over what was settled more than
        ``LATE`` seconds after it had ended, ``Wanted.since`` needs clocks that agree within ``SKEW``.
        """
        ...

    def prune_history(self, keep: int, age: float) -> int:
        """Delete what is over ``keep`` attempts, and what ended over ``age`` seconds ago; return how many.

        In small batches, so that nobody waits for it; workers call it now and then.
        """
        ...
