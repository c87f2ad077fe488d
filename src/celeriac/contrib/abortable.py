"""Tasks that can be asked to stop, and look now and then whether they were.

::

    @app.task(bind=True, base=AbortableTask)
    def crunch(self, rows):
        for row in rows:
            if self.is_aborted():
                return "stopped"
            work(row)

    result = crunch.delay(rows)
    result.abort()

It is a request: the task decides what to do about it, and its end is stored as always. ``abort`` needs a
result backend. To end a task that does not look, revoke it with ``terminate=True``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, ParamSpec, TypeVar

from celeriac.exceptions import ImproperlyConfigured
from celeriac.result import AsyncResult as Handle
from celeriac.result import EagerResult
from celeriac.task import Task

__all__ = ["ABORTED", "AbortableAsyncResult", "AbortableTask"]

ABORTED = "ABORTED"
"""The state of a task that was asked to stop and has not ended."""

P = ParamSpec("P")
R = TypeVar("R")


class AbortableAsyncResult(Handle[R]):
    """The handle of an abortable task's result."""

    def is_aborted(self) -> bool:
        """Whether the task has been asked to stop, and has not ended since."""
        return self.state == ABORTED

    def abort(self) -> bool:
        """Ask the task to stop; return whether the request was recorded: one that has succeeded cannot stop.

        Raises ``ImproperlyConfigured`` if results are turned off, ``OperationalError`` if the store is away.
        """
        backend = self.app.backend
        if backend is None:
            raise ImproperlyConfigured(
                "abort() leaves its request in the result backend, and results are turned off"
            )
        record = self.app.results.record(ABORTED, None, None, task_id=self.id)
        return not backend.store([record])


class AbortableTask(Task[P, R]):
    """The base of tasks that can be asked to stop: ``@app.task(bind=True, base=AbortableTask)``."""

    abstract = True

    def AsyncResult(self, task_id: str, **kwargs: Any) -> AbortableAsyncResult[R]:
        """The handle of the result of the call with this id."""
        return AbortableAsyncResult(task_id, app=self.app, task_name=self.name, **kwargs)

    def apply_async(
        self,
        args: Iterable[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        task_id: str | None = None,
        *more: Any,
        **options: Any,
    ) -> Handle[R]:
        """As ``Task.apply_async``; the handle it returns can abort."""
        result = super().apply_async(args, kwargs, task_id, *more, **options)
        return result if isinstance(result, EagerResult) else self.AsyncResult(result.id)

    def is_aborted(self, **kwargs: Any) -> bool:
        """Whether this call (or the one with the id ``task_id``) has been asked to stop."""
        task_id = kwargs.get("task_id") or self.request.id
        return self.AsyncResult(task_id).is_aborted() if task_id else False
