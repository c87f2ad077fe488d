"""The part of the engine contract that is about results: states of tasks, stored and announced."""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

import msgspec

from celeriac.engines.groups import GroupStore
from celeriac.engines.history import Attempt


class ResultRecord(msgspec.Struct):
    """A task's state to be stored and announced."""

    id: str
    state: str
    payload: bytes
    """The result as Celery stores it: a serialised ``{"status": ..., "result": ..., ...}``."""
    ttl: float | None = None
    """Seconds until it expires; ``None`` keeps it."""
    reply: str | None = None
    """The client's reply address from the message, to be told as well."""
    lease: tuple[str, str, int] | None = None
    """``(owner name, queue, token)``: store only while this lease is held, where the broker's store is ours
    (state updates of a running task). Settles need none, they are conditional as a whole."""


class Presence(enum.Enum):
    """What the store knows of a task id (``AsyncResult.presence``)."""

    KNOWN = "known"
    """A state is stored."""
    QUEUED = "queued"
    """It was published, and no state is stored yet (``task_track_queued``)."""
    EXPIRED = "expired"
    """It had a result, which has expired; remembered for ``result_tombstone_expires``."""
    UNKNOWN = "unknown"


class Subscription(Protocol):
    """Interest in results; ``close`` ends it. Safe to close twice."""

    def close(self) -> None: ...


class ResultBackend(GroupStore, Protocol):
    """Task states and results, groups and chords."""

    url: str

    def store(self, records: Sequence[ResultRecord], attempts: Sequence[Attempt] = ()) -> list[str]:
        """Store and announce states, in order; return the ids that were refused.

        Refused is what would replace SUCCESS, and what carries a lease that is not held. ``attempts`` go into
        the history in the same round trip, whatever is refused; only a ``HistoryStore`` is given any.
        """
        ...

    def fetch(self, ids: Sequence[str]) -> dict[str, bytes]:
        """The stored payloads of those ids that have one."""
        ...

    def subscribe(self, ids: Iterable[str], callback: Callable[[str, bytes], None]) -> Subscription:
        """Call ``callback(id, payload)`` for every state already stored and every one to come.

        It is called from a thread of the engine's, at least once a state while it is the newest; it must be
        quick and must not raise. Works by notification; a slow poll is the net under it.
        """
        ...

    def forget(self, ids: Sequence[str]) -> None: ...

    def presence(self, ids: Sequence[str]) -> dict[str, Presence]: ...

    def reply_address(self) -> str | None:
        """This process's address for ``Notes.reply``, or ``None`` if the store needs none."""
        ...

    def cleanup(self) -> int:
        """Delete expired results (a no-op where the server does it); return how many."""
        ...

    def close(self) -> None: ...
