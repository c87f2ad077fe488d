"""One slot, in the main thread: the prefork and solo pools.

While tasks are short the child claims several at a time, runs them one after another and settles them in the
exchange that claims the next ones. Three rules keep that from doing harm:

* What is finished is settled before a task starts whose predecessor took longer than a millisecond, or that
  is known or suspected to take as long; and a helper thread settles what a task that overruns leaves
  waiting.
* What has been claimed is given back as soon as a task overruns: by the helper thread after 20 ms, by the
  agent where the task's C code does not let the helper run.
* The number claimed is a few milliseconds' work, by the run times just seen; an explicit
  ``worker_prefetch_multiplier`` is obeyed.
"""

from __future__ import annotations

import contextvars
import logging
import signal
import threading
import time
from types import FrameType
from typing import TYPE_CHECKING, Any

from celeriac.engines.base import Answer, Delivery, Outcome, Verdict
from celeriac.exceptions import Fenced, SoftTimeLimitExceeded
from celeriac.worker.job import Job

if TYPE_CHECKING:
    from celeriac.worker.child import Seat

logger = logging.getLogger("celeriac.worker")

BATCH_SECONDS = 0.004
"""How much work to claim at a time under prefetch "auto"."""
SHORT = 0.001
"""Seconds up to which a task is short: it may wait for the next one's end to be settled."""
FLUSH_AFTER = 0.004
"""Seconds after which the helper settles what waits behind a running task."""
WITHDRAW_AFTER = 0.02
"""Seconds after which the helper gives back what waits to be started behind a running task."""
HELPER_PATIENCE = 1.0
"""Seconds without work after which the helper stops looking."""


class Serial:
    """Claims, runs and settles, one message after the other."""

    def __init__(self, seat: Seat) -> None:
        self.seat = seat
        self.record = seat.record
        self.runner = seat.runner
        self.outcomes: list[Outcome] = []
        self.loops: Any = None
        self._mutex = threading.Lock()
        self._line = threading.Lock()
        self._pace = 0.01
        self._expected: dict[str, float] = {}
        self._running_since = 0.0
        self._job: Job | None = None
        self._helper = Helper(self)

    def work(self) -> None:
        """Work until told to leave; then everything that was finished is settled."""
        if threading.current_thread() is threading.main_thread():  # else nobody keeps soft limits (tests)
            signal.signal(signal.SIGUSR1, self._soft_limit)
        self._helper.start()
        try:
            self._work()
        finally:
            self._helper.stop()
            if self.loops is not None:
                self.loops.close()

    def _work(self) -> None:
        seat = self.seat
        while True:
            seat.heed()
            leaving = seat.leaving
            limit = 0 if leaving or not seat.trusted else self._batch_size()
            if leaving and not self.outcomes:
                return
            if limit == 0 and not self.outcomes:
                seat.await_trust()
                seat.drain_wake()
                continue
            answer = self.exchange(limit)
            if answer.deliveries:
                self._run_batch(answer.deliveries)
            elif limit and not self.outcomes:
                self._idle(answer)

    def exchange(self, limit: int, extra: list[Outcome] | None = None) -> Answer:
        """Settle what is finished, claim up to ``limit``; from the main thread or the helper."""
        if self.runner.events is not None:
            self.runner.events.flush()
        with self._line:
            with self._mutex:
                outcomes, self.outcomes = self.outcomes, []
            if extra:
                outcomes.extend(extra)
            try:
                answer = self.seat.line.exchange(outcomes, limit)
            except BaseException:
                # Interrupted (fenced, a bug): what was finished is settled the next time, or refused then.
                with self._mutex:
                    self.outcomes[:0] = outcomes
                raise
        if answer.refused:
            self.seat.report_refused(answer.refused)
        if answer.version != self.runner.version:
            self.seat.follow(answer.version)
        if answer.owed:
            self.seat.line.finish_chords(answer.owed)
        return answer

    # -- a batch -----------------------------------------------------------------------------------

    def _run_batch(self, deliveries: list[Delivery]) -> None:
        seat, record = self.seat, self.record
        index = seat.queue_index
        batched = len(deliveries) > 1
        if self._helper.asleep:
            self._helper.wake()
        seat.holdings.hold(0, deliveries)
        if batched:
            record.note_claims([(d.token, index[d.queue]) for d in deliveries])
        began, done = time.perf_counter(), 0
        for delivery in deliveries:
            if batched and (seat.leaving or not seat.trusted):
                # Told to leave; or frozen for so long that others may run these by now.
                self.give_back()
                break
            job = self.runner.prepare(delivery)
            if isinstance(job, Outcome):
                if batched and not record.start_claim(
                    0, delivery.token, index[delivery.queue], "", "", (0.0, 0.0), False
                ):
                    break
                record.note_end(0)
                self._keep(job)
                continue
            if self._slow(job.name):
                self.settle()
            if not self._start(job, batched):
                break
            outcome = self._run(job)
            done += 1
            self._keep(outcome)
            if job.once:
                # Until it is settled, its death would be taken for the task's.
                self.settle()
        if done:
            self._pace += 0.3 * ((time.perf_counter() - began) / done - self._pace)

    def _start(self, job: Job, batched: bool) -> bool:
        delivery = job.delivery
        queue = self.seat.queue_index[delivery.queue]
        start = self.record.start_claim if batched else self.record.note_start
        if not start(0, delivery.token, queue, job.context.id or "", job.name, job.soft_hard, job.once):
            return False
        if job.once and not self.seat.line.mark_once(delivery):
            # The lease is gone, and with it our right to run the message.
            self.record.note_end(0)
            return False
        self.seat.holdings.count(job.name)
        return True

    def _run(self, job: Job) -> Outcome:
        began = self._running_since = time.perf_counter()
        self._job = job
        if self.runner.events is not None:
            self.runner.events.keeping = self._expected.get(job.name, 1.0) <= SHORT
        try:
            outcome = self.runner.run(job, self._call_async if job.plan.is_async else None)
        except SoftTimeLimitExceeded as limit:
            # Raised between the task's last instruction and our taking note of it.
            outcome = self.runner.interrupted(job, limit)
        finally:
            self._job = None
            self._running_since = 0.0
        took = time.perf_counter() - began
        known = self._expected.get(job.name)
        self._expected[job.name] = took if known is None else known + 0.3 * (took - known)
        self.record.processed += 1
        return outcome

    def _keep(self, outcome: Outcome) -> None:
        with self._mutex:
            self.outcomes.append(outcome)
        # Only now: a crash up to here must count as one of this task's, and until here it is interruptible.
        self.record.note_end(0)

    def settle(self) -> None:
        """Settle what is finished without claiming."""
        if self.outcomes:
            self.exchange(0)

    def give_back(self) -> None:
        """Return what has been claimed and not started."""
        queues = self.seat.queues
        withdrawn = [
            Outcome(token, queues[queue], Verdict.GIVE_BACK)
            for token, queue in self.record.withdraw(own=True)
        ]
        if withdrawn:
            self.exchange(0, withdrawn)

    def _slow(self, name: str) -> bool:
        """Whether results must not wait for this task: it is new here, or takes longer than a moment."""
        return bool(self.outcomes) and self._expected.get(name, 1.0) > SHORT

    def _batch_size(self) -> int:
        options = self.seat.options
        paced = max(1, min(options.prefetch_max, int(BATCH_SECONDS / self._pace)))
        size = options.prefetch or paced
        limit = options.max_tasks_per_child if options.pool != "solo" else 0
        return min(size, limit - self.record.processed) if limit else size

    def _idle(self, answer: Answer) -> None:
        timeout = 5.0
        if answer.next_due is not None:
            timeout = min(timeout, max(0.0, answer.next_due - answer.now))
        self.seat.line.wait(timeout)
        self.seat.drain_wake()

    # -- the task's own time -----------------------------------------------------------------------

    def _call_async(self, job: Job) -> Any:
        """Run a coroutine function on this child's own loop, which is kept between tasks."""
        import asyncio

        if self.loops is None:
            self.loops = asyncio.Runner()
        # A runner would give every coroutine the context of its first one, and so that one's request.
        call = job.plan.call(*job.context.args, **job.context.kwargs)
        return self.loops.run(call, context=contextvars.copy_context())

    def _soft_limit(self, number: int, frame: FrameType | None) -> None:
        """SIGUSR1: raise in the task, unless it has just ended."""
        job = self._job
        if job is not None and job.armed:
            job.armed = False
            raise SoftTimeLimitExceeded(job.soft_hard[0])

    def overrun(self) -> float:
        """For how long the running task has run, seconds; 0 if none does."""
        since = self._running_since
        return time.perf_counter() - since if since else 0.0


class Helper(threading.Thread):
    """Settles and gives back on behalf of a main thread that is busy with a task.

    It looks every few milliseconds while there is work, and sleeps when there has been none for a second. To
    wake it for each batch would cost 13 us a task: the two threads then fight for the interpreter.
    """

    def __init__(self, serial: Serial) -> None:
        super().__init__(name="celeriac-settle", daemon=True)
        self.serial = serial
        self.asleep = False
        self._wake = threading.Event()
        self._stopping = False

    def stop(self) -> None:
        """End the thread; it is not waited for."""
        self._stopping = True
        self._wake.set()

    def wake(self) -> None:
        """There is work again."""
        self._wake.set()

    def run(self) -> None:
        idle_since = time.monotonic()
        while not self._stopping:
            time.sleep(FLUSH_AFTER)
            overrun = self.serial.overrun()
            if overrun:
                idle_since = 0.0
                self._look(overrun)
            elif not idle_since:
                idle_since = time.monotonic()
            elif time.monotonic() - idle_since > HELPER_PATIENCE:
                self.asleep = True
                self._wake.wait()
                self.asleep = False
                self._wake.clear()
                idle_since = 0.0

    def _look(self, overrun: float) -> None:
        serial = self.serial
        events = serial.runner.events
        if events is not None and overrun >= FLUSH_AFTER:
            events.flush()
        try:
            if overrun >= WITHDRAW_AFTER and serial.record.unstarted:
                serial.give_back()
            elif overrun >= FLUSH_AFTER:
                serial.settle()
        except Fenced:
            return  # the main thread will be told the same, and ends the process
        except Exception:
            logger.exception("Settling behind a running task failed; the child does it when the task ends")
            time.sleep(1.0)
