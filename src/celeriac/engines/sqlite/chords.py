"""The SQLite engine as a group store: groups' lists, chords, their parts, and bodies that are owed."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from operator import itemgetter
from typing import NamedTuple

from celeriac.engines.base import Publication
from celeriac.engines.groups import OWED_AGAIN, ChordPart, Owed
from celeriac.engines.results import ResultRecord
from celeriac.engines.sqlite import clock
from celeriac.engines.sqlite.step import Step, pack, step
from celeriac.engines.sqlite.store import Store
from celeriac.exceptions import CeleriacError

COUNTING, OWED, DONE = range(3)
REMEMBERED = 86400.0
"""Seconds for which a chord is known to be done."""
_AT_ONCE = 1000
"""Parts deleted in one transaction."""
_MOST_OWED = 100

_STORE_GROUP = "INSERT OR REPLACE INTO task_group (name, payload, expires) VALUES (?, ?, ?)"
_FETCH_GROUP = "SELECT payload FROM task_group WHERE name = ? AND (expires IS NULL OR expires > ?)"
_FORGET_GROUP = "DELETE FROM task_group WHERE name = ?"
_FIND = "SELECT id, state, opened, missing, expires FROM chord WHERE name = ?"
_BEGIN = "INSERT INTO chord (id, name, expires) VALUES (?, ?, ?)"
_OPEN = "UPDATE chord SET opened = 1, missing = ?, expires = ? WHERE id = ?"
_KEEP_BODY = "INSERT OR IGNORE INTO chord_body (chord, body) VALUES (?, ?)"
_ADD_PART = "INSERT OR IGNORE INTO part (chord, task_id, place, payload) VALUES (?, ?, ?, ?)"
_COUNT = "UPDATE chord SET missing = ?, expires = ? WHERE id = ?"
# What is owed does not expire: somebody waits for it.
_OWE = f"UPDATE chord SET state = {OWED}, expires = NULL, owed = ?, taken = ?, taken_by = ? WHERE id = ?"
# A time in the future is of a clock that was set back.
_FREE = "(taken IS NULL OR taken <= ?1 OR taken > ?2)"
_OWED = f"SELECT name FROM chord WHERE state = {OWED} AND {_FREE} ORDER BY owed, id LIMIT {_MOST_OWED}"
_TAKE = f"""UPDATE chord SET taken = ?2, taken_by = ?3
WHERE name = ?4 AND state = {OWED} AND (taken_by = ?3 OR {_FREE})"""
_TAKEN = f"SELECT id FROM chord WHERE name = ? AND state = {OWED} AND taken_by = ?"
_BODY = "SELECT body FROM chord_body WHERE chord = ?"
_PARTS = "SELECT place IS NULL, place, id, payload FROM part WHERE chord = ?"
_END = f"UPDATE chord SET state = {DONE}, expires = ?, taken = NULL, taken_by = NULL WHERE id = ?"
_IS_EXPIRED = """SELECT id, EXISTS (SELECT 1 FROM part p WHERE p.chord = c.id) FROM chord c
WHERE id = ? AND expires <= ?"""
_DROP_BODY = "DELETE FROM chord_body WHERE chord = ?"
_DROP_PARTS = "DELETE FROM part WHERE id IN (SELECT id FROM part WHERE chord = ? LIMIT ?)"
_DROP = "DELETE FROM chord WHERE id = ?"


class _Chord(NamedTuple):
    id: int
    state: int
    opened: int
    missing: int
    expires: float | None


class SQLiteGroups:
    """The part of the engine that is a :class:`celeriac.engines.groups.GroupStore`."""

    _store: Store

    def store_group(self, group: str, payload: bytes, ttl: float | None) -> None:
        """Keep a group's list of results."""
        with step(self._store) as work:
            work.handle.execute(_STORE_GROUP, (group, payload, _until(work, ttl)))

    def fetch_group(self, group: str) -> bytes | None:
        """A group's list of results."""
        with self._store.read() as handle:
            row = handle.execute(_FETCH_GROUP, (group, clock.now())).fetchone()
        return None if row is None else bytes(row[0])

    def forget_group(self, group: str) -> None:
        """Delete what :meth:`store_group` kept, if anything."""
        with step(self._store) as work:
            work.handle.execute(_FORGET_GROUP, (group,))

    def open_chord(self, group: str, size: int, body: bytes, ttl: float | None) -> None:
        """Begin a chord whose header has ``size`` tasks; durable, as its header may go to another store."""
        with step(self._store, durable=True) as work:
            chord = _find(work, group) or _begin(work, group)
            if chord.state != COUNTING or chord.opened:
                return
            missing = chord.missing + size
            work.handle.execute(_OPEN, (missing, _until(work, ttl), chord.id))
            work.handle.execute(_KEEP_BODY, (chord.id, body))
            if missing <= 0:
                work.handle.execute(_OWE, (work.now, None, None, chord.id))

    def record_parts(self, parts: Sequence[ChordPart], by: str) -> list[str]:
        """Record parts; durable, for their messages are acknowledged in another store."""
        with step(self._store, durable=True) as work:
            return record(work, parts, by)

    def owed(self) -> list[str]:
        """Groups whose body is owed and that nobody has taken of late, oldest first."""
        now = clock.now()
        with self._store.read() as handle:
            return [name for (name,) in handle.execute(_OWED, (now - OWED_AGAIN, now))]

    def take_owed(self, group: str, by: str) -> Owed | None:
        """Take an owed body to send it."""
        with step(self._store) as work:
            if not work.handle.execute(_TAKE, (work.now - OWED_AGAIN, work.now, by, group)).rowcount:
                return None
        with self._store.read() as handle:
            # Out of the writers' way; one transaction, for who is very slow may be overtaken here.
            handle.execute("BEGIN")
            try:
                chord = handle.execute(_TAKEN, (group, by)).fetchone()
                if chord is None:
                    return None
                body = handle.execute(_BODY, chord).fetchone()
                # Sorted here: SQLite would move all the payloads to and fro, and need disk space for it.
                parts = [row[3] for row in sorted(handle.execute(_PARTS, chord), key=itemgetter(0, 1, 2))]
            finally:
                handle.execute("COMMIT")
        return Owed(group, None if body is None else body[0], parts)

    def settle_owed(
        self,
        group: str,
        by: str,
        publications: Sequence[Publication] = (),
        records: Sequence[ResultRecord] = (),
        parts: Sequence[ChordPart] = (),
    ) -> list[str] | None:
        """End an owed body that ``by`` holds, and store with it what follows, in one transaction."""
        parcels = pack(publications)
        with step(self._store) as work:
            row = work.handle.execute(_TAKEN, (group, by)).fetchone()
            if row is None:
                return None
            work.handle.execute(_END, (work.now + REMEMBERED, row[0]))
            work.handle.execute(_DROP_BODY, row)
            work.publish(parcels)
            work.keep_all(records)
            owed = record(work, parts, by)
        # Nobody reads them any more; what is left if this fails goes with the chord.
        with suppress(CeleriacError):
            _drop_parts(self._store, row[0])
        return owed


def record(work: Step, parts: Sequence[ChordPart], by: str) -> list[str]:
    """Record parts; return the groups whose last part was among them, taken by ``by``."""
    groups: dict[str, list[ChordPart]] = {}
    for part in parts:
        groups.setdefault(part.group, []).append(part)
    return [group for group, some in groups.items() if _record(work, group, some, by)]


def drop_expired(store: Store, ids: Sequence[int]) -> None:
    """Delete those of these chords that are expired; what still has parts, with many small steps."""
    with step(store) as work:
        expired = [row for id in ids for row in work.handle.execute(_IS_EXPIRED, (id, work.now))]
        for id, has_parts in expired:
            if not has_parts:
                _drop(work, id)
    for id, has_parts in expired:
        if has_parts:
            _drop_parts(store, id)
            with step(store) as work:
                _drop(work, id)


def _record(work: Step, group: str, parts: Sequence[ChordPart], by: str) -> bool:
    """Record parts of one chord, at a cost that does not grow with it; return whether it is owed now."""
    chord = _find(work, group) or _begin(work, group)
    if chord.state != COUNTING:
        return False
    missing, ttl = chord.missing, None
    for part in parts:
        if part.body is not None:
            work.handle.execute(_KEEP_BODY, (chord.id, part.body))
        values = (chord.id, part.task_id, part.index, part.payload)
        missing += (part.grow - 1) * work.handle.execute(_ADD_PART, values).rowcount
        ttl = part.ttl
        if chord.opened and missing <= 0:
            work.handle.execute(_OWE, (work.now, work.now, by, chord.id))
            return True
    expires = _until(work, ttl)
    if expires is not None and chord.expires is not None:
        expires = max(expires, chord.expires)
    work.handle.execute(_COUNT, (missing, expires, chord.id))
    return False


def _find(work: Step, group: str) -> _Chord | None:
    row = work.handle.execute(_FIND, (group,)).fetchone()
    if row is None:
        return None
    chord = _Chord(*row)
    if chord.expires is None or chord.expires > work.now:
        return chord
    _drop(work, chord.id)
    return None


def _begin(work: Step, group: str) -> _Chord:
    chord = _Chord(work.number(), COUNTING, 0, 0, None)
    work.handle.execute(_BEGIN, (chord.id, group, None))
    return chord


def _drop(work: Step, id: int) -> None:
    work.handle.execute(_DROP, (id,))
    work.handle.execute(_DROP_BODY, (id,))
    work.handle.execute(_DROP_PARTS, (id, -1))


def _drop_parts(store: Store, id: int) -> None:
    deleted = _AT_ONCE
    while deleted == _AT_ONCE:
        with step(store) as work:
            deleted = work.handle.execute(_DROP_PARTS, (id, _AT_ONCE)).rowcount


def _until(work: Step, ttl: float | None) -> float | None:
    return None if ttl is None else work.now + ttl
