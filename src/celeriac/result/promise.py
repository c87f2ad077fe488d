"""Promise: what ``then`` returns, by which further callbacks follow a first one."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import Any, Self

from celeriac.app.waiting import reference

logger = logging.getLogger(__name__)


class Promise:
    """The outcome of a callback that is to be called once.

    ``fulfil(x)`` calls ``callback(x)``, ``fail(error, x)`` calls ``on_error(x)``. What is returned goes to
    the callbacks that :meth:`then` adds; what is raised is logged and goes to their ``on_error``, as does the
    error itself where no ``on_error`` takes it.
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
        self._pass_on(follower)
        return follower

    def cancel(self) -> None:
        """Call nobody any more."""
        self.cancelled = True
        if self._cancel is not None:
            self._cancel()

    def fulfil(self, argument: Any) -> None:
        """Call the callback."""
        self._call(self._callback(), argument)

    def fail(self, error: BaseException, argument: Any) -> None:
        """Call the error callback, or keep the error for those that follow."""
        if self._takes_errors:
            self._call(self._on_error(), argument)
        else:
            self._end(None, error)

    def until(self, cancel: Callable[[], None]) -> Self:
        """Have ``cancel`` called by :meth:`cancel`, to release what would have called us."""
        self._cancel = cancel
        return self

    def _call(self, function: Callable[..., Any] | None, argument: Any) -> None:
        if self.cancelled:
            return
        value, error = None, None
        try:
            # A callback that is held weakly may be gone.
            value = function(argument) if function is not None else None
        except Exception as exc:
            # Nobody could catch it in this thread.
            logger.exception("The callback %r of task %s raised", function, getattr(argument, "id", argument))
            error = exc
        self._end(value, error)

    def _end(self, value: Any, error: BaseException | None) -> None:
        with self._lock:
            self.value, self.reason, self.failed, self.ready = value, error, error is not None, True
            followers, self._followers = self._followers, []
        for follower in followers:
            self._pass_on(follower)

    def _pass_on(self, follower: Promise) -> None:
        if self.reason is not None:
            follower.fail(self.reason, self.reason)
        else:
            follower.fulfil(self.value)
