"""The consumer: one incarnation's exchanges, each one transaction, and mostly one statement."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any, NamedTuple

from celeriac.engines.base import Answer, Delivery, Incarnation, Outcome, ResultRecord, Verdict
from celeriac.engines.groups import ChordPart
from celeriac.engines.postgres import chords, unique
from celeriac.engines.postgres.dead import bury
from celeriac.engines.postgres.parcels import Parcel, columns, pack, plain
from celeriac.engines.postgres.recovery import end_owner
from celeriac.engines.postgres.sleeping import Sleeper
from celeriac.engines.postgres.step import ADMITTED, ONCE, SEATED, Lease, Step, record_columns, step_on
from celeriac.engines.postgres.store import Store
from celeriac.exceptions import Fenced, OperationalError
from celeriac.message import encode_envelope

EXCHANGE = """SELECT * FROM @exchange(%s, %s, %s, %s, %s, %s::bigint[], %s::text[],
%s::bigint[], %s::text[], %s::text[], %b::bytea[], %s::float8[], %s::text[],
%s::bigint[], %s::text[], %s::smallint[], %s::float8[], %s::float8[], %b::bytea[], %s::text[], %s::float8[],
%s::text[], %s::text[], %s)"""
_TAKE = "SELECT * FROM @take(%s, %s, %s, %s, %s::bigint[], %s::text[], %s, %s::text[], %s)"
_RECORDED = "SELECT * FROM @recorded(%s, %s, %s::text[])"
_HOLD = "SELECT @hold(%s)"
_HELD = """SELECT token, owner, id, queue, rank, noted FROM @message
WHERE state = 1 AND owner = %s AND token = ANY (%s::bigint[])"""
_SETTLE = "SELECT @settle(%s, %s::bigint[], %s::text[])"
_FORGET_CHECKPOINT = "DELETE FROM @checkpoint WHERE task_id = %s"
_MARK_ONCE = f"UPDATE @message SET noted = noted | {ONCE} WHERE state = 1 AND owner = %s AND token = %s"
_ATTEMPTS = 3


class Settlement(NamedTuple):
    """An outcome with every envelope encoded: nothing of ours can fail once the transaction has begun."""

    outcome: Outcome
    body: bytes | None
    parcels: list[Parcel]
    simple: bool
    """It can be carried out by the one statement."""


class Request(NamedTuple):
    """An exchange as it is sent, and sent again."""

    number: int
    settlements: list[Settlement]
    queues: list[str]
    limit: int
    simple: bool


class PostgresConsumer:
    """See :class:`celeriac.engines.base.Consumer`."""

    def __init__(self, store: Store, owner: Incarnation, number: int) -> None:
        self.owner = owner
        self._store = store
        self._number = number
        self._connection = store.session()
        self._sleeper = Sleeper(store, number)
        self._requests = 0
        self._noted = 0
        """The last request whose answer was recorded."""
        self._highest = 0
        """The greatest token we were given."""
        self._request: Request | None = None
        self._doubtful = False

    def exchange(self, outcomes: Sequence[Outcome], queues: Sequence[str], limit: int) -> Answer:
        """Settle and claim in one step."""
        settlements = [_prepare(outcome) for outcome in outcomes]
        simple = all(settlement.simple for settlement in settlements)
        if simple and len(settlements) > 1:
            ids = [one.outcome.result.id for one in settlements if one.outcome.result is not None]
            simple = len(set(ids)) == len(ids)
        self._requests += 1
        self._request = Request(self._requests, settlements, list(dict.fromkeys(queues)), limit, simple)
        self._doubtful = False
        return self.repeat()

    def repeat(self) -> Answer:
        """Send the unanswered exchange (again)."""
        if self._request is None:
            raise RuntimeError("there is no unanswered exchange to repeat: every answer has arrived")
        doubtful, self._doubtful = self._doubtful, True
        answer = self._roundtrip(self._request, doubtful)
        if self._request.settlements or answer.deliveries:
            self._noted = self._request.number
        self._request = None
        return answer

    def _roundtrip(self, request: Request, doubtful: bool) -> Answer:
        for attempt in range(_ATTEMPTS):
            try:
                return self._carry_out(request, doubtful)
            except Fenced as error:
                raise Fenced(
                    f"the store at {self._store.url} no longer knows the lease owner {self.owner.name}: others took "
                    "over what it held, because its node's beat was too old or it was released. "
                    "Attach a new incarnation"
                ) from error
            except OperationalError as error:
                if error.maybe_done or attempt == _ATTEMPTS - 1 or not _rolled_back(error):
                    raise
        raise AssertionError

    def wait(self, queues: Sequence[str], timeout: float, wakeup_fd: int | None = None) -> bool:
        return self._sleeper.wait(self._connection, list(dict.fromkeys(queues)), timeout, wakeup_fd)

    def mark_once(self, delivery: Delivery) -> bool:
        with step_on(self._store, self._connection) as work:
            return work.count(_MARK_ONCE, (self._number, delivery.token)) == 1

    def close(self, detach: bool = True) -> None:
        try:
            if detach:
                with step_on(self._store, self._connection) as work:
                    end_owner(work, self._number, {})
        finally:
            self._connection.close()
            self._sleeper.close()

    # -- one exchange ----------------------------------------------------------------------------------

    def _carry_out(self, request: Request, doubtful: bool) -> Answer:
        if doubtful:
            rows = self._connection.run(_RECORDED, (self._number, request.number, request.queues), binary=True)
            if rows:
                return self._answer(rows)
        if request.simple:
            rows = self._connection.run(EXCHANGE, self._arguments(request), binary=True)
            for settlement in request.settlements:
                self._store.known_queues.update(item.publication.queue for item in settlement.parcels)
            return self._answer(rows)
        with step_on(self._store, self._connection) as work:
            work.run(_HOLD, (self._number,))
            refused, owed = self._settle(work, request.settlements)
            rows = work.run(_TAKE, (*self._place(request), refused, owed, True, request.queues, request.limit))
        return self._answer(rows)

    def _place(self, request: Request) -> tuple[int, int, int, int]:
        return self._number, request.number, self._noted, self._highest

    def _arguments(self, request: Request) -> tuple[Any, ...]:
        settlements = request.settlements
        if not settlements:
            return (*self._place(request), self._store.relaxed, *_NOTHING, request.queues, request.limit)
        outcomes = [settlement.outcome for settlement in settlements]
        with_result = [outcome for outcome in outcomes if outcome.result is not None]
        parcels = [parcel for settlement in settlements for parcel in settlement.parcels]
        followed = [one.outcome.token for one in settlements for _ in one.parcels]
        return (
            *self._place(request),
            self._store.relaxed,
            [outcome.token for outcome in outcomes],
            [outcome.queue for outcome in outcomes],
            [outcome.token for outcome in with_result],
            *record_columns([outcome.result for outcome in with_result if outcome.result is not None]),
            followed,
            *columns(parcels, self._store.sign, self._store.known_queues),
            request.queues,
            request.limit,
        )

    def _answer(self, rows: list[tuple[Any, ...]]) -> Answer:
        sign = self._store.sign
        deliveries = [
            Delivery(token, queue, bytes(payload), sign * rank, bool(noted & ADMITTED), bool(noted & SEATED))
            for token, queue, rank, noted, payload, *_ in rows[:-1]
        ]
        if deliveries:
            self._highest = max(self._highest, deliveries[-1].token)
        refused, owed, now, due, version = rows[-1][5:]
        return Answer(deliveries, refused, now, due, version, owed)

    # -- settling, statement by statement --------------------------------------------------------------

    def _settle(self, work: Step, settlements: Sequence[Settlement]) -> tuple[list[int], list[str]]:
        """Return the refused tokens, and the chords that are owed now."""
        rows = work.run(_HELD, (self._number, [settlement.outcome.token for settlement in settlements]))
        held = {row[0]: Lease(*row) for row in rows}
        refused: list[int] = []
        done: list[Lease] = []
        records: list[ResultRecord] = []
        parts: list[ChordPart] = []
        parcels: list[Parcel] = []
        for settlement in settlements:
            outcome = settlement.outcome
            lease = held.pop(outcome.token, None)
            if lease is None or lease.queue != outcome.queue:
                refused.append(outcome.token)
                continue
            _let_go(work, outcome)
            parts += outcome.parts
            records += outcome.records
            if outcome.verdict is Verdict.ACK:
                done.append(lease)
            else:
                work.vacate([lease])
                _put_aside(work, settlement, lease)
            if outcome.result is not None:
                records.append(outcome.result)
            parcels += settlement.parcels
        if done:
            work.run(_SETTLE, (self._number, [one.token for one in done], [one.queue for one in done]))
        if parcels:
            work.publish(parcels)
        work.keep_all(records)
        return refused, chords.record(work, parts, self.owner.name) if parts else []


def _prepare(outcome: Outcome) -> Settlement:
    body = None if outcome.message is None else encode_envelope(outcome.message)
    parcels = pack(outcome.publications)
    special = outcome.parts or outcome.records or outcome.unique or outcome.forget_checkpoint
    simple = outcome.verdict is Verdict.ACK and not special and (not parcels or plain(parcels))
    return Settlement(outcome, body, parcels, simple)


def _let_go(work: Step, outcome: Outcome) -> None:
    """Free the unique key of a task that has ended, and delete a checkpoint that is not needed any more."""
    if outcome.unique and outcome.verdict in (Verdict.ACK, Verdict.DEAD):
        unique.free(work, outcome.unique, outcome.task_id)
    if outcome.forget_checkpoint:
        work.run(_FORGET_CHECKPOINT, (outcome.task_id,))


def _put_aside(work: Step, settlement: Settlement, lease: Lease) -> None:
    """Carry out a verdict that keeps the message."""
    outcome = settlement.outcome
    if settlement.body is not None:
        work.rewrite(lease.id, settlement.body)
    verdict = outcome.verdict
    if verdict is Verdict.GIVE_BACK:
        work.restore([lease])
    elif verdict is Verdict.REQUEUE:
        work.requeue(lease)
    elif verdict is Verdict.DEAD:
        bury(work, outcome, lease)
    else:
        task_id = outcome.task_id or work.task_id(lease.id)
        if verdict is Verdict.DELAY:
            due = work.due(outcome.delay, outcome.due)
            work.put_off(lease, work.now if due is None else due, task_id)
        elif outcome.bucket:
            work.park(lease, outcome.bucket, task_id)
        else:
            work.wait(lease, outcome.place, task_id)


def _rolled_back(error: OperationalError) -> bool:
    """Whether another transaction was in the way, so that asking again will do."""
    return getattr(error.__cause__, "sqlstate", None) in ("40P01", "40001")


_NOTHING: tuple[list[Any], ...] = ([],) * 17
