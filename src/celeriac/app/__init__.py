"""The application."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

# Loaded when used: celeriac.task needs modules of this package, and the application needs celeriac.task.
_NAMES = {
    "Celeriac": "celeriac.app.base",
    "Celery": "celeriac.app.base",
    "app_or_default": "celeriac.app.state",
    "shared_task": "celeriac.app.shared",
}

__all__ = ["Celeriac", "Celery", "app_or_default", "shared_task"]

if TYPE_CHECKING:
    from celeriac.app.base import Celeriac as Celeriac
    from celeriac.app.base import Celery as Celery
    from celeriac.app.shared import shared_task as shared_task
    from celeriac.app.state import app_or_default as app_or_default


def __getattr__(name: str) -> Any:
    if name not in _NAMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_NAMES[name]), name)
