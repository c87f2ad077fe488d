"""The PostgreSQL engine as a result backend: states, their announcement, what is known of an id, cleaning."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial

from celeriac.engines.history import Attempt
from celeriac.engines.listener import Interest
from celeriac.engines.postgres.chords import PostgresGroups, drop_expired
from celeriac.engines.postgres.dead import expire_dead
from celeriac.engines.postgres.history import NOTE, notes
from celeriac.engines.postgres.listener import Listener
from celeriac.engines.postgres.parcels import clean
from celeriac.engines.postgres.step import KEEP, Step, record_columns, step, waves
from celeriac.engines.postgres.store import Store
from celeriac.engines.results import Presence, ResultRecord

CHUNK = 1000
"""Rows a cleaning transaction."""

FETCH = """SELECT id, payload FROM @result
WHERE id = ANY (%s::text[]) AND payload IS NOT NULL AND (expires IS NULL OR expires > @now())"""
_PRESENCE = """SELECT id, state, payload IS NOT NULL, expires IS NULL OR expires > @now(),
expires + %s > @now() FROM @result WHERE id = ANY (%s::text[])"""
_FORGET = "DELETE FROM @result WHERE id = ANY (%s::text[])"
# Page after page, so that a cleaning reads each row once; a row that was changed meanwhile is left alone.
_PAGES = "SELECT ceil(pg_relation_size('@result') / current_setting('block_size')::float8)::bigint"
_DROP_REMEMBERED = """DELETE FROM @result
WHERE ctid >= %s::tid AND ctid < %s::tid AND payload IS NULL AND expires <= @now()"""
_ENTOMB = """UPDATE @result SET state = '', payload = NULL, expires = expires + %s
WHERE ctid >= %s::tid AND ctid < %s::tid AND payload IS NOT NULL AND expires <= @now()"""
_PAGES_AT_ONCE = 256
_DROP = """DELETE FROM @{table} WHERE {key} = ANY (ARRAY(
SELECT {key} FROM @{table} WHERE expires <= @now() LIMIT %s FOR UPDATE SKIP LOCKED))"""
_DROP_FENCED = "DELETE FROM @node WHERE fenced AND seen <= @now() - 86400"
_DROP_LISTENERS = "DELETE FROM @listener WHERE seen < @now() - 600"
_DROP_ROOMS = """DELETE FROM @room r WHERE NOT EXISTS (SELECT 1 FROM @seat s WHERE s.room = r.name)
AND NOT EXISTS (SELECT 1 FROM @message m WHERE m.state = 5 AND m.bucket = r.name)"""
_KEYS = {"held": "key", "checkpoint": "task_id", "task_group": "name", "revoked": "id"}


class PostgresResults(PostgresGroups):
    """The part of the engine that is a :class:`celeriac.engines.base.ResultBackend`."""

    _store: Store
    _listener: Listener

    def store(self, records: Sequence[ResultRecord], attempts: Sequence[Attempt] = ()) -> list[str]:
        """Store and announce states, and note attempts; return the ids that were refused."""
        if not attempts and all(record.lease is None for record in records):
            refused = []
            for wave in waves(records):
                kept = set(self._store.read(KEEP, record_columns(wave))[0][0])
                refused += [record.id for record in wave if clean(record.id) not in kept]
            return refused
        with step(self._store) as work:
            for arguments in notes([(0, attempt) for attempt in attempts]):
                work.run(NOTE, arguments)
            held = [record for record in records if record.lease is None or work.holds(record.lease)]
            stored = {id(record) for record, kept in zip(held, work.keep_all(held), strict=True) if kept}
        return [record.id for record in records if id(record) not in stored]

    def fetch(self, ids: Sequence[str]) -> dict[str, bytes]:
        """The stored payloads of those ids that have one."""
        return fetch(self._store, ids)

    def subscribe(self, ids: Iterable[str], callback: Callable[[str, bytes], None]) -> Interest:
        """Call ``callback`` for every state already stored and every one to come."""
        return self._listener.subscribe(ids, callback)

    def forget(self, ids: Sequence[str]) -> None:
        """Delete results, and that there ever were any."""
        self._store.read(_FORGET, (list(ids),))

    def presence(self, ids: Sequence[str]) -> dict[str, Presence]:
        """What is known of each id."""
        found = dict.fromkeys(ids, Presence.UNKNOWN)
        rows = self._store.read(_PRESENCE, (self._store.options.result_tombstone_expires, list(ids)))
        for id, state, stored, lasts, remembered in rows:
            if lasts:
                kind = Presence.QUEUED if state is None else Presence.EXPIRED
                found[id] = Presence.KNOWN if stored else kind
            elif stored and remembered:
                found[id] = Presence.EXPIRED
        return found

    def reply_address(self) -> str | None:
        """The channel of this process; a thread listens to it while somebody waits for results here."""
        return self._listener.address()

    def cleanup(self) -> int:
        """Delete expired results and all else that has had its time, in small transactions; return how many
        results."""
        count, first = 0, 0
        pages = self._store.read(_PAGES)[0][0]
        tombstone = self._store.options.result_tombstone_expires
        while first < pages:
            span = (f"({first},0)", f"({first + _PAGES_AT_ONCE},0)")
            with step(self._store) as work:
                work.run(_DROP_REMEMBERED, span)
                count += work.count(_ENTOMB, (tombstone, *span))
            first += _PAGES_AT_ONCE
        drop_expired(self._store, CHUNK)
        for table, key in _KEYS.items():
            sql = _DROP.format(table=table, key=key)
            _until_done(self._store, partial(_count, sql))
        _until_done(self._store, lambda work: expire_dead(work, CHUNK))
        with step(self._store) as work:
            for statement in (_DROP_FENCED, _DROP_LISTENERS, _DROP_ROOMS):
                work.run(statement)
        return count


def fetch(store: Store, ids: Sequence[str]) -> dict[str, bytes]:
    """The stored payloads of those ids that have one."""
    return {id: bytes(payload) for id, payload in store.read(FETCH, (list(ids),), binary=True)}


def _count(sql: str, work: Step) -> int:
    return work.count(sql, (CHUNK,))


def _until_done(store: Store, drop: Callable[[Step], int]) -> None:
    handled = CHUNK
    while handled >= CHUNK:
        with step(store) as work:
            handled = drop(work)
