"""The PostgreSQL engine as a broker: publishing, attaching, looking, pausing, cancelling."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from celeriac.engines.base import Depth, Incarnation, Publication
from celeriac.engines.envelopes import brought_forward
from celeriac.engines.postgres import guest, unique
from celeriac.engines.postgres.bindings import PostgresBindings, empty
from celeriac.engines.postgres.consumer import PostgresConsumer
from celeriac.engines.postgres.dead import DeadLetters
from celeriac.engines.postgres.parcels import ADD, columns, pack, plain
from celeriac.engines.postgres.recovery import Recovery, add_owner
from celeriac.engines.postgres.step import step
from celeriac.engines.postgres.store import Store
from celeriac.engines.postgres.transaction import TaskTransaction

_QUEUES = "SELECT name FROM @queue ORDER BY name"
_STATES = {"ready": (0,), "delayed": (2,), "leased": (1,), "parked": (3, 5)}
_COUNTS = """SELECT queue, count(*) FILTER (WHERE state = 0), count(*) FILTER (WHERE state = 2),
count(*) FILTER (WHERE state = 1), count(*) FILTER (WHERE state IN (3, 5)),
count(*) FILTER (WHERE state IS NULL)
FROM (SELECT queue, state FROM @message WHERE queue = ANY (%s::text[])
    UNION ALL SELECT queue, NULL FROM @dead WHERE queue = ANY (%s::text[])) m GROUP BY queue"""
# Walks from lane to lane by the index instead of along a million rows.
_AGE = """WITH RECURSIVE lane (rank) AS (
    (SELECT rank FROM @message WHERE state = 0 AND queue = %s ORDER BY queue, rank LIMIT 1)
    UNION ALL SELECT (SELECT m.rank FROM @message m WHERE m.state = 0 AND m.queue = %s AND m.rank > lane.rank
        ORDER BY m.queue, m.rank LIMIT 1) FROM lane WHERE lane.rank IS NOT NULL)
SELECT @now() - min((SELECT m.since FROM @message m WHERE m.state = 0 AND m.queue = %s AND m.rank = lane.rank
    ORDER BY m.queue, m.rank, m.seq LIMIT 1)) FROM lane"""
_ORDERS = {"ready": "rank, seq", "delayed": "due, m.id", "leased": "token", "parked": "seq"}
_PEEK = """SELECT body FROM @message m JOIN @payload p ON p.id = m.id
WHERE m.queue = %s AND m.state IN ({states}) ORDER BY {order} LIMIT %s OFFSET %s"""
_CANCEL = (
    """DELETE FROM @message WHERE task_id = ANY (%s::text[]) AND state IN (2, 3, 5) RETURNING task_id, id"""
)
_FIND = """SELECT m.task_id, p.body FROM @message m JOIN @payload p ON p.id = m.id
WHERE m.task_id = ANY (%s::text[]) AND m.state IN (2, 3, 5)"""
# Parked ones have waited longer than what is not due yet.
_WAITING = """SELECT m.id, m.state, m.due, p.body FROM @message m JOIN @payload p ON p.id = m.id
WHERE m.queue = %s AND m.state IN (2, 3, 5) AND (%s::text[] IS NULL OR m.task_id = ANY (%s::text[]))
ORDER BY m.state <> 2 DESC, m.due, m.id LIMIT %s FOR UPDATE OF m SKIP LOCKED"""
_FORWARD = """UPDATE @message SET state = 0, seq = nextval('@serial'), since = @now(), due = NULL, noted = 0,
bucket = NULL, turn = NULL, task_id = NULL WHERE id = %s AND state IN (2, 3, 5)"""
_DROP_PAYLOADS = "DELETE FROM @payload WHERE id = ANY (%s::bigint[])"
_PAUSE = "INSERT INTO @paused (queue) VALUES (%s) ON CONFLICT DO NOTHING"
_RESUME = "DELETE FROM @paused WHERE queue = %s"


class PostgresBroker(DeadLetters, Recovery, PostgresBindings):
    """The part of the engine that is a :class:`celeriac.engines.base.Broker`."""

    _store: Store

    def check_tables(self) -> None:
        """Connect and see that the tables are of our version, or make them. Raises ``SchemaError``."""
        with self._store.borrowed() as connection:
            connection.open()

    def publish(self, batch: Sequence[Publication]) -> dict[int, str]:
        """Store messages, all or none but those whose unique key is held; mostly by one statement."""
        parcels = pack(batch)
        if not parcels:
            return {}
        if plain(parcels):
            arguments = columns(parcels, self._store.sign, self._store.known_queues)
            with self._store.borrowed() as connection:
                connection.patience = self._store.options.publish_timeout + len(parcels) / 1000
                connection.run(ADD, (*arguments, False))
            self._store.known_queues.update(arguments[-1])
            return {}
        with step(self._store, durable=True) as work:
            return work.publish(parcels)

    def publish_within(self, connection: Any, batch: Sequence[Publication]) -> dict[int, str]:
        """:meth:`publish` in the transaction of a connection of the application's to the same database.

        ``connection`` is one of psycopg's (2 or 3), a session or connection of SQLAlchemy, or Django's. The
        messages are there when it commits. Raises what its driver raises, ``TypeError`` for anything else.
        """
        parcels = pack(batch)
        with self._store.borrowed() as own:
            own.open()  # makes the tables, if there are none
        with guest.step(self._store, connection) as work:
            return work.publish(parcels)

    def transaction(self, lease: tuple[str, str, int]) -> TaskTransaction | None:
        """Open a transaction for the task of a leased message (``Task.transactional``).

        ``None`` if the lease ``(owner, queue, token)`` is lost.
        """
        return TaskTransaction.begin(self._store, lease)

    def attach(self, owner: Incarnation) -> PostgresConsumer:
        """Register a lease owner and return its consumer."""
        with step(self._store) as work:
            number = add_owner(work, owner)
        return PostgresConsumer(self._store, owner, number)

    def cancel(self, ids: Sequence[str]) -> list[str]:
        """Remove delayed and parked messages of these task ids; return the ids found."""
        wanted = list(dict.fromkeys(ids))
        with step(self._store, durable=True, patient=True) as work:
            removed = work.run(_CANCEL, (wanted,))
            if removed:
                messages = [id for _, id in removed]
                work.run(_DROP_PAYLOADS, (messages,))
                unique.free_messages(work, messages)
        found = {task_id for task_id, _ in removed}
        return [task_id for task_id in wanted if task_id in found]

    def find(self, ids: Sequence[str]) -> dict[str, bytes]:
        """The envelopes of delayed and parked messages of these tasks."""
        return {task_id: bytes(body) for task_id, body in self._store.read(_FIND, (list(ids),))}

    def bring_forward(self, queue: str, limit: int, ids: Sequence[str] | None = None) -> int:
        """Make delayed and parked messages ready before their time."""
        wanted = None if ids is None else list(ids)
        with step(self._store, durable=True) as work:
            waiting = work.run(_WAITING, (queue, wanted, wanted, limit))
            for id, state, due, body in waiting:
                if state == 2:
                    work.rewrite(id, brought_forward(bytes(body), due))
                work.run(_FORWARD, (id,))
            work.calls[queue] += len(waiting)
        return len(waiting)

    def queues(self) -> list[str]:
        """The queues the store knows of, sorted."""
        return [name for (name,) in self._store.read(_QUEUES)]

    def depth(self, queues: Sequence[str]) -> dict[str, Depth]:
        """How many messages are in which state; counting reads the whole table, once for all queues."""
        names = list(queues)
        with self._store.borrowed(patient=True) as connection:
            found = {name: Depth(*counts) for name, *counts in connection.run(_COUNTS, (names, names))}
            depths = {name: found.get(name, Depth()) for name in names}
            for name, depth in depths.items():
                if depth.ready:
                    age = connection.run(_AGE, (name, name, name))[0][0]
                    depths[name] = depth._replace(age=None if age is None else max(0.0, age))
        return depths

    def peek(self, queue: str, offset: int = 0, limit: int = 50, state: str = "ready") -> list[bytes]:
        """Envelopes in order, without claiming."""
        if state not in _ORDERS:
            raise ValueError(f"no such state: {state!r}. Use one of {', '.join(_ORDERS)}")
        sql = _PEEK.format(states=", ".join(map(str, _STATES[state])), order=_ORDERS[state])
        return [bytes(body) for (body,) in self._store.read(sql, (queue, limit, offset), patient=True)]

    def purge(self, queues: Sequence[str]) -> int:
        """Delete ready, delayed and parked messages, and free their unique keys; return how many."""
        with step(self._store, durable=True, patient=True) as work:
            return sum(empty(work, queue) for queue in queues)

    def pause(self, queue: str) -> None:
        """Let nothing be claimed from the queue until :meth:`resume`; survives restarts."""
        with step(self._store, durable=True) as work:
            if work.count(_PAUSE, (queue,)):
                work.order()

    def resume(self, queue: str) -> None:
        """Let the queue be claimed from again."""
        with step(self._store, durable=True) as work:
            if work.count(_RESUME, (queue,)):
                work.order()
                work.calls[queue] += 16
