"""Words for the tests of schedules: entries, ticks, leading."""

from __future__ import annotations

from typing import Any

from celeriac.contrib.conformance.helpers import pub
from celeriac.engines.base import Engine, Hold, Unique
from celeriac.engines.schedule import Entry, Term, Tick

LONG = 1000.0
DUE = 1_700_000_000.123456
"""A due time: the store compares it with other due times only, not with its clock."""


def take(engine: Engine, holder: str = "one", ttl: float = LONG) -> Term:
    """Lead, which must work."""
    term = engine.lead(holder, ttl)
    assert term is not None
    return term


def entry(name: str = "e", definition: bytes = b"{}", **fields: Any) -> Entry:
    return Entry(name, definition, **fields)


def put(engine: Engine, *names: str, definition: bytes = b"{}", **fields: Any) -> None:
    engine.put_entries([entry(name, definition, **fields) for name in names])


def stored(engine: Engine) -> dict[str, Entry]:
    """All entries by name."""
    return {each.name: each for each in engine.schedule().entries}


def changed(engine: Engine, since: int) -> set[str]:
    """The names of what has changed after a version."""
    return {each.name for each in engine.schedule(since).entries}


def tick(name: str = "e", due: float = DUE, **options: Any) -> Tick:
    """A tick with a message; its id tells entry and due time."""
    task_id = f"{name}@{due - DUE:g}"
    return Tick(name, due, task_id, pub(task_id, **options))


def bare(name: str = "e", due: float = DUE, task_id: str = "", held: bool = False) -> Tick:
    """A tick without a message."""
    return Tick(name, due, task_id, held=held)


def overlapping(name: str, due: float, until: Hold = Hold.ENDED) -> Tick:
    """A tick whose task must not run beside the one before."""
    return tick(name, due, unique=Unique(f"schedule:{name}", LONG, until))
