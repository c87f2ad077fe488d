"""The SQLite engine as a result backend: states, their announcement, what is known of an id, cleaning."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

from celeriac.engines.attempts import encode
from celeriac.engines.history import Attempt
from celeriac.engines.listener import Interest
from celeriac.engines.results import Presence, ResultRecord
from celeriac.engines.sqlite import clock, rooms
from celeriac.engines.sqlite.chords import SQLiteGroups, drop_expired
from celeriac.engines.sqlite.dead import expire_dead
from celeriac.engines.sqlite.history import note
from celeriac.engines.sqlite.listener import Listener
from celeriac.engines.sqlite.step import Step, step
from celeriac.engines.sqlite.store import Store

CHUNK = 500
"""Ids a query, and rows a cleaning transaction: the gate is held for some 10 ms at most."""
VACUUM_PAGES = 64

_FETCH = """SELECT id, payload FROM result
WHERE id IN ({marks}) AND payload IS NOT NULL AND (expires IS NULL OR expires > ?)"""
_PRESENCE = "SELECT id, state, payload IS NOT NULL, expires FROM result WHERE id IN ({marks})"
_FORGET = "DELETE FROM result WHERE id = ?"
_SCAN = "SELECT rowid FROM {table} WHERE rowid > ? AND expires <= ? ORDER BY rowid LIMIT ?"
_DROP = "DELETE FROM {table} WHERE rowid = ? AND expires <= ?"
_DROP_REMEMBERED = "DELETE FROM result WHERE rowid = ? AND payload IS NULL AND expires <= ?"
# A new row at the end: emptied in place, the old one would keep its page.
_ENTOMB = """INSERT OR REPLACE INTO result (id, state, payload, expires)
SELECT id, '', NULL, expires + ? FROM result WHERE rowid = ? AND payload IS NOT NULL AND expires <= ?"""
_DROP_REVOKED = "DELETE FROM revoked WHERE rowid IN (SELECT rowid FROM revoked WHERE expires <= ? LIMIT ?)"
_DROP_FENCED = "DELETE FROM node WHERE fenced AND seen <= ?"
_FENCED_FOR = 86400.0


class SQLiteResults(SQLiteGroups):
    """The part of the engine that is a :class:`celeriac.engines.results.ResultBackend`."""

    _store: Store
    _listener: Listener

    def store(self, records: Sequence[ResultRecord], attempts: Sequence[Attempt] = ()) -> list[str]:
        """Store and announce states, and note attempts; return the ids that were refused."""
        bodies = [encode(attempt) for attempt in attempts]
        with step(self._store) as work:
            if attempts:
                note(work, attempts, bodies)
            return [record.id for record in records if not _keep_if_held(work, record)]

    def fetch(self, ids: Sequence[str]) -> dict[str, bytes]:
        """The stored payloads of those ids that have one."""
        return fetch(self._store, ids)

    def subscribe(self, ids: Iterable[str], callback: Callable[[str, bytes], None]) -> Interest:
        """Call ``callback`` for every state already stored and every one to come."""
        return self._listener.subscribe(ids, callback)

    def forget(self, ids: Sequence[str]) -> None:
        """Delete results, and that there ever were any."""
        with step(self._store) as work:
            work.handle.executemany(_FORGET, [(id,) for id in ids])

    def presence(self, ids: Sequence[str]) -> dict[str, Presence]:
        """What is known of each id."""
        found = dict.fromkeys(ids, Presence.UNKNOWN)
        now, tombstone = clock.now(), self._store.options.result_tombstone_expires
        with self._store.read() as handle:
            for some in _chunks(ids):
                for id, state, stored, expires in handle.execute(_PRESENCE.format(marks=_marks(some)), some):
                    if expires is None or expires > now:
                        kind = Presence.QUEUED if state is None else Presence.EXPIRED
                        found[id] = Presence.KNOWN if stored else kind
                    elif stored and expires + tombstone > now:
                        found[id] = Presence.EXPIRED
        return found

    def reply_address(self) -> str | None:
        """The name of this process's pipe; it is made, with its thread, by the first call."""
        return self._listener.address()

    def cleanup(self) -> int:
        """Delete expired results and all else that has had its time, in small transactions; return how many
        results. Freed pages go back to the disk."""
        count = 0
        for overdue in self._overdue("result"):
            with step(self._store) as work:
                count += _entomb(work, overdue)
        for table in ("held", "checkpoint", "task_group"):
            for overdue in self._overdue(table):
                with step(self._store) as work:
                    work.handle.executemany(_DROP.format(table=table), [(row, work.now) for row in overdue])
        for overdue in self._overdue("chord"):
            drop_expired(self._store, overdue)
        while True:
            with step(self._store) as work:
                handled = work.handle.execute(_DROP_REVOKED, (work.now, CHUNK)).rowcount
                handled += expire_dead(work, CHUNK)
                work.handle.execute(_DROP_FENCED, (work.now - _FENCED_FOR,))
                rooms.sweep(work.handle)
                (before,) = work.handle.execute("PRAGMA freelist_count").fetchone()
                work.handle.execute(f"PRAGMA incremental_vacuum({VACUUM_PAGES})").fetchall()
                (free,) = work.handle.execute("PRAGMA freelist_count").fetchone()
            # Some free pages are left: the next messages need them. None freed: they cannot be just now.
            if not handled and (free <= 4 * VACUUM_PAGES or free >= before):
                return count

    def _overdue(self, table: str) -> Iterator[list[int]]:
        """The rows of a table that have had their time, chunk by chunk; found by reading, which disturbs
        nobody."""
        sql, rows = _SCAN.format(table=table), [0]
        while rows:
            with self._store.read() as handle:
                rows = [row for (row,) in handle.execute(sql, (rows[-1], clock.now(), CHUNK))]
            if rows:
                yield rows


def fetch(store: Store, ids: Sequence[str]) -> dict[str, bytes]:
    """The stored payloads of those ids that have one."""
    found: dict[str, bytes] = {}
    with store.read() as handle:
        for some in _chunks(ids):
            found.update(handle.execute(_FETCH.format(marks=_marks(some)), (*some, clock.now())).fetchall())
    return found


def _keep_if_held(work: Step, record: ResultRecord) -> bool:
    if record.lease is not None and not work.holds(record.lease):
        return False
    return work.keep_all([record]) == 1


def _entomb(work: Step, rows: Sequence[int]) -> int:
    """Delete what was remembered for long enough, turn expired results into tombstones; return how many."""
    handle, tombstone = work.handle, work.store.options.result_tombstone_expires
    handle.executemany(_DROP_REMEMBERED, [(row, work.now) for row in rows])
    return handle.executemany(_ENTOMB, [(tombstone, row, work.now) for row in rows]).rowcount


def _chunks(ids: Sequence[str]) -> Iterator[Sequence[str]]:
    return (list(ids[start : start + CHUNK]) for start in range(0, len(ids), CHUNK))


def _marks(ids: Sequence[str]) -> str:
    return ",".join("?" * len(ids))
