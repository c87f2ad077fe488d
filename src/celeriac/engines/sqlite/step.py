"""One transaction's work: numbers, publishing, promoting and keeping results, and whom to wake after it.

The elementary moves of a message stand here; which of them happen is decided by broker, consumer, recovery
and dead letters.
"""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import msgspec

from celeriac import states
from celeriac.engines.base import Publication
from celeriac.engines.results import ResultRecord
from celeriac.engines.sqlite import clock, rooms, unique
from celeriac.engines.sqlite.bindings import fanned
from celeriac.engines.sqlite.store import Store
from celeriac.exceptions import DecodeError
from celeriac.message import decode_envelope, encode_envelope, task_id_of

PROMOTED_AT_ONCE = 100
"""How many due messages of a queue one step moves; the next step moves the rest."""

_STATE = "SELECT serial, version FROM state"
_SAVE_SERIAL = "UPDATE state SET serial = ?"
_ADD_QUEUE = "INSERT OR IGNORE INTO queue (name) VALUES (?)"
_ADD_PAYLOAD = "INSERT INTO payload (id, body) VALUES (?, ?)"
_REWRITE = "UPDATE payload SET body = ? WHERE id = ?"
_BODY = "SELECT body FROM payload WHERE id = ?"
_ADD_READY = "INSERT INTO ready (queue, rank, seq, id, since, admitted) VALUES (?, ?, ?, ?, ?, ?)"
_ADD_DELAYED = "INSERT INTO delayed (queue, due, id, rank, task_id) VALUES (?, ?, ?, ?, ?)"
_DUE = "SELECT due, id, rank FROM delayed WHERE queue = ? AND due <= ? ORDER BY due, id LIMIT ?"
_DROP_DELAYED = "DELETE FROM delayed WHERE queue = ? AND due = ? AND id = ?"
_PARKED_BUCKETS = (
    "SELECT DISTINCT p.bucket, b.free, b.interval FROM parked p JOIN bucket b ON b.name = p.bucket \
WHERE p.queue = ? AND p.room = 0"
)
_FIRST_PARKED = """SELECT seq, id, rank, since FROM parked
WHERE queue = ? AND room = 0 AND bucket = ? AND turn = 0 ORDER BY seq LIMIT 1"""
_DROP_PARKED = "DELETE FROM parked WHERE queue = ? AND room = 0 AND bucket = ? AND turn = 0 AND seq = ?"
_TAKE_TOKEN = "UPDATE bucket SET free = ? WHERE name = ?"
_HOLDS = """SELECT EXISTS (SELECT 1 FROM leased l JOIN owner o ON o.id = l.owner
WHERE o.name = ? AND l.queue = ? AND l.token = ?)"""
_TRACK = """INSERT INTO result (id, expires) VALUES (?, ?) ON CONFLICT (id) DO UPDATE
SET state = NULL, payload = NULL, expires = excluded.expires WHERE payload IS NULL OR expires <= ?"""
_KEEP = """INSERT INTO result (id, state, payload, expires) VALUES (?, ?, ?, ?) ON CONFLICT (id) DO UPDATE
SET state = excluded.state, payload = excluded.payload, expires = excluded.expires
WHERE state IS NOT ? OR expires <= ?"""


class Place(NamedTuple):
    """A message's place in a line; given back, it returns to just this place."""

    queue: str
    rank: int
    seq: int
    id: int
    since: float
    admitted: int


class Parcel(NamedTuple):
    """A publication, encoded before the transaction begins: others wait for us meanwhile."""

    publication: Publication
    body: bytes
    task_id: str


def pack(publications: Iterable[Publication]) -> list[Parcel]:
    """Encode publications; whatever is wrong with a message shows here, before anything is stored."""
    return [Parcel(item, encode_envelope(item.message), task_id_of(item.message)) for item in publications]


class Step:
    """What one open transaction does; ``finish`` before the commit, ``announce`` after it."""

    def __init__(self, store: Store, handle: sqlite3.Connection) -> None:
        self.store = store
        self.handle = handle
        self.now = clock.now()
        self.serial: int
        self.version: int
        self.serial, self.version = handle.execute(_STATE).fetchone()
        self._first = self.serial
        self.calls: Counter[str] = Counter()
        """Queue -> how many messages have become ready (or will within a poll)."""
        self._news: list[tuple[str, str | None]] = []
        self._queues: set[str] = set()
        self.changed_rooms: set[str] = set()
        """Rooms in which seats may have become free: who waits for one is woken."""

    def number(self) -> int:
        """A number never given before: an id, a place in line or a token."""
        self.serial += 1
        return self.serial

    def order(self) -> int:
        """Count an operator's order; return the new control version."""
        self.version += 1
        self.handle.execute("UPDATE state SET version = ?", (self.version,))
        return self.version

    def finish(self) -> None:
        """Write what has been counted."""
        if self.changed_rooms:
            self.calls.update(rooms.queues_waiting(self.handle, self.changed_rooms))
        if self.serial != self._first:
            self.handle.execute(_SAVE_SERIAL, (self.serial,))

    def announce(self) -> None:
        """Wake those whom the committed step concerns."""
        self.store.known_queues |= self._queues
        if self.calls:
            self.store.bell.ring(self.calls)
        if self._news:
            self.store.news.tell(self._news)

    # -- into line -------------------------------------------------------------------------------------

    def publish(self, parcels: Sequence[Parcel]) -> dict[int, str]:
        """Store new messages, but those whose unique key is held: index -> who holds it."""
        if all(parcel.publication.unique is None for parcel in parcels):
            self._add(parcels)
            return {}
        left_out = {}
        for index, parcel in enumerate(parcels):
            condition = parcel.publication.unique
            holder = None if condition is None else unique.refusal(self.handle, condition, self.now)
            if holder is not None:
                left_out[index] = holder
                continue
            self._add([parcel])
            if condition is not None:
                due = self.due(parcel.publication.delay, parcel.publication.due)
                unique.take(self.handle, condition, parcel.task_id, self.serial, due, self.now)
        return left_out

    def _add(self, parcels: Iterable[Parcel]) -> None:
        """Put new messages into line, or among the delayed. The last one's id is ``serial`` then."""
        bodies, ready, delayed, tracked = [], [], [], []
        for publication, body, task_id in self._fanned(parcels):
            queue = publication.queue
            self.know(queue)
            id = self.number()
            bodies.append((id, body))
            rank = self.store.sign * publication.priority
            due = self.due(publication.delay, publication.due)
            if due is not None:
                delayed.append((queue, due, id, rank, task_id))
                self._call_early(queue, due)
            else:
                ready.append((queue, rank, id, id, self.now, 0))
                self.calls[queue] += 1
            if publication.track is not None:
                tracked.append((task_id, self.now + publication.track, self.now))
        handle = self.handle
        handle.executemany(_ADD_PAYLOAD, bodies)
        if ready:
            handle.executemany(_ADD_READY, ready)
        if delayed:
            handle.executemany(_ADD_DELAYED, delayed)
        if tracked:
            handle.executemany(_TRACK, tracked)

    def _fanned(self, parcels: Iterable[Parcel]) -> Iterator[Parcel]:
        """The same, with a copy for each queue that is bound to the exchange in place of a fanout."""
        for parcel in parcels:
            if parcel.publication.queue:
                yield parcel
                continue
            for queue in fanned(self.handle, parcel.publication.exchange):
                copy = msgspec.structs.replace(parcel.publication, queue=queue)
                yield parcel._replace(publication=copy)

    def due(self, delay: float | None, due: float | None) -> float | None:
        """When a message falls due, epoch seconds; ``None``: now."""
        return due if delay is None else self.now + delay

    def vacate(self, place: Place) -> Place:
        """Free the seats of a message whose lease ends; return its place in line without them."""
        if not place.admitted & rooms.SEATED:
            return place
        self.changed_rooms.update(rooms.leave(self.handle, place.id))
        return place._replace(admitted=place.admitted & ~rooms.SEATED)

    def wait(self, room: str, place: Place, task_id: str) -> None:
        """Park a message for a seat."""
        rooms.wait(
            self.handle,
            room,
            self.number(),
            (place.queue, place.seq, place.id, place.rank, place.since, place.admitted, task_id),
        )
        self.changed_rooms.add(room)  # one may have become free meanwhile

    def restore(self, places: Sequence[Place]) -> None:
        """Put messages back to just where they came from."""
        self.handle.executemany(_ADD_READY, places)
        self.calls.update(place.queue for place in places)

    def append(self, queue: str, rank: int, id: int) -> None:
        """Put a stored message at the back of its line."""
        self.know(queue)
        self.handle.execute(_ADD_READY, (queue, rank, self.number(), id, self.now, 0))
        self.calls[queue] += 1

    def put_off(self, place: Place, due: float, task_id: str) -> None:
        """Hold a stored message until ``due``."""
        self.handle.execute(_ADD_DELAYED, (place.queue, due, place.id, place.rank, task_id))
        self._call_early(place.queue, due)

    def rewrite(self, id: int, body: bytes) -> None:
        """Give a stored message another envelope."""
        self.handle.execute(_REWRITE, (body, id))

    def body(self, id: int) -> bytes:
        """The envelope of a stored message."""
        body: bytes = self.handle.execute(_BODY, (id,)).fetchone()[0]
        return body

    def holds(self, lease: tuple[str, str, int]) -> bool:
        """Whether ``(owner name, queue, token)`` is a lease that lasts."""
        return bool(self.handle.execute(_HOLDS, lease).fetchone()[0])

    def task_id(self, id: int) -> str:
        """The task id in the envelope of a stored message, "" if it cannot be read."""
        try:
            return task_id_of(decode_envelope(self.body(id)))
        except DecodeError:
            return ""

    def know(self, queue: str) -> None:
        """Remember that there is such a queue."""
        if queue not in self.store.known_queues and queue not in self._queues:
            self.handle.execute(_ADD_QUEUE, (queue,))
            self._queues.add(queue)

    # -- falling due -----------------------------------------------------------------------------------

    def promote(self, queues: Iterable[str]) -> None:
        """Move due messages into line: delayed ones to the back, one parked one a token to its old place."""
        for queue in queues:
            due = self.handle.execute(_DUE, (queue, self.now, PROMOTED_AT_ONCE)).fetchall()
            if due:
                self.handle.executemany(_DROP_DELAYED, [(queue, when, id) for when, id, _ in due])
                places = [(queue, rank, self.number(), id, when, 0) for when, id, rank in due]
                self.handle.executemany(_ADD_READY, places)  # wakes nobody: we are about to claim
            for bucket, free, interval in self.handle.execute(_PARKED_BUCKETS, (queue,)).fetchall():
                # A free time further off than one interval is a clock that was set back.
                if free <= self.now or free > self.now + interval:
                    self._admit_parked(queue, bucket, interval)

    def _admit_parked(self, queue: str, bucket: str, interval: float) -> None:
        seq, id, rank, since = self.handle.execute(_FIRST_PARKED, (queue, bucket)).fetchone()
        self.handle.execute(_DROP_PARKED, (queue, bucket, seq))
        self.handle.execute(_TAKE_TOKEN, (self.now + interval, bucket))
        self.handle.execute(_ADD_READY, (queue, rank, seq, id, since, 1))

    def _call_early(self, queue: str, due: float) -> None:
        # Who sleeps must learn of a due time; within the poll interval the poll would be too late.
        if due < self.now + 1.0:
            self.calls[queue] += 1

    # -- results ---------------------------------------------------------------------------------------

    def keep_all(self, records: Sequence[ResultRecord]) -> int:
        """Store tasks' states, in order; return how many were, for nothing replaces SUCCESS."""
        if not records:
            return 0
        rows = [
            (
                record.id,
                record.state,
                record.payload,
                None if record.ttl is None else self.now + record.ttl,
                states.SUCCESS,
                self.now,
            )
            for record in records
        ]
        self._news += [(record.id, record.reply) for record in records]
        return self.handle.executemany(_KEEP, rows).rowcount


@contextmanager
def step(store: Store, durable: bool = False) -> Iterator[Step]:
    """Do one step on a borrowed connection, and wake those it concerns once it is committed."""
    with store.write(durable) as handle:
        work = Step(store, handle)
        yield work
        work.finish()
    work.announce()
