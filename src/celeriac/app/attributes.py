"""The attributes of tasks: their defaults, and those whose values are in the settings or the process."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import timedelta
from typing import TYPE_CHECKING, Any, ClassVar

from celeriac.app import state

if TYPE_CHECKING:
    from celeriac.app.base import Celeriac
    from celeriac.app.keys import Key
    from celeriac.task import Task


class Setting:
    """A class attribute that reads a setting until a task gives it a value of its own."""

    reads_setting = True
    """How routes, which go before settings but not before tasks, tell the two apart."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __get__(self, task: Task[..., Any] | None, owner: type[Task[..., Any]]) -> Any:
        conf = (owner._app or state.get_current_app()).conf
        try:
            return conf.__dict__[self.name]
        except KeyError:
            # Reading the settings annotates the tasks, and then this attribute may be the task's own.
            conf.load()
            return getattr(owner if task is None else task, self._attribute)

    def __set_name__(self, owner: type, name: str) -> None:
        self._attribute = name


def setting(name: str) -> Any:
    """A :class:`Setting`, which type checkers take for its value."""
    return Setting(name)


class OwnApp:
    """The attribute ``app`` of tasks and task classes: their own application, else the current one."""

    def __get__(self, task: Task[..., Any] | None, owner: type[Task[..., Any]]) -> Celeriac:
        return owner._app or state.get_current_app()


class Attributes:
    """What can be set on a task, by ``@app.task``, in a subclass of ``Task`` or on the task itself.

    Those that read "setting" follow that setting unless the task has a value of its own. Times are in
    seconds.
    """

    _app: ClassVar[Celeriac | None] = None
    _annotated: ClassVar[bool]
    app: Any = OwnApp()
    name: str = None  # type: ignore[assignment]  # given at registration
    abstract: bool = True
    typing: bool | None = None
    """Check the arguments of a call against the function's signature (``None``: ``app.strict_typing``)."""
    max_retries: int | None = 3
    """How many times ``retry`` may run the task again; ``None`` for ever."""
    default_retry_delay: float = 180.0
    rate_limit: str | float | None = setting("task_default_rate_limit")
    """Runs allowed in a second, minute or hour: ``"10/s"``, ``"100/m"``, ``"5/h"``, or a number a second."""
    ignore_result: bool = setting("task_ignore_result")
    store_errors_even_if_ignored: bool = setting("task_store_errors_even_if_ignored")
    store_eager_result: bool = setting("task_store_eager_result")
    trail: bool = True
    """Record the results of tasks called by this one (``AsyncResult.children``)."""
    send_events: bool = True
    """Workers that send events (``-E``) do so for this task."""
    serializer: str = setting("task_serializer")
    compression: str | None = setting("task_compression")
    time_limit: float | None = None
    """Kill the task after so many seconds."""
    soft_time_limit: float | None = None
    """Raise ``SoftTimeLimitExceeded`` in the task after so many seconds."""
    track_started: bool = setting("task_track_started")
    acks_late: bool = setting("task_acks_late")
    acks_on_failure_or_timeout: bool = setting("task_acks_on_failure_or_timeout")
    acks_on_failure: bool | None = setting("task_acks_on_failure")
    acks_on_timeout: bool | None = setting("task_acks_on_timeout")
    reject_on_worker_lost: bool | None = setting("task_reject_on_worker_lost")
    retry_on_worker_lost: bool = setting("task_retry_on_worker_lost")
    throws: tuple[type[BaseException], ...] = ()
    """Expected errors: a failure by one of them is logged in one line, without a traceback."""
    expires: Any = None
    """Do not run the task after so many seconds, or after this ``datetime``."""
    priority: int | None = setting("task_default_priority")
    urgency: str | None = None
    """``"high"``, ``"normal"`` or ``"low"``: a priority that means the same on every broker."""
    resultrepr_maxsize: int = 1024
    queue: Any = None
    exchange: Any = None
    exchange_type: str | None = None
    routing_key: str | None = None
    delivery_mode: int | str | None = None
    options: Mapping[str, Any] | None = None
    """More options of ``apply_async``."""
    unique_for: float | timedelta | None = None
    """Send no second copy of a call while one waits or runs, for so many seconds at most. ``delay`` then
    returns the handle of that one, with ``duplicate`` set."""
    unique_key: Key | None = None
    """By what calls are the same (``celeriac.app.keys``): ``"user:{user_id}"``, names of parameters, or a
    function of the arguments. Default: all arguments. Alone, it makes calls unique for a day at most."""
    debounce: float | timedelta | None = None
    """Wait so many seconds before a call runs, and let a newer call of the same key take its place."""
    max_concurrency: int | None = None
    """How many calls may run at once, in all workers; others wait in order."""
    concurrency_key: Key | None = None
    """Count ``max_concurrency`` for each value of this key by itself (given as ``unique_key``)."""
    transactional: bool = False
    """Run it in a transaction of the broker's PostgreSQL database, ``self.request.connection``, with which
    its result and its acknowledgement are committed: what it changes there takes effect exactly once."""
    pydantic: bool = False
    sensitive: Iterable[str] = ()
    """Names of parameters whose values are shown nowhere: not in logs, events, pages or extended results."""
    sensitive_result: bool = False
    """Do not show the task's result in the log."""
