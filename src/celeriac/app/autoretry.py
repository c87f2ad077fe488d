"""Retries that a task does not ask for itself: ``autoretry_for`` and its backoff."""

from __future__ import annotations

import functools
import random
from typing import Any

from celeriac.exceptions import Ignore, Retry
from celeriac.task import Task


def add_autoretry(task: Task[..., Any]) -> None:
    """Make the task retry on the exceptions of its attribute ``autoretry_for``, if it has any."""
    wanted = tuple(getattr(task, "autoretry_for", ()))
    if not wanted or hasattr(task, "_orig_run"):
        return
    unwanted = (Ignore, Retry, *getattr(task, "dont_autoretry_for", ()))
    original = task.run

    if task.is_async:

        @functools.wraps(original)
        async def run_async(*args: Any, **kwargs: Any) -> Any:
            try:
                return await original(*args, **kwargs)
            except unwanted:
                raise
            except wanted as exc:
                raise _retry(task, exc) from None

        task.run = run_async  # type: ignore[method-assign]
    else:

        @functools.wraps(original)
        def run(*args: Any, **kwargs: Any) -> Any:
            try:
                return original(*args, **kwargs)
            except unwanted:
                raise
            except wanted as exc:
                raise _retry(task, exc) from None

        task.run = run  # type: ignore[method-assign]
    task._orig_run = original  # type: ignore[attr-defined]


def _retry(task: Task[..., Any], exc: BaseException) -> BaseException:
    options = dict(getattr(task, "retry_kwargs", {}))
    backoff = getattr(task, "retry_backoff", False)
    if backoff:
        options["countdown"] = backoff_delay(
            int(max(1.0, float(backoff))),
            task.request.retries,
            getattr(task, "retry_backoff_max", 600),
            getattr(task, "retry_jitter", True),
        )
    return task.retry(exc=exc, **options)


def backoff_delay(factor: int, retries: int, maximum: float, jitter: bool = False) -> float:
    """Seconds before the next attempt: ``factor * 2 ** retries``, at most ``maximum``.

    With ``jitter`` it is a random whole number from 0 to that, so that many failures do not return at once.
    """
    delay: float = min(maximum, factor * 2 ** min(retries, 62))
    if jitter:
        delay = random.randrange(int(delay) + 1)
    return max(0, delay)
