"""Celeriac, a distributed task queue for Python.

    from celeriac import Celeriac

    app = Celeriac("shop", broker="redis://localhost:6379/0")

    @app.task
    def add(x: int, y: int) -> int:
        return x + y

    add.delay(2, 2).get(timeout=10)

The names below are loaded when they are first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_NAMES = {
    "Celeriac": "celeriac.app.base",
    "Celery": "celeriac.app.base",
    "shared_task": "celeriac.app.shared",
    "app_or_default": "celeriac.app.state",
    "current_app": "celeriac.app.current",
    "current_task": "celeriac.app.current",
    "bugreport": "celeriac.app.report",
    "Task": "celeriac.task",
    "AsyncResult": "celeriac.result",
    "Signature": "celeriac.canvas",
    "StampingVisitor": "celeriac.canvas",
    "chain": "celeriac.canvas",
    "chord": "celeriac.canvas",
    "chunks": "celeriac.canvas",
    "group": "celeriac.canvas",
    "signature": "celeriac.canvas",
    "subtask": "celeriac.canvas",
    "maybe_signature": "celeriac.canvas",
    "xmap": "celeriac.canvas",
    "xstarmap": "celeriac.canvas",
    "Queue": "celeriac.routing",
    "Exchange": "celeriac.routing",
    "Broadcast": "celeriac.routing",
    "uuid": "celeriac.utils",
}
"""Public name -> module that defines it."""

__all__ = ["__version__", *_NAMES]

if TYPE_CHECKING:
    from celeriac.app.base import Celeriac as Celeriac
    from celeriac.app.base import Celery as Celery
    from celeriac.app.current import current_app as current_app
    from celeriac.app.current import current_task as current_task
    from celeriac.app.report import bugreport as bugreport
    from celeriac.app.shared import shared_task as shared_task
    from celeriac.app.state import app_or_default as app_or_default
    from celeriac.canvas import Signature as Signature
    from celeriac.canvas import StampingVisitor as StampingVisitor
    from celeriac.canvas import chunks as chunks
    from celeriac.canvas import maybe_signature as maybe_signature
    from celeriac.canvas import subtask as subtask
    from celeriac.canvas import xmap as xmap
    from celeriac.canvas import xstarmap as xstarmap
    from celeriac.canvas.chain import chain as chain
    from celeriac.canvas.chord import chord as chord
    from celeriac.canvas.group import group as group
    from celeriac.canvas.signature import signature as signature
    from celeriac.result import AsyncResult as AsyncResult
    from celeriac.routing import Broadcast as Broadcast
    from celeriac.routing import Exchange as Exchange
    from celeriac.routing import Queue as Queue
    from celeriac.task import Task as Task
    from celeriac.utils import uuid as uuid


def __getattr__(name: str) -> Any:
    if name not in _NAMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(_NAMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
