"""The SQLite engine as a schedule store: who leads, periodic tasks, and the step that fires their ticks."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any

import msgspec

from celeriac.engines import schedule
from celeriac.engines.schedule import CLOCK_STEP, Entry, Schedule, Term, Tick
from celeriac.engines.sqlite import clock
from celeriac.engines.sqlite.step import Step, pack, step
from celeriac.engines.sqlite.store import Store
from celeriac.engines.ticks import Progress, fire_ticks
from celeriac.exceptions import Fenced

_TERM = "SELECT holder, token, expires, ?1 < expires AND expires <= ?1 + ttl + ?2 FROM term WHERE scope = ?3"
_TAKE = "INSERT OR REPLACE INTO term (scope, holder, token, expires, ttl) VALUES (?, ?, ?, ?, ?)"
_RESIGN = "UPDATE term SET expires = 0 WHERE scope = ? AND holder = ?"

_VERSION = "SELECT version FROM schedule WHERE scope = ?"
_STATE = "SELECT version, forgotten FROM schedule WHERE scope = ?"
_ENTRY = """SELECT name, definition, source, enabled, version, since,
    last_due, last_run, last_id, runs, skipped
FROM entry JOIN progress ON entry = id WHERE scope = ? AND """
_CHANGED = _ENTRY + "version > ?"
_NAMED = _ENTRY + "name = ?"
_REMOVED = "SELECT name FROM removed WHERE scope = ? AND version > ? ORDER BY version"

_FIND = "SELECT definition, source, enabled, since FROM entry WHERE scope = ? AND name = ?"
_ADD = """INSERT INTO entry (definition, source, enabled, version, since, scope, name)
VALUES (?, ?, ?, ?, ?, ?, ?)"""
_CHANGE = """UPDATE entry SET definition = ?, source = ?, enabled = ?, version = ?, since = ?
WHERE scope = ? AND name = ?"""
_BEGIN = "INSERT INTO progress (entry) VALUES (?)"
_REMEMBERED = "DELETE FROM removed WHERE scope = ? AND name = ?"
_COUNT = """INSERT INTO schedule (scope, version) VALUES (?, ?)
ON CONFLICT DO UPDATE SET version = excluded.version"""
_REMOVE = "DELETE FROM entry WHERE scope = ? AND name = ? RETURNING id"
_END = "DELETE FROM progress WHERE entry = ?"
_REMEMBER = "INSERT INTO removed (scope, name, version) VALUES (?, ?, ?)"
_LAST_TO_FORGET = "SELECT version FROM removed WHERE scope = ? ORDER BY version DESC LIMIT 1 OFFSET ?"
_FORGET = "DELETE FROM removed WHERE scope = ? AND version <= ?"
_FORGOTTEN = "UPDATE schedule SET forgotten = ? WHERE scope = ?"

_PROGRESS = """SELECT last_due, last_run, last_id, runs, skipped, id FROM entry JOIN progress ON entry = id
WHERE scope = ? AND name = ? AND enabled"""
_MARK = """UPDATE progress SET last_due = ?, last_run = ?, last_id = ?, runs = ?, skipped = ?
WHERE entry = ?"""


class SQLiteSchedules:
    """The part of the engine that is a :class:`celeriac.engines.schedule.ScheduleStore`."""

    _store: Store
    scope: str

    def lead(self, holder: str, ttl: float) -> Term | None:
        """Take the term, or put off the end of one's own."""
        with step(self._store) as work:
            leader, token, _, runs = _term(work.handle, self.scope, work.now)
            if runs and leader != holder:
                return None
            if not runs:
                token += 1
            work.handle.execute(_TAKE, (self.scope, holder, token, work.now + ttl, ttl))
            return Term(holder, token, work.now + ttl, work.now)

    def leader(self) -> Term | None:
        """The term that runs now, if one does."""
        now = clock.now()
        with self._store.read() as handle:
            holder, token, expires, runs = _term(handle, self.scope, now)
        return Term(holder, token, expires, now) if runs else None

    def resign(self, holder: str) -> None:
        """End one's own term."""
        with step(self._store) as work:
            work.handle.execute(_RESIGN, (self.scope, holder))

    def schedule(self, since: int = 0) -> Schedule:
        """What has changed after a version."""
        with self._store.read() as handle:
            # One read transaction: the version belongs to just what is read after it.
            handle.execute("BEGIN")
            try:
                version, forgotten = handle.execute(_STATE, (self.scope,)).fetchone() or (0, 0)
                complete = since == 0 or not forgotten <= since <= version
                rows = handle.execute(_CHANGED, (self.scope, 0 if complete else since)).fetchall()
                removed = [] if complete else handle.execute(_REMOVED, (self.scope, since)).fetchall()
            finally:
                handle.execute("COMMIT")
        return Schedule(version, _entries(rows), [name for (name,) in removed], complete)

    def find_entries(self, names: Sequence[str]) -> list[Entry]:
        """The entries of these names, as far as there are any."""
        with self._store.read() as handle:
            rows = [handle.execute(_NAMED, (self.scope, name)).fetchone() for name in dict.fromkeys(names)]
        return _entries(row for row in rows if row is not None)

    def schedule_version(self) -> int:
        """The version alone; some 10 us."""
        with self._store.read() as handle:
            return _version(handle, self.scope)

    def put_entries(self, entries: Sequence[Entry], term: Term | None = None) -> None:
        """Add entries or replace what they are; how far they have come stays."""
        with step(self._store, durable=True) as work:
            _check(work, self.scope, term)
            version = _version(work.handle, self.scope) + 1
            if sum(_put(work, self.scope, entry, version) for entry in entries):
                work.handle.execute(_COUNT, (self.scope, version))

    def remove_entries(self, names: Sequence[str], term: Term | None = None) -> int:
        """Remove entries; return how many there were."""
        with step(self._store, durable=True) as work:
            _check(work, self.scope, term)
            handle = work.handle
            version = _version(handle, self.scope) + 1
            found = []
            for name in names:
                row = handle.execute(_REMOVE, (self.scope, name)).fetchone()
                if row is not None:
                    handle.execute(_END, row)
                    found.append((self.scope, name, version))
            if found:
                handle.executemany(_REMEMBER, found)
                handle.execute(_COUNT, (self.scope, version))
                _forget_removed(handle, self.scope)
            return len(found)

    def fire(self, term: Term, ticks: Sequence[Tick]) -> dict[str, str]:
        """Fire those ticks that are due later than their entries' last ones, in one durable transaction."""
        # Encoded before the transaction begins: others wait for us meanwhile.
        parcels = {
            index: pack([tick.publication])[0]
            for index, tick in enumerate(ticks)
            if tick.publication is not None
        }
        with step(self._store, durable=True) as work:
            _check(work, self.scope, term)
            if parcels:
                self._store.require_reserve()
            left_out, changed = fire_ticks(
                ticks,
                work.now,
                partial(_progress, work, self.scope),
                lambda firing: work.publish([parcels[index] for index in firing]),
            )
            work.handle.executemany(_MARK, [msgspec.structs.astuple(one) for one in changed])
        return left_out


def _version(handle: sqlite3.Connection, scope: str) -> int:
    row = handle.execute(_VERSION, (scope,)).fetchone()
    return 0 if row is None else int(row[0])


def _term(handle: sqlite3.Connection, scope: str, now: float) -> tuple[str, int, float, bool]:
    row = handle.execute(_TERM, (now, CLOCK_STEP, scope)).fetchone()
    holder, token, expires, runs = row or ("", 0, 0.0, False)
    return holder, token, expires, bool(runs)


def _check(work: Step, scope: str, term: Term | None) -> None:
    if term is None:
        return
    holder, token, _, runs = _term(work.handle, scope, work.now)
    if not runs or (term.holder, term.token) != (holder, token):
        raise Fenced(schedule.over(term))


def _put(work: Step, scope: str, entry: Entry, version: int) -> bool:
    """Store what an entry is; return whether that changed anything."""
    handle = work.handle
    row = handle.execute(_FIND, (scope, entry.name)).fetchone()
    if row is None:
        values = (entry.definition, entry.source, entry.enabled, version, work.now, scope, entry.name)
        handle.execute(_BEGIN, (handle.execute(_ADD, values).lastrowid,))
        handle.execute(_REMEMBERED, (scope, entry.name))
        return True
    definition, source, enabled, since = row
    if (definition, source, bool(enabled)) == (entry.definition, entry.source, entry.enabled):
        return False
    since = work.now if entry.enabled and not enabled else since
    values = (entry.definition, entry.source, entry.enabled, version, since, scope, entry.name)
    handle.execute(_CHANGE, values)
    return True


def _forget_removed(handle: sqlite3.Connection, scope: str) -> None:
    row = handle.execute(_LAST_TO_FORGET, (scope, schedule.REMOVED_MAX)).fetchone()
    if row is not None:
        handle.execute(_FORGET, (scope, *row))
        handle.execute(_FORGOTTEN, (*row, scope))


def _progress(work: Step, scope: str, name: str) -> Progress | None:
    row = work.handle.execute(_PROGRESS, (scope, name)).fetchone()
    return None if row is None else Progress(*row)


def _entries(rows: Iterable[Sequence[Any]]) -> list[Entry]:
    return [Entry(name, body, kind, bool(on), *rest) for name, body, kind, on, *rest in rows]
