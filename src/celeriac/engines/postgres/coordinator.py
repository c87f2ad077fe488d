"""The PostgreSQL engine as a coordinator: rate limits, places, revoked ids, orders to workers, presence."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from celeriac.engines.base import NodeInfo
from celeriac.engines.coordinator import Control
from celeriac.engines.postgres import unique
from celeriac.engines.postgres.step import Step, step
from celeriac.engines.postgres.store import Store

_ADD_BUCKET = """INSERT INTO @bucket (name, span, free) VALUES (%s, %s, 0)
ON CONFLICT (name) DO UPDATE SET span = excluded.span"""
_FREE = """SELECT free, EXISTS (SELECT 1 FROM @message WHERE state = 3 AND bucket = %s) FROM @bucket
WHERE name = %s"""
_TAKE = "UPDATE @bucket SET free = %s WHERE name = %s"
_SIZE = """INSERT INTO @room AS r (name, size) VALUES (%s, %s)
ON CONFLICT (name) DO UPDATE SET size = excluded.size WHERE r.size <> excluded.size"""
_LOCK_ROOM = "SELECT size FROM @room WHERE name = %s FOR UPDATE"
_LOCK_OWNER = "SELECT id FROM @owner WHERE name = %s FOR UPDATE"
_LEASE = "SELECT id, noted FROM @message WHERE state = 1 AND owner = %s AND queue = %s AND token = %s"
_SITS = "SELECT 1 FROM @seat WHERE message = %s AND room = %s"
_IS_FREE = """SELECT (SELECT count(*) FROM @seat WHERE room = %s) < %s
AND NOT EXISTS (SELECT 1 FROM @message WHERE state = 5 AND bucket = %s)"""
_SIT = "INSERT INTO @seat (message, room) VALUES (%s, %s)"
_NOTE_SEAT = "UPDATE @message SET noted = noted | 2 WHERE state = 1 AND owner = %s AND token = %s"
_CALL_WAITING = "SELECT @call_waiting(%s::text[])"
_KEEP = """INSERT INTO @checkpoint (task_id, payload, expires) VALUES (%s, %s, %s)
ON CONFLICT (task_id) DO UPDATE SET payload = excluded.payload, expires = excluded.expires"""
_CHECKPOINT = "SELECT payload FROM @checkpoint WHERE task_id = %s AND expires > @now()"
_REVOKE = """INSERT INTO @revoked (id, version, expires, signal)
SELECT u, %s, %s, %s FROM unnest(%s::text[]) u ORDER BY u ON CONFLICT (id) DO UPDATE
SET version = excluded.version, expires = excluded.expires, signal = excluded.signal"""
# One statement: the version belongs to just what is read with it.
_CONTROL = """SELECT version,
ARRAY(SELECT ARRAY[id, signal] FROM @revoked r WHERE r.version > %s AND expires > @now()
    ORDER BY r.version, id),
ARRAY(SELECT queue FROM @paused ORDER BY queue), ARRAY(SELECT ARRAY[task, value] FROM @rate) FROM @state"""
_SET_RATE = """INSERT INTO @rate (task, value) VALUES (%s, %s)
ON CONFLICT (task) DO UPDATE SET value = excluded.value"""
_DROP_RATE = "DELETE FROM @rate WHERE task = %s"
_UNPARK = """UPDATE @message SET state = 0, seq = @back(seq), bucket = NULL, task_id = NULL, noted = 0
WHERE state = 3 AND bucket = %s RETURNING queue"""
_LIVING = "SELECT info, seen FROM @node WHERE NOT fenced AND seen >= @now() - lease ORDER BY id"


class PostgresCoordinator:
    """The part of the engine that is a :class:`celeriac.engines.base.Coordinator`."""

    _store: Store

    def admit(self, queue: str, bucket: str, interval: float) -> bool:
        """Take a token of a rate limit, unless none is there or messages wait for one already."""
        with step(self._store) as work:
            work.run(_ADD_BUCKET, (bucket, interval))  # locks it, too
            free, parked = work.run(_FREE, (bucket, bucket))[0]
            # A free time further off than one interval is a slower limit's, or of a clock that was set back.
            admitted = not parked and not work.now < free <= work.now + interval
            if admitted:
                work.run(_TAKE, (work.now + interval, bucket))
        return admitted

    def enter(self, place: str, limit: int, lease: tuple[str, str, int]) -> bool:
        """Take one of ``limit`` places for a lease, unless none is free or messages wait for one already."""
        owner, queue, token = lease
        with step(self._store) as work:
            owners = work.run(_LOCK_OWNER, (owner,))
            if work.count(_SIZE, (place, limit)):
                work.run(_CALL_WAITING, ([place],))
            size = work.run(_LOCK_ROOM, (place,))[0][0]
            held = work.run(_LEASE, (owners[0][0], queue, token)) if owners else []
            if not held:
                return False
            message, noted = held[0]
            if noted & 2 and work.run(_SITS, (message, place)):
                return True
            if not work.run(_IS_FREE, (place, size, place))[0][0]:
                return False
            work.run(_SIT, (message, place))
            work.run(_NOTE_SEAT, (owners[0][0], token))
        return True

    def holder(self, key: str) -> str | None:
        """The task id that holds a unique key now."""
        rows = self._store.read(unique.HOLDER, (key,))
        return str(rows[0][0]) if rows else None

    def keep_checkpoint(
        self, task_id: str, payload: bytes, ttl: float, lease: tuple[str, str, int] | None
    ) -> bool:
        """Keep a running task's checkpoint; return whether the lease is still held."""
        with step(self._store) as work:
            if lease is not None and not work.holds(lease):
                return False
            work.run(_KEEP, (task_id, payload, work.now + ttl))
        return True

    def checkpoint(self, task_id: str) -> bytes | None:
        """What was kept last for this task."""
        rows = self._store.read(_CHECKPOINT, (task_id,))
        return bytes(rows[0][0]) if rows else None

    def revoke(self, ids: Sequence[str], expires: float, signal: str = "") -> int:
        """Remember revoked ids for ``expires`` seconds; return the new control version."""
        with step(self._store, durable=True) as work:
            version = work.order()
            work.run(_REVOKE, (version, work.now + expires, signal, list(dict.fromkeys(ids))))
        return version

    def control(self, since: int = 0) -> Control:
        """What operators have ordered."""
        version, revoked, paused, rates = self._store.read(_CONTROL, (since,))[0]
        terminate = {id: signal for id, signal in revoked if signal}
        return Control(version, [id for id, _ in revoked], paused, dict(rates), terminate)

    def limit_rate(self, task: str, rate: str | None) -> int:
        """Override a task's rate limit everywhere (``None`` removes the override); return the version.

        What is parked under the task's name goes back to its place in line, to be asked by the new limit.
        """
        with step(self._store, durable=True) as work:
            if rate is None:
                work.run(_DROP_RATE, (task,))
            else:
                work.run(_SET_RATE, (task, rate))
            _unpark(work, task)
            version = work.order()
        return version

    def nodes(self) -> list[NodeInfo]:
        """The living workers, by their last beat."""
        return [
            msgspec.structs.replace(msgspec.json.decode(info, type=NodeInfo), seen=seen)
            for info, seen in self._store.read(_LIVING)
        ]


def _unpark(work: Step, bucket: str) -> None:
    work.calls.update(queue for (queue,) in work.run(_UNPARK, (bucket,)))
