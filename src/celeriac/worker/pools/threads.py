"""Slots that are threads. Soft limits are raised in the thread at its next Python instruction; hard ones
cannot be kept, because killing the process would kill the others' tasks (start-up says so)."""

from __future__ import annotations

import contextvars
import ctypes
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from celeriac.engines.base import Outcome
from celeriac.exceptions import SoftTimeLimitExceeded
from celeriac.worker.job import Job

if TYPE_CHECKING:
    from celeriac.worker.child import Seat

WATCH_INTERVAL = 0.1
"""Seconds between looks at the soft limits."""


class Threads:
    """A thread a slot."""

    def __init__(self, seat: Seat) -> None:
        self.runner = seat.runner
        self._executor = ThreadPoolExecutor(seat.options.slots, thread_name_prefix="celeriac-slot")
        self._loops = threading.local()
        self._limited: dict[int, tuple[Job, float]] = {}
        self._watching = threading.Event()
        self._closed = False

    def host(self, claiming: Callable[[], None]) -> None:
        threading.Thread(target=self._watch, name="celeriac-limits", daemon=True).start()
        try:
            claiming()
        finally:
            self._executor.shutdown()
            self._closed = True
            self._watching.set()

    def start(self, slot: int, job: Job, finished: Callable[[int, Outcome], None]) -> None:
        self._executor.submit(self._run, slot, job, finished)

    def cancel(self, job: Job) -> None:
        """Threads cannot be ended from outside."""

    def _run(self, slot: int, job: Job, finished: Callable[[int, Outcome], None]) -> None:
        thread = threading.get_ident()
        soft = job.soft_hard[0]
        if soft:
            self._limited[thread] = (job, time.monotonic() + soft)
            self._watching.set()
        try:
            outcome = self.runner.run(job, self._call_async if job.plan.is_async else None)
        except SoftTimeLimitExceeded as limit:
            outcome = self.runner.interrupted(job, limit)
        finally:
            self._limited.pop(thread, None)
        finished(slot, outcome)

    def _call_async(self, job: Job) -> Any:
        import asyncio

        if not hasattr(self._loops, "runner"):
            self._loops.runner = asyncio.Runner()
        # A runner would give every coroutine the context of its first one, and so that one's request.
        call = job.plan.call(*job.context.args, **job.context.kwargs)
        return self._loops.runner.run(call, context=contextvars.copy_context())

    def _watch(self) -> None:
        raise_in = ctypes.pythonapi.PyThreadState_SetAsyncExc
        while not self._closed:
            self._watching.wait()
            now = time.monotonic()
            for thread, (job, due) in list(self._limited.items()):
                if now >= due and job.armed:
                    self._limited.pop(thread, None)
                    raise_in(ctypes.c_ulong(thread), ctypes.py_object(SoftTimeLimitExceeded))
            if not self._limited and not self._closed:
                self._watching.clear()
            time.sleep(WATCH_INTERVAL)


def create(seat: Seat) -> Threads:
    """The pool for one child."""
    return Threads(seat)
