"""The PostgreSQL engine as a schedule store: who leads, periodic tasks, and the step that fires their ticks.

The row of ``term`` is locked by whoever leads, fires or changes the schedule.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any

import msgspec

from celeriac.engines import schedule
from celeriac.engines.postgres.parcels import pack
from celeriac.engines.postgres.step import Step, step
from celeriac.engines.postgres.store import Store
from celeriac.engines.schedule import CLOCK_STEP, Entry, Schedule, Term, Tick
from celeriac.engines.ticks import Progress, fire_ticks
from celeriac.exceptions import Fenced

_SCOPE = """WITH one AS (INSERT INTO @schedule (scope) VALUES (%s) ON CONFLICT DO NOTHING)
INSERT INTO @term (scope) VALUES (%s) ON CONFLICT DO NOTHING"""
_TERM = "SELECT holder, token, expires, ttl FROM @term WHERE scope = %s FOR UPDATE"
_LEADER = f"""SELECT holder, token, expires, moment FROM @term, @now() moment
WHERE scope = %s AND moment < expires AND expires <= moment + ttl + {CLOCK_STEP}"""
_TAKE = "UPDATE @term SET holder = %s, token = %s, expires = %s, ttl = %s WHERE scope = %s"
_RESIGN = "UPDATE @term SET expires = 0 WHERE scope = %s AND holder = %s"

_VERSION = "SELECT version FROM @schedule WHERE scope = %s"
_STATE = "SELECT version, forgotten FROM @schedule WHERE scope = %s FOR SHARE"
_ENTRIES = """SELECT name, definition, source, enabled, version, since,
last_due, last_run, last_id, runs, skipped FROM @entry JOIN @progress ON entry = id"""
_CHANGED = f"{_ENTRIES} WHERE scope = %s AND version > %s ORDER BY id"
_NAMED = f"{_ENTRIES} WHERE scope = %s AND name = ANY (%s::text[])"
_REMOVED = "SELECT name FROM @removed WHERE scope = %s AND version > %s ORDER BY version"

_FIND = "SELECT definition, source, enabled, since FROM @entry WHERE scope = %s AND name = %s"
_ADD = """INSERT INTO @entry (definition, source, enabled, version, since, scope, name)
VALUES (%s, %s, %s, %s, %s, %s, %s) RETURNING id"""
_CHANGE = """UPDATE @entry SET definition = %s, source = %s, enabled = %s, version = %s, since = %s
WHERE scope = %s AND name = %s"""
_BEGIN = "INSERT INTO @progress (entry) VALUES (%s)"
_REMEMBERED = "DELETE FROM @removed WHERE scope = %s AND name = %s"
_COUNT = "UPDATE @schedule SET version = %s WHERE scope = %s"
_REMOVE = "DELETE FROM @entry WHERE scope = %s AND name = ANY (%s::text[]) RETURNING id, name"
_END = "DELETE FROM @progress WHERE entry = ANY (%s::bigint[])"
_REMEMBER = """INSERT INTO @removed (scope, name, version) SELECT %s, u, %s FROM unnest(%s::text[]) u
ON CONFLICT (scope, name) DO UPDATE SET version = excluded.version"""
_LAST_TO_FORGET = "SELECT version FROM @removed WHERE scope = %s ORDER BY version DESC LIMIT 1 OFFSET %s"
_FORGET = "DELETE FROM @removed WHERE scope = %s AND version <= %s"
_FORGOTTEN = "UPDATE @schedule SET forgotten = %s WHERE scope = %s"

_PROGRESS = """SELECT last_due, last_run, last_id, runs, skipped, id FROM @entry JOIN @progress ON entry = id
WHERE scope = %s AND name = %s AND enabled"""
_MARK = """UPDATE @progress SET last_due = %s, last_run = %s, last_id = %s, runs = %s, skipped = %s
WHERE entry = %s"""


class PostgresSchedules:
    """The part of the engine that is a :class:`celeriac.engines.schedule.ScheduleStore`."""

    _store: Store
    scope: str

    def lead(self, holder: str, ttl: float) -> Term | None:
        """Take the term, or put off the end of one's own."""
        with step(self._store) as work:
            leader, token, _, runs = _term(work, self.scope)
            if runs and leader != holder:
                return None
            if not runs:
                token += 1
            work.run(_TAKE, (holder, token, work.now + ttl, ttl, self.scope))
            return Term(holder, token, work.now + ttl, work.now)

    def leader(self) -> Term | None:
        """The term that runs now, if one does."""
        rows = self._store.read(_LEADER, (self.scope,))
        return Term(*rows[0]) if rows else None

    def resign(self, holder: str) -> None:
        """End one's own term."""
        self._store.read(_RESIGN, (self.scope, holder))

    def schedule(self, since: int = 0) -> Schedule:
        """What has changed after a version."""
        with step(self._store) as work:
            version, forgotten = (work.run(_STATE, (self.scope,)) or [(0, 0)])[0]
            complete = since == 0 or not forgotten <= since <= version
            rows = work.run(_CHANGED, (self.scope, 0 if complete else since))
            removed = [] if complete else work.run(_REMOVED, (self.scope, since))
        return Schedule(version, _entries(rows), [name for (name,) in removed], complete)

    def find_entries(self, names: Sequence[str]) -> list[Entry]:
        """The entries of these names, as far as there are any."""
        found = {e.name: e for e in _entries(self._store.read(_NAMED, (self.scope, list(names))))}
        return [found[name] for name in dict.fromkeys(names) if name in found]

    def schedule_version(self) -> int:
        """The version alone."""
        rows = self._store.read(_VERSION, (self.scope,))
        return int(rows[0][0]) if rows else 0

    def put_entries(self, entries: Sequence[Entry], term: Term | None = None) -> None:
        """Add entries or replace what they are; how far they have come stays."""
        with step(self._store, durable=True) as work:
            _check(work, self.scope, term)
            version = work.run(_VERSION, (self.scope,))[0][0] + 1
            if sum(_put(work, self.scope, entry, version) for entry in entries):
                work.run(_COUNT, (version, self.scope))

    def remove_entries(self, names: Sequence[str], term: Term | None = None) -> int:
        """Remove entries; return how many there were."""
        with step(self._store, durable=True) as work:
            _check(work, self.scope, term)
            version = work.run(_VERSION, (self.scope,))[0][0] + 1
            found = work.run(_REMOVE, (self.scope, list(names)))
            if found:
                work.run(_END, ([id for id, _ in found],))
                work.run(_REMEMBER, (self.scope, version, [name for _, name in found]))
                work.run(_COUNT, (version, self.scope))
                _forget_removed(work, self.scope)
            return len(found)

    def fire(self, term: Term, ticks: Sequence[Tick]) -> dict[str, str]:
        """Fire those ticks that are due later than their entries' last ones, in one durable transaction."""
        parcels = {
            index: pack([tick.publication])[0]
            for index, tick in enumerate(ticks)
            if tick.publication is not None
        }
        with step(self._store, durable=True) as work:
            _check(work, self.scope, term)
            left_out, changed = fire_ticks(
                ticks,
                work.now,
                partial(_progress, work, self.scope),
                lambda firing: work.publish([parcels[index] for index in firing]),
            )
            work.many(_MARK, [msgspec.structs.astuple(one) for one in changed])
        return left_out


def _entries(rows: Iterable[Any]) -> list[Entry]:
    return [Entry(name, bytes(body), *rest) for name, body, *rest in rows]


def _term(work: Step, scope: str) -> tuple[str, int, float, bool]:
    rows = work.run(_TERM, (scope,))
    if not rows:
        work.run(_SCOPE, (scope, scope))
        rows = work.run(_TERM, (scope,))
    holder, token, expires, ttl = rows[0]
    return holder, token, expires, work.now < expires <= work.now + ttl + CLOCK_STEP


def _check(work: Step, scope: str, term: Term | None) -> None:
    holder, token, _, runs = _term(work, scope)  # locks it in any case: versions are given in turn
    if term is not None and (not runs or (term.holder, term.token) != (holder, token)):
        raise Fenced(schedule.over(term))


def _put(work: Step, scope: str, entry: Entry, version: int) -> bool:
    """Store what an entry is; return whether that changed anything."""
    rows = work.run(_FIND, (scope, entry.name))
    if not rows:
        values = (entry.definition, entry.source, entry.enabled, version, work.now, scope, entry.name)
        work.run(_BEGIN, work.run(_ADD, values)[0])
        work.run(_REMEMBERED, (scope, entry.name))
        return True
    definition, source, enabled, since = rows[0]
    if (bytes(definition), source, enabled) == (entry.definition, entry.source, entry.enabled):
        return False
    since = work.now if entry.enabled and not enabled else since
    work.run(_CHANGE, (entry.definition, entry.source, entry.enabled, version, since, scope, entry.name))
    return True


def _forget_removed(work: Step, scope: str) -> None:
    rows = work.run(_LAST_TO_FORGET, (scope, schedule.REMOVED_MAX))
    if rows:
        work.run(_FORGET, (scope, rows[0][0]))
        work.run(_FORGOTTEN, (rows[0][0], scope))


def _progress(work: Step, scope: str, name: str) -> Progress | None:
    rows = work.run(_PROGRESS, (scope, name))
    return Progress(*rows[0]) if rows else None
