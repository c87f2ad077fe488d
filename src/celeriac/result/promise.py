"""Promise: what ``then`` returns, by which further callbacks follow a first one."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import Any

from celeriac.app.waiting import reference

logger = logging.getLogger(__name__)


class Promise:
    """The outcome of a callback that is to be called once.

    ``fulfil(x)`` calls ``callback(x)``, ``fail(error, x)`` calls ``on_error(x)``. What is returned goes to
    the callbacks that :meth:`then` adds; what is raised goes to their ``on_error``, as does the error itself
    where no ``on_error`` takes it. ``here`` says that we are called in the caller's own thread, by ``then``:
    there it is raised as well; elsewhere, where nobody could catch it, it is logged.
    """

    def __init__(
        self,
        callback: Callable[..., Any] | None,
        on_error: Callable[..., Any] | None = None,
        weak: bool = False,
    ) -> None:
        self._callback, self._on_error = reference(callback, weak), reference(on_error, weak)
        self._takes_errors = on_error is not None
        self._lock = threading.Lock()
        self._followers: list[Promise] = []
        self._cancel: Callable[[], None] | None = None
        self.ready = False
        """Whether the callback has been called, or an error has gone by."""
        self.failed = False
        """Whether there was an error that nobody took."""
        self.cancelled = False
        self.value: Any = None
        """What the callback returned."""
        self.reason: BaseException | None = None
        """The error."""

    def then(
        self, callback: Callable[[Any], Any], on_error: Callable[[Any], Any] | None = None, weak: bool = False
    ) -> Promise:
        """Call ``callback`` with what this one's callback returned, or ``on_error`` with the error."""
        follower = Promise(callback, on_error, weak)
        with self._lock:
            if not self.ready:
                self._followers.append(follower)
                return follower
        self._pass_on(follower, here=True)
        return follower

    def cancel(self) -> None:
        """Call nobody any more."""
        self.cancelled = True
        if self._cancel is not None:
            self._cancel()

    def fulfil(self, argument: Any, here: bool = False) -> None:
        """Call the callback."""
        self._call(self._callback(), argument, here)

    def fail(self, error: BaseException, argument: Any, here: bool = False) -> None:
        """Call the error callback, or keep the error for those that follow."""
        if self._takes_errors:
            self._call(self._on_error(), argument, here)
        else:
            self._end(None, error)

    def until(self, cancel: Callable[[], None]) -> None:
        """Have ``cancel`` called by :meth:`cancel`, to release what would have called us."""
        self._cancel = cancel

    def _call(self, function: Callable[..., Any] | None, argument: Any, here: bool) -> None:
        if self.cancelled:
            return
        try:
            # A callback that is held weakly may be gone.
            value = function(argument) if function is not None else None
        except Exception as exc:
            if not here:
                task = getattr(argument, "id", argument)
                logger.exception("The callback %r of task %s raised", function, task)
            self._end(None, exc)
            if here:
                raise
        else:
            self._end(value, None)

    def _end(self, value: Any, error: BaseException | None) -> None:
        with self._lock:
            self.value, self.reason, self.failed, self.ready = value, error, error is not None, True
            followers, self._followers = self._followers, []
        for follower in followers:
            self._pass_on(follower)

    def _pass_on(self, follower: Promise, here: bool = False) -> None:
        if self.reason is not None:
            follower.fail(self.reason, self.reason, here)
        else:
            follower.fulfil(self.value, here)
