"""The code's entries, and how they get into the store."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from celeriac.app.definition import Definition, encode, from_item, read, same_schedule
from celeriac.engines.schedule import Entry, Schedule, ScheduleStore, Term
from celeriac.schedules import crontab

if TYPE_CHECKING:
    from celeriac.app.base import Celeriac

logger = logging.getLogger("celeriac.beat")

BATCH = 1000
"""Entries a request."""


def with_defaults(app: Celeriac, entries: Mapping[str, Any]) -> dict[str, Any]:
    """The entries and those that every application has.

    These are ``celery.backend_cleanup``, daily at 4:00, where results expire (``result_expires``) and their
    store does not delete them by itself. An entry of that name replaces it.
    """
    found = dict(entries)
    backend = app.backend
    if app.conf.result_expires and backend is not None and not getattr(backend, "supports_autoexpire", False):
        found.setdefault(
            "celery.backend_cleanup",
            {
                "task": "celery.backend_cleanup",
                "schedule": crontab(minute="0", hour="4"),
                "options": {"expires": 12 * 3600},
            },
        )
    return found


def definitions(app: Celeriac, entries: Mapping[str, Any]) -> dict[str, Definition]:
    """Read items of ``beat_schedule``. Raises ``ImproperlyConfigured`` for one that cannot be."""
    return {name: from_item(app, name, item) for name, item in entries.items()}


def bring_in(
    store: ScheduleStore, term: Term, code: Mapping[str, Definition], now: float, between: Callable[[], None]
) -> Schedule:
    """Bring the code's entries into the store: new and changed ones, and remove those that are gone.

    Returns the schedule as it is then.

    What was paused stays paused, unless the code has since changed its mind about ``enabled``. ``between`` is
    called between requests. Raises ``Fenced`` if the term is over.
    """
    found = store.schedule()
    stored = {entry.name: entry for entry in found.entries}
    changed = [
        entry
        for definition in code.values()
        if (entry := _to_put(definition, stored.get(definition.name), now))
    ]
    for start in range(0, len(changed), BATCH):
        between()
        store.put_entries(changed[start : start + BATCH], term)
    gone = [entry.name for entry in stored.values() if entry.source == "code" and entry.name not in code]
    for start in range(0, len(gone), BATCH):
        between()
        store.remove_entries(gone[start : start + BATCH], term)
    if not changed and not gone:
        return found
    logger.info("beat: the code's entries: %d new or changed, %d removed", len(changed), len(gone))
    return store.schedule()


def _to_put(definition: Definition, stored: Entry | None, now: float) -> Entry | None:
    """The entry to be stored, or ``None`` if it is there as it is. Sets ``definition.changed``."""
    definition.changed = 0.0
    data = encode(definition, strict=False)
    if stored is None:
        return Entry(definition.name, data, "code", definition.enabled)
    if stored.source != "code":
        logger.warning("beat: the code's entry %r takes the place of the stored one", definition.name)
    before = read(stored.definition)
    definition.changed = float(before.get("changed", 0.0))
    if not same_schedule(data, stored.definition):
        definition.changed = now
    data = encode(definition, strict=False)
    if data == stored.definition and stored.source == "code":
        return None
    wanted = definition.enabled != before.get("enabled", True)
    return Entry(definition.name, data, "code", definition.enabled if wanted else stored.enabled)
