"""Exchanges in PostgreSQL: which queues are tied to them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from celeriac.engines.postgres.store import Store
from celeriac.routing.queues import Binding

if TYPE_CHECKING:
    from celeriac.engines.postgres.step import Step

_BIND = """INSERT INTO @binding (exchange, type, routing_key, queue, node) VALUES (%s, %s, %s, %s, %s)
ON CONFLICT (exchange, queue, routing_key) DO UPDATE SET type = excluded.type, node = excluded.node"""
_BINDINGS = "SELECT exchange, type, routing_key, queue FROM @binding WHERE exchange = %s ORDER BY queue"
_TIES = "SELECT exchange, type, routing_key, queue FROM @binding WHERE node = '' ORDER BY exchange, queue"
_UNBIND = "DELETE FROM @binding WHERE node = %s RETURNING queue"
_FREE = """DELETE FROM @held WHERE until <> 'expiry'
AND message IN (SELECT id FROM @message WHERE queue = %s AND state <> 1)"""
_EMPTY = """WITH gone AS (DELETE FROM @message WHERE queue = %s AND state <> 1 RETURNING id)
DELETE FROM @payload p USING gone WHERE p.id = gone.id"""
_FORGET = "DELETE FROM @queue q WHERE name = %s AND NOT EXISTS (SELECT 1 FROM @dead d WHERE d.queue = q.name)"


class PostgresBindings:
    """The part of the engine that knows exchanges (:class:`celeriac.engines.base.Broker`)."""

    _store: Store

    def bind(self, bindings: Sequence[Binding], node: str = "") -> None:
        """Tie queues to exchanges; with ``node`` they are its own."""
        for binding in bindings:
            self._store.read(_BIND, (*binding, node))

    def bindings(self, exchange: str) -> list[Binding]:
        """The queues tied to an exchange."""
        return [Binding(*row) for row in self._store.read(_BINDINGS, (exchange,))]

    def ties(self) -> list[Binding]:
        """All bindings of queues that are no node's own."""
        return [Binding(*row) for row in self._store.read(_TIES)]

    def consumers(self, queues: Sequence[str]) -> dict[str, int]:
        """None: all who take from the tables are nodes."""
        return {}


def empty(work: Step, queue: str) -> int:
    """Delete what waits in a queue, and free the unique keys it holds; return how much it was."""
    work.run(_FREE, (queue,))
    return work.count(_EMPTY, (queue,))


def unbind(work: Step, node: str) -> None:
    """Forget a node's own queues with what waits in them; dead letters stay."""
    for (queue,) in work.run(_UNBIND, (node,)):
        empty(work, queue)
        work.run(_FORGET, (queue,))
