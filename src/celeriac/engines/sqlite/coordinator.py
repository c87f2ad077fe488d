"""The SQLite engine as a coordinator: rate limits, revoked ids, orders to workers, presence."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from celeriac.engines.base import NodeInfo
from celeriac.engines.coordinator import Control
from celeriac.engines.sqlite import clock, rooms, unique
from celeriac.engines.sqlite.step import Step, step
from celeriac.engines.sqlite.store import Store

_ADD_BUCKET = """INSERT INTO bucket (name, interval, free) VALUES (?, ?, 0)
ON CONFLICT (name) DO UPDATE SET interval = excluded.interval"""
_FREE = (
    "SELECT free, EXISTS (SELECT 1 FROM parked WHERE room = 0 AND bucket = ?1) FROM bucket WHERE name = ?1"
)
_TAKE = "UPDATE bucket SET free = ? WHERE name = ?"
_KEEP = """INSERT INTO checkpoint (task_id, payload, expires) VALUES (?1, ?2, ?3)
ON CONFLICT (task_id) DO UPDATE SET payload = ?2, expires = ?3"""
_CHECKPOINT = "SELECT payload FROM checkpoint WHERE task_id = ? AND expires > ?"
_REVOKE = "INSERT OR REPLACE INTO revoked (id, version, expires, signal) VALUES (?, ?, ?, ?)"
_REVOKED = "SELECT id, signal FROM revoked WHERE version > ? AND expires > ? ORDER BY version, id"
_LIVING = "SELECT info, seen FROM node WHERE NOT fenced AND boot = ? AND beat >= ? - lease ORDER BY id"
_UNPARK = """INSERT INTO ready (queue, rank, seq, id, since, admitted)
SELECT queue, rank, seq, id, since, 0 FROM parked WHERE room = 0 AND bucket = ?"""
_DROP_PARKED = "DELETE FROM parked WHERE room = 0 AND bucket = ? RETURNING queue"


class SQLiteCoordinator:
    """The part of the engine that is a :class:`celeriac.engines.coordinator.Coordinator`."""

    _store: Store

    def admit(self, queue: str, bucket: str, interval: float) -> bool:
        """Take a token of a rate limit, unless none is there or messages wait for one already."""
        with step(self._store) as work:
            work.handle.execute(_ADD_BUCKET, (bucket, interval))
            free, parked = work.handle.execute(_FREE, (bucket,)).fetchone()
            # A free time further off than one interval is a slower limit's, or of a clock that was set back.
            admitted = not parked and not work.now < free <= work.now + interval
            if admitted:
                work.handle.execute(_TAKE, (work.now + interval, bucket))
        return admitted

    def enter(self, place: str, limit: int, lease: tuple[str, str, int]) -> bool:
        """Take one of ``limit`` places for a lease, unless none is free or messages wait for one already."""
        with step(self._store) as work:
            if rooms.resize(work.handle, place, limit):
                work.changed_rooms.add(place)
            return rooms.enter(work.handle, place, lease)

    def holder(self, key: str) -> str | None:
        """The task id that holds a unique key now."""
        with self._store.read() as handle:
            return unique.holder(handle, key, clock.now())

    def keep_checkpoint(
        self, task_id: str, payload: bytes, ttl: float, lease: tuple[str, str, int] | None
    ) -> bool:
        """Keep a running task's checkpoint; return whether the lease is still held."""
        with step(self._store) as work:
            if lease is not None and not work.holds(lease):
                return False
            work.handle.execute(_KEEP, (task_id, payload, work.now + ttl))
        return True

    def checkpoint(self, task_id: str) -> bytes | None:
        """What was kept last for this task."""
        with self._store.read() as handle:
            row = handle.execute(_CHECKPOINT, (task_id, clock.now())).fetchone()
        return None if row is None else bytes(row[0])

    def revoke(self, ids: Sequence[str], expires: float, signal: str = "") -> int:
        """Remember revoked ids for ``expires`` seconds; return the new control version."""
        with step(self._store, durable=True) as work:
            version = work.order()
            until = work.now + expires
            work.handle.executemany(_REVOKE, [(id, version, until, signal) for id in dict.fromkeys(ids)])
        return version

    def control(self, since: int = 0) -> Control:
        """What operators have ordered."""
        with self._store.read() as handle:
            # One read transaction: the version belongs to just what is read after it.
            handle.execute("BEGIN")
            try:
                (version,) = handle.execute("SELECT version FROM state").fetchone()
                revoked = handle.execute(_REVOKED, (since, clock.now())).fetchall()
                paused = [queue for (queue,) in handle.execute("SELECT queue FROM paused ORDER BY queue")]
                rates = dict(handle.execute("SELECT task, value FROM rate"))
            finally:
                handle.execute("COMMIT")
        terminate = {id: signal for id, signal in revoked if signal}
        return Control(version, [id for id, _ in revoked], paused, rates, terminate)

    def limit_rate(self, task: str, rate: str | None) -> int:
        """Override a task's rate limit everywhere (``None`` removes the override); return the version.

        What is parked under the task's name goes back to its place in line, to be asked by the new limit.
        """
        with step(self._store, durable=True) as work:
            if rate is None:
                work.handle.execute("DELETE FROM rate WHERE task = ?", (task,))
            else:
                work.handle.execute("INSERT OR REPLACE INTO rate (task, value) VALUES (?, ?)", (task, rate))
            _unpark(work, task)
            version = work.order()
        return version

    def nodes(self) -> list[NodeInfo]:
        """The living workers, by their last beat."""
        with self._store.read() as handle:
            rows = handle.execute(_LIVING, (clock.boot_id(), clock.uptime())).fetchall()
        return [
            msgspec.structs.replace(msgspec.json.decode(info, type=NodeInfo), seen=seen)
            for info, seen in rows
        ]


def _unpark(work: Step, bucket: str) -> None:
    work.handle.execute(_UNPARK, (bucket,))
    work.calls.update(queue for (queue,) in work.handle.execute(_DROP_PARKED, (bucket,)))
