"""The SQLite engine as a broker: publishing, attaching, looking, pausing, cancelling."""

from __future__ import annotations

from collections.abc import Sequence

from celeriac.engines.base import Depth, Incarnation, Publication
from celeriac.engines.envelopes import brought_forward
from celeriac.engines.sqlite import clock, unique
from celeriac.engines.sqlite.bindings import SQLiteBindings
from celeriac.engines.sqlite.consumer import SQLiteConsumer
from celeriac.engines.sqlite.dead import DeadLetters
from celeriac.engines.sqlite.recovery import Recovery, add_owner
from celeriac.engines.sqlite.step import pack, step
from celeriac.engines.sqlite.store import Store

_QUEUES = "SELECT name FROM queue ORDER BY name"
_COUNT = "SELECT count(*) FROM {table} WHERE queue = ?"
# Walks from lane to lane by the index instead of along a million rows.
_AGE = """WITH RECURSIVE lane (rank) AS (
    SELECT min(rank) FROM ready WHERE queue = ?1
    UNION ALL SELECT (SELECT min(rank) FROM ready WHERE queue = ?1 AND rank > lane.rank) FROM lane
    WHERE lane.rank IS NOT NULL)
SELECT min((SELECT since FROM ready r WHERE r.queue = ?1 AND r.rank = lane.rank ORDER BY seq LIMIT 1))
FROM lane"""
_ORDERS = {"ready": "rank, seq", "delayed": "due, m.id", "leased": "token", "parked": "seq"}
_PEEK = """SELECT body FROM {table} m JOIN payload p ON p.id = m.id WHERE queue = ?
ORDER BY {order} LIMIT ? OFFSET ?"""
_PURGE_PAYLOADS = "DELETE FROM payload WHERE id IN (SELECT id FROM {table} WHERE queue = ?)"
_PURGE = "DELETE FROM {table} WHERE queue = ?"
_CANCEL = "DELETE FROM {table} WHERE task_id = ? RETURNING id"
_WAITING = """SELECT task_id FROM (
SELECT DISTINCT task_id, 0 AS late, seq AS place FROM parked WHERE queue = ?1
UNION ALL SELECT task_id, 1, due FROM delayed WHERE queue = ?1) ORDER BY late, place LIMIT ?2"""
_TAKE_PARKED = "DELETE FROM parked WHERE queue = ? AND task_id = ? RETURNING id, rank"
_TAKE_DELAYED = "DELETE FROM delayed WHERE queue = ? AND task_id = ? RETURNING id, rank, due"
_FIND = """SELECT body FROM payload WHERE id IN
(SELECT id FROM delayed WHERE task_id = ?1 UNION ALL SELECT id FROM parked WHERE task_id = ?1)"""
_DROP_PAYLOAD = "DELETE FROM payload WHERE id = ?"


class SQLiteBroker(DeadLetters, Recovery, SQLiteBindings):
    """The part of the engine that is a :class:`celeriac.engines.base.Broker`."""

    _store: Store

    def publish(self, batch: Sequence[Publication]) -> dict[int, str]:
        """Store messages durably, all or none but those whose unique key is held.

        Raises ``StoreFull`` while workers live on the reserve.
        """
        parcels = pack(batch)
        with step(self._store, durable=True) as work:
            self._store.require_reserve()
            return work.publish(parcels)

    def attach(self, owner: Incarnation) -> SQLiteConsumer:
        """Register a lease owner and return its consumer."""
        with step(self._store) as work:
            number = add_owner(work, owner)
        return SQLiteConsumer(self._store, owner, number)

    def cancel(self, ids: Sequence[str]) -> list[str]:
        """Remove delayed and parked messages of these task ids; return the ids found."""
        found = []
        with step(self._store, durable=True) as work:
            for task_id in dict.fromkeys(ids):
                removed = []
                for table in ("delayed", "parked"):
                    removed += work.handle.execute(_CANCEL.format(table=table), (task_id,)).fetchall()
                if removed:
                    work.handle.executemany(_DROP_PAYLOAD, removed)
                    unique.free_messages(work.handle, removed)
                    found.append(task_id)
        return found

    def find(self, ids: Sequence[str]) -> dict[str, bytes]:
        """The envelopes of delayed and parked messages of these tasks."""
        found = {}
        with self._store.read() as handle:
            for task_id in ids:
                row = handle.execute(_FIND, (task_id,)).fetchone()
                if row is not None:
                    found[task_id] = row[0]
        return found

    def bring_forward(self, queue: str, limit: int, ids: Sequence[str] | None = None) -> int:
        """Make delayed and parked messages ready before their time, with all of the same task."""
        count = 0
        with step(self._store, durable=True) as work:
            if ids is None:
                ids = [row[0] for row in work.handle.execute(_WAITING, (queue, limit))]
            for task_id in dict.fromkeys(ids):
                if count >= limit:
                    break
                for id, rank in work.handle.execute(_TAKE_PARKED, (queue, task_id)).fetchall():
                    work.append(queue, rank, id)
                    count += 1
                taken = work.handle.execute(_TAKE_DELAYED, (queue, task_id)).fetchall()
                for id, rank, due in sorted(taken, key=lambda row: row[2]):
                    work.rewrite(id, brought_forward(work.body(id), due))
                    work.append(queue, rank, id)
                    count += 1
        return count

    def queues(self) -> list[str]:
        """The queues the store knows of, sorted."""
        with self._store.read() as handle:
            return [name for (name,) in handle.execute(_QUEUES)]

    def depth(self, queues: Sequence[str]) -> dict[str, Depth]:
        """How many messages are in which state; counting reads an index, a million rows in some 20 ms."""
        depths = {}
        with self._store.read() as handle:
            for queue in queues:
                counts = {
                    table: handle.execute(_COUNT.format(table=table), (queue,)).fetchone()[0]
                    for table in ("ready", "delayed", "leased", "parked", "dead")
                }
                (since,) = handle.execute(_AGE, (queue,)).fetchone()
                age = None if since is None else max(0.0, clock.now() - since)
                depths[queue] = Depth(**counts, age=age)
        return depths

    def peek(self, queue: str, offset: int = 0, limit: int = 50, state: str = "ready") -> list[bytes]:
        """Envelopes in order, without claiming."""
        if state not in _ORDERS:
            raise ValueError(f"no such state: {state!r}. Use one of {', '.join(_ORDERS)}")
        sql = _PEEK.format(table=state, order=_ORDERS[state])
        with self._store.read() as handle:
            return [body for (body,) in handle.execute(sql, (queue, limit, offset))]

    def purge(self, queues: Sequence[str]) -> int:
        """Delete ready, delayed and parked messages, and free their unique keys; return how many."""
        count = 0
        with step(self._store, durable=True) as work:
            for queue in queues:
                for table in ("ready", "delayed", "parked"):
                    unique.free_queue(work.handle, table, queue)
                    work.handle.execute(_PURGE_PAYLOADS.format(table=table), (queue,))
                    count += work.handle.execute(_PURGE.format(table=table), (queue,)).rowcount
        return count

    def pause(self, queue: str) -> None:
        """Let nothing be claimed from the queue until :meth:`resume`; survives restarts."""
        with step(self._store, durable=True) as work:
            if work.handle.execute("INSERT OR IGNORE INTO paused (queue) VALUES (?)", (queue,)).rowcount:
                work.order()

    def resume(self, queue: str) -> None:
        """Let the queue be claimed from again."""
        with step(self._store, durable=True) as work:
            if work.handle.execute("DELETE FROM paused WHERE queue = ?", (queue,)).rowcount:
                work.order()
                work.calls[queue] += 16
