"""The SQLite engine: one file on a local disk is broker, result backend and coordinator, without a server.

``sqlite:///celeriac.db`` is a relative path, ``sqlite:////var/lib/app/celeriac.db`` an absolute one. Options
stand in the URL's query (``?synchronous=FULL&lock_timeout=30``) or in the transport options:
:class:`~celeriac.engines.sqlite.location.Options` lists them. Beside the file there is a directory
``celeriac.db.d`` with the writers' gate, the pipes for waking, and the disk reserve.

Durability: publishes and operators' orders are committed at ``synchronous=FULL`` and survive a power cut;
workers commit at NORMAL, so that a power cut may take the last settles back: those tasks run again.
What another store relies on, a chord's beginning and the parts of tasks whose messages lie elsewhere, is
committed at FULL, too. ``?synchronous=FULL`` commits everything so. A crash of any process loses nothing at
either level.

A higher priority number is served first (``?priority_order=lower`` turns it round).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from celeriac.engines.base import HIGHER_FIRST, LOWER_FIRST
from celeriac.engines.mailbox import Mailbox
from celeriac.engines.sqlite.broker import SQLiteBroker
from celeriac.engines.sqlite.coordinator import SQLiteCoordinator
from celeriac.engines.sqlite.history import SQLiteHistory
from celeriac.engines.sqlite.listener import Listener
from celeriac.engines.sqlite.location import Location
from celeriac.engines.sqlite.remote import SQLiteRemote
from celeriac.engines.sqlite.results import SQLiteResults, fetch
from celeriac.engines.sqlite.schedules import SQLiteSchedules
from celeriac.engines.sqlite.store import Store


class SQLiteEngine(
    SQLiteBroker, SQLiteResults, SQLiteSchedules, SQLiteCoordinator, SQLiteRemote, SQLiteHistory
):
    """One process's door to a store in a file (:class:`celeriac.engines.base.Engine`)."""

    scheme = "sqlite"

    def __init__(self, location: Location, mailbox: Callable[[], Mailbox] = Mailbox) -> None:
        self.url = location.url
        self.mailbox = mailbox
        self._store = Store(location)
        self.scope = location.options.schedule_scope
        self._listener = Listener(self._store, partial(fetch, self._store))

    @property
    def urgencies(self) -> Mapping[str, int]:
        """The priority of each urgency."""
        return LOWER_FIRST if self._store.sign > 0 else HIGHER_FIRST

    def shares_store(self, other: object) -> bool:
        """Whether ``other`` is the same file."""
        return isinstance(other, SQLiteEngine) and other._store.path == self._store.path

    def close(self) -> None:
        """End the results' thread and close the connections; the next use opens them again."""
        self._listener.close()
        self._store.close()


def create(url: str, options: Mapping[str, Any]) -> SQLiteEngine:
    """Return the engine for a ``sqlite:`` URL, not yet connected. Raises ``ImproperlyConfigured``."""
    return SQLiteEngine(Location.parse(url, options), options.get("mailbox", Mailbox))
