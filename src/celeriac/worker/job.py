"""A job: a message that may run, with all that is known of its run."""

from __future__ import annotations

import time
from typing import Any

from celeriac import clock
from celeriac.app.request import Context
from celeriac.engines.base import Delivery
from celeriac.saferepr import shown
from celeriac.worker.plan import Plan


class Job:
    """A message that may run."""

    __slots__ = (
        "armed", "context", "cut", "deliveries", "delivery", "error", "moved", "name", "once", "place",
        "plan", "received", "runtime", "shown", "soft_hard", "started", "state", "told", "transaction",
        "unique", "value",
    )  # fmt: skip

    def __init__(self, delivery: Delivery, plan: Plan, context: Context) -> None:
        self.delivery = delivery
        self.plan = plan
        self.context = context
        self.name = plan.task.name
        self.once = not plan.acks_late
        self.soft_hard = plan.limits
        self.received = clock.now()
        """When a child took the message up, epoch seconds."""
        self.told = False
        """An event has told of its start, and of its name with that."""
        self.started = 0.0
        """When it was started, ``time.perf_counter()``."""
        self.runtime = 0.0
        """Seconds, once it has ended."""
        self.deliveries = 0
        """How many runs of the message ended with their process."""
        self.state = ""
        """How it ended; empty if it did not: given back, parked, put off."""
        self.value: Any = None
        """What it returned."""
        self.shown = ""
        """That as text, where somebody has asked for it."""
        self.error = ""
        """Why it did not succeed, one line."""
        self.armed = False
        """The task's own code runs: a soft limit may be raised now."""
        self.cut: BaseException | None = None
        """What a cancelled coroutine was cancelled for."""
        self.unique = ""
        """The unique key that the task holds until it has ended."""
        self.transaction: Any = None
        """What the task does in the broker's own database, if it is ``transactional``."""
        self.place = ""
        """The concurrency limit under which this run holds a place."""
        self.moved = False
        """Its next attempt is a message of its own, so the task has not ended with this one."""
        if context.timelimit:
            self.soft_hard = plan.limits_of(context.timelimit)

    def end(self, state: str, error: object = None) -> None:
        """Take down how it ended, for the history; with an exception or a reason if not well."""
        self.state = state
        if self.started:
            self.runtime = time.perf_counter() - self.started
        if isinstance(error, BaseException):
            name, text = type(error).__name__, shown(error, str)
            self.error = text if text.startswith(name) else f"{name}: {text}"
        elif error:
            self.error = shown(error, str)
