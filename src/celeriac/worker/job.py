"""A job: a message that may run, with all that is known of its run."""

from __future__ import annotations

from celeriac.app.request import Context
from celeriac.engines.base import Delivery
from celeriac.worker.plan import Plan


class Job:
    """A message that may run."""

    __slots__ = ("armed", "context", "cut", "delivery", "name", "once", "plan", "soft_hard", "started")

    def __init__(self, delivery: Delivery, plan: Plan, context: Context) -> None:
        self.delivery = delivery
        self.plan = plan
        self.context = context
        self.name = plan.task.name
        self.once = not plan.acks_late
        self.soft_hard = plan.limits
        self.started = 0.0
        self.armed = False
        """The task's own code runs: a soft limit may be raised now."""
        self.cut: BaseException | None = None
        """What a cancelled coroutine was cancelled for."""
        if context.timelimit:
            self.soft_hard = plan.limits_of(context.timelimit)
