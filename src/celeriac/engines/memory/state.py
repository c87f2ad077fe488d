"""What a memory store holds, and the elementary moves of a message in it.

All of it is guarded by ``Store.lock``, so a method that holds the lock is one atomic step.
"""

from __future__ import annotations

import bisect
import itertools
import os
import socket
import threading
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any

from celeriac.clock import now as wall_clock
from celeriac.engines import schedule
from celeriac.engines.base import Answer, DeadLetter, Delivery, Hold, Incarnation, Loss, NodeInfo
from celeriac.engines.envelopes import after_loss
from celeriac.engines.history import Attempt
from celeriac.engines.results import ResultRecord
from celeriac.routing.queues import Binding

ONCE = "once"
"""The mark of a lost message that must not run again (``Notes.lost``)."""


@dataclass
class Entry:
    """A message in the store, in whichever state."""

    payload: bytes
    queue: str
    lane: int
    task_id: str
    since: float
    """When it became ready, epoch seconds."""
    admitted: bool = False
    """It got its rate limit's token before it was parked for a place."""


@dataclass
class Lease:
    """A claimed message and who holds it."""

    token: int
    owner: str
    entry: Entry
    once: bool = False
    """``Consumer.mark_once`` was called: if it is lost, it must not run again."""
    admitted: bool = False
    places: set[str] = field(default_factory=set)
    """The concurrency limits under which it holds a place."""


@dataclass
class Owner:
    """A lease owner, with its last request's number and answer (``Consumer.repeat``)."""

    incarnation: Incarnation
    attached: float
    number: int = 0
    answer: Answer | None = None


@dataclass
class Bucket:
    """A rate limit's bucket: one token, back ``interval`` seconds after it was taken."""

    interval: float
    taken: float = float("-inf")

    @property
    def next(self) -> float:
        """When the next token is there, epoch seconds."""
        return self.taken + self.interval


@dataclass
class Place:
    """A concurrency limit and who is inside, by token."""

    limit: int = 0
    inside: set[int] = field(default_factory=set)

    @property
    def free(self) -> bool:
        """Whether one more may enter."""
        return len(self.inside) < self.limit


@dataclass
class Held:
    """Who holds a unique key."""

    task_id: str
    expires: float
    until: Hold


@dataclass
class Kept:
    """A stored result."""

    record: ResultRecord
    expires: float | None


@dataclass
class Timetable:
    """The schedule, and who leads those who watch it."""

    entries: dict[str, schedule.Entry] = field(default_factory=dict)
    version: int = 0
    removed: dict[str, int] = field(default_factory=dict)
    """Name -> the version at which the entry was removed, in that order."""
    forgotten: int = 0
    """Removals at this version and before may have been forgotten."""
    holder: str = ""
    token: int = 0
    expires: float = 0.0
    ttl: float = 0.0


class Waiter:
    """One sleeping consumer: woken through a socket, so that it can watch other files as well."""

    def __init__(self, queues: Iterable[str]) -> None:
        self.queues = frozenset(queues)
        self.ear, self._mouth = socket.socketpair()
        self._mouth.setblocking(False)

    def wake(self) -> None:
        """End the sleep; a socket already full of calls has woken it."""
        try:
            self._mouth.send(b"w")
        except BlockingIOError:
            pass

    def close(self) -> None:
        """Free both ends."""
        self.ear.close()
        self._mouth.close()


@dataclass
class Store:
    """Everything that lives under one name, and its lock."""

    clock: Callable[[], float] = wall_clock
    lock: AbstractContextManager[object] = field(default_factory=threading.RLock)
    tokens: Iterator[int] = field(default_factory=lambda: itertools.count(1))
    ready: dict[str, dict[int, deque[Entry]]] = field(default_factory=dict)
    """Queue -> lane -> its line, the next one first. A queue stays known when it is empty."""
    delayed: dict[str, list[tuple[float, int, Entry]]] = field(default_factory=dict)
    """Queue -> (due, a number that keeps the order of equals, entry), earliest first."""
    parked: dict[str, dict[str, deque[Entry]]] = field(default_factory=dict)
    """Queue -> bucket -> line."""
    waiting: dict[str, dict[str, deque[Entry]]] = field(default_factory=dict)
    """Queue -> place -> the line of those parked for one."""
    places: dict[str, Place] = field(default_factory=dict)
    holds: dict[str, Held] = field(default_factory=dict)
    """Unique key -> its holder."""
    keys_of: dict[str, set[str]] = field(default_factory=dict)
    """Task id -> the unique keys it holds."""
    checkpoints: dict[str, tuple[bytes, float]] = field(default_factory=dict)
    """Task id -> (what was kept, until when)."""
    groups: dict[str, tuple[bytes, float | None]] = field(default_factory=dict)
    """Group -> (its list of results, until when)."""
    chords: dict[str, Any] = field(default_factory=dict)
    """Group -> its :class:`celeriac.engines.memory.chords.Chord`."""
    timetables: dict[str, Timetable] = field(default_factory=lambda: defaultdict(Timetable))
    """By scope."""
    leases: dict[int, Lease] = field(default_factory=dict)
    dead: dict[str, tuple[DeadLetter, int]] = field(default_factory=dict)
    """Key -> (letter, its lane), oldest first."""
    owners: dict[str, Owner] = field(default_factory=dict)
    nodes: dict[str, NodeInfo] = field(default_factory=dict)
    fenced: set[str] = field(default_factory=set)
    """Nodes that were recovered by others: their ids are burnt."""
    last_pass: float | None = None
    """When anyone last looked for overdue nodes."""
    paused: set[str] = field(default_factory=set)
    buckets: dict[str, Bucket] = field(default_factory=dict)
    version: int = 0
    revoked: dict[str, tuple[int, float, str]] = field(default_factory=dict)
    """Task id -> (version, when the order expires)."""
    rate_limits: dict[str, str] = field(default_factory=dict)
    results: dict[str, Kept] = field(default_factory=dict)
    queued: dict[str, float] = field(default_factory=dict)
    """Task id -> until when it is known as published (``Publication.track``)."""
    tombstones: dict[str, float] = field(default_factory=dict)
    """Task id -> until when it is remembered that its result has expired."""
    listeners: dict[str, list[Any]] = field(default_factory=dict)
    """Task id -> open subscriptions."""
    history: deque[tuple[int, Attempt]] = field(default_factory=deque)
    """Attempts with their numbers, oldest first."""
    attempts: Iterator[int] = field(default_factory=lambda: itertools.count(1))
    bindings: dict[Binding, str] = field(default_factory=dict)
    """Tie of a queue to an exchange -> the node whose own the queue is, or ""."""
    lower_first: bool = False
    """Whether lower priorities are served first."""
    waiters: list[Waiter] = field(default_factory=list)
    numbers: Iterator[int] = field(default_factory=itertools.count)
    boxes: list[Any] = field(default_factory=list)
    """Of nodes that listen to orders (:class:`celeriac.engines.memory.remote.Box`)."""

    # -- a message's moves ---------------------------------------------------------------------------

    def append(self, entry: Entry) -> None:
        """To the back of its line."""
        self._line(entry).append(entry)
        self.wake(entry.queue)

    def prepend(self, entry: Entry) -> None:
        """To the front of its line."""
        self._line(entry).appendleft(entry)
        self.wake(entry.queue)

    def put_off(self, entry: Entry, due: float) -> None:
        """Hold it until ``due``. Sleepers are woken, so that they learn of an earlier due time."""
        self.ready.setdefault(entry.queue, {})
        bisect.insort(
            self.delayed.setdefault(entry.queue, []),
            (due, next(self.numbers), entry),
            key=lambda item: item[:2],
        )
        self.wake(entry.queue)

    def park(self, entry: Entry, bucket: str) -> None:
        """To the back of those that wait for a token of ``bucket``."""
        self.buckets.setdefault(bucket, Bucket(interval=0))
        self.parked.setdefault(entry.queue, {}).setdefault(bucket, deque()).append(entry)

    def wait_for_place(self, entry: Entry, place: str, admitted: bool) -> None:
        """To the back of those that wait for a place."""
        entry.admitted = admitted
        self.places.setdefault(place, Place())
        self.waiting.setdefault(entry.queue, {}).setdefault(place, deque()).append(entry)

    def lease(self, entry: Entry, owner: str, admitted: bool = False, place: str = "") -> Delivery:
        """Hand it to ``owner`` under a new token."""
        token = next(self.tokens)
        lease = self.leases[token] = Lease(token, owner, entry, admitted=admitted or entry.admitted)
        entry.admitted = False
        if place:
            self.occupy(place, lease)
        return Delivery(token, entry.queue, entry.payload, entry.lane, lease.admitted, bool(place))

    def end_lease(self, lease: Lease) -> None:
        """The lease is over: its places are free, and those who wait for one are woken."""
        del self.leases[lease.token]
        for place in lease.places:
            self.places[place].inside.discard(lease.token)
            self.wake_waiting(place)

    def pull_delayed(self, task_ids: set[str]) -> set[str]:
        """Take the delayed messages of these tasks out; return the ids found."""
        found: set[str] = set()
        for delayed in self.delayed.values():
            hit = {entry.task_id for _, _, entry in delayed} & task_ids
            if hit:
                found |= hit
                delayed[:] = [item for item in delayed if item[2].task_id not in hit]
        return found

    def held(self, owner: str, queue: str, token: int) -> Lease | None:
        """The lease, if ``owner`` holds ``token`` of ``queue``."""
        lease = self.leases.get(token)
        return lease if lease and lease.owner == owner and lease.entry.queue == queue else None

    def held_by(self, owner: str) -> list[Lease]:
        """All leases of an owner, in claim order."""
        return [lease for _, lease in sorted(self.leases.items()) if lease.owner == owner]

    def give_back(self, leases: Sequence[Lease], losses: Mapping[int, Loss]) -> None:
        """End leases, whatever their order here: the messages go to the front of their lines in claim order.

        ``losses`` holds those that were started, by token. One marked once is never given back clean.
        """
        for lease in sorted(leases, key=lambda lease: lease.token, reverse=True):
            self.end_lease(lease)
            loss = losses.get(lease.token, Loss(counted=False))
            if lease.once and loss.mark is None:
                loss = Loss(loss.counted, ONCE)
            lease.entry.payload = after_loss(lease.entry.payload, loss)
            self.prepend(lease.entry)

    def end_owner(self, owner: str, losses: Mapping[int, Loss]) -> int:
        """Give back what ``owner`` holds and forget it; return how many that were."""
        leases = self.held_by(owner)
        self.give_back(leases, losses)
        self.owners.pop(owner, None)
        return len(leases)

    def owners_of(self, node: str) -> list[tuple[str, Owner]]:
        """The lease owners of a node."""
        return [(name, owner) for name, owner in self.owners.items() if owner.incarnation.node == node]

    # -- unique keys and places ------------------------------------------------------------------------

    def holder(self, key: str, now: float) -> str | None:
        """The task id that holds a unique key."""
        held = self.holds.get(key)
        if held and held.expires <= now:
            self.free(key)
            return None
        return held.task_id if held else None

    def hold(self, key: str, held: Held) -> None:
        """Give a key to a task."""
        self.free(key)
        self.holds[key] = held
        self.keys_of.setdefault(held.task_id, set()).add(key)

    def free(self, key: str) -> None:
        """Take a key from whoever holds it."""
        held = self.holds.pop(key, None)
        if held:
            keys = self.keys_of[held.task_id]
            keys.discard(key)
            if not keys:
                del self.keys_of[held.task_id]

    def free_of(self, task_ids: Iterable[str], *until: Hold) -> None:
        """Take those keys from tasks which they hold until one of ``until`` comes true."""
        for task_id in task_ids:
            for key in list(self.keys_of.get(task_id, ())):
                if self.holds[key].until in until:
                    self.free(key)

    def occupy(self, name: str, lease: Lease) -> None:
        """Let a lease take a place."""
        self.places[name].inside.add(lease.token)
        lease.places.add(name)

    def wake_waiting(self, place: str) -> None:
        """Wake those who could claim what waits for a place."""
        for queue, lines in self.waiting.items():
            if lines.get(place):
                self.wake(queue)

    # -- looking -------------------------------------------------------------------------------------

    def ready_entries(self, queue: str) -> list[Entry]:
        """The queue's ready messages in the order in which they will be claimed, urgent lanes first."""
        lanes = self.ready.get(queue, {})
        return [entry for lane in sorted(lanes, reverse=not self.lower_first) for entry in lanes[lane]]

    def parked_entries(self, queue: str) -> list[Entry]:
        """The queue's parked messages, a bucket or place at a time."""
        lines = [*self.parked.get(queue, {}).values(), *self.waiting.get(queue, {}).values()]
        return [entry for line in lines for entry in line]

    def next_due(self, queues: Iterable[str]) -> float | None:
        """When the next delayed or parked message of the queues falls due."""
        times = [self.delayed[queue][0][0] for queue in queues if self.delayed.get(queue)]
        for queue in queues:
            times += [self.buckets[name].next for name, line in self.parked.get(queue, {}).items() if line]
            if any(line and self.places[name].free for name, line in self.waiting.get(queue, {}).items()):
                times.append(self.clock())
        return min(times, default=None)

    def unpaused(self, queues: Iterable[str]) -> list[str]:
        """The queues of these from which may be claimed."""
        return [queue for queue in queues if queue not in self.paused]

    # -- the rest ------------------------------------------------------------------------------------

    def wake(self, queue: str) -> None:
        """Wake all who sleep over this queue."""
        for waiter in self.waiters:
            if queue in waiter.queues:
                waiter.wake()

    def time_passed(self) -> None:
        """The clock was moved by hand: the living have beaten meanwhile, and all who sleep look again."""
        with self.lock:
            now = self.last_pass = self.clock()
            for node in self.nodes.values():
                node.seen = now
            for owner in self.owners.values():
                owner.attached = now
            for waiter in self.waiters:
                waiter.wake()

    def order(self) -> int:
        """Count an operator's order; return the new control version."""
        self.version += 1
        return self.version

    def _line(self, entry: Entry) -> deque[Entry]:
        return self.ready.setdefault(entry.queue, {}).setdefault(entry.lane, deque())


STORES: dict[str, Store] = {}
"""The stores of this process by name: they live as long as it does."""


def _after_fork() -> None:
    """Give the child stores of its own: copies, whose locks no lost thread holds and nobody sleeps over."""
    for store in STORES.values():
        store.lock = threading.RLock()
        store.waiters = []
        store.listeners = {}
        store.boxes = []


os.register_at_fork(after_in_child=_after_fork)
