"""One transaction's work, several statements long: the elementary moves of a message, and keeping results.

What is common, publishing and an exchange of plain outcomes, is one statement each and not here (see
``migrations/0002_functions.sql``). Which moves happen is decided by broker, consumer, recovery and dead
letters. Whoever moves leases has locked their owner's row before.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from celeriac.engines.postgres import unique
from celeriac.engines.postgres.parcels import ADD, Parcel, clean, columns, plain, task_id_of
from celeriac.engines.postgres.store import Connection, Store
from celeriac.engines.results import ResultRecord
from celeriac.exceptions import DecodeError
from celeriac.message import decode_envelope

if TYPE_CHECKING:
    from celeriac.engines.postgres.guest import Guest
    from celeriac.engines.postgres.store import Handle

READY, LEASED, DELAYED, PARKED, WAITING = 0, 1, 2, 3, 5
ADMITTED, SEATED, ONCE = 1, 2, 4
_LONG_AGO = 30.0
"""Seconds; a message due earlier is stored as due then. Within what ``not_before`` leaves as it is."""

IDLE_LIMIT = 5.0
"""Seconds between two statements of a step after which the server ends it. Whoever is frozen there (a paused
machine, a stopped process) holds locks that the others need to take its tasks over."""

LET_GO = f"SET LOCAL idle_in_transaction_session_timeout = {IDLE_LIMIT * 1000:.0f};"
_BEGIN = "SELECT @now(), version FROM @state"
_LOCK = "SELECT pg_advisory_xact_lock(hashtextextended(%s, hashtext(%s)))"
_ORDER = "UPDATE @state SET version = version + 1 RETURNING version"
_CALL = "SELECT @call(%s::text[], %s::int[])"
_FANNED = "SELECT DISTINCT queue FROM @binding WHERE exchange = %s AND type = 'fanout' ORDER BY queue"
_BODY = "SELECT body FROM @payload WHERE id = %s"
_REWRITE = "UPDATE @payload SET body = %b WHERE id = %s"
_LEAVE = "SELECT @leave(%s::bigint[])"
_RESTORE = f"""UPDATE @message SET state = {READY}, seq = @back(seq), owner = NULL, noted = noted & {ADMITTED}
WHERE ctid = ANY (ARRAY(SELECT (SELECT f.ctid FROM @message f
    WHERE f.state = {LEASED} AND f.owner = %s AND f.token = u) FROM unnest(%s::bigint[]) u))"""
_REQUEUE = f"""UPDATE @message SET state = {READY}, owner = NULL, noted = 0, seq = nextval('@serial'),
since = %s WHERE state = {LEASED} AND owner = %s AND token = %s"""
_PUT_OFF = f"""UPDATE @message SET state = {DELAYED}, owner = NULL, noted = 0, due = @not_before(%s, @now()),
task_id = %s WHERE state = {LEASED} AND owner = %s AND token = %s"""
_PARK = f"""UPDATE @message SET state = {PARKED}, owner = NULL, noted = 0, bucket = %s, task_id = %s
WHERE state = {LEASED} AND owner = %s AND token = %s"""
_KNOW_BUCKET = "INSERT INTO @bucket (name, span, free) VALUES (%s, 0, 0) ON CONFLICT DO NOTHING"
_KNOW_ROOM = "INSERT INTO @room (name, size) VALUES (%s, 1) ON CONFLICT DO NOTHING"
_LOCK_ROOM = "SELECT 1 FROM @room WHERE name = %s FOR UPDATE"
_WAIT = f"""UPDATE @message SET state = {WAITING}, owner = NULL, noted = noted & {ADMITTED}, bucket = %s,
task_id = %s, turn = nextval('@serial') WHERE state = {LEASED} AND owner = %s AND token = %s"""
_CALL_WAITING = "SELECT @call_waiting(%s::text[])"
_HOLDS = f"""SELECT 1 FROM @message m JOIN @owner o ON o.id = m.owner
WHERE m.state = {LEASED} AND o.name = %s AND m.queue = %s AND m.token = %s FOR SHARE OF o"""
_APPEND = f"""INSERT INTO @message (id, seq, since, rank, state, queue)
VALUES (%s, nextval('@serial'), %s, %s, {READY}, %s)"""
_ADD_QUEUE = "INSERT INTO @queue (name) VALUES (%s) ON CONFLICT DO NOTHING"
KEEP = "SELECT @keep(%s::text[], %s::text[], %b::bytea[], %s::float8[], %s::text[])"


class Lease(NamedTuple):
    """A message that is leased."""

    token: int
    owner: int
    id: int
    queue: str
    rank: int
    noted: int


class Step:
    """What one open transaction does; ``finish`` before the commit."""

    def __init__(self, store: Store, handle: Handle | Guest, now: float, version: int) -> None:
        self.store = store
        self.handle = handle
        self.now = now
        self.version = version
        self.calls: Counter[str] = Counter()
        """Queue -> how many messages have become ready (or will within a poll)."""
        self.queues: set[str] = set()
        self.guest = False
        """Whether the transaction is the application's, which may last, or be rolled back."""

    @classmethod
    def within(cls, store: Store, handle: Handle | Guest) -> Step:
        """A step in a transaction that is open already."""
        ((now, version),) = handle.execute(store.sql(_BEGIN)).fetchall()
        return cls(store, handle, now, version)

    def run(self, sql: str, arguments: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """Carry out one statement and return its rows, if it has any."""
        cursor = self.handle.execute(self.store.sql(sql), arguments)
        return cursor.fetchall() if cursor.description is not None else []

    def count(self, sql: str, arguments: Sequence[Any] = ()) -> int:
        """Carry out one statement and return how many rows it concerned."""
        return self.handle.execute(self.store.sql(sql), arguments).rowcount

    def many(self, sql: str, rows: Sequence[Sequence[Any]]) -> None:
        """Carry out one statement for each of these arguments."""
        for row in rows:
            self.run(sql, row)

    def lock(self, what: str) -> None:
        """Let no other step that locks ``what`` go on before this one ends."""
        self.run(_LOCK, (what, self.store.schema))

    def order(self) -> int:
        """Count an operator's order; return the new control version."""
        self.version = self.run(_ORDER)[0][0]
        return self.version

    def finish(self) -> None:
        """Wake whom it concerns, once the transaction is committed."""
        if self.calls:
            self.run(_CALL, (list(self.calls), list(self.calls.values())))

    # -- into line -------------------------------------------------------------------------------------

    def publish(self, parcels: Sequence[Parcel]) -> dict[int, str]:
        """Store new messages, but those whose unique key is held: index -> who holds it."""
        if plain(parcels):
            self._add(parcels)
            return {}
        keys = {parcel.publication.unique.key for parcel in parcels if parcel.publication.unique is not None}
        for key in sorted(keys):
            self.lock(f"key:{key}")
        left_out = {}
        for index, parcel in enumerate(parcels):
            condition = parcel.publication.unique
            holder = None if condition is None else unique.refusal(self, condition)
            if holder is not None:
                left_out[index] = holder
                continue
            last = self._add([parcel])
            if condition is not None and last is not None:
                due = self.due(parcel.publication.delay, parcel.publication.due)
                unique.take(self, condition, parcel.task_id, last, due)
        return left_out

    def _add(self, parcels: Sequence[Parcel]) -> int | None:
        """Put new messages into line, or among the delayed; return the last one's id."""
        copies = list(self._fanned(parcels))
        if not copies:
            return None
        known = set() if self.guest else self.store.known_queues | self.queues
        arguments = columns(copies, self.store.sign, known)
        last: int = self.run(ADD, (*arguments, self.guest))[0][0]
        self.queues.update(arguments[-1])
        return last

    def _fanned(self, parcels: Iterable[Parcel]) -> Iterator[Parcel]:
        """The same, with a copy for each queue that is bound to the exchange in place of a fanout.

        Delays count from the step's beginning, for all alike.
        """
        for parcel in parcels:
            item = parcel.publication
            if item.delay is not None or item.due is not None:
                item = msgspec.structs.replace(item, delay=None, due=self.due(item.delay, item.due))
            queues = [item.queue] if item.queue else [row[0] for row in self.run(_FANNED, (item.exchange,))]
            for queue in queues:
                yield parcel._replace(publication=msgspec.structs.replace(item, queue=queue))

    def due(self, delay: float | None, due: float | None) -> float | None:
        """When a message falls due, epoch seconds, and not long ago; ``None``: now."""
        if delay is not None:
            return self.now + delay
        return None if due is None else max(due, self.now - _LONG_AGO)

    def append(self, queue: str, rank: int, id: int) -> None:
        """Put a stored message that has no row in any state at the back of its line."""
        if queue not in self.store.known_queues and queue not in self.queues:
            self.run(_ADD_QUEUE, (queue,))
            self.queues.add(queue)
        self.run(_APPEND, (id, self.now, rank, queue))
        self.calls[queue] += 1

    # -- leases ----------------------------------------------------------------------------------------

    def vacate(self, leases: Iterable[Lease]) -> None:
        """Free the seats of messages whose leases end."""
        seated = [lease.id for lease in leases if lease.noted & SEATED]
        if seated:
            self.run(_LEAVE, (seated,))

    def restore(self, leases: Sequence[Lease]) -> None:
        """Put one owner's messages back to just where they came from."""
        if leases:
            self.run(_RESTORE, (leases[0].owner, [lease.token for lease in leases]))
            self.calls.update(lease.queue for lease in leases)

    def requeue(self, lease: Lease) -> None:
        """Put a message to the back of its line."""
        self.run(_REQUEUE, (self.now, lease.owner, lease.token))
        self.calls[lease.queue] += 1

    def put_off(self, lease: Lease, due: float, task_id: str) -> None:
        """Hold a message until ``due``."""
        self.run(_PUT_OFF, (due, task_id, lease.owner, lease.token))
        # Who sleeps must learn of a due time; within the poll interval the poll would be too late.
        if due < self.now + 1.0:
            self.calls[lease.queue] += 1

    def park(self, lease: Lease, bucket: str, task_id: str) -> None:
        """Park a message for a rate limit's token."""
        self.run(_KNOW_BUCKET, (bucket,))
        self.run(_PARK, (bucket, task_id, lease.owner, lease.token))

    def wait(self, lease: Lease, room: str, task_id: str) -> None:
        """Park a message for a seat, and wake one who sleeps: a seat may have become free meanwhile."""
        self.run(_KNOW_ROOM, (room,))
        self.run(_LOCK_ROOM, (room,))
        self.run(_WAIT, (room, task_id, lease.owner, lease.token))
        self.run(_CALL_WAITING, ([room],))

    def holds(self, lease: tuple[str, str, int]) -> bool:
        """Whether ``(owner name, queue, token)`` is a lease that lasts, at least until this step ends."""
        return bool(self.run(_HOLDS, lease))

    # -- envelopes and results -------------------------------------------------------------------------

    def rewrite(self, id: int, body: bytes) -> None:
        """Give a stored message another envelope."""
        self.run(_REWRITE, (body, id))

    def body(self, id: int) -> bytes:
        """The envelope of a stored message."""
        return bytes(self.run(_BODY, (id,))[0][0])

    def task_id(self, id: int) -> str:
        """The task id in the envelope of a stored message, "" if it cannot be read."""
        try:
            return task_id_of(decode_envelope(self.body(id)))
        except DecodeError:
            return ""

    def keep_all(self, records: Sequence[ResultRecord]) -> list[bool]:
        """Store tasks' states, in order; return which were stored, for nothing replaces SUCCESS."""
        stored: list[bool] = []
        for wave in waves(records):
            kept = set(self.run(KEEP, record_columns(wave))[0][0])
            stored += [clean(record.id) in kept for record in wave]
        return stored


def waves(records: Sequence[ResultRecord]) -> Iterator[Sequence[ResultRecord]]:
    """The records in order, cut where an id comes again: one statement changes a row once."""
    wave: list[ResultRecord] = []
    ids: set[str] = set()
    for record in records:
        if record.id in ids:
            yield wave
            wave, ids = [], set()
        wave.append(record)
        ids.add(record.id)
    if wave:
        yield wave


def record_columns(records: Sequence[ResultRecord]) -> tuple[list[Any], ...]:
    """The arguments of ``keep``."""
    return (
        [clean(record.id) for record in records],
        [record.state for record in records],
        [record.payload for record in records],
        [record.ttl for record in records],
        [record.reply for record in records],
    )


@contextmanager
def step(store: Store, durable: bool = False, patient: bool = False) -> Iterator[Step]:
    """Do one step on a borrowed connection."""
    with store.borrowed(patient) as connection, step_on(store, connection, durable) as work:
        yield work


@contextmanager
def step_on(store: Store, connection: Connection, durable: bool = False) -> Iterator[Step]:
    """Do one step on this connection."""
    level = "" if durable or store.relaxed is None else f"SET LOCAL synchronous_commit = {store.relaxed};"
    with connection.transaction() as handle:
        with handle.cursor() as cursor:
            cursor.execute(store.sql(f"BEGIN; {LET_GO} {level} {_BEGIN}"))
            while cursor.nextset():
                pass
            row = cursor.fetchone()
        assert row is not None
        work = Step(store, handle, row[0], row[1])
        yield work
        work.finish()
    store.known_queues |= work.queues
