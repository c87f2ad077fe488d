"""Many slots in one process: the claiming side of the threads, asyncio and green pools.

One thread (or greenlet) claims as many messages as slots are free and settles what they finish; nothing is
claimed that cannot start at once. What runs a slot is the pool's, in a module of its own.
"""

from __future__ import annotations

import logging
import select
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module
from typing import TYPE_CHECKING, Protocol

from celeriac.engines.base import Delivery, Outcome
from celeriac.worker.job import Job

if TYPE_CHECKING:
    from celeriac.worker.child import Seat

logger = logging.getLogger("celeriac.worker")

PATIENCE = 1.0
"""Seconds between looks at the orders while every slot is busy."""


class Pool(Protocol):
    """Runs jobs in slots."""

    def host(self, claiming: Callable[[], None]) -> None:
        """Run ``claiming`` to its end, with the pool's own machinery around it."""
        ...

    def start(self, slot: int, job: Job, finished: Callable[[int, Outcome], None]) -> None:
        """Run ``job``; call ``finished(slot, outcome)`` when it has ended, from anywhere."""
        ...

    def cancel(self, job: Job) -> None:
        """End one running job early, if the pool can (a revoke with ``terminate``)."""
        ...


def work(seat: Seat) -> None:
    """Work with the seat's pool until told to leave."""
    module = {"threads": "threads", "asyncio": "coroutines", "gevent": "green", "eventlet": "green"}
    pool: Pool = import_module(f"celeriac.worker.pools.{module[seat.options.pool]}").create(seat)
    claimer = Claimer(seat, pool)
    pool.host(claimer.work)


class Claimer:
    """Keeps the slots of one child busy."""

    def __init__(self, seat: Seat, pool: Pool) -> None:
        self.seat = seat
        self.pool = pool
        self.free = list(range(seat.options.slots - 1, -1, -1))
        self.jobs: dict[int, Job] = {}
        self.finished: deque[tuple[int | None, Outcome]] = deque()
        self._looked = 0.0
        self._chords: ThreadPoolExecutor | None = None
        seat.on_terminate = self._cancel

    def work(self) -> None:
        seat = self.seat
        while True:
            seat.drain_wake()
            seat.heed()
            outcomes = self._collect()
            leaving = seat.leaving
            if leaving and not outcomes and not self.jobs:
                if self._chords is not None:
                    self._chords.shutdown()
                return
            limit = 0 if leaving or not seat.trusted else self._wanted()
            if not outcomes and not limit:
                self._rest(leaving)
                continue
            answer = seat.line.exchange(outcomes, limit)
            if answer.refused:
                seat.report_refused(answer.refused)
            if answer.version != seat.runner.version:
                seat.follow(answer.version)
            if answer.owed:
                self._finish_chords(answer.owed)
            for delivery in answer.deliveries:
                self._begin(delivery)
            if limit and not answer.deliveries and not self.finished:
                timeout = PATIENCE
                if answer.next_due is not None:
                    timeout = min(timeout, max(0.0, answer.next_due - answer.now))
                seat.line.wait(timeout)

    def _wanted(self) -> int:
        limit = self.seat.options.max_tasks_per_child
        left = limit - self.seat.record.processed - len(self.jobs) if limit else len(self.free)
        return max(0, min(len(self.free), left))

    def _begin(self, delivery: Delivery) -> None:
        seat = self.seat
        job = seat.runner.prepare(delivery)
        if isinstance(job, Outcome):
            self.finished.append((None, job))
            return
        if job.once and not seat.line.mark_once(delivery):
            return
        slot = self.free.pop()
        self.jobs[slot] = job
        queue = seat.queue_index[delivery.queue]
        seat.holdings.hold(slot, [delivery])
        seat.holdings.count(job.name)
        seat.record.note_start(
            slot, delivery.token, queue, job.context.id or "", job.name, job.soft_hard, job.once
        )
        self.pool.start(slot, job, self._end)

    def _finish_chords(self, groups: list[str]) -> None:
        """In a thread: error callbacks that run there must not hold up what other slots have finished."""
        if self._chords is None:
            self._chords = ThreadPoolExecutor(1, thread_name_prefix="celeriac-chords")
        self._chords.submit(self.seat.line.finish_chords, groups)

    def _end(self, slot: int, outcome: Outcome) -> None:
        """A slot has finished (called by the slot)."""
        self.finished.append((slot, outcome))
        self.seat.nudge()

    def _collect(self) -> list[Outcome]:
        """The outcomes to settle; their slots are free again."""
        outcomes = []
        while self.finished:
            slot, outcome = self.finished.popleft()
            outcomes.append(outcome)
            if slot is not None:
                self.seat.record.note_end(slot)
                self.seat.record.processed += 1
                del self.jobs[slot]
                self.free.append(slot)
        return outcomes

    def _rest(self, leaving: bool) -> None:
        """Nothing to settle, and nothing may be claimed: wait for a slot to end, or for an order."""
        if not self.jobs and not leaving:
            self.seat.await_trust()
            return
        select.select([self.seat.wake_read], [], [], PATIENCE)
        coordinator = self.seat.app.coordinator
        if coordinator is not None and not leaving:
            self._look(time.monotonic())

    def _look(self, now: float) -> None:
        """While busy no answers come: ask for orders now and then."""
        if now - self._looked >= PATIENCE:
            self._looked = now
            self.seat.follow(-1)

    def _cancel(self, task_id: str) -> None:
        for job in list(self.jobs.values()):
            if job.context.id == task_id:
                self.pool.cancel(job)
