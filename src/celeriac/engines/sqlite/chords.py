"""The SQLite engine as a group store: groups' lists, chords, their parts, and bodies that are owed."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from operator import itemgetter

from celeriac.engines import chord_rows
from celeriac.engines.base import Publication
from celeriac.engines.chord_rows import COUNTING, DONE, MOST_OWED, OWED, PARTS_AT_ONCE, REMEMBERED, Chord
from celeriac.engines.groups import OWED_AGAIN, ChordPart, Owed
from celeriac.engines.results import ResultRecord
from celeriac.engines.sqlite import clock
from celeriac.engines.sqlite.step import Step, pack, step
from celeriac.engines.sqlite.store import Store
from celeriac.exceptions import CeleriacError

_STORE_GROUP = "INSERT OR REPLACE INTO task_group (name, payload, expires) VALUES (?, ?, ?)"
_FETCH_GROUP = "SELECT payload FROM task_group WHERE name = ? AND (expires IS NULL OR expires > ?)"
_FORGET_GROUP = "DELETE FROM task_group WHERE name = ?"
_FIND = "SELECT id, state, opened, missing, expires FROM chord WHERE name = ?"
_BEGIN = "INSERT INTO chord (id, name, expires) VALUES (?, ?, ?)"
_OPEN = "UPDATE chord SET opened = 1, missing = ?, expires = ? WHERE id = ?"
_KEEP_BODY = "INSERT OR IGNORE INTO chord_body (chord, body) VALUES (?, ?)"
_ADD_PART = "INSERT OR IGNORE INTO part (chord, task_id, place, payload) VALUES (?, ?, ?, ?)"
_COUNT = "UPDATE chord SET missing = ?, expires = ? WHERE id = ?"
_OWE = f"UPDATE chord SET state = {OWED}, expires = NULL, owed = ?, taken = ?, taken_by = ? WHERE id = ?"
# A time in the future is of a clock that was set back.
_FREE = "(taken IS NULL OR taken <= ?1 OR taken > ?2)"
_OWED = f"SELECT name FROM chord WHERE state = {OWED} AND {_FREE} ORDER BY owed, id LIMIT {MOST_OWED}"
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


class SQLiteGroups:
    """The part of the engine that is a :class:`celeriac.engines.groups.GroupStore`."""

    _store: Store

    def store_group(self, group: str, payload: bytes, ttl: float | None) -> None:
        """Keep a group's list of results."""
        with step(self._store) as work:
            work.handle.execute(_STORE_GROUP, (group, payload, None if ttl is None else work.now + ttl))

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
            chord_rows.open_chord(_Rows(work), group, size, body, ttl)

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
    return chord_rows.record(_Rows(work), parts, by)


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


class _Rows:
    """See :class:`celeriac.engines.chord_rows.ChordRows`."""

    def __init__(self, work: Step) -> None:
        self.now = work.now
        self._work = work
        self._execute = work.handle.execute

    def find(self, group: str) -> Chord:
        row = self._execute(_FIND, (group,)).fetchone()
        chord = None if row is None else Chord(*row)
        if chord is not None and chord.expires is not None and chord.expires <= self.now:
            _drop(self._work, chord.id)
            chord = None
        if chord is None:
            chord = Chord(self._work.number(), COUNTING, False, 0, None)
            self._execute(_BEGIN, (chord.id, group, None))
        return chord

    def open(self, chord: Chord, missing: int, expires: float | None) -> None:
        self._execute(_OPEN, (missing, expires, chord.id))

    def keep_body(self, chord: Chord, body: bytes) -> None:
        self._execute(_KEEP_BODY, (chord.id, body))

    def add_part(self, chord: Chord, part: ChordPart) -> bool:
        return self._execute(_ADD_PART, (chord.id, part.task_id, part.index, part.payload)).rowcount == 1

    def count(self, chord: Chord, missing: int, expires: float | None) -> None:
        self._execute(_COUNT, (missing, expires, chord.id))

    def owe(self, chord: Chord, by: str | None) -> None:
        self._execute(_OWE, (self.now, None if by is None else self.now, by, chord.id))


def _drop(work: Step, id: int) -> None:
    work.handle.execute(_DROP, (id,))
    work.handle.execute(_DROP_BODY, (id,))
    work.handle.execute(_DROP_PARTS, (id, -1))


def _drop_parts(store: Store, id: int) -> None:
    deleted = PARTS_AT_ONCE
    while deleted == PARTS_AT_ONCE:
        with step(store) as work:
            deleted = work.handle.execute(_DROP_PARTS, (id, PARTS_AT_ONCE)).rowcount
