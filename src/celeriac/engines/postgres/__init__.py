"""The PostgreSQL engine: one database is broker, result backend and coordinator, in a schema of its own.

``postgresql://user:password@host:5432/database?schema=celeriac``; options stand in the URL's query or in the
transport options: :class:`~celeriac.engines.postgres.location.Options` lists them, and libpq's own
(``sslmode``, ``target_session_attrs``) go to libpq. The tables are made at the first use.

A message is claimed, settled and published by one statement each, functions of the schema's
(``migrations/0002_functions.sql``): so they are one round trip, their plans are kept by the server, and they
work behind a pool in transaction mode (``?pooled=true``). Whatever else is a short transaction of several.

Durability is the server's: a commit is on disk (``synchronous_commit=on``) and, with synchronous standbys, on
theirs. ``?synchronous_commit=off`` lets workers' settles and claims go without: a crash of the server may
then take the last of them back, and those tasks run again.

A higher priority number is served first (``?priority_order=lower`` turns it round).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from celeriac.engines.base import HIGHER_FIRST, LOWER_FIRST
from celeriac.engines.mailbox import Mailbox
from celeriac.engines.postgres import schema
from celeriac.engines.postgres.broker import PostgresBroker
from celeriac.engines.postgres.coordinator import PostgresCoordinator
from celeriac.engines.postgres.history import PostgresHistory
from celeriac.engines.postgres.listener import Listener
from celeriac.engines.postgres.location import Location
from celeriac.engines.postgres.remote import PostgresRemote
from celeriac.engines.postgres.results import PostgresResults, fetch
from celeriac.engines.postgres.schedules import PostgresSchedules
from celeriac.engines.postgres.store import Store


class PostgresEngine(
    PostgresBroker, PostgresResults, PostgresSchedules, PostgresCoordinator, PostgresRemote, PostgresHistory
):
    """One process's door to the store (:class:`celeriac.engines.base.Engine`)."""

    scheme = "postgres"

    def __init__(self, location: Location, mailbox: Callable[[], Mailbox] = Mailbox) -> None:
        self.url = location.url
        self.mailbox = mailbox
        self.scope = location.options.schedule_scope
        self._store = Store(location)
        self._listener = Listener(self._store, partial(fetch, self._store))

    @property
    def urgencies(self) -> Mapping[str, int]:
        """The priority of each urgency."""
        return LOWER_FIRST if self._store.sign > 0 else HIGHER_FIRST

    def shares_store(self, other: object) -> bool:
        """Whether ``other`` is the same schema of the same database."""
        return isinstance(other, PostgresEngine) and other._store.location.place == self._store.location.place

    def schema_versions(self) -> tuple[int, int]:
        """The version of the tables there are (0: none), and the one this code needs."""
        handle = self._store.open_handle()
        try:
            return schema.version(handle, self._store.schema), len(schema.MIGRATIONS)
        except Exception as error:
            raise self._store.told(error) from error
        finally:
            handle.close()

    def upgrade_schema(self) -> int:
        """Make the tables or bring them up to date; return their version (``celeriac schema upgrade``)."""
        handle = self._store.open_handle()
        try:
            return schema.upgrade(handle, self._store.schema)
        except Exception as error:
            raise self._store.told(error) from error
        finally:
            handle.close()

    def close(self) -> None:
        """End the results' thread and close the connections; the next use opens them again."""
        self._listener.close()
        self._store.close()


def create(url: str, options: Mapping[str, Any]) -> PostgresEngine:
    """Return the engine for a ``postgresql:`` URL, not yet connected. Raises ``ImproperlyConfigured``."""
    return PostgresEngine(Location.parse(url, options), options.get("mailbox", Mailbox))
