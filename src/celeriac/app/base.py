"""Celeriac: the application, to which tasks, settings and stores belong."""

from __future__ import annotations

import os
import threading
from collections import defaultdict
from collections.abc import Callable, Coroutine, Iterable, Mapping
from functools import cached_property
from importlib import import_module
from typing import TYPE_CHECKING, Any, Literal, ParamSpec, Self, TypeVar, overload

from celeriac.app import imports, maker, names, state, unique
from celeriac.app.annotations import annotate_all
from celeriac.app.conf import Configuration, given
from celeriac.app.connected import Connected
from celeriac.app.control import Control
from celeriac.app.part import part
from celeriac.app.publisher import Publisher
from celeriac.app.redaction import Redaction
from celeriac.app.registry import TaskRegistry
from celeriac.app.results import ResultFormat
from celeriac.app.routing import Routing
from celeriac.app.stores import Stores
from celeriac.canvas.signature import Signature
from celeriac.exceptions import AlwaysEagerIgnored, ImproperlyConfigured
from celeriac.result import AsyncResult as _AsyncResult
from celeriac.result import GroupResult, ResultSet
from celeriac.signals import Signal
from celeriac.task import Task as _Task

if TYPE_CHECKING:
    from celeriac.app.bulk import Bulk
    from celeriac.app.chords import Chords
    from celeriac.app.connection import Connection
    from celeriac.app.decorators import BindDecorator, Decorator
    from celeriac.app.eager import Eager
    from celeriac.app.events import Events
    from celeriac.app.history import History
    from celeriac.app.periodic import PeriodicTasks
    from celeriac.app.schedule import Entries
    from celeriac.lamport import LamportClock
    from celeriac.routing import Queue, Queues, Router
    from celeriac.task import AsyncTask

P = ParamSpec("P")
R = TypeVar("R")


class Celeriac(Connected):
    """An application. Making one does no I/O and reads no configuration: both wait until they are needed.

    It may be shared by threads, and survives fork.
    """

    task_cls: type[_Task[..., Any]] | str | None = None
    """The base class of tasks, for subclasses to set; the argument of this name goes before it."""
    module: str | None
    """The module that made the application."""
    registry: TaskRegistry
    """The tasks registered so far; :attr:`tasks` has all."""
    discoveries: list[Callable[[], None]]
    """What :meth:`autodiscover_tasks` was asked for, to be done by :meth:`import_tasks`."""
    steps: defaultdict[str, set[Any]]
    """Classes of ``celeriac.bootsteps`` that live with a worker: ``"worker"`` and ``"consumer"``."""
    user_options: defaultdict[str, set[Any]]
    """More options of the command line (``click.Option``), by command; ``"preload"`` is for all."""

    AsyncResult: type[_AsyncResult[Any]] = part(lambda app: names.bound(app, _AsyncResult))
    """:class:`celeriac.result.AsyncResult`, bound to this application."""
    ResultSet: type[ResultSet[Any]] = part(lambda app: names.bound(app, ResultSet))
    """:class:`celeriac.result.ResultSet`, bound to this application."""
    GroupResult: type[GroupResult[Any]] = part(lambda app: names.bound(app, GroupResult))
    """:class:`celeriac.result.GroupResult`, bound to this application."""
    publisher: Publisher = part(Publisher)
    """Builds and sends messages."""
    redact: Redaction = part(Redaction)
    """Shows arguments and results without their secrets (``sensitive``, ``redact_patterns``)."""
    results: ResultFormat = part(ResultFormat)
    """Writes and reads stored results."""
    chords: Chords = part("celeriac.app.chords:Chords")
    """Keeps account of chords."""
    eager: Eager = part("celeriac.app.eager:Eager")
    """Runs tasks in this process."""
    bulk: Bulk = part("celeriac.app.bulk:Bulk")
    """Sends many calls at once."""
    periodic: PeriodicTasks = part("celeriac.app.periodic:PeriodicTasks")
    """The periodic tasks added in code."""
    schedule: Entries = part("celeriac.app.schedule:Entries")
    """The periodic tasks at run time: list, add, change, pause, resume, run and remove them."""
    history: History = part("celeriac.app.history:History")
    """What became of each attempt to run a task: ``app.history(task=..., states=..., limit=...)``."""

    def __init__(
        self,
        main: str | None = None,
        loader: Any = None,
        backend: Any = None,
        amqp: Any = None,
        events: Any = None,
        log: Any = None,
        control: Any = None,
        set_as_current: bool = True,
        tasks: Mapping[str, _Task[..., Any]] | None = None,
        broker: str | None = None,
        include: Iterable[str] | str | None = None,
        changes: Mapping[str, Any] | None = None,
        config_source: Any = None,
        fixups: Any = None,
        task_cls: type[_Task[..., Any]] | str | None = None,
        autofinalize: bool = True,
        namespace: str | None = None,
        strict_typing: bool = True,
        **settings: Any,
    ) -> None:
        """``main`` names the application, and its tasks where they stand in the script that is run.

        ``broker`` and ``backend`` are URLs, ``include`` lists modules with tasks; these, ``changes`` and
        further keyword arguments are settings and go before the configuration of ``config_source``
        (see :meth:`config_from_object`, ``namespace`` too). ``tasks`` are put into the registry.
        ``task_cls`` is the base class of tasks, ``control``, ``events`` and ``log`` the classes behind
        the attributes of these names: classes or ``"module:Class"``. ``strict_typing`` checks the arguments
        of calls against the functions' signatures. ``autofinalize=False`` makes the use of tasks before
        :meth:`finalize` an error. ``loader``, ``amqp`` and ``fixups`` replace parts of Celery that do not
        exist here and are refused.
        """
        _refuse(loader=loader, amqp=amqp, fixups=fixups)
        self.main = main
        self.module = names.caller_module()
        self.strict_typing = strict_typing
        self.autofinalize = autofinalize
        self.finalized = False
        self.registry = TaskRegistry(tasks or {})
        self.discoveries = []
        self.steps = defaultdict(set)
        self.user_options = defaultdict(set)
        self.on_configure = Signal("app.on_configure")
        self.on_after_configure = Signal("app.on_after_configure", {"source"})
        self.on_after_finalize = Signal("app.on_after_finalize")
        self.on_after_fork = Signal("app.on_after_fork")
        self._lock = threading.RLock()
        self._control_cls, self._events_cls, self._log_cls = control, events, log
        if task_cls is not None:
            self.task_cls = task_cls
        self._stores = Stores(self, None if isinstance(backend, str) else backend)
        self._routing = Routing(self)
        self.conf = Configuration(self, {**(changes or {}), **settings, **given(broker, backend, include)})
        if config_source is not None:
            self.config_from_object(config_source, namespace=namespace)
        if set_as_current:
            self.set_current()
        state.register_app(self)

    # -- tasks -----------------------------------------------------------------------------------------

    @overload
    def task(self, fun: Callable[P, Coroutine[Any, Any, R]], /) -> AsyncTask[P, R]: ...
    @overload
    def task(self, fun: Callable[P, R], /) -> _Task[P, R]: ...
    @overload
    def task(self, *, bind: Literal[True], **options: Any) -> BindDecorator: ...
    @overload
    def task(self, *, bind: Literal[False] = False, **options: Any) -> Decorator: ...
    @overload
    def task(self, *, bind: bool, **options: Any) -> Callable[[Callable[..., Any]], _Task[..., Any]]: ...
    def task(self, *args: Any, **options: Any) -> Any:
        """Make a task of a function: ``@app.task`` or ``@app.task(bind=True, max_retries=5)``.

        Options: ``name`` (default ``module.function``), ``base`` (a subclass of :class:`Task`), ``bind`` (the
        function's first argument is the task), ``autoretry_for``, ``dont_autoretry_for``, ``retry_kwargs``,
        ``retry_backoff``, ``retry_backoff_max``, ``retry_jitter``, ``pydantic`` (arguments are models),
        ``shared`` (other applications get the task too), ``filter`` (a function that is given the task and
        returns what to use), and any attribute or method of :class:`Task`.
        """
        if args and (len(args) > 1 or not callable(args[0])):
            raise TypeError("@app.task takes the options of the task as keyword arguments")
        if args:
            return maker.decorated(self, args[0], options)
        return lambda function: maker.decorated(self, function, dict(options))

    def add_task(self, function: Callable[..., Any], **options: Any) -> _Task[..., Any]:
        """Make a task of ``function`` for this application only; the options are those of :meth:`task`."""
        return maker.make_task(self, function, **options)

    def register_task(self, task: Any, **options: Any) -> Any:
        """Register a class-based task: an instance of a subclass of :class:`Task`, or the class."""
        return maker.register_class(self, task, options)

    def gen_task_name(self, name: str, module: str) -> str:
        """The name of a task that is given none: ``module.name``; ``main.name`` in the script that is run."""
        return maker.task_name(self, name, module)

    @property
    def tasks(self) -> TaskRegistry:
        """All tasks by name, shared and built-in ones too. Unknown names raise ``NotRegistered``."""
        self.finalize(auto=True)
        return self.registry

    def finalize(self, auto: bool = False) -> None:
        """Add shared and built-in tasks. It happens by itself when tasks are first used."""
        if self.finalized:
            return
        with self._lock:
            if self.finalized:
                return
            if auto and not self.autofinalize:
                raise RuntimeError(
                    "the application is used before app.finalize() was called (autofinalize=False)"
                )
            self.finalized = True
            from celeriac.app.builtin import add_builtin_tasks

            add_builtin_tasks(self)
            for make in state.shared():
                make(self)
            if self.conf.loaded:
                annotate_all(self)
        self.on_after_finalize.send(sender=self)

    def autodiscover_tasks(
        self,
        packages: Iterable[str] | Callable[[], Iterable[str]] | None = None,
        related_name: str | None = "tasks",
        force: bool = False,
    ) -> None:
        """Let workers import ``<package>.tasks`` of each package that has it.

        ``packages`` is a list of names or a function that returns one; ``None`` means Django's installed
        apps. It is done by :meth:`import_tasks`, or at once with ``force``.
        """
        imports.autodiscover(self, packages, related_name, force)

    def import_tasks(self) -> list[Any]:
        """Import all modules with tasks: ``imports``, ``include`` and autodiscovered ones."""
        modules = imports.import_tasks(self)
        self.finalize()
        return modules

    @cached_property
    def Task(self) -> type[_Task[..., Any]]:
        """The base class of this application's tasks."""
        base = names.given_or_default(self.task_cls, _Task)
        return type("Task", (base,), {"_app": self, "abstract": True, "__module__": base.__module__})

    # -- calling ---------------------------------------------------------------------------------------

    def send_task(
        self,
        name: str,
        args: Iterable[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        countdown: float | None = None,
        eta: Any = None,
        task_id: str | None = None,
        **options: Any,
    ) -> _AsyncResult[Any]:
        """Send a task by its name, which this process need not know.

        The options are those of ``Task.apply_async``. It sends a message under ``task_always_eager`` too,
        with the warning ``AlwaysEagerIgnored``.
        """
        if self.conf.task_always_eager:
            import warnings

            warnings.warn(AlwaysEagerIgnored("task_always_eager has no effect on send_task"), stacklevel=2)
        task = options.pop("task_type", None) or self.registry.get(name)
        return self.call(
            name, tuple(args or ()), kwargs or {}, task, countdown=countdown, eta=eta, task_id=task_id,
            **options,
        )  # fmt: skip

    def call(
        self,
        name: str,
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        task: _Task[..., Any] | None,
        *,
        add_to_parent: bool = True,
        timeout: float | None = None,
        confirm_timeout: float | None = None,
        retry: bool | None = None,
        retry_policy: Mapping[str, Any] | None = None,
        connection: Any = None,
        **options: Any,
    ) -> _AsyncResult[Any]:
        """Build the message of a call, send it, and return the result's handle."""
        sending: dict[str, Any] = {
            "timeout": confirm_timeout if timeout is None else timeout,
            "retry": retry,
            "retry_policy": retry_policy,
        }
        if connection is not None:
            sending["connection"] = connection
        if unique.concerns(task, options):
            publication, holder = unique.send(self, name, args, kwargs, task, sending, options)
        else:
            publication, holder = self.publisher.build(name, args, kwargs, task=task, **options), None
            self.publisher.send((publication,), **sending)
        headers = publication.message.headers
        result: _AsyncResult[Any] = self.AsyncResult(holder or headers["id"], task_name=name)
        if holder is not None:
            result.duplicate = True
        if headers["ignore_result"]:
            result.ignored = True
        if add_to_parent:
            frame = state.worker_frame()
            if frame is not None:
                frame.task.add_trail(result)
        return result

    def signature(self, *args: Any, **kwargs: Any) -> Signature:
        """A :class:`Signature` of this application."""
        from celeriac.canvas.signature import signature

        kwargs["app"] = self
        return signature(*args, **kwargs)

    def add_periodic_task(
        self,
        schedule: Any,
        sig: Any,
        args: Iterable[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
        name: str | None = None,
        **opts: Any,
    ) -> str:
        """Have the scheduler send a signature (or task) by ``schedule``: seconds, a ``timedelta``, a crontab.

        ``args`` and ``kwargs`` are added to the signature's own, ``opts`` are options of ``apply_async``.
        Returns the name of the entry in ``conf.beat_schedule``: ``name``, or the signature as text. An entry
        of the same name is replaced, with a warning if it was not named. Made for receivers of
        ``on_after_configure`` and ``on_after_finalize``; earlier calls wait until the settings are read.
        """
        return self.periodic.add(schedule, sig, args, kwargs, name, opts)

    # -- queues ----------------------------------------------------------------------------------------

    @property
    def queues(self) -> Queues:
        """The queues by name."""
        return self._routing.current().queues

    @property
    def router(self) -> Router:
        """Finds the queue of a call."""
        return self._routing.current().router

    def select_queues(self, queues: Iterable[str] | str | None = None) -> dict[str, Queue]:
        """Let workers of this process take from these queues only."""
        return self.queues.select(queues)

    def select_queue_names(
        self, queues: Iterable[str] | str | None, exclude: Iterable[str] | str | None = None
    ) -> list[str]:
        """The names of the queues that a worker takes from: all, or ``queues`` (``-Q``), less ``exclude``
        (``-X``). They stay selected."""
        self.queues.select(queues)
        return list(self.queues.deselect(exclude))

    # -- parts loaded when they are used -----------------------------------------------------------------

    def connection(self, *args: Any, **kwargs: Any) -> Connection:
        """What Celery's programs pass to receivers and controls; it takes no connection of its own."""
        from celeriac.app.connection import Connection

        return Connection(self, self.broker)

    connection_for_read = broker_connection = connection

    def connection_for_write(self, *args: Any, **kwargs: Any) -> Connection:
        """The same for the broker that clients send to."""
        from celeriac.app.connection import Connection

        return Connection(self, self.write_broker)

    @cached_property
    def clock(self) -> LamportClock:
        """The logical clock of this process, by which events are put in order."""
        from celeriac.lamport import LamportClock

        return LamportClock()

    @cached_property
    def events(self) -> Events:
        """Sends and receives events."""
        from celeriac.app.events import Events

        return names.given_or_default(self._events_cls, Events)(self)  # type: ignore[no-any-return]

    @cached_property
    def control(self) -> Any:
        """Remote control: orders and questions to workers (``celeriac.app.control.Control``)."""
        return names.given_or_default(self._control_cls, Control)(self)

    @cached_property
    def log(self) -> Any:
        """Sets up logging."""
        return names.given_or_default(self._log_cls, "celeriac.app.log:Logging")(self)

    def Worker(self, **options: Any) -> Any:
        """A worker of this application (``celeriac.worker.Worker``)."""
        return import_module("celeriac.worker").Worker(app=self, **options)

    WorkController = Worker

    def Beat(self, **options: Any) -> Any:
        """A scheduler of this application (``celeriac.beat.Beat``)."""
        return import_module("celeriac.beat").Beat(app=self, **options)

    def start(self, argv: list[str] | None = None) -> None:
        """Run the command line for this application, with ``argv`` or the process's arguments.

        It returns when the command is done, and raises ``SystemExit`` if it failed.
        """
        self.set_current()
        status = import_module("celeriac.cli.root").run(argv)
        if status:
            raise SystemExit(status)

    def worker_main(self, argv: list[str] | None = None) -> None:
        """The same as :meth:`start`; ``argv`` must name the command ``worker``."""
        self.start(argv)

    def bugreport(self) -> str:
        """Versions and settings, passwords masked: for reports of errors."""
        from celeriac.app.report import bugreport

        return bugreport(self)

    # -- being current ---------------------------------------------------------------------------------

    def set_current(self) -> None:
        """Make this the current application of the thread."""
        state.set_current_app(self)

    def set_default(self) -> None:
        """Make this the application of threads that have no current one."""
        state.set_default_app(self)

    @property
    def current_task(self) -> _Task[..., Any] | None:
        """The task that is running here."""
        return state.get_current_task()

    @property
    def current_worker_task(self) -> _Task[..., Any] | None:
        """The task that a worker runs here, not one that it called directly."""
        frame = state.worker_frame()
        return frame.task if frame is not None else None

    def disconnect(self) -> None:
        """Close the connections to the stores; they are opened again when they are needed."""
        if "publisher" in self.__dict__:
            self.publisher.watch.close()
        self._stores.close()

    def close(self) -> None:
        """Disconnect, and be current no longer."""
        self.disconnect()
        state.forget_app(self)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __reduce__(self) -> tuple[Any, ...]:
        return _unpickle, (self.main, {k: self.conf[k] for k in self.conf if self.conf.is_set(k)})

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.main or '__main__'}>"


Celery = Celeriac


def _announce_fork() -> None:
    for app in state.living_apps():
        app.on_after_fork.send(sender=app)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_announce_fork)


def _refuse(**parts: Any) -> None:
    for name, value in parts.items():
        if value not in (None, [], (), "app", "default", "celery.loaders.app:AppLoader"):
            raise ImproperlyConfigured(f"{name}= is not supported: there is no such part to replace")


def _unpickle(main: str | None, settings: dict[str, Any]) -> Celeriac:
    current = state.get_current_app()
    return current if current.main == main else Celeriac(main, changes=settings, set_as_current=False)
