"""The consumer: one incarnation's exchanges, each one short transaction."""

from __future__ import annotations

import functools
import sqlite3
from collections.abc import Sequence
from itertools import groupby
from typing import Any, NamedTuple

import msgspec

from celeriac.engines.attempts import encode
from celeriac.engines.base import Answer, Delivery, Incarnation, Outcome, Verdict
from celeriac.engines.groups import ChordPart
from celeriac.engines.history import Attempt
from celeriac.engines.results import ResultRecord
from celeriac.engines.sqlite import chords, clock, rooms, unique
from celeriac.engines.sqlite.dead import bury
from celeriac.engines.sqlite.history import note
from celeriac.engines.sqlite.recovery import end_owner
from celeriac.engines.sqlite.step import Parcel, Place, Step, pack
from celeriac.engines.sqlite.store import Store
from celeriac.exceptions import Fenced, StoreFull
from celeriac.message import encode_envelope

_OWNER = "SELECT request, answer FROM owner WHERE id = ?"
_NOTE_ANSWER = "UPDATE owner SET request = ?, answer = ? WHERE id = ?"
_PAUSED = "SELECT queue FROM paused"
_HELD = """SELECT token, queue, rank, seq, id, since, admitted FROM leased
WHERE token BETWEEN ? AND ? AND owner = ?"""
_END_RANGE = "DELETE FROM leased WHERE token BETWEEN ? AND ? AND owner = ?"
_END_LEASE = "DELETE FROM leased WHERE token = ?"
_DROP_PAYLOAD = "DELETE FROM payload WHERE id = ?"
_PARK = "INSERT INTO parked (bucket, queue, seq, id, rank, since, task_id) VALUES (?, ?, ?, ?, ?, ?, ?)"
_KNOW_BUCKET = "INSERT OR IGNORE INTO bucket (name, interval, free) VALUES (?, 0, 0)"
_LINE = """SELECT queue, rank, seq, id, since, admitted, {place} AS place FROM ready WHERE queue = ?
ORDER BY rank, seq LIMIT ?"""
# CROSS JOIN keeps the planner from sorting the envelopes along.
_CLAIM_ONE = """SELECT r.queue, r.rank, r.seq, r.id, r.since, r.admitted, p.body, 0
FROM ready r CROSS JOIN payload p ON p.id = r.id WHERE r.queue = ? ORDER BY r.rank, r.seq LIMIT ?"""
_CLAIM = """SELECT r.queue, r.rank, r.seq, r.id, r.since, r.admitted, p.body, r.place
FROM (SELECT * FROM ({lines}) ORDER BY rank, place, seq LIMIT ?) AS r CROSS JOIN payload p ON p.id = r.id"""
_DROP_READY = "DELETE FROM ready WHERE queue = ? AND rank = ? AND seq BETWEEN ? AND ?"
_LEASE = (
    "INSERT INTO leased (token, owner, queue, rank, seq, id, since, admitted) VALUES (?, ?, ?, ?, ?, ?, ?, ?)"
)
_LEASED = """SELECT l.token, l.queue, p.body, l.rank, l.admitted FROM leased l JOIN payload p ON p.id = l.id
WHERE l.owner = ? AND l.token BETWEEN ? AND ? ORDER BY l.token"""
# A token that is free later than an interval from now is one of a clock that was set back: free now.
_NEXT_DUE = """SELECT min(due) FROM (
    SELECT min(due) AS due FROM delayed WHERE queue IN ({marks})
    UNION ALL
    SELECT min(CASE WHEN b.free > ?1 + b.interval THEN 0 ELSE b.free END)
    FROM parked p JOIN bucket b ON b.name = p.bucket WHERE p.queue IN ({marks}) AND p.room = 0
    UNION ALL
    SELECT ?1 WHERE EXISTS (SELECT 1 FROM room r CROSS JOIN parked p ON p.room = 1 AND p.bucket = r.name
        WHERE r.waiting > 0 AND r.taken < r.size AND p.queue IN ({marks})))"""
_ANY_READY = "SELECT EXISTS (SELECT 1 FROM ready WHERE queue = ?)"
_FORGET_CHECKPOINT = "DELETE FROM checkpoint WHERE task_id = ?"
_MARK_ONCE = "UPDATE leased SET once = 1 WHERE token = ? AND owner = ?"


class Settlement(NamedTuple):
    """An outcome with every envelope encoded: nothing of ours can fail once the transaction has begun."""

    outcome: Outcome
    body: bytes | None
    parcels: list[Parcel]
    attempt: bytes
    """For the history; empty if there is none."""
    plain: bool
    """It has no parts of chords, unique key or checkpoint to be seen to."""


class Request(NamedTuple):
    """An exchange as it is sent, and sent again."""

    number: int
    settlements: list[Settlement]
    queues: list[str]
    limit: int


class SQLiteConsumer:
    """See :class:`celeriac.engines.base.Consumer`."""

    def __init__(self, store: Store, owner: Incarnation, number: int) -> None:
        self.owner = owner
        self._store = store
        self._number = number
        self._connection = store.connect()
        self._number_of_requests = 0
        self._request: Request | None = None
        self._paused: frozenset[str] = frozenset()
        self._paused_version = -1

    def exchange(self, outcomes: Sequence[Outcome], queues: Sequence[str], limit: int) -> Answer:
        """Settle and claim in one step."""
        settlements = [_prepare(outcome) for outcome in outcomes]
        self._number_of_requests += 1
        self._request = Request(self._number_of_requests, settlements, list(dict.fromkeys(queues)), limit)
        return self.repeat()

    def repeat(self) -> Answer:
        """Send the unanswered exchange (again)."""
        if self._request is None:
            raise RuntimeError("there is no unanswered exchange to repeat: every answer has arrived")
        answer = self._roundtrip(self._request)
        self._request = None
        return answer

    def _roundtrip(self, request: Request) -> Answer:
        try:
            return self._carry_out(request)
        except StoreFull:
            # SQLite cannot even delete on a full disk. Settling goes on from the reserve,
            # and when that is used up, without claims.
            if self._store.release_reserve():
                return self._carry_out(request)
            if not request.settlements or not request.limit:
                raise
            return self._carry_out(request._replace(limit=0))

    def wait(self, queues: Sequence[str], timeout: float, wakeup_fd: int | None = None) -> bool:
        return self._store.bell.wait(list(dict.fromkeys(queues)), timeout, wakeup_fd, self._look)

    def mark_once(self, delivery: Delivery) -> bool:
        with self._connection.write(self._store.relaxed) as handle:
            return handle.execute(_MARK_ONCE, (delivery.token, self._number)).rowcount == 1

    def close(self, detach: bool = True) -> None:
        try:
            if detach:
                with self._connection.write(self._store.relaxed) as handle:
                    work = Step(self._store, handle)
                    end_owner(work, self._number, {})
                    work.finish()
                work.announce()
        finally:
            self._connection.close()

    # -- one exchange ----------------------------------------------------------------------------------

    def _carry_out(self, request: Request) -> Answer:
        with self._connection.write(self._store.relaxed) as handle:
            row = handle.execute(_OWNER, (self._number,)).fetchone()
            if row is None:
                raise Fenced(
                    f"{self._store.path} no longer knows the lease owner {self.owner.name}: others took over "
                    "what it held, because its node's beat was too old or it was released. "
                    "Attach a new incarnation"
                )
            work = Step(self._store, handle)
            queues = self._unpaused(work, request.queues)
            if row[0] == request.number:
                deliveries, refused, owed = self._recorded(handle, row[1])
            else:
                refused, owed = self._settle(work, request.settlements)
                deliveries = self._claim(work, queues, request.limit) if request.limit > 0 and queues else []
                if request.settlements or deliveries:
                    answer = _packed(deliveries, refused, owed)
                    handle.execute(_NOTE_ANSWER, (request.number, answer, self._number))
                work.finish()
            due = _next_due(handle, queues, work.now)
        work.announce()
        return Answer(deliveries, refused, work.now, due, work.version, owed)

    def _recorded(
        self, handle: sqlite3.Connection, answer: str
    ) -> tuple[list[Delivery], list[int], list[str]]:
        numbers, _, owed = answer.partition("\n")
        first, last, *refused = map(int, numbers.split())
        leased = handle.execute(_LEASED, (self._number, first, last)).fetchall()
        sign = self._store.sign
        deliveries = [
            Delivery(token, queue, body, sign * rank, bool(noted & 1), bool(noted & rooms.SEATED))
            for token, queue, body, rank, noted in leased
        ]
        return deliveries, refused, msgspec.json.decode(owed, type=list[str]) if owed else []

    def _unpaused(self, work: Step, queues: Sequence[str]) -> Sequence[str]:
        if work.version != self._paused_version:
            self._paused = frozenset(queue for (queue,) in work.handle.execute(_PAUSED))
            self._paused_version = work.version
        return [queue for queue in queues if queue not in self._paused] if self._paused else queues

    # -- settling --------------------------------------------------------------------------------------

    def _settle(self, work: Step, settlements: Sequence[Settlement]) -> tuple[list[int], list[str]]:
        """Return the refused tokens, and the chords that are owed now."""
        if not settlements:
            return [], []
        tokens = sorted(settlement.outcome.token for settlement in settlements)
        # One look at the range they lie in and one statement over them all: a third of the time of
        # DELETE ... RETURNING for each.
        rows = work.handle.execute(_HELD, (tokens[0], tokens[-1], self._number))
        held = {row[0]: Place(*row[1:]) for row in rows}
        count = len(held)
        refused: list[int] = []
        ended: list[tuple[int]] = []
        done: list[tuple[int]] = []
        records: list[ResultRecord] = []
        parts: list[ChordPart] = []
        attempts: list[Attempt] = []
        bodies: list[bytes] = []
        for settlement in settlements:
            outcome = settlement.outcome
            place = held.pop(outcome.token, None)
            if place is None or place.queue != outcome.queue:
                refused.append(outcome.token)
                continue
            ended.append((outcome.token,))
            if place.admitted & rooms.SEATED:
                place = work.vacate(place)
            if not settlement.plain:
                _let_go(work, outcome)
                parts += outcome.parts
                records += outcome.records
            if outcome.verdict is Verdict.ACK:
                done.append((place.id,))
            else:
                _put_aside(work, settlement, place)
            if outcome.result is not None:
                records.append(outcome.result)
            if settlement.parcels:
                work.publish(settlement.parcels)
            if outcome.attempt is not None:
                attempts.append(outcome.attempt)
                bodies.append(settlement.attempt)
        if len(ended) == count:
            work.handle.execute(_END_RANGE, (tokens[0], tokens[-1], self._number))
        else:
            work.handle.executemany(_END_LEASE, ended)
        work.handle.executemany(_DROP_PAYLOAD, done)
        work.keep_all(records)
        if attempts:
            note(work, attempts, bodies)
        return refused, chords.record(work, parts, self.owner.name) if parts else []

    # -- claiming --------------------------------------------------------------------------------------

    def _claim(self, work: Step, queues: Sequence[str], limit: int) -> list[Delivery]:
        due = _next_due(work.handle, queues, work.now)
        rows: list[Sequence[Any]] = []
        if due is not None and due <= work.now:
            work.promote(queues)
            # They have waited: before the lines.
            rows += rooms.hand_out(work.handle, queues, limit)
        if len(rows) < limit:
            rows += _take_ready(work.handle, queues, limit - len(rows))
        if not rows:
            return []
        sign, owner, token = self._store.sign, self._number, work.serial
        leases, deliveries = [], []
        for row in rows:
            token += 1
            leases.append((token, owner, *row[:6]))
            noted = row[5]
            deliveries.append(
                Delivery(token, row[0], row[6], sign * row[1], bool(noted & 1), bool(noted & rooms.SEATED))
            )
        work.serial = token
        work.handle.executemany(_LEASE, leases)
        if len(rows) == limit:
            # There may be more: whoever else is idle should look. Costs nothing while all are busy.
            for queue in {row[0] for row in rows}:
                work.calls.setdefault(queue, 1)
        return deliveries

    def _look(self, queues: Sequence[str]) -> tuple[bool, float | None]:
        with self._connection.read() as handle:
            paused = {queue for (queue,) in handle.execute(_PAUSED)}
            queues = [queue for queue in queues if queue not in paused]
            if any(handle.execute(_ANY_READY, (queue,)).fetchone()[0] for queue in queues):
                return True, None
            now = clock.now()
            due = _next_due(handle, queues, now)
        return due is not None and due <= now, None if due is None else due - now


def _take_ready(handle: sqlite3.Connection, queues: Sequence[str], limit: int) -> Sequence[Sequence[Any]]:
    """Take the first of the lines out of them; return queue, rank, seq, id, since, admitted, envelope, ..."""
    if len(queues) == 1:
        rows = handle.execute(_CLAIM_ONE, (queues[0], limit)).fetchall()
    else:
        rows = handle.execute(_claim_statement(len(queues)), _claim_arguments(queues, limit)).fetchall()
        rows.sort(key=lambda row: (row[1], row[7], row[2]))
    # What was claimed of a line is its beginning: one range.
    lines = [list(line) for _, line in groupby(rows, key=lambda row: row[:2])]
    handle.executemany(_DROP_READY, [(*line[0][:3], line[-1][2]) for line in lines])
    return rows


def _prepare(outcome: Outcome) -> Settlement:
    body = None if outcome.message is None else encode_envelope(outcome.message)
    plain = not (outcome.parts or outcome.records or outcome.unique or outcome.forget_checkpoint)
    attempt = b"" if outcome.attempt is None else encode(outcome.attempt)
    return Settlement(outcome, body, pack(outcome.publications), attempt, plain)


def _let_go(work: Step, outcome: Outcome) -> None:
    """Free the unique key of a task that has ended, and delete a checkpoint that is not needed any more."""
    if outcome.unique and outcome.verdict in (Verdict.ACK, Verdict.DEAD):
        unique.free(work.handle, outcome.unique, outcome.task_id)
    if outcome.forget_checkpoint:
        work.handle.execute(_FORGET_CHECKPOINT, (outcome.task_id,))


def _put_aside(work: Step, settlement: Settlement, place: Place) -> None:
    """Carry out a verdict that keeps the message."""
    outcome = settlement.outcome
    if settlement.body is not None:
        work.rewrite(place.id, settlement.body)
    verdict = outcome.verdict
    if verdict is Verdict.GIVE_BACK:
        work.restore([place])
    elif verdict is Verdict.REQUEUE:
        work.append(place.queue, place.rank, place.id)
    elif verdict is Verdict.DEAD:
        bury(work, outcome, place)
    elif verdict is Verdict.PARK:
        _park(work, outcome, place)
    else:
        due = work.due(outcome.delay, outcome.due)
        work.put_off(place, work.now if due is None else due, outcome.task_id or work.task_id(place.id))


def _park(work: Step, outcome: Outcome, place: Place) -> None:
    task_id = outcome.task_id or work.task_id(place.id)
    if not outcome.bucket:
        work.wait(outcome.place, place, task_id)
        return
    work.handle.execute(_KNOW_BUCKET, (outcome.bucket,))
    work.handle.execute(
        _PARK, (outcome.bucket, place.queue, place.seq, place.id, place.rank, place.since, task_id)
    )


def _packed(deliveries: Sequence[Delivery], refused: Sequence[int], owed: Sequence[str]) -> str:
    """First and last token claimed (they are consecutive), then the refused ones; owed chords as JSON."""
    first, last = (deliveries[0].token, deliveries[-1].token) if deliveries else (0, 0)
    numbers = " ".join(map(str, (first, last, *refused)))
    return f"{numbers}\n{msgspec.json.encode(owed).decode()}" if owed else numbers


def _next_due(handle: sqlite3.Connection, queues: Sequence[str], now: float) -> float | None:
    if not queues:
        return None
    due: float | None = handle.execute(_due_statement(len(queues)), (now, *queues)).fetchone()[0]
    return due


@functools.cache
def _due_statement(count: int) -> str:
    return _NEXT_DUE.format(marks=",".join(f"?{number + 2}" for number in range(count)))


def _claim_statement(count: int) -> str:
    sql = _STATEMENTS.get(count)
    if sql is None:
        lines = " UNION ALL ".join(f"SELECT * FROM ({_LINE.format(place=place)})" for place in range(count))
        sql = _STATEMENTS[count] = _CLAIM.format(lines=lines)
    return sql


def _claim_arguments(queues: Sequence[str], limit: int) -> list[str | int]:
    arguments: list[str | int] = []
    for queue in queues:
        arguments += (queue, limit)
    return [*arguments, limit]


_STATEMENTS: dict[int, str] = {}
"""The claim for so many queues."""
