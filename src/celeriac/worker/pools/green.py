"""Slots that are greenlets: the gevent and eventlet pools.

The process was patched before it imported anything (``celeriac.worker.born``). Limits are raised
in the greenlet when it next gives way.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from celeriac import signals
from celeriac.engines.base import Outcome
from celeriac.exceptions import SoftTimeLimitExceeded, TimeLimitExceeded
from celeriac.worker.job import Job

if TYPE_CHECKING:
    from celeriac.worker.child import Seat


class Green:
    """A greenlet a slot. ``spawn(f, *args)`` starts one, ``after(seconds, error)`` raises in the current."""

    def __init__(
        self, seat: Seat, spawn: Callable[..., Any], after: Callable[[float, BaseException], Any]
    ) -> None:
        self.runner = seat.runner
        self._eventlet = seat.options.pool == "eventlet"
        self._spawn = spawn
        self._after = after

    def host(self, claiming: Callable[[], None]) -> None:
        if self._eventlet:
            signals.eventlet_pool_started.send(sender=self)
        try:
            claiming()
        finally:
            # Claiming ends when every slot has: there is nothing left to wait for between these two.
            if self._eventlet:
                signals.eventlet_pool_preshutdown.send(sender=self)
                signals.eventlet_pool_postshutdown.send(sender=self)

    def start(self, slot: int, job: Job, finished: Callable[[int, Outcome], None]) -> None:
        if self._eventlet and signals.eventlet_pool_apply.receivers:
            context = job.context
            signals.eventlet_pool_apply.send(
                sender=self, target=job.plan.call, args=context.args, kwargs=context.kwargs
            )
        self._spawn(self._run, slot, job, finished)

    def cancel(self, job: Job) -> None:
        """Greenlets are not ended from outside."""

    def _run(self, slot: int, job: Job, finished: Callable[[int, Outcome], None]) -> None:
        soft, hard = job.soft_hard
        timers = [
            self._after(seconds, kind(seconds))
            for seconds, kind in ((soft, SoftTimeLimitExceeded), (hard, TimeLimitExceeded))
            if seconds
        ]
        try:
            outcome = self.runner.run(job, self._call_async if job.plan.is_async else None)
        except (SoftTimeLimitExceeded, TimeLimitExceeded) as limit:
            outcome = self.runner.interrupted(job, limit)
        finally:
            for timer in timers:
                timer.cancel()
        finished(slot, outcome)

    def _call_async(self, job: Job) -> Any:
        import asyncio

        return asyncio.run(job.plan.call(*job.context.args, **job.context.kwargs))


def create(seat: Seat) -> Green:
    """The pool for one child."""
    if seat.options.pool == "gevent":
        import gevent

        return Green(seat, gevent.spawn, lambda seconds, error: gevent.Timeout.start_new(seconds, error))
    import eventlet

    return Green(seat, eventlet.spawn, lambda seconds, error: eventlet.Timeout(seconds, error))
