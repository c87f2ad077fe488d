"""Slots that are coroutines on one event loop: the asyncio pool.

``async def`` tasks run on the main thread's loop; claiming has a thread of its own, so a task that blocks the
loop holds up its fellows but not what is finished. Plain functions run in threads. A limit cancels the
coroutine; one that swallows the cancellation cannot be ended.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from celeriac.engines.base import Outcome
from celeriac.exceptions import SoftTimeLimitExceeded, Terminated, TimeLimitExceeded
from celeriac.worker.job import Job

if TYPE_CHECKING:
    from celeriac.worker.child import Seat


class Coroutines:
    """A coroutine a slot."""

    def __init__(self, seat: Seat) -> None:
        self.runner = seat.runner
        self._executor = ThreadPoolExecutor(seat.options.slots, thread_name_prefix="celeriac-slot")
        self._loop: asyncio.AbstractEventLoop
        self._tasks: dict[Job, asyncio.Task[None]] = {}
        self._error: BaseException | None = None

    def host(self, claiming: Callable[[], None]) -> None:
        asyncio.run(self._host(claiming))
        self._executor.shutdown()
        if self._error is not None:
            raise self._error

    async def _host(self, claiming: Callable[[], None]) -> None:
        self._loop = asyncio.get_running_loop()
        over = asyncio.Event()

        def claim() -> None:
            try:
                claiming()
            except BaseException as error:
                self._error = error
            finally:
                self._loop.call_soon_threadsafe(over.set)

        threading.Thread(target=claim, name="celeriac-claim", daemon=True).start()
        await over.wait()

    def start(self, slot: int, job: Job, finished: Callable[[int, Outcome], None]) -> None:
        if job.plan.is_async:
            self._loop.call_soon_threadsafe(self._spawn, slot, job, finished)
        else:
            self._executor.submit(lambda: finished(slot, self.runner.run(job)))

    def cancel(self, job: Job) -> None:
        """End a coroutine: a revoke with ``terminate``."""
        self._loop.call_soon_threadsafe(self._cut, job, Terminated("revoked"))

    def _spawn(self, slot: int, job: Job, finished: Callable[[int, Outcome], None]) -> None:
        self._tasks[job] = self._loop.create_task(self._run(slot, job, finished))

    async def _run(self, slot: int, job: Job, finished: Callable[[int, Outcome], None]) -> None:
        soft, hard = job.soft_hard
        timers = [
            self._loop.call_later(seconds, self._cut, job, kind(seconds))
            for seconds, kind in ((soft, SoftTimeLimitExceeded), (hard, TimeLimitExceeded))
            if seconds
        ]
        try:
            outcome = await self.runner.arun(job)
        finally:
            self._tasks.pop(job, None)
            for timer in timers:
                timer.cancel()
        finished(slot, outcome)

    def _cut(self, job: Job, why: BaseException) -> None:
        task = self._tasks.get(job)
        if task is not None:
            job.cut = why
            task.cancel()


def create(seat: Seat) -> Coroutines:
    """The pool for one child."""
    return Coroutines(seat)
