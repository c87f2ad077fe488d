"""A child's line to its stores: claim and settle, over outages.

One exchange settles what is finished and claims what comes next. While the store is away the line waits and
asks again, with jittered backoff, and never forgets an outcome: an unanswered exchange is repeated under
its own number, so it takes effect once.

Where results are kept in another store than messages, nothing can make both steps one. The order is then:
follow-ups out, results stored, parts of chords recorded, messages acked; and a message that comes back
redelivered is looked up before it runs (``Runner``), so only what is missing is done again.
"""

from __future__ import annotations

import logging
import select
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

import msgspec

from celeriac import signals
from celeriac.engines.base import Answer, Consumer, Delivery, Incarnation, Outcome, Publication
from celeriac.engines.coordinator import Coordinator
from celeriac.engines.history import HistoryStore
from celeriac.exceptions import OperationalError, StoreFull
from celeriac.message import note_sent_before
from celeriac.worker.persist import persist

if TYPE_CHECKING:
    from celeriac.app.base import Celeriac

logger = logging.getLogger("celeriac.worker")

ORDERS_INTERVAL = 0.2
"""Seconds after which a child asks for new orders, where they are kept in another store than messages."""


class Line:
    """The stores as one child sees them. ``wake`` is a file descriptor that interrupts waiting."""

    def __init__(
        self, app: Celeriac, owner: Incarnation, queues: Sequence[str], wake: int | None = None
    ) -> None:
        self.app = app
        self.owner = owner
        self.wake = wake
        self.fused = app.fused
        self.notes_apart = not isinstance(app.broker, HistoryStore)
        """Whether attempts go with the results, because the broker's store keeps no history."""
        self._orders = _orders_apart(app)
        self._asked = 0.0
        self._known = 0
        self._order = (app.conf.broker_transport_options or {}).get("queue_order_strategy", "round_robin")
        self.take_from(queues)
        self.consumer: Consumer = persist("attach", lambda: app.broker.attach(owner))

    def take_from(self, queues: Sequence[str]) -> None:
        """Claim from these queues from now on."""
        self.queues = sorted(queues) if self._order == "sorted" else list(queues)

    def ask_orders(self) -> None:
        """Ask for orders with the next exchange, however lately that was done."""
        self._asked = 0.0

    def exchange(self, outcomes: Sequence[Outcome], limit: int) -> Answer:
        """Settle and claim; returns when the store has answered. Raises ``Fenced``."""
        if limit and self._order == "round_robin" and len(self.queues) > 1:
            # The queue named first is served first: take turns, or a long one starves the others.
            self.queues.append(self.queues.pop(0))
        done, outcomes = outcomes, [outcome for outcome in outcomes if not outcome.settled]
        if not self.fused and outcomes:
            owed = self._store_apart(outcomes)
            answer = self._exchange([self._bare(outcome) for outcome in outcomes], limit)
            answer.owed.extend(owed)
        else:
            answer = self._exchange(outcomes, limit)
        if self._orders is not None and limit:
            answer.version = self._version(self._orders)
        if signals.after_task_publish.receivers and done:
            self._announce(done, answer)
        return answer

    def _version(self, coordinator: Coordinator) -> int:
        """The control version, asked for now and then where the broker's answers do not bring it."""
        now = time.monotonic()
        if now - self._asked > ORDERS_INTERVAL:
            self._asked = now
            try:
                self._known = coordinator.control(self._known).version
            except OperationalError as error:
                logger.warning("Could not read the orders, trying again soon: %s", error)
        return self._known

    def _announce(self, outcomes: Sequence[Outcome], answer: Answer) -> None:
        """Tell of the messages that have gone out with these outcomes: what follows, and next attempts.

        Those of a transactional task went out with its commit, a moment ago.
        """
        stored = [outcome for outcome in outcomes if outcome.settled or outcome.token not in answer.refused]
        messages = [publication.message for outcome in stored for publication in outcome.publications]
        messages += [outcome.message for outcome in stored if outcome.message is not None]
        self.app.publisher.announce_after(messages)

    def _exchange(self, outcomes: Sequence[Outcome], limit: int) -> Answer:
        try:
            return self.consumer.exchange(outcomes, self.queues, limit)
        except StoreFull as error:
            logger.error("The store is full: %s", error)
            return self._settle_only(outcomes)
        except OperationalError as error:
            logger.warning("Lost the broker: %s", error)
            return persist("exchange", self.consumer.repeat)

    def wait(self, timeout: float) -> bool:
        """Wait until a message may be ready; a broker that is away is slept over."""
        if not self.queues:  # all were cancelled: only an order can bring something
            select.select([self.wake] if self.wake is not None else [], [], [], timeout)
            return False
        try:
            return self.consumer.wait(self.queues, timeout, self.wake)
        except OperationalError as error:
            logger.warning("Lost the broker while idle: %s", error)
            select.select([self.wake] if self.wake is not None else [], [], [], min(timeout, 1.0))
            return True

    def mark_once(self, delivery: Delivery) -> bool:
        """Note on the lease that the message must not run again; ``False`` if it is no longer held."""
        return persist("mark a task's start", lambda: self.consumer.mark_once(delivery))

    def close(self) -> None:
        """Give back what is still held and disconnect; a store that is away does it when it recovers us."""
        try:
            self.consumer.close()
        except OperationalError as error:
            logger.warning("Could not sign off at the broker (others will notice): %s", error)

    @staticmethod
    def _forget_checkpoint(store: Coordinator, task_id: str) -> None:
        persist("forget a checkpoint", lambda: store.keep_checkpoint(task_id, b"", 0.0, None))

    def _settle_only(self, outcomes: Sequence[Outcome]) -> Answer:
        """A full store takes no new leases: settle, which frees room, and claim later."""
        return persist("settle", lambda: self.consumer.exchange(outcomes, self.queues, 0))

    def finish_chords(self, groups: Sequence[str]) -> None:
        """Send the bodies of chords that an answer says are owed.

        Nothing that goes wrong here concerns the tasks of this child: what is left undone is found again by
        a node's agent (``Chords.recover``).
        """
        for group in groups:
            try:
                self.app.chords.finish(group, self.owner.name)
            except OperationalError as error:
                logger.warning("Cannot finish the chord %s now (it is tried again later): %s", group, error)
            except Exception:
                logger.exception("Cannot finish the chord %s (it is tried again later)", group)

    def _store_apart(self, outcomes: Sequence[Outcome]) -> list[str]:
        """Store what follows, then results, then parts of chords; return the chords that are owed now.

        Parts come last: a message that comes back and has a result already gets its part recorded then. But
        the part of a task that has brought others into its chord's header comes first: one of them could end
        before, and be taken for the last one. (If this process dies then, the task runs again, its part is
        there already, and what it brings in has the same ids.)
        """
        backend = self.app.backend
        parts = [part for outcome in outcomes for part in outcome.parts]
        growing = [part for part in parts if part.grow]
        if growing and backend is not None:
            persist("record parts of chords", lambda: backend.record_parts(growing, self.owner.name))
        follow_ups = [p for outcome in outcomes for p in outcome.publications if not _waits(p, outcome)]
        if follow_ups:
            persist("publish", lambda: self._send(follow_ups))
        if backend is None:
            return []
        records = [outcome.result for outcome in outcomes if outcome.result is not None]
        records.extend(record for outcome in outcomes for record in outcome.records)
        attempts = [outcome.attempt for outcome in outcomes if outcome.attempt] if self.notes_apart else []
        if attempts:
            persist("store results and attempts", lambda: backend.store(records, attempts))
        elif records:
            persist("store results", lambda: backend.store(records))
        for outcome in outcomes:
            if outcome.forget_checkpoint and self._orders is not None:
                self._forget_checkpoint(self._orders, outcome.task_id)
        last = [part for part in parts if not part.grow]
        if not last:
            return []
        return persist("record parts of chords", lambda: backend.record_parts(last, self.owner.name))

    def _send(self, follow_ups: Sequence[Publication]) -> None:
        """Send what follows; over the connection that holds the messages, if the engine has such a thing."""
        try:
            getattr(self.consumer, "send", self.app.broker.publish)(follow_ups)
        except OperationalError as error:
            if error.maybe_done:
                for publication in follow_ups:
                    note_sent_before(publication.message)
            raise

    def _bare(self, outcome: Outcome) -> Outcome:
        """The outcome without what has been stored elsewhere already."""
        return msgspec.structs.replace(
            outcome,
            result=None,
            publications=[p for p in outcome.publications if _waits(p, outcome)] if outcome.unique else (),
            parts=(),
            records=(),
            attempt=None if self.notes_apart else outcome.attempt,
        )


def _orders_apart(app: Celeriac) -> Coordinator | None:
    """The store of operators' orders, if it is not the broker's."""
    coordinator: object = app.coordinator
    return None if coordinator is app.broker else app.coordinator


def _waits(publication: Publication, outcome: Outcome) -> bool:
    """Whether a follow-up wants the very key that its task's end frees: it goes out with that end."""
    return (
        bool(outcome.unique) and publication.unique is not None and publication.unique.key == outcome.unique
    )
