"""Attempts: how a job ended, as the history shows it (``engines/history.py``).

It is made once, when the outcome is complete, and costs 2 to 3 us a task with its encoding: the arguments'
text is the client's, the times are two readings of a clock. Whatever is shown is redacted and shortened here.
"""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Any, Final

from celeriac import clock, states
from celeriac.app.request import Context
from celeriac.engines.base import Outcome
from celeriac.engines.history import Attempt
from celeriac.worker.job import Job

if TYPE_CHECKING:
    from celeriac.app.base import Celeriac

LONGEST: Final = 512
"""Characters of arguments, of a result and of an error that are kept."""
_PLAIN: Final = frozenset((int, float, bool, type(None)))


class Attempts:
    """Writes up the attempts of one child."""

    def __init__(self, app: Celeriac, hostname: str) -> None:
        self._redact = app.redact
        self._hostname = hostname
        self._pid = os.getpid()

    def of(self, job: Job) -> Attempt:
        """The attempt of a job that has ended."""
        context = job.context
        started, ended = 0.0, clock.now()
        if job.started:  # what hooks took after its end does not count
            started = ended - (time.perf_counter() - job.started)
            ended = started + job.runtime
        args, kwargs = self._arguments(job)
        value, job.value = job.value, None
        id, retries = context.id or "", context.retries
        root, parent, group = context.root_id, context.parent_id, context.group
        return Attempt(
            id,
            job.name,
            job.state,
            job.delivery.queue,
            self._hostname,
            ended,
            job.received,
            started,
            job.runtime,
            retries if type(retries) is int else 0,
            job.deliveries,
            self._pid,
            args,
            kwargs,
            self._result(job, value) if job.state == states.SUCCESS else "",
            _line(job.error) if job.error else "",
            # What stands in a foreign message's headers need not be text.
            root if type(root) is str and root != id else "",
            parent if type(parent) is str else "",
            group if type(group) is str else "",
        )

    def unread(self, outcome: Outcome, error: Exception, context: Context | None = None) -> Attempt:
        """The attempt of a message that no task can be run for."""
        args, kwargs = "", ""
        if context is not None:
            args, kwargs = _both(self._redact.args_repr(None, context.args, context.kwargs))
        now = clock.now()
        return Attempt(
            outcome.task_id,
            outcome.task,
            states.FAILURE,
            outcome.queue,
            self._hostname,
            now,
            now,
            pid=self._pid,
            args=args,
            kwargs=kwargs,
            error=_line(f"{type(error).__name__}: {error}"),
        )

    def _arguments(self, job: Job) -> tuple[str, str]:
        """The client's text, where nothing in it can be a secret that the client did not know of."""
        context = job.context
        headers = context.message.headers if context.message is not None else {}
        args, kwargs = headers.get("argsrepr"), headers.get("kwargsrepr")
        if not (isinstance(args, str) and isinstance(kwargs, str)) or _may_tell(
            args, kwargs, job.plan.hides_positions
        ):
            args, kwargs = self._redact.args_repr(job.plan.task, context.args, context.kwargs)
        return _both((args, kwargs))

    def _result(self, job: Job, value: Any) -> str:
        if job.shown:
            return _short(job.shown)
        task = job.plan.task
        if type(value) in _PLAIN and not task.sensitive_result:
            return repr(value)
        return _short(self._redact.result_repr(task, value))


def _may_tell(args: str, kwargs: str, hides_positions: bool) -> bool:
    """Whether these texts are whole and name values, or stand for positions that are secret.

    A client of Celery's redacts nothing. A text of the caller's own (``argsrepr="<hidden>"``) is kept.
    """
    if "{" in kwargs and kwargs != "{}":
        return True
    return args[:1] in ("(", "[") and (hides_positions or "{" in args)


def _both(shown: tuple[str, str]) -> tuple[str, str]:
    """Arguments and keyword arguments as they are kept; of what is not there, nothing."""
    args, kwargs = shown
    return "" if args == "()" else _short(args), "" if kwargs == "{}" else _short(kwargs)


def _short(text: str) -> str:
    return text if len(text) <= LONGEST else text[: LONGEST - 3] + "..."


def _line(text: str) -> str:
    """The text on one line; only as much of it as is kept is looked at."""
    return _short(" ".join(text[: 4 * LONGEST].split()))
