"""A lease owner's connection to a memory store: exchanges, and sleeping until there is something to claim."""

from __future__ import annotations

import selectors
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from celeriac.engines.base import Answer, Delivery, Hold, Incarnation, Outcome, Verdict
from celeriac.engines.memory import chords
from celeriac.engines.memory.broker import bury
from celeriac.engines.memory.history import note
from celeriac.engines.memory.parcels import Parcel, pack, post_all
from celeriac.engines.memory.results import keep
from celeriac.engines.memory.state import Entry, Lease, Store, Waiter
from celeriac.exceptions import Fenced
from celeriac.message import encode_envelope


class Settlement(NamedTuple):
    """An outcome with every envelope encoded: nothing can fail any more once the step has begun."""

    outcome: Outcome
    payload: bytes | None
    parcels: list[Parcel]


@dataclass
class Request:
    """An exchange as it is sent, and sent again."""

    number: int
    settlements: list[Settlement]
    queues: Sequence[str]
    limit: int


class MemoryConsumer:
    """See :class:`celeriac.engines.base.Consumer`."""

    def __init__(self, store: Store, owner: Incarnation, dead_max: int, history_max: int) -> None:
        self.owner = owner
        self._store = store
        self._dead_max = dead_max
        self._history_max = history_max
        self._number = 0
        self._request: Request | None = None

    def exchange(self, outcomes: Sequence[Outcome], queues: Sequence[str], limit: int) -> Answer:
        """Settle and claim in one step."""
        settlements = [_prepare(outcome) for outcome in outcomes]
        self._number += 1
        self._request = Request(self._number, settlements, list(queues), limit)
        return self.repeat()

    def repeat(self) -> Answer:
        """Send the unanswered exchange (again)."""
        if self._request is None:
            raise RuntimeError("there is no unanswered exchange to repeat: every answer has arrived")
        answer = self._roundtrip(self._request)
        self._request = None
        return answer

    def wait(self, queues: Sequence[str], timeout: float, wakeup_fd: int | None = None) -> bool:
        """Sleep until a message may be ready."""
        waiter = Waiter(queues)
        try:
            with self._store.lock:
                if self._claimable(queues):
                    return True
                self._store.waiters.append(waiter)
            with selectors.DefaultSelector() as selector:
                selector.register(waiter.ear, selectors.EVENT_READ)
                if wakeup_fd is not None:
                    selector.register(wakeup_fd, selectors.EVENT_READ)
                events = selector.select(max(0.0, timeout))
            return any(key.fileobj is waiter.ear for key, _ in events)
        finally:
            with self._store.lock:
                if waiter in self._store.waiters:
                    self._store.waiters.remove(waiter)
            waiter.close()

    def mark_once(self, delivery: Delivery) -> bool:
        """Note on the lease that the message must not run twice."""
        with self._store.lock:
            lease = self._store.held(self.owner.name, delivery.queue, delivery.token)
            if lease:
                lease.once = True
            return lease is not None

    def close(self, detach: bool = True) -> None:
        """Give everything back and forget the incarnation; without ``detach`` there is nothing to close."""
        if detach:
            with self._store.lock:
                self._store.end_owner(self.owner.name, {})

    # -- the step itself -------------------------------------------------------------------------------

    def _roundtrip(self, request: Request) -> Answer:
        """Carry a request out, or return the answer it got when it was."""
        with self._store.lock:
            record = self._store.owners.get(self.owner.name)
            if record is None:
                raise Fenced(
                    f"the store no longer knows the lease owner {self.owner.name}: others took over what it "
                    "held, because its node's beat was too old or it was released. Attach a new incarnation"
                )
            if record.answer is None or record.number != request.number:
                record.answer = self._carry_out(request)
                record.number = request.number
            return record.answer

    def _carry_out(self, request: Request) -> Answer:
        store, now = self._store, self._store.clock()
        refused, owed = self._settle_all(request.settlements, now)
        queues = store.unpaused(request.queues)
        deliveries: list[Delivery] = []
        if request.limit > 0:
            self._promote(queues, now)
            self._claim(queues, request.limit, now, deliveries)
        return Answer(deliveries, refused, now, store.next_due(queues), store.version, owed)

    def _settle_all(self, settlements: Sequence[Settlement], now: float) -> tuple[list[int], list[str]]:
        """Settle; return the refused tokens, and the chords whose bodies are owed now."""
        refused: list[int] = []
        owed: list[str] = []
        given_back: list[Lease] = []
        for settlement in settlements:
            outcome = settlement.outcome
            lease = self._store.held(self.owner.name, outcome.queue, outcome.token)
            if lease is None or lease in given_back:
                refused.append(outcome.token)
                continue
            if outcome.verdict is Verdict.GIVE_BACK:
                lease.once = False
                given_back.append(lease)
            else:
                self._store.end_lease(lease)
                self._move(lease, settlement, now)
            owed += self._follow(settlement, now)
        # Together, because messages given back in one step keep their claim order among themselves.
        self._store.give_back(given_back, {})
        return refused, owed

    def _follow(self, settlement: Settlement, now: float) -> list[str]:
        """Store what goes with an outcome; return the chords whose last part was in it."""
        outcome, store = settlement.outcome, self._store
        if outcome.result:
            keep(store, outcome.result)
        for record in outcome.records:
            keep(store, record)
        held = store.holds.get(outcome.unique)
        if held and held.task_id == outcome.task_id and held.until is not Hold.EXPIRY:
            store.free(outcome.unique)
        if outcome.forget_checkpoint:
            store.checkpoints.pop(outcome.task_id, None)
        if outcome.attempt is not None:
            note(store, (outcome.attempt,), self._history_max)
        post_all(store, settlement.parcels, now)
        return chords.record(store, outcome.parts, self.owner.name, now)

    def _move(self, lease: Lease, settlement: Settlement, now: float) -> None:
        """Put a message whose lease has ended where its verdict says."""
        outcome, entry = settlement.outcome, lease.entry
        entry.payload = settlement.payload or entry.payload
        match outcome.verdict:
            case Verdict.ACK:
                pass
            case Verdict.DELAY:
                due = outcome.due if outcome.due is not None else now + (outcome.delay or 0.0)
                self._store.put_off(entry, due)
            case Verdict.PARK if outcome.bucket:
                self._store.park(entry, outcome.bucket)
            case Verdict.PARK:
                self._store.wait_for_place(entry, outcome.place, lease.admitted)
            case Verdict.DEAD:
                bury(self._store, entry, outcome, now, self._dead_max)
            case Verdict.REQUEUE:
                entry.since = now
                self._store.append(entry)

    def _promote(self, queues: Sequence[str], now: float) -> None:
        """Move what is due to the back of its line."""
        for queue in queues:
            delayed = self._store.delayed.get(queue, [])
            while delayed and delayed[0][0] <= now:
                due, _, entry = delayed.pop(0)
                entry.since = due
                self._store.append(entry)
                self._store.free_of([entry.task_id], Hold.DELAYED)

    def _claim(self, queues: Sequence[str], limit: int, now: float, deliveries: list[Delivery]) -> None:
        """Lease up to ``limit`` messages: admitted ones first, they have waited; then lane by lane."""
        store, owner = self._store, self.owner.name
        for queue in queues:
            for bucket, parked in store.parked.get(queue, {}).items():
                tokens = store.buckets[bucket]
                while parked and tokens.next <= now and len(deliveries) < limit:
                    tokens.taken = now
                    deliveries.append(store.lease(parked.popleft(), owner, admitted=True))
            for place, waiting in store.waiting.get(queue, {}).items():
                while waiting and store.places[place].free and len(deliveries) < limit:
                    deliveries.append(store.lease(waiting.popleft(), owner, place=place))
        for line in self._lines(queues):
            while line and len(deliveries) < limit:
                deliveries.append(store.lease(line.popleft(), owner))

    def _lines(self, queues: Sequence[str]) -> list[deque[Entry]]:
        """The ready lines in the order in which they are served."""
        ready = [(lane, queue) for queue in queues for lane in self._store.ready.get(queue, {})]
        sign = 1 if self._store.lower_first else -1
        ready.sort(key=lambda pair: sign * pair[0])  # a stable sort: within a lane the queues stay in order
        return [self._store.ready[queue][lane] for lane, queue in ready]

    def _claimable(self, queues: Sequence[str]) -> bool:
        queues = self._store.unpaused(queues)
        due = self._store.next_due(queues)
        if due is not None and due <= self._store.clock():
            return True
        return any(self._lines(queues))


def _prepare(outcome: Outcome) -> Settlement:
    payload = encode_envelope(outcome.message) if outcome.message else None
    return Settlement(outcome, payload, [pack(publication) for publication in outcome.publications])
