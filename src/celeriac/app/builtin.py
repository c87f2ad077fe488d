"""Tasks that every application has, under Celery's names."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

from celeriac.app.eager import run_coroutine
from celeriac.app.unlocking import unlock

if TYPE_CHECKING:
    from celeriac.app.base import Celeriac
    from celeriac.task import Task


def add_builtin_tasks(app: Celeriac) -> None:
    """Register them with ``app``."""
    _add_tasks(app)
    _add_old_tasks(app)


def _add_tasks(app: Celeriac) -> None:
    """Tasks that our own canvases send."""
    # The canvas lies above this module: it is loaded when one of its tasks runs.

    def backend_cleanup() -> int | None:
        """Delete expired results, where the store does not do it itself; return how many."""
        return app.backend.cleanup() if app.backend is not None else None

    def accumulate(*args: Any, **kwargs: Any) -> Any:
        """Return the arguments as a list, or the one with the number ``index``."""
        index = kwargs.get("index")
        return args[index] if index is not None else args

    def xmap(task: Any, it: Any) -> list[Any]:
        """Call the task with each item."""
        return [_call(app, task, item) for item in it]

    def xstarmap(task: Any, it: Any) -> list[Any]:
        """Call the task with each item as its arguments."""
        return [_call(app, task, *item) for item in it]

    def chunks(task: Any, it: Any, n: int) -> Any:
        """Send a message for each ``n`` items; return the group's result as data."""
        from celeriac.canvas import chunks

        return chunks(task, it, n, app=app)().as_tuple()

    app.add_task(backend_cleanup, name="celery.backend_cleanup")
    app.add_task(accumulate, name="celery.accumulate")
    app.add_task(xmap, name="celery.map")
    app.add_task(xstarmap, name="celery.starmap")
    app.add_task(chunks, name="celery.chunks")


def _add_old_tasks(app: Celeriac) -> None:
    """Tasks that only Celery's clients of old, or with other stores, send."""

    def group(
        tasks: Any, result: Any = None, group_id: str | None = None, partial_args: Any = (),
        add_to_parent: bool = True,
    ) -> Any:  # fmt: skip
        """Send a group; return its result as data."""
        from celeriac.canvas import group

        made = group(tasks, app=app)
        if group_id:
            made.set(task_id=group_id)
        return made.apply_async(tuple(partial_args), add_to_parent=add_to_parent).as_tuple()

    def chord(header: Any, body: Any, partial_args: Any = (), kwargs: Any = None, **options: Any) -> Any:
        """Send a chord; return its body's result as data."""
        from celeriac.canvas import chord

        made = chord(header, body, app=app)
        return made.apply_async(tuple(partial_args), kwargs, **options).as_tuple()

    def chain(*args: Any, **kwargs: Any) -> None:
        """A name without a task: a chain is its steps."""
        raise NotImplementedError("celery.chain is no task: send the chain's signature")

    def chord_unlock(
        self: Task[..., Any],
        group_id: str,
        callback: Any,
        interval: float | None = None,
        max_retries: int | None = None,
        result: Any = None,
        **kwargs: Any,
    ) -> None:
        """Look again and again whether a header is done, for Celery's clients whose stores cannot tell."""
        unlock(self, group_id, callback, interval, max_retries, result or ())

    app.add_task(group, name="celery.group")
    app.add_task(chord, name="celery.chord")
    app.add_task(chain, name="celery.chain")
    app.add_task(
        chord_unlock, name="celery.chord_unlock", bind=True, max_retries=None, ignore_result=True
    )  # fmt: skip


def _call(app: Celeriac, task: Any, *args: Any) -> Any:
    from celeriac.canvas import maybe_signature

    value = maybe_signature(task, app)(*args)
    return run_coroutine(value) if inspect.iscoroutine(value) else value
