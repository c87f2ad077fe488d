"""Firing: from items whose time has come to ticks in the store.

1. :func:`plan` decides which due time of an item is fired, and which of those that were missed.
2. :meth:`Firing.fire` writes the messages and has the store mark and publish them: in one step where the
   broker is the store that keeps the schedule (a tick is fired once, whatever dies in between); else it
   publishes first, under a unique key of the tick's own if the broker keeps such keys, and marks afterwards.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, NamedTuple

from celeriac import signals
from celeriac.app.definition import ON_TIME, Definition
from celeriac.app.stores import schedule_scope
from celeriac.app.ticks import messages, tick_id
from celeriac.beat.agenda import Item, newest
from celeriac.engines.base import Hold, Publication, Unique
from celeriac.engines.schedule import ScheduleStore, Term, Tick
from celeriac.exceptions import Fenced, OperationalError
from celeriac.schedules import cron, crontab

if TYPE_CHECKING:
    from celeriac.app.base import Celeriac

logger = logging.getLogger("celeriac.beat")

PUBLISHED_FOR = 3600.0
"""Seconds for which a broker that is not the schedule's store remembers that a tick was published."""


class Plan(NamedTuple):
    """What is to be done about an item now."""

    due: float | None
    """The due time that is fired or left out; ``None`` if there is none yet."""
    fire: bool = True
    """Whether it is fired; else it was missed and is marked as done."""
    again: float | None = None
    """When to ask ``is_due`` next, epoch seconds (only then)."""


def plan(item: Item, now: float, deadline: float | None) -> Plan:
    """Decide what to do about an item whose time has come.

    ``deadline`` is ``beat_cron_starting_deadline``.
    """
    definition = item.definition
    if definition.by_is_due:
        return _asked(item, now)
    assert item.due is not None
    due = item.due
    following = _following(definition, item.since)
    later = following(due)
    if later is not None and later + definition.delay(later) <= now:
        count = definition.catch_up if definition.missed == "all" else 1
        passed = _passed(definition, following, due, now, count)
        due = (passed[0] if definition.missed == "all" else passed[-1]) if passed else due
    late = now - due - definition.delay(due)
    if definition.missed == "skip" and late > ON_TIME:
        return Plan(due, False)
    if deadline is not None and late > deadline and isinstance(definition.schedule, crontab | cron):
        return Plan(due, False)
    return Plan(due)


def _passed(
    definition: Definition, following: Callable[[float], float | None], first: float, now: float, count: int
) -> list[float]:
    """The last ``count`` due times from ``first`` whose ticks should have been sent, the earliest first."""
    found = [d for d in newest(following, first, now, count) if d + definition.delay(d) <= now]
    if len(found) < count and definition.jitter and first <= now - definition.jitter:
        # Jitter puts off the latest ones; those before it are over for certain.
        found = sorted({*found, *newest(following, first, now - definition.jitter, count)})
    return found[-count:]


def _asked(item: Item, now: float) -> Plan:
    """Ask a schedule of the user's whether it is due. Its due time is then the present."""
    start, end = item.definition.start, item.definition.end
    if end is not None and now > end.timestamp():
        return Plan(None)
    if start is not None and now < start.timestamp():
        return Plan(None, again=start.timestamp())
    last = datetime.fromtimestamp(item.ran or item.since, UTC)
    is_due, wait = item.definition.schedule.is_due(last)
    again = None if wait is None else now + max(float(wait), _SOONEST)
    return Plan(round(now, 6), again=again) if is_due else Plan(None, again=again)


_SOONEST = 0.01
"""Seconds before ``is_due`` is asked again, whatever it says."""


def _following(definition: Definition, since: float) -> Callable[[float], float | None]:
    return lambda moment: definition.next_due(moment, since)


class Firing:
    """Has ticks fired, for one beat."""

    def __init__(self, app: Celeriac, store: ScheduleStore) -> None:
        self.app = app
        self.store = store
        self.scope = schedule_scope(app)
        broker = app.write_broker
        self.fused: bool = getattr(store, "url", None) == broker.url
        """Whether marking a tick and publishing its message are one step."""
        self.keeps_keys = hasattr(broker, "holder")
        """Whether the broker keeps the unique keys that tasks ask for."""
        self.keyed = self.keeps_keys and not getattr(broker, "keys_are_queues", False)
        """Whether they are so cheap that each tick may have one."""

    def tick(self, item: Item, due: float, fire: bool) -> Tick:
        """The tick of an item. A message that cannot be written is logged, and the tick is left out."""
        definition = item.definition
        if not fire:
            logger.warning("Scheduler: leaving out %s (%s), missed", definition.name, definition.task)
            return Tick(definition.name, due)
        task_id = tick_id(self.scope, definition.name, due)
        try:
            batch = messages(self.app, definition, task_id, due)
            if len(batch) > 1:
                self.app.write_broker.publish(batch[:-1])
        except OperationalError:
            raise
        except Exception:
            logger.exception("Scheduler: cannot send %s (%s)", definition.name, definition.task)
            return Tick(definition.name, due)
        return Tick(definition.name, due, task_id, batch[-1] if batch else None)

    def fire(self, term: Term, ticks: Sequence[Tick]) -> dict[str, str]:
        """Fire the ticks, at most one an entry; return those left out, as ``ScheduleStore.fire`` does.

        Safe to repeat when an answer was lost. Raises ``Fenced`` and ``OperationalError``.
        """
        messages = {tick.name: tick.publication for tick in ticks if tick.publication is not None}
        if not self.fused:
            ticks = self._publish(ticks)
        try:
            left_out = self.store.fire(term, ticks)
        except (OperationalError, Fenced):
            raise
        except Exception:
            if len(ticks) > 1:
                return self._one_by_one(term, ticks)
            # A message that the store will not take: do not try it for ever.
            logger.exception("Scheduler: the store refuses the tick of %s", ticks[0].name)
            return self.store.fire(term, [Tick(ticks[0].name, ticks[0].due)])
        if signals.after_task_publish.receivers:
            self.app.publisher.announce_after(
                publication.message for name, publication in messages.items() if name not in left_out
            )
        return left_out

    def _one_by_one(self, term: Term, ticks: Sequence[Tick]) -> dict[str, str]:
        left_out = {}
        for tick in ticks:
            left_out.update(self.fire(term, [tick]))
        return left_out

    def _publish(self, ticks: Sequence[Tick]) -> list[Tick]:
        """Publish the messages before they are marked, and return the marks.

        A message that carries a condition of its own keeps it; the others get a key of the tick's. A key that
        the tick itself holds was taken by an attempt that did not come to the mark.
        """
        batch: list[Publication] = []
        senders: list[Tick] = []
        for tick in ticks:
            if tick.publication is not None:
                if not self.keeps_keys:
                    tick.publication.unique = None
                elif tick.publication.unique is None and self.keyed:
                    tick.publication.unique = Unique(f"tick:{tick.task_id}", PUBLISHED_FOR, Hold.EXPIRY)
                batch.append(tick.publication)
                senders.append(tick)
        held = self.app.write_broker.publish(batch) if batch else {}
        others = {senders[index].name for index, holder in held.items() if holder != senders[index].task_id}
        return [
            Tick(tick.name, tick.due, held=True)
            if tick.name in others
            else Tick(tick.name, tick.due, tick.task_id)
            for tick in ticks
        ]
