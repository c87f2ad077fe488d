"""The part of the engine contract that is about groups of tasks: their lists of results, and chords.

A chord is a group of *header* tasks whose results go to a *body* once all of them have ended. The store
counts its *parts*, one a header task, and never the same task twice. The step that records the last part
also leaves an *owed* entry: the body is owed. Whoever meets it, the worker that recorded the last part or
any node some seconds later, takes the entry, makes the body's message, and stores message and end of the
entry in one conditional step. So the body goes out once, whoever dies in between::

    open_chord ──▶ counting ──last part──▶ owed ──take_owed──▶ taken ──settle_owed──▶ done
                                            ▲                    │
                                            └── OWED_AGAIN s ────┘

On Redis the parts lie in Celery's own keys (``celery-taskset-meta-<group>.j``, ``.s``, ``.t``, ``.d``,
``.c``; celery/backends/redis.py of Celery 5.7), so that a header may be run by Celery's workers and ours.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

import msgspec

if TYPE_CHECKING:
    from celeriac.engines.base import Publication
    from celeriac.engines.results import ResultRecord

OWED_AGAIN = 10.0
"""Seconds after which an owed body that was taken, and not settled, may be taken by another."""


class ChordPart(msgspec.Struct):
    """How one task of a chord's header ended."""

    group: str
    """The chord's id: the ``group`` header of its header tasks."""
    task_id: str
    index: int | None
    """The task's place in the header; ``None`` comes last."""
    payload: bytes
    """Celery's form, serialised by ``result_serializer``: ``[1, task_id, state, result]``."""
    ttl: float | None = None
    """Seconds that the chord is kept from now on, at least (each part renews it, and none shortens what was
    given before); ``None`` keeps it."""
    body: bytes | None = None
    """What :meth:`GroupStore.open_chord` would have been given, where a program that does not call it
    (Celery) has begun the chord; the store keeps the first one it sees."""
    grow: int = 0
    """So many tasks have joined the header in this step (``Task.add_to_chord``)."""


class Owed(msgspec.Struct):
    """A chord whose header is done and whose body has not gone out."""

    group: str
    body: bytes | None
    """As given to ``open_chord``; ``None`` if no part brought one (it can only be dropped)."""
    parts: list[bytes]
    """The payloads of the parts in the order of the header."""


class GroupStore(Protocol):
    """Groups and chords; every result backend is one. All steps are atomic."""

    def store_group(self, group: str, payload: bytes, ttl: float | None) -> None:
        """Keep a group's list of results (``GroupResult.save``); ``ttl`` in seconds, ``None`` for ever."""
        ...

    def fetch_group(self, group: str) -> bytes | None: ...

    def forget_group(self, group: str) -> None:
        """Delete what :meth:`store_group` kept, if anything."""
        ...

    def open_chord(self, group: str, size: int, body: bytes, ttl: float | None) -> None:
        """Begin a chord whose header has ``size`` tasks, before they are published.

        Safe to repeat: a chord that has been opened is left as it is, and one that is done stays done.
        A ``size`` of 0 is owed at once.
        """
        ...

    def record_parts(self, parts: Sequence[ChordPart], by: str) -> list[str]:
        """Record parts; return the groups whose last part was among them, taken by ``by``.

        A task counts once, whatever it is recorded as later, and a chord that is done changes no more. Where
        broker and results are one store parts are recorded by the settling step instead (``Outcome.parts``).
        """
        ...

    def owed(self) -> list[str]:
        """Groups whose body is owed and that nobody has taken within ``OWED_AGAIN`` seconds, oldest first,
        at most 100."""
        ...

    def take_owed(self, group: str, by: str) -> Owed | None:
        """Take an owed body to send it, under the name ``by`` (which must be unique to the taker).

        ``None`` if it is not owed, or if another took it within ``OWED_AGAIN`` seconds. Taking again what
        one holds renews it.
        """
        ...

    def settle_owed(
        self,
        group: str,
        by: str,
        publications: Sequence[Publication] = (),
        records: Sequence[ResultRecord] = (),
        parts: Sequence[ChordPart] = (),
    ) -> list[str] | None:
        """End an owed body that ``by`` holds, and store with it what follows.

        ``publications`` are stored where this is the broker's store too; elsewhere they must be empty and
        have been published before. ``parts`` are those of chords that this one's body belongs to. Returns
        the groups that are owed now because of them (taken by ``by``), or ``None`` if ``by`` no longer
        holds it: then nothing was stored. The group is remembered as done for a day.
        """
        ...
