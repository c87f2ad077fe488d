"""Error callbacks: sent as tasks with the failed task's id (the old style), or called where the failure is
taken down with ``(request, exc, traceback)`` (the new style)."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Iterable
from functools import partial
from typing import TYPE_CHECKING, Any

from celeriac.canvas import maybe_signature

if TYPE_CHECKING:
    from celeriac.app.base import Celeriac
    from celeriac.app.request import Context

logger = logging.getLogger("celeriac.app.trace")


def call_errbacks(
    app: Celeriac, errbacks: Iterable[Any], request: Context, error: BaseException, traceback: str | None
) -> None:
    """Call the error callbacks of the task that ``request`` describes.

    One that fails is logged and keeps no other from being called. ``Publisher.collecting`` catches those
    that are sent.
    """
    for item in errbacks:
        errback = maybe_signature(item, app=app)
        try:
            if runs_here(app, errback):
                errback(request, error, traceback)
            else:
                # What failed was run in this process: so is what follows.
                send = errback.apply if request.is_eager else errback.apply_async
                send((request.id,), parent_id=request.id, root_id=request.root_id or request.id)
        except Exception:
            logger.exception("The error callback %s of task %s failed", errback, request.id)


def runs_here(app: Celeriac, errback: Any) -> bool:
    """Whether an error callback is of the new style.

    That is a task of one function, known here, which takes more than one positional argument besides those
    that the signature has already. Chains, groups and chords are always sent.
    """
    if errback.get("subtask_type"):
        return False
    task = app.tasks.get(errback["task"])
    if task is None:
        return False
    function: Callable[..., Any] = task.run
    if not errback["immutable"] and (errback["args"] or errback["kwargs"]):
        function = partial(function, *errback["args"], **errback["kwargs"])
    for readable in (function, task.run):
        try:
            parameters = inspect.signature(readable).parameters.values()
        except (TypeError, ValueError):  # written in C, or the signature's arguments do not fit it
            continue
        positional = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
        return len(positional) > 1 or any(p.kind is p.VAR_POSITIONAL for p in parameters)
    return False
