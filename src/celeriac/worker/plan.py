"""A plan: what is fixed about running one task, worked out once."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from celeriac.app.keys import call_key, places
from celeriac.app.rates import interval
from celeriac.app.request import Context
from celeriac.exceptions import ImproperlyConfigured
from celeriac.task import Task

if TYPE_CHECKING:
    from celeriac.app.base import Celeriac


class Plan:
    """A task's options as a worker needs them, with hooks that are not overridden left out."""

    def __init__(
        self, task: Task[..., Any], app: Celeriac, rate: str | None, defaults: tuple[float, float]
    ) -> None:
        conf = app.conf
        self.task = task
        overrides_call = type(task).__call__ is not Task.__call__
        self.call: Callable[..., Any] = task if overrides_call else task.run
        self.is_async = inspect.iscoroutinefunction(task.run)
        self.acks_late = bool(_or(task.acks_late, conf.task_acks_late))
        self.keeps_result = app.backend is not None and not _or(task.ignore_result, conf.task_ignore_result)
        self.keeps_errors = app.backend is not None and bool(
            _or(task.store_errors_even_if_ignored, conf.task_store_errors_even_if_ignored)
        )
        self.track_started = bool(_or(task.track_started, conf.task_track_started)) and self.keeps_result
        both = _or(task.acks_on_failure_or_timeout, conf.task_acks_on_failure_or_timeout)
        self.acks_on_failure = bool(_or(task.acks_on_failure, conf.task_acks_on_failure, both, True))
        self.acks_on_timeout = bool(_or(task.acks_on_timeout, conf.task_acks_on_timeout, both, True))
        self.sends_events = bool(task.send_events)
        self.dead_on_failure = bool(conf.dead_letter_on_failure)
        soft, hard = defaults
        self.limits = (float(_or(task.soft_time_limit, soft, 0)), float(_or(task.time_limit, hard, 0)))
        rate = rate if rate is not None else _or(task.rate_limit, conf.task_default_rate_limit)
        self.interval = 0.0 if conf.worker_disable_rate_limits else interval(rate)
        self.before_start = _overridden(task, "before_start")
        self.on_success = _overridden(task, "on_success")
        self.on_retry = _overridden(task, "on_retry")
        self.on_failure = _overridden(task, "on_failure")
        self.after_return = _overridden(task, "after_return")
        self.places = places(task.max_concurrency)
        self.transactional = bool(task.transactional)
        if self.transactional:
            _check_transactional(task, app)
        self.plain = not self.interval and not self.places
        self.hides_positions = app.redact.hides_positions(task)

    def limits_of(self, timelimit: Any) -> tuple[float, float]:
        """Soft and hard limit for a message whose header ``timelimit`` (hard first) may set them."""
        hard, soft = timelimit
        return (float(soft) if soft else self.limits[0], float(hard) if hard else self.limits[1])

    def place(self, context: Context) -> str:
        """The concurrency limit that a call counts under: its task's, or that of its ``concurrency_key``."""
        task = self.task
        if task.concurrency_key is None:
            return task.name
        return call_key(task.name, task, task.concurrency_key, context.args, context.kwargs)

    def has_follow_ups(self, context: Context) -> bool:
        return bool(context.callbacks or context.chain or context.chord_additions)


def _check_transactional(task: Task[..., Any], app: Celeriac) -> None:
    if not (app.fused and hasattr(app.broker, "transaction")):
        raise ImproperlyConfigured(
            f"{task.name} is transactional: that takes PostgreSQL as broker, with the results in the same "
            f"database (leave result_backend out), not {app.broker_shown}"
        )


def _overridden(task: Task[..., Any], hook: str) -> Callable[..., Any] | None:
    """The task's own hook, or ``None`` if it is the empty default."""
    bound = getattr(task, hook)
    return None if getattr(bound, "__func__", None) is getattr(Task, hook) else bound


def _or(*values: Any) -> Any:
    return next((value for value in values if value is not None), None)
