"""A job: a message that may run, with all that is known of its run."""

from __future__ import annotations

from typing import Any

from celeriac.app.request import Context
from celeriac.engines.base import Delivery
from celeriac.worker.plan import Plan


class Job:
    """A message that may run."""

    __slots__ = (
        "armed", "context", "cut", "delivery", "moved", "name", "once", "place", "plan", "received",
        "soft_hard", "started", "told", "transaction", "unique",
    )  # fmt: skip

    def __init__(self, delivery: Delivery, plan: Plan, context: Context) -> None:
        self.delivery = delivery
        self.plan = plan
        self.context = context
        self.name = plan.task.name
        self.once = not plan.acks_late
        self.soft_hard = plan.limits
        self.started = 0.0
        self.received = 0.0
        """When a child took the message, epoch seconds; 0 while no events are sent."""
        self.told = False
        """An event has told of its start, and of its name with that."""
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
