"""RabbitMQ as a broker: publishing, looking, dead letters, and what is noted of lost messages."""

from __future__ import annotations

import os
import threading
import time
import uuid
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any, Final

from amqp.exceptions import ResourceLocked

from celeriac.engines.base import (
    HIGHER_FIRST,
    DeadLetter,
    Depth,
    Incarnation,
    Loss,
    NodeInfo,
    Publication,
    Recovered,
)
from celeriac.engines.envelopes import for_replay
from celeriac.engines.events import EventOptions
from celeriac.engines.mailbox import Mailbox
from celeriac.engines.rabbitmq import dead, forward, keys, ledger, topology
from celeriac.engines.rabbitmq.address import parse
from celeriac.engines.rabbitmq.connection import Dialler
from celeriac.engines.rabbitmq.consumer import RabbitConsumer
from celeriac.engines.rabbitmq.errors import FAILURES, translate
from celeriac.engines.rabbitmq.events import RabbitEvents
from celeriac.engines.rabbitmq.heart import Heart
from celeriac.engines.rabbitmq.remote import RabbitRemote
from celeriac.engines.rabbitmq.session import Parcel, Session, unroutable
from celeriac.engines.rabbitmq.tables import Known
from celeriac.engines.rabbitmq.topology import TOP, Topology, exists, whole_seconds
from celeriac.engines.rabbitmq.wire import Content, to_wire
from celeriac.exceptions import CeleriacError, DecodeError, ImproperlyConfigured, OperationalError
from celeriac.message import decode_envelope
from celeriac.routing.queues import Binding, Exchange

DAY: Final = 86400.0
_PATIENCE: Final = 30.0


class RabbitBroker(RabbitRemote, RabbitEvents):
    """The engine's :class:`celeriac.engines.base.Broker`."""

    urgencies = HIGHER_FIRST
    keys_are_queues = True
    """A unique key costs the server a queue, so what comes often (a tick) gets none of its own."""
    all_or_none = False
    """A batch is not one step: when its connection breaks, its first messages may have been stored."""
    reaches_delayed = False
    """Delayed messages can be neither shown nor taken out: debounced calls raise an error."""
    lists_queues = False
    """Clients are not told which queues there are."""
    reaches_leases = False
    """Messages are on the connection of the child that holds them: nobody else can give them back."""

    def __init__(self, url: str, options: Mapping[str, Any]) -> None:
        self.address = parse(url, options)
        self.scheme = url.partition(":")[0].lower()
        self.url = self.address.masked
        self.dialler = Dialler(self.address)
        self.publish_timeout = float(options.get("publish_timeout") or _PATIENCE)
        self.exact = bool(options.get("exact_prefetch"))
        self.topology = Topology(options.get("queues"), options.get("delay_queue_type", "quorum"))
        self.event_options = EventOptions.of(options)
        self.mailbox: Callable[[], Mailbox] = options.get("mailbox", Mailbox)
        self.living: Callable[[], Collection[str]] = options.get("nodes", tuple)
        self.hold_delays = options.get("broker_delay", "store") == "store"
        self._dead_max = int(options.get("dead_letters_max", 10_000))
        self._buried = dead.Tally()
        self._dead_expires = float(options.get("dead_letters_expires", 30 * DAY))
        self._ack_timeout = float(options.get("consumer_timeout", 1800.0))
        self._lock = threading.RLock()
        self._session: Session | None = None
        self._pid = os.getpid()
        self._heart: Heart | None = None
        self._attached: set[str] = set()
        self._used: set[str] = set()
        self._own: dict[str, set[str]] = {}
        self._tied: dict[str, dict[Binding, None]] = {}

    def ack_timeout(self, queues: Sequence[str]) -> float:
        """Seconds that a task of these queues may run before the server takes its message back.

        It is the queues' ``x-consumer-timeout`` where the application declares it (RabbitMQ 3.12), else the
        server's ``consumer_timeout``. Clients are not told that one: the transport option says it here.
        """
        declared = [self.topology.queue(queue).queue_arguments.get("x-consumer-timeout") for queue in queues]
        return min((float(told) / 1000 if told else self._ack_timeout for told in declared), default=0.0)

    # -- publishing --------------------------------------------------------------------------------

    def publish(self, batch: Sequence[Publication]) -> dict[int, str]:
        """Send messages and wait for the server's confirms, ``publish_timeout`` seconds at most."""
        taken: list[Publication] = []
        try:
            with self.session("publish") as session:
                left_out = self._take_keys(session, batch, taken)
                wanted = [p for index, p in enumerate(batch) if index not in left_out] if left_out else batch
                self.post(session, self.parcels(session, wanted))
                return left_out
        except CeleriacError as error:
            if taken and not getattr(error, "maybe_done", False):
                self._free_keys(taken)
            raise

    def _take_keys(
        self, session: Session, batch: Sequence[Publication], taken: list[Publication]
    ) -> dict[int, str]:
        """Take the unique keys of a batch, noting which in ``taken``; return the messages to leave out.

        Key and message are two steps: a message whose key is its own already goes out again, for nobody can
        tell whether it did before.
        """
        left_out: dict[int, str] = {}
        for index, publication in enumerate(batch):
            if publication.unique is None:
                continue
            holder = keys.acquire(session, publication.unique, _id(publication))
            if holder is None:
                taken.append(publication)
            else:
                left_out[index] = holder
        return left_out

    def holder(self, key: str) -> str | None:
        """The task id that holds a unique key now."""
        with self.session("ask for a unique key") as session:
            return keys.holder(session, key)

    def _free_keys(self, taken: Sequence[Publication]) -> None:
        """Give up the keys of messages that were not sent; where the server is away they go by their time."""
        with suppress(CeleriacError), self.session("free unique keys") as session:
            for publication in taken:
                if publication.unique is not None:
                    keys.release(session, publication.unique.key, _id(publication))

    def follow_ups(self, session: Session, batch: Sequence[Publication]) -> list[Parcel]:
        """The parcels of what follows a task; what has no free key is left out."""
        left_out = self._take_keys(session, batch, [])
        return self.parcels(session, [p for index, p in enumerate(batch) if index not in left_out])

    def parcels(self, session: Session, batch: Sequence[Publication]) -> list[Parcel]:
        """The messages of a batch with their addresses, everything they need declared."""
        made = []
        sent: set[tuple[int, str, str]] = set()
        known: Known = {}
        for publication in batch:
            content = to_wire(publication.message, publication.priority, known)
            seconds = whole_seconds(publication.delay, publication.due)
            if publication.exchange and not seconds:
                kind = self.topology.kind(publication.exchange)
                if not publication.queue or kind not in (None, "direct"):
                    # The exchange deals out the copies that the publisher made for the queues it knows.
                    copy = (id(publication.message), publication.exchange, publication.routing_key)
                    if copy not in sent:
                        sent.add(copy)
                        made.append(self._to_exchange(session, publication, content, kind))
                    continue
            if not publication.queue:
                raise ImproperlyConfigured(
                    f"a message to exchange {publication.exchange!r} cannot be delayed on RabbitMQ: only "
                    "queues can be the goal of a delay. Name one with queue=..."
                )
            made.append(self.address_to(session, publication.queue, content, seconds))
        return made

    def address_to(self, session: Session, queue: str, content: Content, seconds: int) -> Parcel:
        """A message with the address of a queue, straight or through Celery's levels of delay."""
        self._used.add(queue)
        if seconds:
            return Parcel(TOP, self.topology.delay_key(session, queue, seconds), content)
        self.declare(session, queue)
        return Parcel("", queue, content)

    def post(self, session: Session, parcels: Sequence[Parcel]) -> None:
        """Send messages, confirmed. A queue that has been deleted meanwhile is declared again, once."""
        returned = session.publish(parcels, self.publish_timeout)
        if not returned:
            return
        again = [parcel for parcel in parcels if (parcel.exchange, parcel.routing_key) in set(returned)]
        session.declared.clear()
        for parcel in again:
            if not parcel.exchange:
                self.declare(session, parcel.routing_key)
        returned = session.publish(again, self.publish_timeout)
        if returned:
            raise unroutable(returned, session.shown)

    def declare(self, session: Session, queue: str) -> None:
        """Make sure that a queue is there, if it is one of the application's."""
        if queue == dead.QUEUE:
            self.declare_dead(session)
        elif queue not in session.declared:
            self.topology.declare(session, queue)

    def declare_dead(self, session: Session) -> None:
        """Make sure that there is a queue for dead letters."""
        dead.declare(session, self._dead_max, self._dead_expires)

    def _to_exchange(
        self, session: Session, publication: Publication, content: Content, kind: str | None
    ) -> Parcel:
        if kind is not None:
            self.topology.declare_exchange(session, Exchange(publication.exchange, kind))
            if publication.queue:
                self.declare(session, publication.queue)
        # That nobody listens to a broadcast is no error.
        return Parcel(publication.exchange, publication.routing_key, content, kind != "fanout")

    # -- consumers and nodes -------------------------------------------------------------------------

    def attach(self, owner: Incarnation) -> RabbitConsumer:
        """Open a connection for a child and return its consumer."""
        if owner.name in self._attached:
            raise ValueError(f"a lease owner {owner.name!r} exists already: attach under the next epoch")
        consumer = RabbitConsumer(self, owner)
        self._attached.add(owner.name)
        return consumer

    def detached(self, owner: Incarnation) -> None:
        """A consumer has been closed."""
        self._attached.discard(owner.name)

    def give_back(self, owner: str, leases: Sequence[tuple[str, int]]) -> int:
        """Nothing: only the child itself can return what is on its connection (``reaches_leases``)."""
        return 0

    def release(self, owner: str, started: Mapping[int, Loss]) -> int:
        """Note how a dead owner's started messages ended. The server has returned them itself; none is
        counted here, so the number is 0."""
        losses = [loss for loss in started.values() if loss.task_id]
        if not losses:
            return 0
        with self.session("note lost messages") as session:
            for loss in losses:
                note = ledger.read(session, loss.task_id) or ledger.Note()
                note.deliveries += loss.counted
                note.lost = loss.mark or note.lost
                if note.started == owner:
                    note.started = ""
                ledger.write(session, [(loss.task_id, note)], self.publish_timeout)
        return 0

    def beat(self, node: NodeInfo) -> float:
        """Ask the server for a sign of life. (Its children's leases are their connections.)

        From the first beat on a thread here beats on the connections of children that cannot.
        """
        if self._heart is None and self.address.heartbeat:
            with suppress(OSError):  # the next beat tries again
                self._heart = Heart(node.id)
        with self.session("reach the server") as session:
            session.alive()
        return time.time()

    def recover(self, host: str, alive: Callable[[int, float], bool]) -> list[Recovered]:
        """Nothing to do: the server returns what was on a dead connection by itself."""
        return []

    def leave(self, node: str) -> None:
        """Delete the node's own queues."""
        own = self._own.pop(node, set())
        if own:
            with self.session("sign off") as session:
                for queue in own:
                    session.desk.queue_delete(queue)
            self._used -= own
            for ties in self._tied.values():
                for tie in [tie for tie in ties if tie.queue in own]:
                    del ties[tie]

    # -- looking -------------------------------------------------------------------------------------

    def cancel(self, ids: Sequence[str]) -> list[str]:
        """None: RabbitMQ cannot take out a delayed message. A revoked task is dropped when it is due."""
        return []

    def find(self, ids: Sequence[str]) -> dict[str, bytes]:
        """None, for the same reason."""
        return {}

    def bring_forward(self, queue: str, limit: int, ids: Sequence[str] | None = None) -> int:
        """Make delayed messages ready before their time, in no order. Each is sent, confirmed and then acked:
        if the process is killed in between, that one is there twice."""
        with self.session("take out delayed messages") as session:
            return forward.bring_forward(self, session, queue, limit, ids)

    def queues(self) -> list[str]:
        """The queues that this process has used: RabbitMQ does not tell its clients of others."""
        return sorted(self._used)

    def depth(self, queues: Sequence[str]) -> dict[str, Depth]:
        """Ready messages and dead letters. RabbitMQ does not tell its clients of delayed and unacked ones."""
        with self.session("count messages") as session:
            buried = self._buried.of(session)
            depths = {}
            for queue in topology.named(queues):
                told = exists(session, queue)
                depths[queue] = Depth(ready=told[0] if told else 0, dead=buried[queue])
            return depths

    def consumers(self, queues: Sequence[str]) -> dict[str, int]:
        """How many consumers the server counts: every child of every worker is one."""
        with self.session("count consumers") as session:
            counted = {queue: exists(session, queue) for queue in topology.named(queues)}
        return {queue: told[1] if told else 0 for queue, told in counted.items()}

    def peek(self, queue: str, offset: int = 0, limit: int = 50, state: str = "ready") -> list[bytes]:
        """Raises ``ImproperlyConfigured``: AMQP shows a message only by delivering it, which marks it as
        redelivered, and on a quorum queue brings it nearer to its delivery limit."""
        if state not in ("ready", "delayed", "leased", "parked"):
            raise ValueError(f"no state {state!r} to peek at: ready, delayed, leased or parked")
        raise ImproperlyConfigured(
            f"RabbitMQ cannot show the messages of {queue!r} without delivering them: look at them in its "
            "management page, or count them with 'celeriac queues'"
        )

    def purge(self, queues: Sequence[str]) -> int:
        """Delete ready messages; delayed ones stay, for RabbitMQ keeps those of all queues together."""
        count = 0
        with self.session("purge") as session:
            for queue in topology.named(queues):
                if exists(session, queue) is not None:
                    count += session.desk.queue_purge(queue) or 0
        return count

    def pause(self, queue: str) -> None:
        """Raises ``ImproperlyConfigured``: there is nowhere to keep it that every worker would look at."""
        raise ImproperlyConfigured(
            f"RabbitMQ cannot pause the queue {queue!r}: stop the workers that take from it, or use a "
            "broker_url of SQLite, Redis or PostgreSQL"
        )

    def resume(self, queue: str) -> None:
        """Nothing: no queue is ever paused."""

    def bind(self, bindings: Sequence[Binding], node: str = "") -> None:
        """Declare queues, their exchanges and ties, and the way for delayed messages to them."""
        with self.session("declare queues") as session:
            for binding in bindings:
                if node:
                    self.topology.adopt(binding)
                    self._own.setdefault(node, set()).add(binding.queue)
                self._used.add(binding.queue)
                self._tied.setdefault(binding.exchange, {})[binding] = None
                self.topology.declare_exchange(session, Exchange(binding.exchange, binding.type))
                self.topology.declare(session, binding.queue)
                session.desk.queue_bind(binding.queue, binding.exchange, binding.routing_key)
                self.topology.tie_to_delays(session, binding.queue)

    def ties(self) -> list[Binding]:
        """What this process has tied: RabbitMQ does not tell its clients of others."""
        own = {queue for queues in self._own.values() for queue in queues}
        return [tie for ties in self._tied.values() for tie in ties if tie.queue not in own]

    def bindings(self, exchange: str) -> list[Binding]:
        """What this process has tied to it. Of an exchange that it does not know, only the server knows
        whom it leads to: the message is sent there as it is."""
        return list(self._tied.get(exchange, ())) or [Binding(exchange, "fanout", "", "")]

    def shares_store(self, other: object) -> bool:
        """Whether ``other`` is the same virtual host, however its URL is written: it is asked for a queue
        that only this connection may have."""
        if not isinstance(other, RabbitBroker):
            return False
        name = f"celeriac.same.{uuid.uuid4().hex}"
        with self.session("compare servers") as here, other.session("compare servers") as there:
            here.desk.queue_declare(name, exclusive=True)
            try:
                return not there.missing(lambda: there.desk.queue_declare(name, passive=True))
            except ResourceLocked:
                return True
            finally:
                here.desk.queue_delete(name)

    # -- dead letters ----------------------------------------------------------------------------------

    def dead_letters(self, queue: str | None = None, offset: int = 0, limit: int = 50) -> list[DeadLetter]:
        """Dead letters, newest first."""
        with self.session("read dead letters") as session:
            found = [one for one in dead.letters(session) if queue in (None, one.queue)]
        return found[::-1][offset : offset + limit]

    def replay(self, keys: Sequence[str] | None = None, queue: str | None = None) -> int:
        """Put dead letters back in line, the oldest first; they are gone here when confirmed there."""
        with self.session("replay dead letters") as session:

            def send(letters: Sequence[DeadLetter]) -> None:
                parcels = [
                    self.address_to(session, letter.queue, _fresh(letter.payload), 0) for letter in letters
                ]
                for letter in letters:
                    if letter.task_id:
                        ledger.erase(session, letter.task_id)
                self.post(session, parcels)

            return dead.take(session, _wanted(keys, queue), send)

    def purge_dead(self, keys: Sequence[str] | None = None, queue: str | None = None) -> int:
        """Delete dead letters; return how many."""
        with self.session("purge dead letters") as session:
            return dead.take(session, _wanted(keys, queue), lambda letters: None)

    def bury(self, letters: Sequence[DeadLetter]) -> None:
        """Store dead letters of another store, the oldest first. Their age counts from now on."""
        with self.session("keep dead letters") as session:
            self.declare_dead(session)
            self.post(session, [dead.moved(letter) for letter in letters])

    # -- the connection --------------------------------------------------------------------------------

    @contextmanager
    def session(self, doing: str) -> Iterator[Session]:
        """The process's connection for everything but consuming; opened when it is needed.

        An error of the server's or the network's ends it and is raised as one of ours.
        """
        with self._lock:
            session = self._open()
            try:
                yield session
            except FAILURES as error:
                self._close()
                raise translate(error, session.shown, doing, maybe_done=True) from error
            except OperationalError:
                self._close()
                raise
            except CeleriacError:
                raise
            except BaseException:
                self._close()  # in the middle of a question: its answer would be taken for another's
                raise

    def _open(self) -> Session:
        if self._pid != os.getpid():
            self._session, self._pid = None, os.getpid()
        session = self._session
        if session is not None:
            try:
                session.link.pump()
            except FAILURES:
                self._close()
                session = None
        if session is None:
            session = self._session = Session(self.dialler.dial(beats=False))  # it holds no messages
        return session

    def _close(self) -> None:
        session, self._session = self._session, None
        if session is not None:
            session.link.drop()

    def drop_after_fork(self) -> None:
        """In a forked child: let go of the parent's socket without a word to the server."""
        self._lock = threading.RLock()
        self._heart = None
        self._attached = set()
        self._close()

    def close(self) -> None:
        """Close the connection; the engine connects again when it is used."""
        heart, self._heart = self._heart, None
        if heart is not None:
            heart.stop()
        with self._lock:
            session, self._session = self._session, None
            if session is not None:
                session.link.end() if self._pid == os.getpid() else session.link.drop()


def _id(publication: Publication) -> str:
    return str(publication.message.headers.get("id") or "")


def _fresh(payload: bytes) -> Content:
    """A dead letter's message as it was sent, with count and mark cleared."""
    try:
        message = decode_envelope(for_replay(payload))
    except DecodeError:
        return Content(payload, delivery_mode=2)
    message.headers.pop("redelivered", None)
    return to_wire(message)


def _wanted(keys: Sequence[str] | None, queue: str | None) -> Callable[[DeadLetter], bool]:
    chosen = None if keys is None else set(keys)
    return lambda letter: (chosen is None or letter.key in chosen) and queue in (None, letter.queue)
