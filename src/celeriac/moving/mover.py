"""Moves ready, delayed, parked and dead messages from one store to another.

A message is claimed in the source under a lease, as a worker would; published at the destination together
with a note (``ledger.py``); and acknowledged in the source. Wherever the power goes out in between, a lease
comes back to its line, and a note tells the next run what has arrived already.

Delayed and parked messages are made ready first, before their time (``Broker.bring_forward``), and say
themselves when they are due. Dead letters are stored at the destination before they are deleted in the
source; one that is there already is not stored again.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

from celeriac.engines.base import Consumer, DeadLetter, Delivery, Incarnation, NodeInfo, Outcome, Verdict
from celeriac.exceptions import CeleriacError, DecodeError, ImproperlyConfigured
from celeriac.moving import staging
from celeriac.moving.ledger import QUEUE, Ledger
from celeriac.moving.parcels import TRACKED, Parcel, parcel, priorities
from celeriac.moving.report import Report
from celeriac.routing.queues import Binding

BATCH: Final = 200
"""Messages in one step."""
HELD_AT_MOST: Final = 50_000
"""Messages that are held back at once because they are not to be moved."""
REVOKED: Final = 86400.0
"""Seconds for which the destination remembers what was revoked in the source."""
_BEAT: Final = 3.0
_OWN_QUEUES: Final = (QUEUE, staging.QUEUE, "celeriac.dead", "celeriac.dead.reading")
_POOL: Final = "migrate"


@dataclass
class Wanted:
    """What is to be moved."""

    queues: Mapping[str, str] = field(default_factory=dict)
    """Queue -> its name at the destination; empty: all that the source knows of, under their names."""
    tasks: frozenset[str] = frozenset()
    """Only messages of these tasks; empty: of all."""
    limit: int | None = None
    """How many messages at most."""
    timeout: float = 1.0
    """Seconds to wait for more, once everything has been moved."""
    forever: bool = False
    """Go on until :meth:`Mover.stop`."""
    ties: Sequence[Binding] = ()
    """Bindings of the source that only its application knows."""


class End(NamedTuple):
    """A store, as the mover takes part in it."""

    engine: Any
    consumer: Consumer


class Mover:
    """One run. ``source`` and ``destination`` are engines; ``node`` is who we are in both of them."""

    def __init__(
        self,
        source: Any,
        destination: Any,
        node: NodeInfo,
        alive: Callable[[int, float], bool],
        wanted: Wanted,
        told: Callable[[Report], None] = lambda report: None,
    ) -> None:
        """``alive`` is that of ``Broker.recover``; ``told`` is called after each step.

        Raises ``ImproperlyConfigured`` if both are the same store.
        """
        if source.url == destination.url or (
            hasattr(source, "shares_store") and source.shares_store(destination)
        ):
            raise ImproperlyConfigured(f"source and destination are the same store: {source.url}")
        self.report = Report()
        self._source, self._destination = source, destination
        self._node, self._alive, self._wanted, self._told = node, alive, wanted, told
        self._epoch = 0
        self._beaten = 0.0
        self._held = 0
        self._stopping = False
        self._buried: dict[str, set[tuple[Any, ...]]] = {}
        self._translate = priorities(source.urgencies, destination.urgencies)

    def stop(self) -> None:
        """End after the step that is being done. May be called by a signal handler."""
        self._stopping = True

    def run(self) -> Report:
        """Move what is wanted, and return the report.

        Raises ``ImproperlyConfigured`` if another move is under way here or there, or the source does not
        tell its queues; ``OperationalError`` if a store cannot be reached: run it again then.
        """
        with _signed_on(self._node, (self._source, self._destination), self._alive):
            there = self._attach(self._destination)
            try:
                ledger = Ledger(self._destination, there.consumer, self._source.url)
                self._carry_orders()
                self._release(there)
                complete = self._rounds(ledger, there)
                ledger.close(complete, getattr(self._source, "reaches_leases", True), self._wanted.queues)
            finally:
                there.consumer.close()
        return self.report

    # -- the course of it ----------------------------------------------------------------------------

    def _rounds(self, ledger: Ledger, there: End) -> bool:
        """Go through the queues until nothing comes any more; whether the source is known to be empty."""
        deadline = time.monotonic() + self._wanted.timeout
        while True:
            before = self.report.total + self.report.repeated
            here = self._attach(self._source)
            try:
                for queue, goal in self._queues().items():
                    self._drain(here, ledger, queue, goal)
                    self._release(there)
                    self._move_dead(queue, goal)
                if self.report.total + self.report.repeated > before:
                    deadline = time.monotonic() + self._wanted.timeout
                over = self._done() or (time.monotonic() >= deadline and not self._wanted.forever)
                if not over:
                    self._beat()
                    here.consumer.wait(list(self._queues()), min(1.0, self._wanted.timeout))
            finally:
                # What was held back returns to its place.
                here.consumer.close()
                self._held = 0
            if over:
                return self._look_back()

    def _queues(self) -> dict[str, str]:
        if self._wanted.queues:
            return dict(self._wanted.queues)
        ties = [tie for tie in self._source.ties() if _of_tasks(tie)]
        found = sorted({*self._source.queues(), *(tie.queue for tie in ties)} - set(_OWN_QUEUES))
        if not found and not getattr(self._source, "lists_queues", True):
            raise ImproperlyConfigured(
                f"{self._source.url} does not tell its queues: name them with -Q, or the application with -A"
            )
        return {name: name for name in found if not name.startswith("bcast.")}

    def _drain(self, here: End, ledger: Ledger, queue: str, goal: str) -> None:
        """Move a queue's messages: those in line first, then the waiting ones."""
        while not self._done() and self._held < HELD_AT_MOST:
            self._beat()
            answer = here.consumer.exchange([], [queue], self._room(BATCH))
            if answer.deliveries:
                self._move(here, ledger, answer.deliveries, goal, answer.now)
            elif not self._bring_forward(queue):
                return
            self._told(self.report)

    def _bring_forward(self, queue: str) -> int:
        """Make a part of what waits ready: only messages of the wanted tasks, where that can be seen."""
        if not self._wanted.tasks:
            return int(self._source.bring_forward(queue, self._room(BATCH)))
        ids = self._waiting_ids(queue)
        return int(self._source.bring_forward(queue, self._room(BATCH), ids)) if ids else 0

    def _waiting_ids(self, queue: str) -> list[str]:
        ids = []
        for state in ("parked", "delayed"):
            offset = 0
            while page := self._source.peek(queue, offset, BATCH, state):
                offset += len(page)
                for payload in page:
                    try:
                        found = parcel(payload, queue, False, 0.0, None)
                    except DecodeError:
                        continue
                    if found.task in self._wanted.tasks:
                        ids.append(found.task_id)
        return ids

    # -- a batch -------------------------------------------------------------------------------------

    def _move(self, here: End, ledger: Ledger, deliveries: Sequence[Delivery], goal: str, now: float) -> None:
        """Bring a batch over. The two ends know of one another only by the notes: publish first, then ack."""
        fresh: list[tuple[Delivery, Parcel]] = []
        outcomes: list[Outcome] = []
        unreadable: list[Delivery] = []
        for delivery in deliveries:
            try:
                made = parcel(delivery.payload, goal, goal != delivery.queue, now, self._translate)
            except DecodeError:
                unreadable.append(delivery)
                continue
            if self._wanted.tasks and made.task not in self._wanted.tasks:
                self._held += 1
            elif ledger.known(made.identity):
                outcomes.append(_ack(delivery, made))
                self.report.repeated += 1
            else:
                fresh.append((delivery, made))
        self._track([made for _, made in fresh])
        publications = [
            made.publication if made.publication.unique is None else staging.staged(made.publication)
            for _, made in fresh
        ]
        ledger.publish(publications, [made.identity for _, made in fresh], deliveries[0].queue)
        for delivery, made in fresh:
            outcomes.append(_ack(delivery, made))
            (self.report.delayed if made.delayed else self.report.ready)[delivery.queue] += 1
        outcomes += self._bury_unreadable(unreadable, goal)
        refused = set(here.consumer.exchange(outcomes, [], 0).refused)
        for delivery, made in fresh:
            if delivery.token in refused:
                ledger.remember(made.identity)
        ledger.settled()

    def _track(self, made: Sequence[Parcel]) -> None:
        """What the source knows to be queued shall be known to be so at the destination."""
        if not made or not (hasattr(self._source, "presence") and hasattr(self._destination, "presence")):
            return
        known = self._source.presence([one.task_id for one in made])
        for one in made:
            found = known.get(one.task_id)
            if found is not None and found.value == "queued":
                one.publication.track = TRACKED

    def _bury_unreadable(self, deliveries: Sequence[Delivery], goal: str) -> list[Outcome]:
        """What cannot be read becomes a dead letter, as with a worker; it has no id to be told apart by."""
        if self._wanted.tasks or not deliveries:
            self._held += len(deliveries)
            return []
        detail = "moved by celeriac migrate, which could not read it"
        now = time.time()
        letters = [DeadLetter("", goal, "undecodable", detail, now, "", "", d.payload) for d in deliveries]
        self._bury(goal, letters, lambda letter: ("undecodable", letter.payload))
        self.report.dead.update(delivery.queue for delivery in deliveries)
        return [Outcome(delivery.token, delivery.queue) for delivery in deliveries]

    def _release(self, there: End) -> None:
        for queue, key, holder in staging.release(self._destination, there.consumer):
            self.report.leave(
                queue,
                f"a message waits in {staging.QUEUE} at the destination: its unique key {key!r} is held "
                f"there by task {holder}. Run this command again when that has ended",
            )

    # -- dead letters --------------------------------------------------------------------------------

    def _move_dead(self, queue: str, goal: str) -> None:
        """Copy the dead letters of a queue, the oldest first, and delete each part of them in the source."""
        letters = [letter for page in _pages(self._source, queue) for letter in page]
        if self._wanted.tasks:
            letters = [letter for letter in letters if letter.task in self._wanted.tasks]
        letters.reverse()
        while letters and not self._done():
            self._beat()
            part = letters[: self._room(BATCH)]
            del letters[: len(part)]
            for letter in part:
                letter.queue = goal
            self._bury(goal, part, _letter_identity)
            self._source.purge_dead([letter.key for letter in part])
            self.report.dead[queue] += len(part)
            self._told(self.report)

    def _bury(
        self, goal: str, letters: Sequence[DeadLetter], identity: Callable[[DeadLetter], tuple[Any, ...]]
    ) -> None:
        """Store dead letters at the destination, but those that a killed run has stored there before."""
        if goal not in self._buried:
            self._buried[goal] = set()
            for page in _pages(self._destination, goal):
                for letter in page:
                    self._buried[goal] |= {_letter_identity(letter), (letter.reason, letter.payload)}
        there = self._buried[goal]
        missing = [letter for letter in letters if identity(letter) not in there]
        if missing:
            self._destination.bury(missing)
            there.update(map(identity, missing))

    # -- what goes along, and what stays -------------------------------------------------------------

    def _carry_orders(self) -> None:
        """Bindings and revoked ids: stored at the destination before the first message that they concern."""
        names = self._queues()
        ties = [*self._source.ties(), *self._wanted.ties]
        moved = [tie._replace(queue=names[tie.queue]) for tie in dict.fromkeys(ties) if _carried(tie, names)]
        if moved:
            self._destination.bind(moved)
        if hasattr(self._source, "control") and hasattr(self._destination, "revoke"):
            revoked = self._source.control(0).revoked
            if revoked:
                self._destination.revoke(revoked, REVOKED)

    def _look_back(self) -> bool:
        """Name what stays in the queues; whether nothing does that could be a message of ours."""
        queues = self._queues()
        paused = set(self._source.control(0).paused) if hasattr(self._source, "control") else set()
        nodes = self._source.nodes() if hasattr(self._source, "nodes") else []
        leased = 0
        for queue, depth in self._source.depth(list(queues)).items():
            leased += depth.leased
            if depth.leased:
                names = [node.name for node in nodes if queue in node.queues and node.id != self._node.id]
                whose = f"by {', '.join(sorted(names))}" if names else "by workers that have not been seen"
                self.report.leave(
                    queue, f"{depth.leased} leased {whose}: run this again when they have ended"
                )
            if queue in paused and depth.ready:
                self.report.leave(
                    queue, f"{depth.ready} ready, but the queue is paused: 'celeriac queues resume {queue}'"
                )
        held = getattr(self._source, "unacknowledged", lambda: 0)()
        if held:
            self.report.leave(
                "unacked",
                f"{held} held by workers of Celery: stop these in order, or wait for the visibility_timeout",
            )
        whole = not (self._stopping or self._wanted.tasks or self._wanted.limit)
        return whole and not leased and not paused

    # -- small things --------------------------------------------------------------------------------

    def _room(self, most: int) -> int:
        limit = self._wanted.limit
        return most if limit is None else max(1, min(most, limit - self.report.total))

    def _done(self) -> bool:
        limit = self._wanted.limit
        return self._stopping or (limit is not None and self.report.total >= limit)

    def _beat(self) -> None:
        if time.monotonic() - self._beaten >= _BEAT:
            self._beaten = time.monotonic()
            self._source.beat(self._node)
            self._destination.beat(self._node)

    def _attach(self, engine: Any) -> End:
        self._epoch += 1
        return End(engine, engine.attach(Incarnation(self._node.id, 1, self._epoch, slots=0)))


@contextmanager
def _signed_on(node: NodeInfo, stores: Sequence[Any], alive: Callable[[int, float], bool]) -> Iterator[None]:
    """Be a node of these stores while this lasts, the only one that moves messages there."""
    node.details["pool"] = _POOL
    try:
        for store in stores:
            store.recover(node.host, alive)  # what a killed run held comes back at once
            store.beat(node)
        for store in stores:
            for other in store.nodes() if hasattr(store, "nodes") else ():
                if other.id != node.id and other.details.get("pool") == _POOL:
                    raise ImproperlyConfigured(
                        f"{other.name} (pid {other.pid}) moves messages of {store.url} already: let it end "
                        f"first. If it was killed on another machine, wait {other.lease:g} s"
                    )
        yield
    finally:
        for store in stores:
            with suppress(CeleriacError):  # its lease ends by itself; the error that matters is on its way
                store.leave(node.id)


def _ack(delivery: Delivery, made: Parcel) -> Outcome:
    unique = made.publication.unique
    return Outcome(
        delivery.token,
        delivery.queue,
        Verdict.ACK,
        task_id=made.task_id,
        unique=unique.key if unique is not None else "",
    )


def _pages(engine: Any, queue: str) -> Iterator[list[DeadLetter]]:
    offset = 0
    while page := engine.dead_letters(queue, offset, BATCH):
        yield page
        offset += len(page)


def _letter_identity(letter: DeadLetter) -> tuple[Any, ...]:
    digest = hashlib.blake2b(letter.payload, digest_size=16).hexdigest()
    return (letter.reason, round(letter.at, 3), letter.task_id, digest)


def _carried(tie: Binding, names: Mapping[str, str]) -> bool:
    return tie.queue in names and _of_tasks(tie)


def _of_tasks(tie: Binding) -> bool:
    """Whether it is none of the exchanges of Celery's remote control and events."""
    return not tie.exchange.endswith("pidbox") and tie.exchange != "celeryev"
