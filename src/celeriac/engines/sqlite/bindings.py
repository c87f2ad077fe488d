"""Exchanges in an SQLite file: which queues are tied to them, and a fanout's copies."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence

from celeriac.engines.sqlite import unique
from celeriac.engines.sqlite.store import Store
from celeriac.routing.queues import Binding

_BIND = "INSERT OR REPLACE INTO binding (exchange, type, routing_key, queue, node) VALUES (?, ?, ?, ?, ?)"
_BINDINGS = "SELECT exchange, type, routing_key, queue FROM binding WHERE exchange = ? ORDER BY queue"
_TIES = "SELECT exchange, type, routing_key, queue FROM binding WHERE node = '' ORDER BY exchange, queue"
_FANNED = "SELECT DISTINCT queue FROM binding WHERE exchange = ? AND type = 'fanout' ORDER BY queue"
_UNBIND = "DELETE FROM binding WHERE node = ? RETURNING queue"
_PAYLOADS = "DELETE FROM payload WHERE id IN (SELECT id FROM {table} WHERE queue = ?)"
_ROWS = "DELETE FROM {table} WHERE queue = ?"
_FORGET = "DELETE FROM queue WHERE name = ?1 AND NOT EXISTS (SELECT 1 FROM dead WHERE queue = ?1)"


class SQLiteBindings:
    """The part of the engine that knows exchanges (:class:`celeriac.engines.base.Broker`)."""

    _store: Store

    def bind(self, bindings: Sequence[Binding], node: str = "") -> None:
        """Tie queues to exchanges; with ``node`` they are its own."""
        with self._store.write() as handle:
            handle.executemany(_BIND, [(*binding, node) for binding in bindings])

    def bindings(self, exchange: str) -> list[Binding]:
        """The queues tied to an exchange."""
        with self._store.read() as handle:
            return [Binding(*row) for row in handle.execute(_BINDINGS, (exchange,))]

    def ties(self) -> list[Binding]:
        """All bindings of queues that are no node's own."""
        with self._store.read() as handle:
            return [Binding(*row) for row in handle.execute(_TIES)]

    def consumers(self, queues: Sequence[str]) -> dict[str, int]:
        """None: all who take from a file are nodes."""
        return {}


def fanned(handle: sqlite3.Connection, exchange: str) -> list[str]:
    """The queues tied to a fanout exchange."""
    return [queue for (queue,) in handle.execute(_FANNED, (exchange,))]


def unbind(handle: sqlite3.Connection, node: str) -> None:
    """Forget a node's own queues with what waits in them; dead letters stay."""
    for (queue,) in handle.execute(_UNBIND, (node,)).fetchall():
        for table in ("ready", "delayed", "parked"):
            unique.free_queue(handle, table, queue)
            handle.execute(_PAYLOADS.format(table=table), (queue,))
            handle.execute(_ROWS.format(table=table), (queue,))
        handle.execute(_FORGET, (queue,))
