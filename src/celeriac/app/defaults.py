"""What holds for a call that does not say otherwise: options of the route, the task and the settings."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

if TYPE_CHECKING:
    from celeriac.app.base import Celeriac
    from celeriac.routing import Target
    from celeriac.task import Task


class CallDefaults(msgspec.Struct):
    """The options of a call, before its own are looked at."""

    serializer: str
    compression: str | None
    priority: int
    expires: Any
    time_limit: float | None
    soft_time_limit: float | None
    ignore_result: bool
    delivery_mode: int | str | None


def call_defaults(app: Celeriac, task: Task[..., Any] | None, target: Target) -> CallDefaults:
    """The defaults of a call of ``task`` (``None``: known by name only) that goes to ``target``.

    The task's ``options`` go before its attributes, these before the route (the router has left out of it
    what the task says itself), the route before the settings.
    """
    conf = app.conf
    if task is None:
        found = CallDefaults(
            conf.task_serializer, conf.task_compression, conf.task_default_priority or 0,
            None, None, None, False, None,
        )  # fmt: skip
        extra: Mapping[str, Any] = target.extra
    else:
        found = CallDefaults(
            task.serializer or conf.task_serializer, task.compression,
            (task.priority or 0) if task.urgency is None else priority_of(app, task.urgency), task.expires,
            task.time_limit, task.soft_time_limit, task.ignore_result, task.delivery_mode,
        )  # fmt: skip
        extra = {**target.extra, **task.options} if task.options else target.extra
    if extra:
        if extra.get("urgency") is not None:
            found.priority = priority_of(app, extra["urgency"], extra.get("priority"))
        for name in CallDefaults.__struct_fields__:
            if extra.get(name) is not None:
                setattr(found, name, extra[name])
    if found.delivery_mode is None:
        found.delivery_mode = conf.task_default_delivery_mode
    return found


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
