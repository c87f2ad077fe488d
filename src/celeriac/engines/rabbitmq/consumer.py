"""One child's connection: what the server has pushed to it, what it has handed out, what it acks.

The server pushes up to the prefetch count; an exchange settles, and hands out of what has arrived. All of it
is the server's until it is acked: when the connection ends, for whatever reason, what was not acked returns
to its queue, and every token handed out over it is refused from then on.

Acks are sent without waiting for an answer (AMQP has none for them). A question to the server at least once a
second shows that they have arrived; a connection that does not answer is given up.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Sequence
from threading import RLock
from typing import TYPE_CHECKING, Any, Final

from amqp import spec
from amqp.exceptions import NotFound

from celeriac.engines.base import Answer, Delivery, Incarnation, Outcome, Publication, Verdict
from celeriac.engines.rabbitmq import dead, keys, ledger
from celeriac.engines.rabbitmq.buffer import Buffer, Entry
from celeriac.engines.rabbitmq.errors import FAILURES, translate
from celeriac.engines.rabbitmq.heart import Pulse
from celeriac.engines.rabbitmq.keeper import OVERRUN, Keeper
from celeriac.engines.rabbitmq.session import Parcel, Session
from celeriac.engines.rabbitmq.suspects import Suspects, recall
from celeriac.engines.rabbitmq.topology import exists, whole_seconds
from celeriac.engines.rabbitmq.wire import to_wire
from celeriac.engines.readiness import readable
from celeriac.exceptions import CeleriacError, EncodeError, OperationalError
from celeriac.message import encode_envelope

if TYPE_CHECKING:
    from celeriac.engines.rabbitmq.broker import RabbitBroker

_LATE: Final = 16
"""Cancelled subscriptions for which messages are still taken."""
LONG: Final = 3.0
"""Seconds without an exchange after which also what came back is given back: each is looked up first."""
PROOF_EVERY: Final = 1.0
"""Seconds after which the server is asked whether what was sent to it has arrived."""


class RabbitConsumer:
    """The engine's :class:`celeriac.engines.base.Consumer`."""

    def __init__(self, broker: RabbitBroker, owner: Incarnation) -> None:
        self.owner = owner
        self._broker = broker
        self._lock = RLock()
        self._session: Session | None = None
        self._channel: Any = None
        self._buffer = Buffer(starts=owner.slots > 0)
        self._suspects = Suspects(self._buffer, owner.name, broker.publish_timeout)
        self._out: dict[int, Entry] = {}
        """What has been handed out and not settled, by token."""
        self._open: dict[int, None] = {}
        """Delivery tags that the server waits for, in order."""
        self._tags: dict[str, tuple[str, int]] = {}
        """Queues consumed from: consumer tag and prefetch count."""
        self._ended: deque[str] = deque()
        """Tags of the last subscriptions that were cancelled."""
        self._token = 0
        self._numbers = 0
        self._unanswered: tuple[Sequence[Outcome], Sequence[str], int] | None = None
        self._proof = 0.0
        self._unproven = False
        """Whether acks have been sent since. An idle worker starts its next task without asking first."""
        self.exchanged = time.monotonic()
        self.busy = False
        """Whether its child is at work: between an exchange and the next wait."""
        self._pulse = Pulse(owner.node, broker.address.heartbeat)
        self._keeper = Keeper(self, broker.address.heartbeat)
        self._connect()
        self._keeper.start()

    # -- the contract ------------------------------------------------------------------------------

    def exchange(self, outcomes: Sequence[Outcome], queues: Sequence[str], limit: int) -> Answer:
        """Settle outcomes and hand out up to ``limit`` messages of those that have arrived."""
        with self._lock:
            self._unanswered = (outcomes, list(queues), limit)
            try:
                answer = self._roundtrip(outcomes, queues, limit)
            except EncodeError:
                raise  # it was found before anything was sent
            except (*FAILURES, CeleriacError) as error:
                raise self._given_up(error, "settle and claim") from error
            self._unanswered = None
            return answer

    def repeat(self) -> Answer:
        """Connect again. The outcomes of the lost connection are refused: its messages are others' now."""
        with self._lock:
            outcomes, queues, limit = self._unanswered or ((), (), 0)
            try:
                if self._session is None:
                    self._connect()
                answer = self._roundtrip((), queues, limit)
            except (*FAILURES, CeleriacError) as error:
                raise self._given_up(error, "connect again") from error
            self._unanswered = None
            answer.refused = [outcome.token for outcome in outcomes]
            return answer

    def wait(self, queues: Sequence[str], timeout: float, wakeup_fd: int | None = None) -> bool:
        """Sleep until a message has arrived, the time is over, or ``wakeup_fd`` is readable."""
        deadline = time.monotonic() + timeout
        self.busy = False
        while True:
            with self._lock:
                session = self._session
                if session is None:
                    return True  # the next exchange connects
                try:
                    session.link.pump()
                except FAILURES as error:
                    raise self._given_up(error, "wait") from error
                try:
                    if not self._tags:
                        self._subscribe(session, queues, self.owner.slots)
                except (*FAILURES, CeleriacError) as error:
                    raise self._given_up(error, "wait") from error
                if self._buffer.ready(queues, time.monotonic()):
                    return True
                end = min(deadline, self._buffer.next_ready(deadline))
            left = end - time.monotonic()
            if left <= 0:
                return end < deadline
            try:
                arrived = session.link.await_bytes(left, wakeup_fd)
            except FAILURES as error:
                raise self._given_up(error, "wait") from error
            if not arrived and wakeup_fd is not None and readable([wakeup_fd], 0):
                return False

    def send(self, follow_ups: Sequence[Publication]) -> None:
        """Send what follows tasks before they are settled: on this connection, which sits out an alarm. Each
        further attempt on another one would be a further copy, which the server takes in the end."""
        with self._lock:
            try:
                if self._session is None:
                    self._connect()
                session = self._session
                assert session is not None
                self._broker.post(session, self._broker.follow_ups(session, follow_ups))
            except EncodeError:
                raise
            except (*FAILURES, CeleriacError) as error:
                raise self._given_up(error, "publish") from error

    def mark_once(self, delivery: Delivery) -> bool:
        """Note beside the message that it has been started and must not be again."""
        with self._lock:
            entry = self._out.get(delivery.token)
            if entry is None or self._session is None:
                return False
            if entry.task_id:
                entry.note = entry.note or ledger.Note()
                entry.note.once = True
                try:
                    self._suspects.note(self._session, [entry])
                except (*FAILURES, CeleriacError) as error:
                    self._given_up(error, "note a start")
                    return False
            return True

    def close(self, detach: bool = True) -> None:
        """Disconnect; the server takes back what was not settled."""
        self._keeper.stop()
        self._pulse.stop()
        with self._lock:
            session, self._session = self._session, None
            self._forget()
            self._broker.detached(self.owner)
            if session is not None:
                if detach:
                    session.link.end()
                else:
                    session.link.sever()

    # -- a request ---------------------------------------------------------------------------------

    def _roundtrip(self, outcomes: Sequence[Outcome], queues: Sequence[str], limit: int) -> Answer:
        self.exchanged, self.busy = time.monotonic(), True
        if self._session is None:
            self._connect()
        session = self._session
        assert session is not None
        session.link.pump()
        refused = self._settle(session, outcomes) if outcomes else []
        deliveries: list[Delivery] = []
        if limit:
            self._subscribe(session, queues, limit)
            if self._broker.exact or not self._buffer.ready(queues, self.exchanged):
                self._look(session, queues)
            deliveries = self._hand_out(session, queues, limit)
            if (deliveries or self._buffer.count) and self._keeper.resting:
                self._keeper.wake()
            if self._broker.exact:
                self._unsubscribe()
        if self._broker.exact or (self._unproven and self.exchanged - self._proof > PROOF_EVERY):
            session.alive()
            self._proven()
        next_due = self._buffer.next_ready(0.0)
        now = time.time()
        self.exchanged = time.monotonic()  # the child's own time starts here, however long the server took
        due = now + next_due - self.exchanged if next_due else None
        return Answer(deliveries, refused, now, due)

    def _hand_out(self, session: Session, queues: Sequence[str], limit: int) -> list[Delivery]:
        handed: list[Delivery] = []
        now = time.monotonic()
        while len(handed) < limit:
            entry = self._buffer.take(queues, now, alone=not handed)
            if entry is None:
                break
            if entry.suspect:
                company = self._suspects.company(session, entry, limit, now)
                return [self._handed(each) for each in company]
            handed.append(self._handed(entry))
        return handed

    def _handed(self, entry: Entry) -> Delivery:
        self._token = max(self._token + 1, time.time_ns() // 1000)
        self._out[self._token] = entry
        return Delivery(self._token, entry.queue, entry.payload)

    # -- settling ----------------------------------------------------------------------------------

    def _settle(self, session: Session, outcomes: Sequence[Outcome]) -> list[int]:
        refused: list[int] = []
        taken: dict[int, tuple[Outcome, Entry]] = {}
        parcels: list[Parcel] = []
        for outcome in outcomes:
            entry = self._out.get(outcome.token)
            if entry is None or entry.queue != outcome.queue or outcome.token in taken:
                refused.append(outcome.token)
                continue
            taken[outcome.token] = outcome, entry
            if outcome.publications:
                if outcome.unique:  # what follows may want the key that this end frees
                    keys.release(session, outcome.unique, outcome.task_id)
                parcels += self._broker.follow_ups(session, outcome.publications)
            if outcome.verdict not in (Verdict.ACK, Verdict.PARK):
                parcels.append(self._onward(session, outcome, entry))
        if parcels:
            self._broker.post(session, parcels)
        acks: set[int] = set()
        for outcome, entry in taken.values():
            self._end(session, outcome, entry, acks)
        if acks:
            self._ack(acks)
        return refused

    def _end(self, session: Session, outcome: Outcome, entry: Entry, acks: set[int]) -> None:
        del self._out[outcome.token]
        if outcome.verdict is Verdict.PARK:
            self._never_started(session, entry)
            self._buffer.park(entry, outcome.bucket or outcome.place)
            return
        self._buffer.admitted(entry)
        if outcome.verdict is Verdict.GIVE_BACK:
            self._never_started(session, entry)
        elif entry.noted:
            ledger.erase(session, entry.task_id)
        if outcome.unique and not outcome.publications:
            keys.release(session, outcome.unique, outcome.task_id)
        acks.add(entry.tag)

    def _never_started(self, session: Session, entry: Entry) -> None:
        """Take back what was noted when the message was handed out; what came before stays true."""
        if entry.note is not None and entry.noted:
            entry.note.started, entry.note.together = "", False
            self._suspects.note(session, [entry])

    def _onward(self, session: Session, outcome: Outcome, entry: Entry) -> Parcel:
        """The message that takes this one's place: a dead letter, a later attempt, the back of the line."""
        if outcome.verdict is Verdict.DEAD:
            self._broker.declare_dead(session)
            payload = entry.payload if outcome.message is None else encode_envelope(outcome.message)
            return dead.parcel(outcome, payload)
        content = entry.again() if outcome.message is None else to_wire(outcome.message)
        seconds = whole_seconds(outcome.delay, outcome.due) if outcome.verdict is Verdict.DELAY else 0
        return self._broker.address_to(session, entry.queue, content, seconds)

    def _ack(self, tags: set[int]) -> None:
        """Ack: with one frame what is settled without a gap from the oldest on, the others one by one."""
        self._unproven = True
        last = 0
        for tag in self._open:
            if tag not in tags:
                break
            last = tag
        if last:
            self._channel.send_method(spec.Basic.Ack, "Lb", (last, True))
        for tag in sorted(tags):
            if tag > last:
                self._channel.send_method(spec.Basic.Ack, "Lb", (tag, False))
            del self._open[tag]

    def return_buffered(self) -> int:
        """Give back what nobody here starts because a task takes its time; nothing is pushed meanwhile.

        Called by the keeper. Returns how many messages that were. They are sent again and then acked: what
        is returned with basic.nack comes back marked as redelivered, as what a dead worker held does, and
        on a quorum queue counts towards a limit after which the server drops it.
        """
        with self._lock:
            session = self._session
            if session is None or not self.overrun:  # an exchange may have come while we waited for the lock
                return 0
            try:
                self._unsubscribe()
                session.link.pump()
                return self._return_all(session, time.monotonic() - self.exchanged > LONG)
            except (*FAILURES, CeleriacError) as error:
                self._given_up(error, "give back")
                return 0

    def _return_all(self, session: Session, suspected: bool = True) -> int:
        suspects = self._buffer.take_suspects(time.monotonic()) if suspected else []
        for entry in suspects:
            entry.apply(recall(session, entry))
        entries = sorted([*self._buffer.take_unmarked(), *suspects], key=lambda entry: entry.tag)
        if entries:
            copies = [self._broker.address_to(session, e.queue, e.again(), 0) for e in entries]
            self._broker.post(session, copies)
            self._ack({entry.tag for entry in entries})
        return len(entries)

    @property
    def buffered(self) -> int:
        """How many messages have arrived that another could start now."""
        return self._buffer.waiting

    @property
    def invites(self) -> bool:
        """Whether the server may push more to the child while it works: that would wait unseen."""
        held = len(self._out)
        return (
            self.busy
            and not self._broker.exact
            and any(count > held for _, count in self._tags.copy().values())
        )

    @property
    def overrun(self) -> bool:
        """Whether the child has been at work for so long that others should start what waits here.

        Never where no more is asked for than is handed out: the rest of an answer that came late is next.
        """
        return self.busy and time.monotonic() - self.exchanged > OVERRUN and not self._broker.exact

    def beat(self) -> None:
        """Send a heartbeat, if there is a connection."""
        session = self._session
        if session is not None:
            try:
                session.link.beat()
                if session.link.usable:
                    self._pulse.tell(session.link)
            except FAILURES:
                pass  # whoever uses the connection next finds that out

    # -- subscribing -------------------------------------------------------------------------------

    def _subscribe(self, session: Session, queues: Sequence[str], limit: int) -> None:
        """Have messages pushed: so many that the next batch is here when this one is done."""
        held = len(self._out) + self._buffer.kept
        wanted = held + (limit if limit <= self.owner.slots or self._broker.exact else 2 * limit)
        for queue in queues:
            tag, count = self._tags.get(queue, ("", 0))
            if count >= wanted and (count <= 4 * wanted) and not (self._broker.exact and count != wanted):
                continue
            if not self._broker.exact:
                wanted = 1 << (wanted - 1).bit_length() if wanted > self.owner.slots else wanted
            self._consume(session, queue, wanted)
            if tag:
                self._end_subscription(tag)
        left = [queue for queue in self._tags if queue not in queues]
        for queue in left:
            tag, _ = self._tags.pop(queue)
            self._end_subscription(tag)
        if left and self._buffer.count:
            self._return_all(session)  # what had been pushed from them would lie here for ever

    def _consume(self, session: Session, queue: str, count: int) -> None:
        if self.owner.slots:
            self._broker.declare(session, queue)
        elif exists(session, queue) is None:
            return  # who only moves messages takes queues as they are
        self._channel.basic_qos(0, count, False)
        self._numbers += 1
        tag = f"celeriac-{self._numbers}"
        self._tags[queue] = (tag, count)

        def arrived(content: Any) -> None:
            info = content.delivery_info
            self._open[info["delivery_tag"]] = None
            self._buffer.add(queue, content)

        self._channel.basic_consume(
            queue, tag, callback=arrived, on_cancel=lambda ended: self._cancelled(session, queue, ended)
        )

    def _unsubscribe(self) -> None:
        for tag, _ in self._tags.values():
            self._end_subscription(tag)
        self._tags.clear()

    def _end_subscription(self, tag: str) -> None:
        """Cancel it. What was sent before may come after the server's answer: py-amqp would send it back."""
        arrived = self._channel.callbacks.get(tag)
        self._channel.basic_cancel(tag)
        if arrived is not None:
            self._channel.callbacks[tag] = arrived
            self._ended.append(tag)
            if len(self._ended) > _LATE:
                self._channel.callbacks.pop(self._ended.popleft(), None)

    def _cancelled(self, session: Session, queue: str, tag: str) -> None:
        """The server ended the subscription: the queue is gone. The next exchange declares it again."""
        if self._tags.get(queue, ("", 0))[0] == tag:
            del self._tags[queue]
        session.declared.clear()

    def _look(self, session: Session, queues: Sequence[str]) -> None:
        """Ask the queues how they are: what they have for us arrives before their answer."""
        for queue in queues:
            try:
                session.desk.queue_declare(queue, passive=True)
            except NotFound:
                session.declared.clear()
                self._tags.pop(queue, None)
                if self.owner.slots:
                    self._consume(session, queue, self.owner.slots)
        # The other channel may have answered first. This one answers after all that it was given to send.
        self._channel.basic_qos(0, 0, False)
        self._proven()
        session.link.pump()

    def _proven(self) -> None:
        """What had been sent before the server answered has arrived."""
        self._proof = time.monotonic()
        self._unproven = False

    # -- the connection ----------------------------------------------------------------------------

    def _connect(self) -> None:
        session = Session(self._broker.dialler.dial(), patient=True)
        try:
            channel = session.link.channel()
            channel.auto_decode = False
        except FAILURES as error:
            session.link.drop()
            raise translate(error, session.shown, "open a channel") from error
        self._session, self._channel = session, channel
        self._proven()

    def _given_up(self, error: Exception, doing: str) -> OperationalError:
        """Let go of the connection after an error, and return what to raise."""
        session, self._session = self._session, None
        shown = self._broker.url
        if session is not None:
            shown = session.shown
            session.link.sever()
            self._buffer.excuse()
        self._forget()
        if isinstance(error, OperationalError):
            return error
        if isinstance(error, CeleriacError):
            return OperationalError(str(error))
        return translate(error, shown, doing, maybe_done=True)

    def _forget(self) -> None:
        self._out.clear()
        self._open.clear()
        self._tags.clear()
        self._ended.clear()
        self._buffer.clear()
