"""Beat: it leads or stands by, and while it leads it sends periodic tasks when they are due.

Responsibilities:

1. Ask for the term, and renew it; stand by while another beat leads; resign at the end.
2. On taking over: bring the code's entries into the store, and load all entries into the agenda.
3. Follow changes of the entries, within a second.
4. Fire what is due, in batches, and work out when each entry is due next.

A store that is away is waited for. Whatever happens, a tick is fired only by the holder of the term, and only
if the store has not marked it yet.
"""

from __future__ import annotations

import logging
import os
import random
import select
import socket
import time
import uuid
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

from msgspec.structs import replace

from celeriac import engines, signals
from celeriac.app.definition import Definition, decode, encode
from celeriac.beat.agenda import Agenda, Item
from celeriac.beat.counted import LATE, Counted
from celeriac.beat.entries import bring_in, definitions, with_defaults
from celeriac.beat.firing import Firing, Plan, plan
from celeriac.beat.scheduler import find_scheduler
from celeriac.beat.term import Leadership
from celeriac.engines.schedule import CLOCK_STEP, Entry, ScheduleStore, Term
from celeriac.exceptions import Fenced, OperationalError

if TYPE_CHECKING:
    from celeriac.app.base import Celeriac
    from celeriac.beat.scheduler import Scheduler

logger = logging.getLogger("celeriac.beat")

STANDBY = 0.5
"""Seconds between looks of those that stand by, a fifth more or less."""
FOLLOW = 0.5
"""Seconds between looks for changed entries."""
BATCH = 500
"""Ticks a request."""
ROUNDS = 20
"""Requests between looks for changed entries."""
LOAD = 1000
"""Entries that are loaded between looks at the term."""
FIRST_PAUSE, LONGEST_PAUSE = 0.05, 2.0
"""Seconds between attempts to reach a store that is away: doubling, each drawn from half to whole."""


class Beat:
    """A scheduler. :meth:`run` returns when :meth:`stop` was called, from a signal handler or a thread.

    ``max_interval`` is the longest sleep in seconds (default: ``beat_max_loop_interval``); ``scheduler`` a
    class or name as ``beat_scheduler`` takes it; ``embedded`` says that it belongs to a worker; ``life``
    (:func:`new_life`) lets it go on at once with the term of a process that is known to be dead. Raises
    ``ImproperlyConfigured`` for a scheduler or an entry of the code that cannot be.
    """

    def __init__(
        self,
        app: Celeriac,
        max_interval: float | None = None,
        scheduler: Any = None,
        hostname: str | None = None,
        embedded: bool = False,
        life: str | None = None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.app = app
        self.hostname = hostname or f"celerybeat@{socket.gethostname()}"
        self.embedded = embedded
        self.max_interval = max_interval or app.conf.beat_max_loop_interval or None
        self.store, self.single = _store(app)
        holder = f"{app.main or ''}:{self.hostname}/{life or new_life()}"
        self.leadership = Leadership(self.store, holder, monotonic=monotonic)
        self.agenda = Agenda()
        self.firing = Firing(app, self.store)
        self.scheduler: Scheduler | None = None
        kind = find_scheduler(app, scheduler)
        if kind is not None:
            self.scheduler = kind(app=app, max_interval=max_interval)
        self.code: dict[str, Definition] = self._read_code()
        self._monotonic = monotonic
        self._token = 0
        """The term for which the agenda was loaded; 0 if it was not."""
        self._version = 0
        self._due: dict[str, float] = {}
        """When what is done now and then is to be done again, by ``_monotonic``."""
        self._over: list[Definition] = []
        """One-off entries that have had their tick and are to be disabled."""
        self._behind = ""
        self._stopping = False
        self.counted = Counted()
        self.ticked = time.monotonic()
        """When the loop went round last (``time.monotonic()``)."""
        self._pause = FIRST_PAUSE
        self._away: float | None = None
        # Not a pipe's bare descriptors: stop() may come when they are closed, and belong to another file.
        self._wake, self._waker = socket.socketpair()
        self._waker.setblocking(False)

    # -- running -----------------------------------------------------------------------------------

    def run(self) -> None:
        """Lead or stand by until told to stop; then resign."""
        logger.info("beat: Starting...")
        self._say_limits()
        signals.beat_init.send(sender=self)
        if self.embedded:
            signals.beat_embedded_init.send(sender=self)
        while not self._stopping:
            self._sleep(self.attempt())
        self._end()

    def stop(self) -> None:
        """Ask :meth:`run` to return. Safe in a signal handler and from another thread."""
        self._stopping = True
        try:
            self._waker.send(b".")
        except OSError:
            pass  # it has been woken already, or has ended

    def attempt(self) -> float:
        """:meth:`step`, patient with a store that is away; return for how many seconds to sleep."""
        self.ticked = time.monotonic()
        try:
            pause = self.step()
        except OperationalError as error:
            return self._be_patient(error)
        except Fenced as error:
            logger.warning("beat: leading no longer: %s", error)
            self._stand_down()
            return 0.0
        except Exception:
            logger.exception("beat: something failed, trying on")
            return LONGEST_PAUSE
        if self._away is not None:
            logger.info("beat: the store is back after %.1f s", time.monotonic() - self._away)
            self._away, self._pause = None, FIRST_PAUSE
        return pause

    def step(self) -> float:
        """Do what is to be done now; return for how many seconds there is nothing to do.

        Raises ``OperationalError`` if a store is away, and ``Fenced`` if the term went to another.
        """
        if not self._leads() and not self._take_over():
            return STANDBY * random.uniform(0.8, 1.2)
        self._keep()
        self._follow()
        self._fire_due()
        if self._is_time("late") and self.counted.say_late():
            self._due["late"] = self._monotonic() + LATE
        self._disable_over()
        return self._rest()

    @property
    def reaches_store(self) -> bool:
        """Whether the store answered when it was last asked."""
        return self._away is None

    @property
    def leads(self) -> bool:
        """Whether this beat leads now."""
        return self._leads()

    def _sleep(self, pause: float) -> None:
        self.counted.wakes = time.monotonic() + pause
        if pause > 0 and not self._stopping:
            readable, _, _ = select.select([self._wake], [], [], pause)
            if readable:
                self._wake.recv(4096)

    def _be_patient(self, error: OperationalError) -> float:
        if self._away is None:
            self._away = time.monotonic()
            logger.warning("beat: the store cannot be reached, trying on: %s", error)
        pause, self._pause = self._pause, min(self._pause * 2, LONGEST_PAUSE)
        return pause * random.uniform(0.5, 1.0)

    def _end(self) -> None:
        led = self._leads()
        if led:
            try:
                self.leadership.resign()
                logger.info("beat: resigned")
            except OperationalError as error:
                logger.warning("beat: could not resign, another takes over in a few seconds: %s", error)
        if self.scheduler is not None:
            self.scheduler.close()
        self._wake.close()
        self._waker.close()

    # -- leading -----------------------------------------------------------------------------------

    def _leads(self) -> bool:
        term = self.leadership.term
        return term is not None and self.leadership.holds and term.token == self._token

    def _take_over(self) -> bool:
        """Lead if nobody else does."""
        if not self.leadership.holds:
            leader = self.store.leader()
            if leader is not None and leader.holder != self.leadership.holder:
                self._stand_by(leader)
                return False
            if not self.leadership.ask():
                return False
        self._behind = ""
        self._load()
        return True

    def _stand_by(self, leader: Term) -> None:
        if self._token:
            self._stand_down()
        if leader.holder == self._behind:
            return
        self._behind = leader.holder
        other, _, name = leader.holder.partition(":")
        logger.info("beat: standing by, %s leads", name)
        if other != (self.app.main or ""):
            logger.warning(
                "beat: %s, which leads, belongs to the application %r and fires its entries only: give "
                "this application (%r) a beat_scope of its own",
                name,
                other,
                self.app.main or "",
            )

    def _stand_down(self) -> None:
        """Another leads: forget what only the leader may know."""
        self.leadership.lose()
        self._token, self._version = 0, 0
        self._over.clear()
        self.agenda.clear()
        if self.scheduler is not None:
            self.scheduler.sync()

    def _keep(self) -> None:
        """Put off the end of the term in time."""
        if self.leadership.wants_renewal and not self.leadership.ask():
            raise Fenced("another beat has taken the term")
        if not self.leadership.holds:
            raise OperationalError("the term could not be renewed in time")

    # -- the agenda --------------------------------------------------------------------------------

    def _read_code(self) -> dict[str, Definition]:
        if self.scheduler is not None:
            return definitions(self.app, self.scheduler.schedule)
        return definitions(self.app, with_defaults(self.app, self.app.conf.beat_schedule))

    def _load(self) -> None:
        """Bring in the code's entries and take up all there are."""
        term = self.leadership.term
        assert term is not None
        if self._token == term.token:
            return
        started = time.monotonic()
        self.agenda.clear()
        found = bring_in(self.store, term, self.code, self.leadership.now, self._keep)
        self._take_up(found.entries)
        self._version, self._token = found.version, term.token
        self._say_ahead()
        logger.info(
            "beat: leading (term %d), %d entries, loaded in %.2f s",
            term.token, len(self.agenda), time.monotonic() - started,
        )  # fmt: skip

    def _say_ahead(self) -> None:
        """Warn of entries that have come further than the time is: they wait, for nothing is sent twice."""
        now = self.leadership.now + CLOCK_STEP
        ahead = [item.last for item in self.agenda if item.last is not None and item.last > now]
        if ahead:
            logger.warning(
                "beat: the store's clock was set back: %d entries have had their ticks up to %s at the "
                "latest, and are sent again when that is over",
                len(ahead),
                datetime.fromtimestamp(max(ahead), self.app.timezone).isoformat(" ", "seconds"),
            )

    def _follow(self) -> None:
        """Take up entries that have changed."""
        if self.scheduler is not None and self._is_time("scheduler"):
            self._follow_scheduler(self.scheduler)
        if not self._is_time("follow"):
            return
        self._due["follow"] = self._monotonic() + FOLLOW
        if self.store.schedule_version() == self._version:
            return
        found = self.store.schedule(self._version)
        if found.complete:
            # It does not know our version: it may have been emptied, and lacks the code's entries then.
            self._token = 0
            self._load()
            return
        for name in found.removed:
            self.agenda.drop(name)
        self._take_up(found.entries)
        self._version = found.version

    def _follow_scheduler(self, scheduler: Scheduler) -> None:
        """Bring in what the scheduler class has changed. If it fails, what it said last goes on."""
        assert self.leadership.term is not None
        self._due["scheduler"] = self._monotonic() + scheduler.max_interval
        try:
            self._due["scheduler"] = self._monotonic() + max(float(scheduler.tick()), FOLLOW)
            said = self._read_code()
        except Exception:
            logger.exception("beat: %s failed, its entries stay as they are", type(scheduler).__qualname__)
            return
        before = self.code
        code = {name: before[name] if _same(new, before.get(name)) else new for name, new in said.items()}
        if code != before:
            bring_in(self.store, self.leadership.term, code, self.leadership.now, self._keep)
            self.code = code
            self._due.pop("follow", None)

    def _is_time(self, what: str) -> bool:
        return self._monotonic() >= self._due.get(what, 0.0)

    def _take_up(self, entries: Sequence[Entry]) -> None:
        for number, entry in enumerate(entries):
            if number % LOAD == 0:
                self._keep()
            self.agenda.drop(entry.name)
            definition = self._definition(entry) if entry.enabled else None
            if definition is not None:
                self._begin(Item(definition, entry))

    def _definition(self, entry: Entry) -> Definition | None:
        if entry.source == "code" and entry.name in self.code:
            return self.code[entry.name]
        try:
            return decode(self.app, entry.name, entry.definition)
        except ValueError as error:
            logger.error("beat: %s; the entry is not fired", error)
            return None

    def _begin(self, item: Item) -> None:
        """Put an item as it came from the store where it belongs."""
        definition = item.definition
        if definition.by_is_due:
            self.agenda.put(item, self.leadership.now)
            return
        try:
            item.due = definition.first_due(item.last, item.since)
        except Exception:
            self._fails(item)
            return
        self._wait(item)

    def _wait(self, item: Item) -> None:
        """Keep the item until its due time; one that will have none any more is done."""
        definition, due = item.definition, item.due
        self.agenda.put(item, None if due is None else due + definition.delay(due))
        if due is None and definition.once:
            self._over.append(definition)

    def _fails(self, item: Item) -> None:
        logger.exception(
            "beat: the schedule of %s failed; it is not fired until it is changed", item.definition.name
        )
        item.due = None
        self.agenda.put(item, None)

    # -- firing ------------------------------------------------------------------------------------

    def _fire_due(self) -> None:
        for _ in range(ROUNDS):
            if self._stopping:
                return
            self._keep()
            now = self.leadership.now
            items = self.agenda.take(now, BATCH)
            if not items:
                return
            try:
                self._fire(items, now)
            except BaseException:
                # Nothing is known of what became of them: look at them again. What was fired is marked.
                for item in items:
                    if item.definition.name in self.agenda.items:
                        self.agenda.put(item, now)
                raise

    def _fire(self, items: Sequence[Item], now: float) -> None:
        assert self.leadership.term is not None
        plans = [(item, self._plan(item, now)) for item in items]
        wanted = [(item, made) for item, made in plans if made.due is not None]
        ticks = [self.firing.tick(item, made.due, made.fire) for item, made in wanted if made.due is not None]
        left_out = self.firing.fire(self.leadership.term, ticks) if ticks else {}
        for tick, (item, made) in zip(ticks, wanted, strict=True):
            reason = left_out.get(tick.name)
            definition = item.definition
            if reason is None and made.fire and tick.task_id:
                self.counted.fired(definition.name, now - tick.due, definition.delay(tick.due))
                logger.info("Scheduler: Sending due task %s (%s)", definition.name, definition.task)
                logger.debug("%s sent. id->%s", definition.task, tick.task_id)
            elif reason == "held":
                self.counted.held += 1
                logger.info("Scheduler: leaving out %s (%s), it still runs", definition.name, definition.task)
            if reason == "gone":
                self.agenda.drop(tick.name)
        for item, made in plans:
            if item.definition.name in self.agenda.items:
                self._advance(item, made, now)

    def _plan(self, item: Item, now: float) -> Plan:
        try:
            return plan(item, now, self.app.conf.beat_cron_starting_deadline)
        except Exception:
            self._fails(item)
            return Plan(None)

    def _advance(self, item: Item, made: Plan, now: float) -> None:
        """Find out when the item has to be looked at next."""
        if made.due is not None:
            item.last, item.ran = made.due, now
        if item.definition.by_is_due:
            self.agenda.put(item, made.again)
        elif made.due is not None:
            try:
                item.due = item.definition.next_due(made.due, item.since)
            except Exception:
                self._fails(item)
                return
            self._wait(item)

    def _disable_over(self) -> None:
        if self._over and self.leadership.term is not None:
            entries = [
                Entry(d.name, _written(d), "code" if d.name in self.code else "store", False)
                for d in self._over
            ]
            self.store.put_entries(entries, self.leadership.term)
            self._over.clear()

    def _rest(self) -> float:
        rests = [self.leadership.rest, self._due["follow"] - self._monotonic()]
        if self.max_interval is not None:
            rests.append(self.max_interval)
        if (due := self.agenda.next) is not None:
            rests.append(due - self.leadership.now)
        return max(0.0, min(rests))

    def _say_limits(self) -> None:
        if self.single:
            logger.warning(
                "beat: neither the broker nor the result backend can keep schedules: this beat must be the "
                "only one, and forgets at its end when each entry ran last. Use SQLite, "
                "PostgreSQL or Redis"
            )
        elif not self.firing.fused:
            consequence = "the broker refuses it for an hour" if self.firing.keyed else "it is sent twice"
            logger.warning(
                "beat: schedules are kept in another store than messages: if a beat dies after it has sent a "
                "tick's message and before it has marked it, the next one sends it again (%s)",
                consequence,
            )


def new_life() -> str:
    """What tells one life of a beat from all others."""
    return f"{os.getpid()}.{uuid.uuid4().hex[:8]}"


def _same(one: Definition, other: Definition | None) -> bool:
    return other is not None and _written(replace(one, changed=other.changed)) == _written(other)


def _written(definition: Definition) -> bytes:
    return encode(definition, strict=False)


def _store(app: Celeriac) -> tuple[ScheduleStore, bool]:
    """The store of schedules, and whether it is this process's own, because there is no other."""
    coordinator = app.coordinator
    if coordinator is not None and hasattr(coordinator, "fire"):
        return coordinator, False
    return engines.create(f"memory://celeriac-beat-{uuid.uuid4().hex}", {}), True
