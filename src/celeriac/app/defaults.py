"""What holds for a call that does not say otherwise: options of the route, the task and the settings."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from celeriac.app.base import Celeriac
    from celeriac.app.options import CallOptions
    from celeriac.routing import Target
    from celeriac.task import Task


def complete(call: CallOptions, app: Celeriac, task: Task[..., Any] | None, target: Target) -> None:
    """Fill in what a call of ``task`` (``None``: known by name only) that goes to ``target`` does not say.

    The task's ``options`` go before its attributes, these before the route (the router has left out of it
    what the task says itself), the route before the settings. Raises ``ValueError`` for limits, and for an
    urgency and a priority, that contradict each other.
    """
    extra: Mapping[str, Any] = target.extra
    if task is not None and task.options:
        extra = {**extra, **task.options}
    if extra:
        _complete_from(extra, call, app)
    conf = app.conf
    if task is None:
        call.serializer = call.serializer or conf.task_serializer
        call.compression = call.compression or conf.task_compression
        if call.priority is None:
            call.priority = conf.task_default_priority or 0
        if call.ignore_result is None:
            call.ignore_result = False
    else:
        if not call.serializer:
            call.serializer = task.serializer or conf.task_serializer
        if not call.compression:
            call.compression = task.compression
        if call.priority is None:
            urgency = task.urgency
            call.priority = (task.priority or 0) if urgency is None else priority_of(app, urgency)
        if call.ignore_result is None:
            call.ignore_result = task.ignore_result
        if call.expires is None:
            call.expires = task.expires
        if call.time_limit is None:
            call.time_limit = task.time_limit
        if call.soft_time_limit is None:
            call.soft_time_limit = task.soft_time_limit
        if not call.delivery_mode:
            call.delivery_mode = task.delivery_mode
    if not call.delivery_mode:
        call.delivery_mode = conf.task_default_delivery_mode
    hard, soft = call.time_limit, call.soft_time_limit
    if hard is not None and soft is not None and soft > hard:
        raise ValueError("soft_time_limit must be less than or equal to time_limit")


def _complete_from(extra: Mapping[str, Any], call: CallOptions, app: Celeriac) -> None:
    if extra.get("urgency") is not None:
        priority = priority_of(app, extra["urgency"], extra.get("priority"))
        if call.priority is None:
            call.priority = priority
    for name in _FILLED:
        if extra.get(name) is not None and not _says(call, name):
            setattr(call, name, extra[name])


_FILLED = (
    "serializer", "compression", "priority", "expires", "time_limit", "soft_time_limit", "ignore_result",
    "delivery_mode",
)  # fmt: skip
"""Options that a route, or ``Task.options``, gives a call."""

_NEVER_EMPTY = frozenset(("serializer", "compression", "delivery_mode"))
"""Options that are not given by an empty value either."""


def _says(call: CallOptions, name: str) -> bool:
    value = getattr(call, name)
    return bool(value) if name in _NEVER_EMPTY else value is not None


def priority_of(app: Celeriac, urgency: str, priority: int | None = None) -> int:
    """The broker's number for ``urgency``: "high", "normal" or "low".

    Raises ``ValueError`` for another word, and beside a ``priority``.
    """
    if priority is not None:
        raise ValueError(f"urgency={urgency!r} and priority={priority!r} both say what goes first: use one")
    try:
        return app.write_broker.urgencies[urgency]
    except KeyError:
        raise ValueError(f"urgency is 'high', 'normal' or 'low', not {urgency!r}") from None


def default_broker_url(app: Celeriac) -> str:
    """The URL where none is set: a SQLite file in ``$CELERIAC_HOME``, else beside the top package.

    The package is that of the module ``app.main``, if it is one, or of the module that made the
    application; without a file (an interactive session) it is the current directory.
    """
    home = os.environ.get("CELERIAC_HOME")
    directory = Path(home).expanduser() if home else _directory(app)
    return f"sqlite:///{(directory / 'celeriac.db').absolute()}"


def _directory(app: Celeriac) -> Path:
    for name in (app.main, app.module):
        module = sys.modules.get(name) if name else None
        file = getattr(module, "__file__", None)
        if module is None or file is None:
            continue
        spec = getattr(module, "__spec__", None)
        full_name = spec.name if spec is not None else module.__name__
        path = Path(file).resolve().parent
        depth = full_name.count(".") + (Path(file).stem == "__init__")
        return path.parents[depth - 1] if depth else path
    return Path.cwd()
