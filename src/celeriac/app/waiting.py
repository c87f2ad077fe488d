"""Waiting for results: where it is refused, and how a remote error is raised here."""

from __future__ import annotations

import sys
import weakref
from collections.abc import Callable
from typing import Any

from celeriac.app import state as current


def assert_will_not_block() -> None:
    """Raise ``RuntimeError`` inside a task that a worker runs, or that ``apply_async`` runs eagerly, and in
    ``denied_join_result()``, unless ``allow_join_result()`` is in force."""
    allowed = current.joining.get()
    if allowed is None:
        frame = current.worker_frame()
        allowed = frame is None or frame.request.is_eager
    if not allowed:
        raise RuntimeError(
            "Never call result.get() within a task: it holds a worker's slot while it waits, and can wait "
            "for ever if the other task needs that slot. Use link=... or a chain, or, if you know that it "
            "cannot happen, celeriac.result.allow_join_result()"
        )


_hinted = False


def refuse_in_event_loop() -> None:
    """Raise ``RuntimeError`` in a running event loop; in interactive IPython, hint at ``await`` once."""
    # Importing asyncio takes 20 ms, which a client without it shall not pay: then there is no loop either.
    asyncio = sys.modules.get("asyncio")
    if asyncio is None or asyncio._get_running_loop() is None:
        return
    if not _interactive():
        raise RuntimeError(
            "result.get() would stop the running event loop until the task has ended: write 'await result', "
            "or 'await result.aget(timeout=10)'"
        )
    global _hinted
    if not _hinted:
        _hinted = True
        print("Hint: in this shell you can also write 'await result'.", file=sys.stderr)


def _interactive() -> bool:
    """Whether this is IPython or Jupyter, whose loop waits for the cell anyway."""
    ipython = sys.modules.get("IPython")
    return ipython is not None and ipython.get_ipython() is not None


class RemoteTraceback(Exception):
    """The traceback of a task's error, from the process in which it happened."""

    def __str__(self) -> str:
        return f'\n"""\n{self.args[0]}"""'


def with_traceback(error: Any, traceback: str | None) -> BaseException:
    """A task's error, to be raised here; its traceback over there becomes its cause."""
    exc = error if isinstance(error, BaseException) else Exception(error)
    # An error that was raised here shows where by itself.
    if traceback and exc.__cause__ is None and exc.__traceback__ is None:
        exc.__cause__ = RemoteTraceback(traceback)
    return exc


def reference(function: Any, weak: bool) -> Callable[[], Any]:
    """A function that returns ``function``, or ``None`` once it is gone if it is held weakly."""
    if not weak or function is None:
        return lambda: function
    return weakref.WeakMethod(function) if hasattr(function, "__self__") else weakref.ref(function)
