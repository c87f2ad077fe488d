"""The part of the engine contract that is about schedules: who leads, what is due, what has been fired.

Any number of schedulers may run; one of them *leads*. It holds a *term*: a holder, a token that grows with
every change of hands, and an end by the store's clock, put off as long as the holder asks in time. A tick is
fired by one step in the store, which checks the term, compares the tick's due time with the last one fired
for this entry, marks it, and publishes the task's message. So a tick is fired once, whoever dies in between
and whoever still believes to lead.

All this is there once for each *scope*, the engine's option ``schedule_scope``: an application's name, so
that several can share a store.

Times are epoch seconds by the store's clock.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

import msgspec

if TYPE_CHECKING:
    from celeriac.engines.base import Publication

REMOVED_MAX = 10_000
"""How many names of removed entries a store remembers at least."""
CLOCK_STEP = 1.0
"""Seconds by which a store's clock may be set back without ending the term. A term that ends later than its
``ttl`` and this from now is of a clock that was set back further, and over: nobody shall wait for an hour."""


class Term(msgspec.Struct):
    """Who leads, and until when."""

    holder: str
    """The scheduler's name, unique to one life of it."""
    token: int
    """Grows with every new holder: a fencing token."""
    expires: float
    now: float
    """The store's clock when it answered."""


class Entry(msgspec.Struct):
    """A periodic task as it is stored: what it is, and how far it has come."""

    name: str
    definition: bytes
    """What the scheduler made of it, as JSON; the store does not look into it."""
    source: str = "store"
    """``code``: from the application's settings, put there by the leader; ``store``: added at run time."""
    enabled: bool = True
    version: int = 0
    """The schedule's version at which its definition, source or ``enabled`` changed last."""
    since: float = 0.0
    """When it was first stored, or enabled again: nothing before that has been missed."""
    last_due: float | None = None
    """The due time of the last tick that was fired or skipped."""
    last_run: float | None = None
    """When that was."""
    last_id: str = ""
    """The task id of the last tick that was fired."""
    runs: int = 0
    """How many ticks have been fired."""
    skipped: int = 0
    """How many ticks were left out because the task before still ran."""


class Schedule(msgspec.Struct):
    """What has changed."""

    version: int
    """Grows with every change but ticks."""
    entries: list[Entry]
    """Those that changed after the version asked for; ticks are no change."""
    removed: list[str]
    """Names removed after it."""
    complete: bool = False
    """``entries`` are all there is: whatever else the scheduler knows has been removed, and ``removed`` is
    empty. So where version 0 was asked for, one older than the removals that are remembered, or one that
    the store has not reached (it was emptied, or went back to a backup)."""


class Tick(msgspec.Struct):
    """An entry's due time that has come."""

    name: str
    due: float
    task_id: str = ""
    publication: Publication | None = None
    """The task's message; ``None`` marks the tick without one. It counts as fired if there is a ``task_id``
    (published elsewhere before), else it is a missed tick that is left out."""
    held: bool = False
    """Without a publication: it was left out elsewhere because the task before still runs. It counts as
    skipped."""


class ScheduleStore(Protocol):
    """Schedules; every coordinator is one. All steps are atomic, and concern :attr:`scope` only."""

    scope: str
    """Whose schedule it is (the option ``schedule_scope``). Entries, version and term are this scope's."""

    def lead(self, holder: str, ttl: float) -> Term | None:
        """Take the term, or put off the end of one's own to ``ttl`` seconds from now. ``None`` if another
        holds it. A term that is over is taken anew, under a new token, also by who held it last."""
        ...

    def leader(self) -> Term | None:
        """The term that runs now, if one does."""
        ...

    def resign(self, holder: str) -> None:
        """End one's own term, so that another may lead at once."""
        ...

    def schedule(self, since: int = 0) -> Schedule:
        """What has changed after the version ``since``; with 0, all there is."""
        ...

    def find_entries(self, names: Sequence[str]) -> list[Entry]:
        """The entries of these names, as far as there are any: what one change at run time needs to know."""
        ...

    def schedule_version(self) -> int:
        """The version alone: what a scheduler asks for several times a second. Any other than the one it
        knows, also a smaller one, is a reason to ask for the schedule."""
        ...

    def put_entries(self, entries: Sequence[Entry], term: Term | None = None) -> None:
        """Add entries or replace their definition, source and ``enabled``; how far they have come stays.

        The other fields are the store's, whatever stands in the entries given. An entry that is the same
        already does not change the version. ``since`` is set where an entry is new, or enabled again. With a
        ``term`` it must be the current one: else ``Fenced``, and nothing was stored.
        """
        ...

    def remove_entries(self, names: Sequence[str], term: Term | None = None) -> int:
        """Remove entries; return how many there were. With a ``term`` as :meth:`put_entries`."""
        ...

    def fire(self, term: Term, ticks: Sequence[Tick]) -> dict[str, str]:
        """Fire ticks: for each that is due later than the entry's last one, mark it and publish its message.

        Those left out come back, name -> reason: ``"done"`` (this tick or a later one was fired already),
        ``"gone"`` (no such entry, or not enabled), ``"held"`` (the publication's unique key is held: the tick
        is marked and counted as skipped). Of several ticks of one entry, which are taken in the order given,
        the last one that was left out tells the reason. Raises ``Fenced`` if the term is not the current one,
        or over: nothing was stored. Where messages go to another store than this one, publications must be
        ``None`` and have been published before, under a unique key of the tick's own.
        """
        ...


def over(term: Term) -> str:
    """What ``Fenced`` says of a term that is not the current one."""
    return (
        f"the term {term.token} of scheduler {term.holder} is over: it was not renewed in time, or another "
        "leads. Nothing was stored; take the term again (lead) before anything else"
    )
