"""The engine contract: what a broker, a result store and a coordinator promise.

An engine is one server behind a few small interfaces: :class:`Broker` here, ``ResultBackend`` in
``results.py``, ``Coordinator`` in ``coordinator.py``, ``HistoryStore`` in ``history.py``, ``RemoteControl``
and ``EventCarrier`` in ``remote.py``. The state diagram of a message stands here, once, and every engine
follows it::

    published ──▶ ready ──claim──▶ leased ──ack──────▶ gone (result and follow-ups stored with it)
        │           ▲  ▲             │ │ └─give back──▶ ready    (same place in line, not counted)
        └─▶ delayed ┘  └─lease lost──┘ └──delay(until)▶ delayed  (retry, eta)      ──▶ parked (over a limit)
                         (counted if started) └─dead(reason)▶ dead ──replay──▶ ready

Rules that hold for all of them:

* A message is in exactly one of the states *ready, delayed, leased, parked, dead*, or gone. Every arrow
  is one atomic step in the store.
* A claim leaves a *lease*: the message belongs to one :class:`Incarnation` under one *token*. Tokens grow
  and are never used twice, also over restarts and failovers of the store: they are fencing tokens.
* Leases have no clock of their own. They last while the incarnation's node *beats*; when a beat is older
  than the lease time by the store's clock, :meth:`Broker.recover` takes the node's leases away.
* Whatever carries a token is conditional on it. A token whose lease is gone changes nothing and is
  reported as refused.
* Time is the store's time: ``delay`` is counted from when the store receives it.
* Order is first in, first out within a queue and priority. A message given back, or recovered from a dead
  worker, goes to the front of the line it came from, in claim order.
* Engines move envelopes as bytes and never re-encode one inside the store.

An engine is created by ``celeriac.engines.create`` from a URL. It connects lazily, may be shared by
threads, and drops every connection it inherited when the process forks. A :class:`Consumer` belongs to one
thread at a time.

Options: every engine that keeps these things takes ``dead_letters_max`` (10,000 a queue),
``dead_letters_expires`` (seconds, 30 days) and ``result_tombstone_expires`` (seconds, 7 days).

Errors: an unreachable or failing server is :class:`~celeriac.exceptions.OperationalError` (the message names
the masked URL and what to do), a full one :class:`~celeriac.exceptions.StoreFull`, a lease owner whom the
store no longer knows :class:`~celeriac.exceptions.Fenced`.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

import msgspec

from celeriac.engines.coordinator import Coordinator
from celeriac.engines.groups import ChordPart
from celeriac.engines.history import Attempt, HistoryStore
from celeriac.engines.results import ResultBackend, ResultRecord
from celeriac.message import Message
from celeriac.routing.queues import Binding

# -- publishing --------------------------------------------------------------------------------------


class Hold(enum.StrEnum):
    """Until when a task holds its unique key; at most for its ``ttl``."""

    ENDED = "ended"
    """Until it has ended: acked, dead, purged or cancelled. A retry holds on."""
    DELAYED = "delayed"
    """While its message is delayed; then the key is free (debouncing)."""
    EXPIRY = "expiry"
    """For the whole ``ttl``, whatever becomes of the task."""


class Unique(msgspec.Struct):
    """A condition on a publication: nobody else holds ``key``. Published, its task id holds it."""

    key: str
    ttl: float
    """Seconds after which the key is free in any case."""
    until: Hold = Hold.ENDED
    instead_of: str = ""
    """Or: this task id holds the key and its message is still delayed. The publication (of the same id, with
    new arguments and a new delay) takes that message's place."""


class Publication(msgspec.Struct):
    """A message on its way to a queue."""

    message: Message
    queue: str
    """"" sends a copy to each queue that is bound to ``exchange`` by a fanout, in the same step."""
    priority: int = 0
    """As in the message's properties; what a number means is the engine's (see the priorities table)."""
    delay: float | None = None
    """Seconds to wait, counted by the store's clock from the moment it receives the message."""
    due: float | None = None
    """Or: the epoch second, by the store's clock, before which the message is not to be delivered."""
    exchange: str = ""
    routing_key: str = ""
    track: float | None = None
    """If set, record in the same step that the task is queued, for so many seconds (``Presence.QUEUED``)."""
    unique: Unique | None = None
    """If set, leave the message out unless its key is free."""
    also: Sequence[str] = ()
    """More queues that get a copy. The publisher makes publications of them: engines need not look here."""


# -- claiming and settling -----------------------------------------------------------------------------


class Incarnation(NamedTuple):
    """The owner of leases: one life of one child process of a node."""

    node: str
    """The node's id, unique to one life of one worker (``NodeInfo.id``)."""
    child: int
    """The child's number within its node."""
    epoch: int
    """Which life of that child this is: 1, 2, ..."""
    slots: int = 1
    """How many messages the child may have started at once; 0: it starts none, it only moves them."""

    @property
    def name(self) -> str:
        """The owner's name in the store."""
        return f"{self.node}:{self.child}:{self.epoch}"


class Delivery(msgspec.Struct):
    """A message claimed by us: leased under ``token`` until it is settled."""

    token: int
    queue: str
    payload: bytes
    """The envelope; :func:`celeriac.message.decode_envelope` reads it, and may find that it cannot."""
    lane: int = 0
    """Which of the queue's priority lines it came from; given back, it returns there."""
    admitted: bool = False
    """It was parked over a rate limit and has been granted its token: do not ask again."""
    placed: bool = False
    """It was parked for a place under a concurrency limit and holds one now. ``Coordinator.enter`` gives it
    no second one, and tells the store the limit of the code that is to run it."""


class Verdict(enum.IntEnum):
    """What becomes of a leased message. The numbers stand in scripts: do not reorder."""

    ACK = 0
    """Done; the message is gone."""
    GIVE_BACK = 1
    """To the front of its line; the delivery does not count."""
    DELAY = 2
    """Deliver again later; with ``message`` in a new envelope (a retry), else in the old one."""
    PARK = 3
    """Over the rate limit ``bucket``: wait in order for a token; or, without a bucket, for ``place``."""
    DEAD = 4
    """Keep it as a dead letter, with ``reason``."""
    REQUEUE = 5
    """To the back of its line (``Reject(requeue=True)``)."""


class Outcome(msgspec.Struct):
    """How one leased message ended, with everything that must be stored in the same step.

    Where broker and results are one store, ``result`` and ``publications`` are part of the atomic step.
    """

    token: int
    queue: str
    verdict: Verdict = Verdict.ACK
    result: ResultRecord | None = None
    publications: Sequence[Publication] = ()
    """Follow-ups: a chain's next step, callbacks, ..."""
    message: Message | None = None
    """The new envelope for DELAY, REQUEUE and DEAD; ``None`` keeps the old one."""
    delay: float | None = None
    due: float | None = None
    """When to deliver again (DELAY): seconds from now, or an epoch second; both by the store's clock."""
    bucket: str = ""
    """The rate limit's name (PARK)."""
    reason: str = ""
    """Why it is a dead letter (DEAD): one word of ``DEAD_REASONS``."""
    detail: str = ""
    """The same for people (DEAD): one line."""
    task: str = ""
    """For the dead letter's entry (DEAD)."""
    task_id: str = ""
    """The same (DEAD); what :meth:`Broker.cancel` finds it by (DELAY, PARK); who holds ``unique``."""
    parts: Sequence[ChordPart] = ()
    """Parts of chords to be recorded in the same step."""
    records: Sequence[ResultRecord] = ()
    """States of other tasks, stored like ``result``: what will never run because this one has failed."""
    unique: str = ""
    """The unique key to be freed, if ``task_id`` holds it."""
    place: str = ""
    """The concurrency limit under which the lease holds a place, to be freed; with PARK: to wait for."""
    forget_checkpoint: bool = False
    """Delete what :meth:`Coordinator.keep_checkpoint` kept for ``task_id``."""
    attempt: Attempt | None = None
    """For the history, stored in the same step (``engines/history.py``)."""
    settled: bool = False
    """It has been carried out already, with the task's own transaction (``Task.transactional``): the worker
    leaves it out of the exchange. Engines need not look here."""


DEAD_REASONS = ("deliveries", "undecodable", "unknown", "rejected", "expired", "revoked", "failed", "lost")
"""deliveries: its start killed workers too often; undecodable, unknown (no such task), rejected (by the
task), expired, revoked, failed (retries exhausted, if the task asks for it), lost (``acks_late=False`` and
its worker died)."""


class Answer(msgspec.Struct):
    """What an exchange brought."""

    deliveries: list[Delivery]
    """In the order in which they must be started."""
    refused: list[int]
    """Tokens of outcomes whose lease was no longer held: nothing of them was stored."""
    now: float
    """The store's clock, epoch seconds."""
    next_due: float | None = None
    """When the next delayed or parked message of these queues falls due, if one waits."""
    version: int = 0
    """The control version: it grows with every revoke, pause and changed limit (``Coordinator.control``)."""
    owed: list[str] = msgspec.field(default_factory=list)
    """Chords whose last part was among the outcomes; this owner has taken them (``GroupStore.take_owed``)."""


class Consumer(Protocol):
    """One incarnation's connection to the broker. Made by :meth:`Broker.attach`; one thread at a time."""

    owner: Incarnation

    def exchange(self, outcomes: Sequence[Outcome], queues: Sequence[str], limit: int) -> Answer:
        """Settle ``outcomes`` and claim up to ``limit`` messages, in one atomic round trip.

        ``queues`` are served in the order given, all lanes of higher urgency first; due delayed and
        parked messages are promoted on the way. ``limit=0`` only settles. Paused queues give nothing.
        It never waits for messages. Raises ``Fenced`` if this incarnation has been recovered by others
        (nothing was stored), ``OperationalError`` if the answer did not come: then nobody knows whether
        the step happened, and :meth:`repeat` finds out.
        """
        ...

    def repeat(self) -> Answer:
        """Send the unanswered exchange again, after reconnecting; it takes effect once.

        The request carries a number: if the first one was carried out, its recorded answer comes back.
        Raises as :meth:`exchange`.
        """
        ...

    def wait(self, queues: Sequence[str], timeout: float, wakeup_fd: int | None = None) -> bool:
        """Sleep until a message may be ready, ``timeout`` seconds have passed or ``wakeup_fd`` is readable.

        Returns whether a message may be ready. It holds no message: nothing can be lost here.
        """
        ...

    def mark_once(self, delivery: Delivery) -> bool:
        """Note on the lease that the message must not run a second time (``acks_late=False``).

        Returns whether the lease is still held. If it is lost afterwards, the message comes back with
        ``Notes.lost = "once"``.
        """
        ...

    def close(self, detach: bool = True) -> None:
        """Disconnect; with ``detach`` also give back every lease still held and forget the incarnation.

        However a lease ends that :meth:`mark_once` has noted, the mark comes back with the message, unless
        the owner itself settled it.
        """
        ...


# -- losing leases -------------------------------------------------------------------------------------


class Loss(msgspec.Struct):
    """Why a started delivery ended with its process.

    ``counted`` adds one to ``Notes.deliveries``. ``mark`` (``Notes.lost``) says that the message must not
    be run again, only brought to its end by whoever claims it next: ``"once"``, ``"timeout:<seconds>"``,
    ``"terminated:<signal number>"``.
    """

    counted: bool = True
    mark: str | None = None
    task_id: str = ""
    """Whose delivery it was, for stores that keep this beside the message."""


class Recovered(NamedTuple):
    """One node or child whose leases were taken away."""

    owner: str
    messages: int
    started: int


class NodeInfo(msgspec.Struct):
    """What a worker tells of itself with its beat."""

    id: str
    """Unique to one life of the worker."""
    name: str
    """The node name, ``celery@host``."""
    host: str
    """Names a machine's boot and process namespace: pids can be compared within it."""
    pid: int
    started: float
    """The process's start in clock ticks since boot: a reused pid is told apart by it."""
    lease: float = 15.0
    """Seconds without a beat after which others may take over."""
    queues: list[str] = msgspec.field(default_factory=list)
    details: dict[str, Any] = msgspec.field(default_factory=dict)
    """Pool, concurrency, versions, registered tasks, counters: for people, not for the engine."""
    seen: float | None = None
    """Set when read: epoch second of the last beat, by the store's clock."""


class Depth(NamedTuple):
    """How many messages of a queue are in which state; ``age`` is that of the oldest ready one, seconds."""

    ready: int = 0
    delayed: int = 0
    leased: int = 0
    parked: int = 0
    dead: int = 0
    age: float | None = None


class DeadLetter(msgspec.Struct):
    """A message that was given up, kept until it is replayed or purged."""

    key: str
    """Its own id in the store (an undecodable message has no task id)."""
    queue: str
    reason: str
    detail: str
    at: float
    task: str
    task_id: str
    payload: bytes


HIGHER_FIRST: Mapping[str, int] = {"high": 9, "normal": 5, "low": 0}
LOWER_FIRST: Mapping[str, int] = {"high": 0, "normal": 5, "low": 9}
"""Priorities of the urgencies, where higher or lower numbers are served first."""


class Broker(Protocol):
    """Messages, from publish to settle."""

    url: str
    """Where it connects, with the password masked: fit to be shown."""

    @property
    def urgencies(self) -> Mapping[str, int]:
        """The priority of each urgency: ``HIGHER_FIRST`` or ``LOWER_FIRST``."""
        ...

    def publish(self, batch: Sequence[Publication]) -> dict[int, str]:
        """Store messages durably, all or none, in one round trip; never repeated on a lost answer.

        Left out are only those whose unique key is held. They are returned: index in the batch -> task id
        that holds the key, "" if ``Unique.instead_of`` holds it no longer and nobody else does. In outcomes
        such messages are left out silently.
        """
        ...

    def attach(self, owner: Incarnation) -> Consumer:
        """Register a lease owner and return its consumer.

        Raises ``ValueError`` if an owner of this name exists, and ``Fenced`` if its node was recovered.
        """
        ...

    def give_back(self, owner: str, leases: Sequence[tuple[str, int]]) -> int:
        """Return not-started messages ``(queue, token)`` of a living owner to the front of their lines.

        The caller holds the start fence, so none of them can start meanwhile. Returns how many were held.
        """
        ...

    def release(self, owner: str, started: Mapping[int, Loss]) -> int:
        """End a dead owner: give back what it held, ``started`` tokens as their loss says; forget the owner.

        Returns the number of messages given back. Safe to repeat.
        """
        ...

    def beat(self, node: NodeInfo) -> float:
        """Register the node and renew its leases; return the store's clock. Raises ``Fenced`` if the node
        was recovered by others since its last beat: it must start again under a new id."""
        ...

    def recover(self, host: str, alive: Callable[[int, float], bool]) -> list[Recovered]:
        """Take over the leases of nodes that stopped beating, and at once of dead ones on this ``host``.

        ``alive(pid, started)`` tells whether a process of this host lives. The tokens that were started
        are taken to be an owner's lowest ``slots`` ones; they count as a delivery. If the store itself
        was away (the last pass of anyone is older than half a lease), every node gets a fresh lease
        first. Call it about every fifth of a lease, from any node.
        """
        ...

    def leave(self, node: str) -> None:
        """Forget a node that stopped in order; what its children still held is given back, uncounted."""
        ...

    def cancel(self, ids: Sequence[str]) -> list[str]:
        """Remove delayed and parked messages of these task ids; return the ids found. Revoking also
        needs :meth:`Coordinator.revoke`, for those that are ready or leased."""
        ...

    def find(self, ids: Sequence[str]) -> dict[str, bytes]:
        """The envelopes of what :meth:`cancel` would remove: delayed and parked messages of these tasks."""
        ...

    def bring_forward(self, queue: str, limit: int, ids: Sequence[str] | None = None) -> int:
        """Make delayed and parked messages ready before their time, the soonest first; return how many.

        With ``ids`` only those of these tasks. Each says then in its envelope when it is due
        (``envelopes.brought_forward``): a worker that claims it puts it off again, and ``celeriac migrate``
        finds its time there. Safe to repeat, and at any moment to stop.
        """
        ...

    def queues(self) -> list[str]:
        """The queues the store knows of, sorted."""
        ...

    def depth(self, queues: Sequence[str]) -> dict[str, Depth]: ...

    def peek(self, queue: str, offset: int = 0, limit: int = 50, state: str = "ready") -> list[bytes]:
        """Envelopes in order, without claiming; ``state`` is ready, delayed, leased or parked."""
        ...

    def purge(self, queues: Sequence[str]) -> int:
        """Delete ready, delayed and parked messages, and free their unique keys; return how many."""
        ...

    def pause(self, queue: str) -> None:
        """Let nothing be claimed from the queue until :meth:`resume`; survives restarts."""
        ...

    def resume(self, queue: str) -> None: ...

    def bind(self, bindings: Sequence[Binding], node: str = "") -> None:
        """Tie queues to exchanges; what is tied already stays so.

        With ``node`` the queues are that living node's own: they go, with what waits in them, when it leaves
        or is recovered.
        """
        ...

    def bindings(self, exchange: str) -> list[Binding]:
        """The queues tied to an exchange, as far as the store knows."""
        ...

    def ties(self) -> list[Binding]:
        """All bindings of queues that are no node's own, as far as the store knows."""
        ...

    def consumers(self, queues: Sequence[str]) -> dict[str, int]:
        """How many consumers each queue has that :meth:`Coordinator.nodes` does not tell of: workers of
        Celery's, or all where the server counts them. It may take a second."""
        ...

    def dead_letters(self, queue: str | None = None, offset: int = 0, limit: int = 50) -> list[DeadLetter]:
        """Dead letters, newest first."""
        ...

    def replay(self, keys: Sequence[str] | None = None, queue: str | None = None) -> int:
        """Put dead letters back in line, with count and mark cleared; all of ``queue`` if no keys."""
        ...

    def purge_dead(self, keys: Sequence[str] | None = None, queue: str | None = None) -> int: ...

    def bury(self, letters: Sequence[DeadLetter]) -> None:
        """Store dead letters of another store, the oldest first, as they were there, under keys of its own.

        The bounds hold for them as well.
        """
        ...

    def close(self) -> None: ...


# -- all of it ------------------------------------------------------------------------------------------


@runtime_checkable
class Engine(Broker, ResultBackend, Coordinator, HistoryStore, Protocol):
    """A server that can be all three."""

    scheme: str
    """The URL scheme it was created for."""

    def shares_store(self, other: object) -> bool:
        """Whether ``other`` is the same server, so that results can be stored in the settling step."""
        ...
