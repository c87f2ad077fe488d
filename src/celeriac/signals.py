"""Signals: hooks by which code is told what happens to tasks and workers.

A signal is a module-level :class:`Signal`; the names and keyword arguments are Celery's::

    @task_failure.connect(sender="shop.tasks.pay")
    def on_failure(sender, task_id, exception, **kwargs): ...

A receiver must accept ``**kwargs``: arguments may be added. It is held weakly unless connected with
``weak=False``. What it raises is logged and does not reach the sender.
"""

from __future__ import annotations

import logging
import threading
import weakref
from collections.abc import Callable, Hashable, Iterable
from typing import Any, NamedTuple, TypeVar, overload

logger = logging.getLogger(__name__)

Receiver = TypeVar("Receiver", bound=Callable[..., Any])


class _Connection(NamedTuple):
    key: tuple[Hashable, Hashable]
    reference: Callable[[], Callable[..., Any] | None]
    sender: Any
    retry: bool


class Signal:
    """A named hook. ``receivers`` is falsy while nobody listens: hot paths check it before they send."""

    def __init__(self, name: str | None = None, providing_args: Iterable[str] = ()) -> None:
        self.name = name
        self.providing_args = frozenset(providing_args)
        self.receivers: tuple[_Connection, ...] = ()
        self._lock = threading.Lock()

    @overload
    def connect(
        self,
        receiver: Receiver,
        /,
        sender: Any = None,
        weak: bool = True,
        dispatch_uid: Hashable = None,
        retry: bool = False,
    ) -> Receiver: ...
    @overload
    def connect(
        self,
        receiver: None = None,
        /,
        sender: Any = None,
        weak: bool = True,
        dispatch_uid: Hashable = None,
        retry: bool = False,
    ) -> Callable[[Receiver], Receiver]: ...
    def connect(
        self,
        receiver: Callable[..., Any] | None = None,
        /,
        sender: Any = None,
        weak: bool = True,
        dispatch_uid: Hashable = None,
        retry: bool = False,
    ) -> Any:
        """Call ``receiver`` when the signal is sent; also a decorator, with or without arguments.

        ``sender`` limits it to one sender (a task, or a name: a task's name matches the task too).
        A ``dispatch_uid`` makes connecting twice harmless. With ``retry`` a receiver that raises is
        called again, up to three times in all.
        """
        if receiver is None:
            return lambda fun: self.connect(
                fun, sender=sender, weak=weak, dispatch_uid=dispatch_uid, retry=retry
            )
        if not callable(receiver):
            raise TypeError(f"a signal's receiver must be callable, not {receiver!r}")
        key = _key(receiver, sender, dispatch_uid)
        reference = self._weak(receiver, key) if weak else (lambda: receiver)
        with self._lock:
            if all(connection.key != key for connection in self.receivers):
                self.receivers = (*self.receivers, _Connection(key, reference, sender, retry))
        return receiver

    def disconnect(
        self,
        receiver: Callable[..., Any] | None = None,
        sender: Any = None,
        weak: bool | None = None,
        dispatch_uid: Hashable = None,
    ) -> bool:
        """Undo :meth:`connect` of the same receiver and sender, or uid; return whether it was connected."""
        return self._remove(_key(receiver, sender, dispatch_uid))

    def has_listeners(self, sender: Any = None) -> bool:
        """Whether a receiver would be called for ``sender``."""
        return any(_matches(connection.sender, sender) for connection in self.receivers)

    def send(self, sender: Any = None, **named: Any) -> list[tuple[Callable[..., Any], Any]]:
        """Call the receivers in the order they were connected; return ``(receiver, its answer)`` each.

        The answer of a receiver that raised is its exception, which is logged as well.
        """
        responses: list[tuple[Callable[..., Any], Any]] = []
        for connection in self.receivers:
            receiver = connection.reference()
            if receiver is None or not _matches(connection.sender, sender):
                continue
            responses.append((receiver, self._call(receiver, connection.retry, sender, named)))
        return responses

    def send_robust(self, sender: Any = None, **named: Any) -> list[tuple[Callable[..., Any], Any]]:
        """The same as :meth:`send`, which lets no exception through either."""
        return self.send(sender, **named)

    def _call(self, receiver: Callable[..., Any], retry: bool, sender: Any, named: dict[str, Any]) -> Any:
        attempts = 3 if retry else 1
        for attempt in range(1, attempts + 1):
            try:
                return receiver(signal=self, sender=sender, **named)
            except Exception as exc:
                if attempt == attempts:
                    logger.exception("Signal handler %r raised: %r", receiver, exc)
                    return exc
        raise AssertionError("unreachable")

    def _weak(
        self, receiver: Callable[..., Any], key: tuple[Hashable, Hashable]
    ) -> Callable[[], Callable[..., Any] | None]:
        def forget(_: Any) -> None:
            self._remove(key)

        if hasattr(receiver, "__self__") and hasattr(receiver, "__func__"):
            return weakref.WeakMethod(receiver, forget)
        return weakref.ref(receiver, forget)

    def _remove(self, key: tuple[Hashable, Hashable]) -> bool:
        # No lock around the filter's start: a weak reference's callback may run inside connect(), in the
        # thread that holds the lock.
        kept = tuple(connection for connection in self.receivers if connection.key != key)
        removed = len(kept) != len(self.receivers)
        self.receivers = kept
        return removed

    def __repr__(self) -> str:
        return f"<Signal: {self.name}>"


def _key(receiver: Any, sender: Any, dispatch_uid: Hashable) -> tuple[Hashable, Hashable]:
    if dispatch_uid is not None:
        return (dispatch_uid, _sender_key(sender))
    owner = getattr(receiver, "__self__", None)
    function = getattr(receiver, "__func__", receiver)
    return ((id(owner), id(function)), _sender_key(sender))


def _sender_key(sender: Any) -> Hashable:
    return sender if sender is None or isinstance(sender, str) else id(sender)


def _matches(wanted: Any, sender: Any) -> bool:
    if wanted is None or wanted is sender:
        return True
    if isinstance(wanted, str):
        return bool(wanted == sender) or wanted == getattr(sender, "name", None)
    return isinstance(sender, str) and getattr(wanted, "name", None) == sender


# -- publishing (sender: the task's name) --------------------------------------------------------------

before_task_publish = Signal(
    "before_task_publish",
    {"body", "exchange", "routing_key", "headers", "properties", "declare", "retry_policy"},
)
after_task_publish = Signal("after_task_publish", {"body", "exchange", "routing_key", "headers"})
task_sent = Signal("task_sent", {"task_id", "task", "args", "kwargs", "eta", "taskset"})
"""Deprecated, and sent by nobody: use ``after_task_publish``."""

# -- tasks in a worker (sender: the task; the consumer for task_received, task_rejected, task_unknown) ----

task_received = Signal("task_received", {"request"})
task_prerun = Signal("task_prerun", {"task_id", "task", "args", "kwargs"})
task_postrun = Signal("task_postrun", {"task_id", "task", "args", "kwargs", "retval", "state"})
task_success = Signal("task_success", {"result", "runtime"})
task_retry = Signal("task_retry", {"request", "reason", "einfo"})
task_failure = Signal("task_failure", {"task_id", "exception", "args", "kwargs", "traceback", "einfo"})
task_internal_error = Signal(
    "task_internal_error", {"task_id", "args", "kwargs", "request", "exception", "traceback", "einfo"}
)
task_revoked = Signal("task_revoked", {"request", "terminated", "signum", "expired"})
task_rejected = Signal("task_rejected", {"message", "exc"})
task_unknown = Signal("task_unknown", {"message", "exc", "name", "id"})

# -- the application -----------------------------------------------------------------------------------

import_modules = Signal("import_modules")

# -- the worker ------------------------------------------------------------------------------------------

celeryd_init = Signal("celeryd_init", {"instance", "conf", "options"})
celeryd_after_setup = Signal("celeryd_after_setup", {"instance", "conf"})
worker_init = Signal("worker_init")
worker_before_create_process = Signal("worker_before_create_process")
worker_process_init = Signal("worker_process_init")
worker_process_shutdown = Signal("worker_process_shutdown", {"pid", "exitcode"})
worker_ready = Signal("worker_ready")
worker_shutdown = Signal("worker_shutdown")
worker_shutting_down = Signal("worker_shutting_down", {"sig", "how", "exitcode"})
heartbeat_sent = Signal("heartbeat_sent")
eventlet_pool_started = Signal("eventlet_pool_started")
eventlet_pool_preshutdown = Signal("eventlet_pool_preshutdown")
eventlet_pool_postshutdown = Signal("eventlet_pool_postshutdown")
eventlet_pool_apply = Signal("eventlet_pool_apply", {"target", "args", "kwargs"})

# -- logging -----------------------------------------------------------------------------------------------

setup_logging = Signal("setup_logging", {"loglevel", "logfile", "format", "colorize"})
after_setup_logger = Signal("after_setup_logger", {"logger", "loglevel", "logfile", "format", "colorize"})
after_setup_task_logger = Signal(
    "after_setup_task_logger", {"logger", "loglevel", "logfile", "format", "colorize"}
)

# -- beat and the command line -------------------------------------------------------------------------

beat_init = Signal("beat_init")
beat_embedded_init = Signal("beat_embedded_init")
user_preload_options = Signal("user_preload_options", {"app", "options"})
