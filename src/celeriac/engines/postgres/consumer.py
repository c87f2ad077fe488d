"""The consumer: one incarnation's exchanges, each one transaction, and mostly one statement."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

from celeriac.engines.attempts import PACK
from celeriac.engines.base import Answer, Delivery, Incarnation, Outcome
from celeriac.engines.postgres.errors import RETRIED
from celeriac.engines.postgres.history import ARGUMENTS, notes
from celeriac.engines.postgres.marks import Marks
from celeriac.engines.postgres.parcels import columns
from celeriac.engines.postgres.recovery import end_owner
from celeriac.engines.postgres.settling import Settlement, prepare, settle
from celeriac.engines.postgres.sleeping import Sleeper
from celeriac.engines.postgres.step import ADMITTED, ONCE, SEATED, record_columns, step_on
from celeriac.engines.postgres.store import Store
from celeriac.exceptions import Fenced, OperationalError

_EXCHANGE = """@exchange(%s, %s, %s, %s, %s, %s::bigint[], %s::text[],
%s::bigint[], %s::text[], %s::text[], %b::bytea[], %s::float8[], %s::text[],
%s::bigint[], %s::text[], %s::smallint[], %s::float8[], %s::float8[], %b::bytea[], %s::text[], %s::float8[],
%s::text[], %s::text[], %s, %s::text[], %s::int[], %s::bigint[], %s, %s, %s)"""
EXCHANGE = f"SELECT * FROM {_EXCHANGE}"
# The last row tells what was refused: so the attempts are stored in the same step, and those not.
_NOTING = f"""SELECT e.*, CASE WHEN o_token IS NULL THEN @note(o_refused, {ARGUMENTS}) END
FROM {_EXCHANGE} e"""
_TAKE = """SELECT * FROM @take(%s, %s, %s, %s, %s::bigint[], %s::text[], %s, %s::text[], %s,
%s::text[], %s::int[], %s::bigint[], %s, %s, %s)"""
_RECORDED = "SELECT * FROM @recorded(%s, %s, %s::text[], %s)"
_HOLD = "SELECT @hold(%s)"
_MARK_ONCE = f"UPDATE @message SET noted = noted | {ONCE} WHERE state = 1 AND owner = %s AND token = %s"
_ATTEMPTS = 3


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
        self._marks = Marks()
        self._sleeper = Sleeper(store, number, self._marks)
        self._requests = 0
        self._noted = 0
        """The last request whose answer was recorded."""
        self._highest = 0
        """The greatest token we were given."""
        self._now = 0.0
        """The store's clock at the last answer."""
        self._request: Request | None = None
        self._doubtful = False

    def exchange(self, outcomes: Sequence[Outcome], queues: Sequence[str], limit: int) -> Answer:
        """Settle and claim in one step."""
        settlements = [prepare(outcome) for outcome in outcomes]
        simple = all(settlement.simple for settlement in settlements)
        if simple and len(settlements) > 1:
            ids = [one.outcome.result.id for one in settlements if one.outcome.result is not None]
            simple = len(set(ids)) == len(ids) and len(settlements) <= PACK
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
                    f"the store at {self._store.url} no longer knows the lease owner {self.owner.name}: "
                    "others took over what it held, because its node's beat was too old or it was released. "
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
            earliest = self._marks.columns(request.queues)[3]
            rows = self._connection.run(
                _RECORDED, (self._number, request.number, request.queues, earliest), binary=True
            )
            if rows:
                return self._answer(rows)
        if request.limit:
            self._marks.tend(self._connection)
        if request.simple:
            arguments = self._arguments(request)
            attempts = [
                (one.outcome.token, one.outcome.attempt)
                for one in request.settlements
                if one.outcome.attempt is not None
            ]
            if not attempts:
                rows = self._connection.run(EXCHANGE, arguments, binary=True)
            else:
                (noted,) = notes(attempts)
                rows = self._connection.run(_NOTING, (*noted, *arguments), binary=True)
            for settlement in request.settlements:
                self._store.known_queues.update(item.publication.queue for item in settlement.parcels)
            return self._answer(rows)
        with step_on(self._store, self._connection) as work:
            work.run(_HOLD, (self._number,))
            refused, owed = settle(work, self._number, self.owner.name, request.settlements)
            rows = work.run(_TAKE, (*self._place(request), refused, owed, True, *self._wish(request)))
        return self._answer(rows)

    def _wish(self, request: Request) -> tuple[Any, ...]:
        """What to claim, and who asks."""
        return (
            request.queues,
            request.limit,
            *self._marks.columns(request.queues),
            self._sleeper.entry,
            self._sleeper.channel,
        )

    def _place(self, request: Request) -> tuple[int, int, int, int]:
        return self._number, request.number, self._noted, self._highest

    def _arguments(self, request: Request) -> tuple[Any, ...]:
        settlements = request.settlements
        if not settlements:
            return (*self._place(request), self._store.relaxed, *_NOTHING, *self._wish(request))
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
            *self._wish(request),
        )

    def _answer(self, rows: list[tuple[Any, ...]]) -> Answer:
        sign = self._store.sign
        deliveries = [
            Delivery(token, queue, bytes(payload), sign * rank, bool(noted & ADMITTED), bool(noted & SEATED))
            for token, queue, rank, noted, payload, *_ in rows[:-1]
        ]
        if deliveries:
            self._highest = max(self._highest, deliveries[-1].token)
            self._marks.claimed(Counter((queue, rank) for _, queue, rank, *_ in rows[:-1]))
        refused, owed, now, due, version, self._sleeper.entry = rows[-1][5:11]
        if now < self._now:
            self._marks.forget()  # the clock was set back: what was long ago is not
        self._now = now
        return Answer(deliveries, refused, now, due, version, owed)


def _rolled_back(error: OperationalError) -> bool:
    """Whether another transaction was in the way, so that asking again will do."""
    return getattr(error.__cause__, "sqlstate", None) in RETRIED


_NOTHING: tuple[list[Any], ...] = ([],) * 17
