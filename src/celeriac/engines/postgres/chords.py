"""The PostgreSQL engine as a group store: groups' lists, chords, their parts, and bodies that are owed.

A chord's row is locked by every step that records a part of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress

from celeriac.engines import chord_rows
from celeriac.engines.base import Publication
from celeriac.engines.chord_rows import COUNTING, DONE, MOST_OWED, OWED, PARTS_AT_ONCE, REMEMBERED, Chord
from celeriac.engines.groups import OWED_AGAIN, ChordPart, Owed
from celeriac.engines.postgres.parcels import clean, pack
from celeriac.engines.postgres.step import Step, step
from celeriac.engines.postgres.store import Store
from celeriac.engines.results import ResultRecord
from celeriac.exceptions import CeleriacError

_STORE_GROUP = """INSERT INTO @task_group (name, payload, expires) VALUES (%s, %s, @now() + %s::float8)
ON CONFLICT (name) DO UPDATE SET payload = excluded.payload, expires = excluded.expires"""
_FETCH_GROUP = "SELECT payload FROM @task_group WHERE name = %s AND (expires IS NULL OR expires > @now())"
_FORGET_GROUP = "DELETE FROM @task_group WHERE name = %s"
_BEGIN = "INSERT INTO @chord (id, name) VALUES (nextval('@serial'), %s) ON CONFLICT (name) DO NOTHING"
_FIND = "SELECT id, state, opened, missing, expires FROM @chord WHERE name = %s FOR UPDATE"
_RENEW = f"""UPDATE @chord SET id = nextval('@serial'), state = {COUNTING}, opened = false,
missing = 0, expires = NULL, owed = NULL, taken = NULL, taken_by = NULL
WHERE id = %s RETURNING id, state, opened, missing, expires"""
_OPEN = "UPDATE @chord SET opened = true, missing = %s, expires = %s WHERE id = %s"
_KEEP_BODY = "INSERT INTO @chord_body (chord, body) VALUES (%s, %s) ON CONFLICT DO NOTHING"
_ADD_PART = """INSERT INTO @part (chord, task_id, id, place, payload)
VALUES (%s, %s, nextval('@serial'), %s, %s) ON CONFLICT DO NOTHING"""
_COUNT = "UPDATE @chord SET missing = %s, expires = %s WHERE id = %s"
_OWE = f"UPDATE @chord SET state = {OWED}, expires = NULL, owed = %s, taken = %s, taken_by = %s WHERE id = %s"
# A time in the future is of a clock that was set back.
_FREE = "(taken IS NULL OR taken <= @now() - %s OR taken > @now())"
_OWED = f"SELECT name FROM @chord WHERE state = {OWED} AND {_FREE} ORDER BY owed, id LIMIT {MOST_OWED}"
_TAKE = f"""UPDATE @chord SET taken = @now(), taken_by = %s
WHERE name = %s AND state = {OWED} AND (taken_by = %s OR {_FREE}) RETURNING id"""
_TAKEN = f"SELECT id FROM @chord WHERE name = %s AND state = {OWED} AND taken_by = %s FOR UPDATE"
_BODY = "SELECT body FROM @chord_body WHERE chord = %s"
_PARTS = "SELECT payload FROM @part WHERE chord = %s ORDER BY place NULLS LAST, id"
_END = f"UPDATE @chord SET state = {DONE}, expires = %s, taken = NULL, taken_by = NULL WHERE id = %s"
_EXPIRED = "SELECT id FROM @chord WHERE expires <= @now() LIMIT %s"
_IS_EXPIRED = "SELECT id FROM @chord WHERE id = %s AND expires <= @now() FOR UPDATE SKIP LOCKED"
_DROP_BODY = "DELETE FROM @chord_body WHERE chord = %s"
_DROP_PARTS = """DELETE FROM @part WHERE chord = %s AND task_id = ANY (
ARRAY(SELECT task_id FROM @part WHERE chord = %s LIMIT %s))"""
_DROP = "DELETE FROM @chord WHERE id = %s"


class PostgresGroups:
    """The part of the engine that is a :class:`celeriac.engines.groups.GroupStore`."""

    _store: Store

    def store_group(self, group: str, payload: bytes, ttl: float | None) -> None:
        """Keep a group's list of results."""
        self._store.read(_STORE_GROUP, (group, payload, ttl))

    def fetch_group(self, group: str) -> bytes | None:
        """A group's list of results."""
        rows = self._store.read(_FETCH_GROUP, (group,))
        return bytes(rows[0][0]) if rows else None

    def forget_group(self, group: str) -> None:
        """Delete what :meth:`store_group` kept, if anything."""
        self._store.read(_FORGET_GROUP, (group,))

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
        return [name for (name,) in self._store.read(_OWED, (OWED_AGAIN,))]

    def take_owed(self, group: str, by: str) -> Owed | None:
        """Take an owed body to send it."""
        with step(self._store) as work:
            rows = work.run(_TAKE, (by, group, by, OWED_AGAIN))
            if not rows:
                return None
            body = work.run(_BODY, rows[0])
            parts = [bytes(payload) for (payload,) in work.run(_PARTS, rows[0])]
        return Owed(group, bytes(body[0][0]) if body else None, parts)

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
            rows = work.run(_TAKEN, (group, by))
            if not rows:
                return None
            number = rows[0][0]
            work.run(_END, (work.now + REMEMBERED, number))
            work.run(_DROP_BODY, (number,))
            work.publish(parcels)
            work.keep_all(records)
            owed = record(work, parts, by)
        # Nobody reads them any more; what is left if this fails goes with the chord.
        with suppress(CeleriacError):
            _drop_parts(self._store, number)
        return owed


def record(work: Step, parts: Sequence[ChordPart], by: str) -> list[str]:
    """Record parts; return the groups whose last part was among them, taken by ``by``."""
    return chord_rows.record(_Rows(work), parts, by)


def drop_expired(store: Store, limit: int) -> None:
    """Delete chords that have had their time; what still has parts, with many small steps."""
    while rows := store.read(_EXPIRED, (limit,)):
        dropped = 0
        for (number,) in rows:
            with step(store) as work:
                if not work.run(_IS_EXPIRED, (number,)):
                    continue
                work.run(_DROP, (number,))
                work.run(_DROP_BODY, (number,))
            dropped += 1
            _drop_parts(store, number)
        if not dropped:
            return


class _Rows:
    """See :class:`celeriac.engines.chord_rows.ChordRows`."""

    def __init__(self, work: Step) -> None:
        self.now = work.now
        self._work = work

    def find(self, group: str) -> Chord:
        work = self._work
        rows = work.run(_FIND, (group,))
        if not rows:
            work.run(_BEGIN, (group,))
            rows = work.run(_FIND, (group,))
        chord = Chord(*rows[0])
        if chord.expires is None or chord.expires > work.now:
            return chord
        work.run(_DROP_BODY, (chord.id,))
        work.run("DELETE FROM @part WHERE chord = %s", (chord.id,))
        return Chord(*work.run(_RENEW, (chord.id,))[0])

    def open(self, chord: Chord, missing: int, expires: float | None) -> None:
        self._work.run(_OPEN, (missing, expires, chord.id))

    def keep_body(self, chord: Chord, body: bytes) -> None:
        self._work.run(_KEEP_BODY, (chord.id, body))

    def add_part(self, chord: Chord, part: ChordPart) -> bool:
        return self._work.count(_ADD_PART, (chord.id, clean(part.task_id), part.index, part.payload)) == 1

    def count(self, chord: Chord, missing: int, expires: float | None) -> None:
        self._work.run(_COUNT, (missing, expires, chord.id))

    def owe(self, chord: Chord, by: str | None) -> None:
        self._work.run(_OWE, (self.now, None if by is None else self.now, by, chord.id))


def _drop_parts(store: Store, number: int) -> None:
    deleted = PARTS_AT_ONCE
    while deleted == PARTS_AT_ONCE:
        with step(store) as work:
            deleted = work.count(_DROP_PARTS, (number, number, PARTS_AT_ONCE))
