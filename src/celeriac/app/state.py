"""What is current: the application, and the task that this thread, coroutine or greenlet runs."""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from celeriac.app.base import Celeriac
    from celeriac.app.request import Context
    from celeriac.task import Task


class Frame(NamedTuple):
    """One running task; ``below`` is the one that called it directly, if any."""

    task: Task[..., Any]
    request: Context
    below: Frame | None


running: ContextVar[Frame | None] = ContextVar("celeriac_running", default=None)
"""The innermost running task. A context variable works in threads, coroutines and greenlets alike."""

joining: ContextVar[bool | None] = ContextVar("celeriac_joining", default=None)
"""Whether waiting for results is allowed here (``allow_join_result``), or not (``denied_join_result``); if
neither was said, it is unless a worker runs a task here."""


def get_current_task() -> Task[..., Any] | None:
    """The task running here, also one called directly."""
    frame = running.get()
    return frame.task if frame is not None else None


def worker_frame() -> Frame | None:
    """The innermost running task that a worker (or eager mode) runs, not one called directly."""
    frame = running.get()
    while frame is not None and frame.request.called_directly:
        frame = frame.below
    return frame


@contextmanager
def allow_join_result() -> Iterator[None]:
    """Allow waiting for results inside a task, in this block. It can deadlock: the waiting task holds a
    worker slot that the awaited one may need."""
    token = joining.set(True)
    try:
        yield
    finally:
        joining.reset(token)


@contextmanager
def denied_join_result() -> Iterator[None]:
    """Forbid waiting for results in this block, outside of tasks and in eager ones too."""
    token = joining.set(False)
    try:
        yield
    finally:
        joining.reset(token)


# -- applications ------------------------------------------------------------------------------------

_lock = threading.RLock()
_local = threading.local()
_default_app: Celeriac | None = None
_apps: weakref.WeakSet[Celeriac] = weakref.WeakSet()
_on_finalize: list[tuple[Callable[[Celeriac], Any], bool]] = []
"""What makes the shared tasks, and whether of a function that was defined in a function."""


def set_current_app(app: Celeriac) -> None:
    """Make ``app`` the current one in this thread, and the default of threads that set none."""
    global _default_app
    _local.app = app
    with _lock:
        if _default_app is None or _default_app.main == _FALLBACK_MAIN:
            _default_app = app


def set_default_app(app: Celeriac) -> None:
    """Make ``app`` the one that threads without a current application use."""
    global _default_app
    _default_app = app


def get_current_app() -> Celeriac:
    """The current application; if none was ever made, one is made.

    That one is configured by the module ``$CELERY_CONFIG_MODULE``, else ``celeryconfig``, if there is one.
    """
    global _default_app
    app: Celeriac | None = getattr(_local, "app", None)
    if app is not None:
        return app
    with _lock:
        if _default_app is None:
            from celeriac.app.base import Celeriac

            made = Celeriac(_FALLBACK_MAIN, set_as_current=False)
            made.config_from_object(os.environ.get("CELERY_CONFIG_MODULE") or "celeryconfig", silent=True)
            _default_app = made
        return _default_app


def app_or_default(app: Celeriac | None = None) -> Celeriac:
    """``app``, or the current application if it is ``None``."""
    return get_current_app() if app is None else app


def forget_app(app: Celeriac) -> None:
    """Undo :func:`set_current_app` for a closed application."""
    global _default_app
    if getattr(_local, "app", None) is app:
        del _local.app
    with _lock:
        if _default_app is app:
            _default_app = None
        _apps.discard(app)


@contextmanager
def restored_apps() -> Iterator[None]:
    """Put back, at the end of the block, which application was the current and which the default one, and
    forget the shared tasks of local functions that were made in it (for tests)."""
    global _default_app
    current, default, known = getattr(_local, "app", None), _default_app, list(_on_finalize)
    try:
        yield
    finally:
        _default_app = default
        if current is not None:
            _local.app = current
        elif hasattr(_local, "app"):
            del _local.app
        with _lock:
            # A module that was imported first in the block is not imported again: its tasks stay.
            _on_finalize[:] = [item for item in _on_finalize if item in known or not item[1]]


def register_app(app: Celeriac) -> None:
    """Remember a living application: shared tasks join all of them."""
    with _lock:
        _apps.add(app)


def living_apps() -> list[Celeriac]:
    """All applications of this process."""
    return list(_apps)


def share(make: Callable[[Celeriac], Any], function: Callable[..., Any]) -> None:
    """Call ``make(app)`` for every application, now or when it is finalised (``shared_task``)."""
    share_later(make, function)
    with _lock:
        finalized = [app for app in _apps if app.finalized]
    for app in finalized:
        make(app)


def share_later(make: Callable[[Celeriac], Any], function: Callable[..., Any]) -> None:
    """Call ``make(app)``, which makes a task of ``function``, for every application finalised from now on."""
    with _lock:
        _on_finalize.append((make, "<locals>" in getattr(function, "__qualname__", "")))


def shared() -> list[Callable[[Celeriac], Any]]:
    """What :func:`share` has been given so far."""
    with _lock:
        return [make for make, _ in _on_finalize]


_FALLBACK_MAIN = "default"
