"""Task: a function that can be called here, later, or in another process."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Coroutine, Iterable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Generic, ParamSpec, TypeVar

from celeriac.app import state
from celeriac.app.arguments import argument_check
from celeriac.app.attributes import Attributes
from celeriac.app.request import Context
from celeriac.canvas.signature import Signature
from celeriac.exceptions import (
    Ignore,
    MaxRetriesExceededError,
    OperationalError,
    Reject,
    Retry,
    TaskPredicate,
)

if TYPE_CHECKING:
    from celeriac.app.base import Celeriac
    from celeriac.app.redaction import Rule
    from celeriac.canvas.maps import chunks
    from celeriac.engines.results import ResultBackend
    from celeriac.result import AsyncResult, EagerResult

P = ParamSpec("P")
R = TypeVar("R")

__all__ = ["Context", "Ignore", "Reject", "Retry", "Task", "TaskPredicate"]


class Task(Attributes, Generic[P, R]):
    """A task of an application; made by ``@app.task`` or by ``app.register_task`` of a subclass.

    Every attribute (:class:`~celeriac.app.attributes.Attributes`) can be given to the decorator.
    """

    MaxRetriesExceededError: ClassVar[type[MaxRetriesExceededError]] = MaxRetriesExceededError
    OperationalError: ClassVar[type[OperationalError]] = OperationalError

    _backend: ResultBackend | None = None
    _check: Callable[[Any, Any], None] | None = None
    _redaction: Rule | None = None
    _default_request: Context | None = None
    _is_async: bool | None = None
    __wrapped__: Callable[..., Any]

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "abstract" not in cls.__dict__:
            cls.abstract = False

    # -- what a subclass overrides -----------------------------------------------------------------------

    def run(self, *args: Any, **kwargs: Any) -> Any:
        """The task's work."""
        raise NotImplementedError(f"task {self.name or type(self).__name__} must define run()")

    def before_start(self, task_id: str, args: Any, kwargs: Any) -> None:
        """Called in the worker before the task runs."""

    def on_success(self, retval: Any, task_id: str, args: Any, kwargs: Any) -> None:
        """Called in the worker after the task returned."""

    def on_retry(self, exc: BaseException, task_id: str, args: Any, kwargs: Any, einfo: Any) -> None:
        """Called in the worker when the task is to be run again."""

    def on_failure(self, exc: BaseException, task_id: str, args: Any, kwargs: Any, einfo: Any) -> None:
        """Called in the worker when the task failed for good."""

    def after_return(
        self, status: str, retval: Any, task_id: str, args: Any, kwargs: Any, einfo: Any
    ) -> None:
        """Called in the worker after every end of a run."""

    def shadow_name(self, args: Any, kwargs: Any, options: Any) -> str | None:
        """A name to show for this call in place of the task's (the header ``shadow``)."""

    @classmethod
    def on_bound(cls, app: Any) -> None:
        """Called when the task has been registered with ``app``."""

    @classmethod
    def annotate(cls) -> None:
        """Set what the setting ``task_annotations`` says about this task; once, when both are known."""
        if "_annotated" in cls.__dict__:
            return
        cls._annotated = True
        from celeriac.app.annotations import resolve

        for attributes in resolve(cls.app.annotations, cls):
            for name, value in attributes.items():
                if name.startswith("@"):
                    cls.add_around(name[1:], value)
                else:
                    setattr(cls, name, value)

    @classmethod
    def add_around(cls, attr: str, around: Callable[[Callable[..., Any]], Callable[..., Any]]) -> None:
        """Put ``around(method)`` in the place of the method ``attr``; done again, it replaces the first."""
        original = getattr(cls, attr)
        original = getattr(original, "__around__", original)
        method: Any = around(original)
        method.__around__ = original
        setattr(cls, attr, method)

    # -- calling -----------------------------------------------------------------------------------------

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Run the task's function here and now.

        While the task runs (a subclass's ``__call__`` may call this one), ``request`` stays that of the run.
        """
        frame = state.running.get()
        if frame is not None and frame.task is self:
            return self.run(*args, **kwargs)  # type: ignore[no-any-return]
        context = Context(None, args, kwargs)
        if self.is_async:
            return self._call_async(context, args, kwargs)  # type: ignore[return-value]
        self.push_request(context)
        try:
            return self.run(*args, **kwargs)  # type: ignore[no-any-return]
        finally:
            self.pop_request()

    async def _call_async(self, context: Context, args: Any, kwargs: Any) -> Any:
        self.push_request(context)
        try:
            return await self.run(*args, **kwargs)
        finally:
            self.pop_request()

    def delay(self, *args: P.args, **kwargs: P.kwargs) -> AsyncResult[R]:
        """Send the task with these arguments; the short form of :meth:`apply_async`."""
        return self.apply_async(args, kwargs)

    def apply_async(
        self,
        args: Iterable[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        task_id: str | None = None,
        producer: Any = None,
        link: Any = None,
        link_error: Any = None,
        shadow: str | None = None,
        **options: Any,
    ) -> AsyncResult[R]:
        """Send the task to its queue and return the handle of its result.

        Options: ``countdown`` (seconds), ``eta`` (``datetime``), ``expires`` (seconds or ``datetime``),
        ``queue``, ``exchange``, ``routing_key``, ``route_name`` (route it as this task would be),
        ``priority``, or ``urgency`` (``"high"``, ``"normal"``, ``"low"``), ``serializer``,
        ``compression``, ``time_limit``, ``soft_time_limit``, ``ignore_result``, ``headers``, ``retry``,
        ``retry_policy``, ``timeout``, ``add_to_parent``, ``root_id``, ``parent_id``, ``group_id``,
        ``group_index``, ``chord``, ``chain``, ``reply_to``, ``delivery_mode``, ``argsrepr``, ``kwargsrepr``.

        Raises ``TypeError`` if the arguments do not fit the function, ``EncodeError`` if one cannot be
        serialised, ``OperationalError`` if the broker cannot be reached within ``broker_publish_timeout``.
        """
        args = args if type(args) is tuple else self._as_args(args)
        checked = kwargs or {}
        app: Celeriac = self.app
        typing = self.typing
        if app.strict_typing if typing is None else typing:
            self.check_arguments(args, checked)
        args, checked = self.prepare(args, checked)
        if app.conf.task_always_eager:
            return app.eager.apply_async(
                self, args, checked, task_id=task_id, link=link, link_error=link_error, **options
            )
        if type(self).shadow_name is not Task.shadow_name and shadow is None:
            shadow = self.shadow_name(args, checked, options)
        if producer is not None:
            options["producer"] = producer
        return app.call(
            self.name, args, checked, self, task_id=task_id, link=link, link_error=link_error,
            shadow=shadow, **options,
        )  # fmt: skip

    async def adelay(self, *args: P.args, **kwargs: P.kwargs) -> AsyncResult[R]:
        """:meth:`delay` for coroutines: the event loop is not held up by the broker."""
        return await self.aapply_async(args, kwargs)

    async def aapply_async(
        self,
        args: Iterable[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> AsyncResult[R]:
        """:meth:`apply_async` for coroutines: it runs in a thread, with this context's current task."""
        import asyncio

        return await asyncio.to_thread(self.apply_async, args, kwargs, **options)

    def enqueue_many(self, calls: Iterable[Any], **options: Any) -> list[AsyncResult[R]]:
        """Send the task once for each of ``calls``, many messages a round trip.

        A call is a tuple or list of arguments, or a pair ``(arguments, keyword arguments)`` of a list or
        tuple and a dictionary; anything else is the only argument. The options are those of
        :meth:`apply_async` but ``task_id``. Each round trip is all or nothing: after an error, messages of
        earlier ones have been sent.
        """
        return self.app.bulk.send(self, calls, options)  # type: ignore[no-any-return]

    def apply(
        self,
        args: Iterable[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        link: Any = None,
        link_error: Any = None,
        task_id: str | None = None,
        retries: int = 0,
        throw: bool | None = None,
        logfile: str | None = None,
        loglevel: int | None = None,
        headers: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> EagerResult[R]:
        """Run the task here as a worker would, retries included, and return its outcome.

        ``throw`` raises the task's error (default: ``task_eager_propagates``).
        """
        return self.app.eager.apply(  # type: ignore[no-any-return]
            self, self._as_args(args), dict(kwargs or {}), link=link, link_error=link_error,
            task_id=task_id, retries=retries, throw=throw, logfile=logfile, loglevel=loglevel,
            headers=headers, **options,
        )  # fmt: skip

    def prepare(
        self, args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> tuple[tuple[Any, ...], Mapping[str, Any]]:
        """The arguments as they are sent: of a task with ``pydantic=True``, models as plain data."""
        if not self.pydantic:
            return args, kwargs
        from celeriac.app.pydantic import dumped

        return dumped(args, kwargs)

    def check_arguments(self, args: Any, kwargs: Mapping[str, Any]) -> None:
        """Raise ``TypeError`` if the task's function cannot be called with these arguments."""
        check = self._check
        if check is None:
            check = self._check = argument_check(self.name, self.run)
        check(args, kwargs)

    # -- from inside the task ----------------------------------------------------------------------------

    def retry(
        self,
        args: Iterable[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        exc: BaseException | None = None,
        throw: bool = True,
        eta: Any = None,
        countdown: float | None = None,
        max_retries: int | None = None,
        **options: Any,
    ) -> Retry:
        """Run the task again later: raise ``Retry``, which the worker stores as the next attempt.

        The attempt keeps the task's id; its arguments are the same unless given. It runs after
        ``countdown`` seconds (``default_retry_delay``) or at ``eta``. After ``max_retries`` attempts ``exc``
        is raised, or ``MaxRetriesExceededError`` without one. With ``throw=False`` the attempt is sent at
        once and the exception returned. Called directly, the task raises ``exc``.
        """
        from celeriac.app.retry import retry

        return retry(self, args, kwargs, exc, throw, eta, countdown, max_retries, options)

    def update_state(
        self, task_id: str | None = None, state: str | None = None, meta: Any = None, **kwargs: Any
    ) -> None:
        """Store a state of the user's own, such as ``"PROGRESS"``, with ``meta`` as its result.

        It is refused by the store, with a warning in the log, once another worker has taken the task over.
        """
        self.app.results.update(self, task_id, state, meta, **kwargs)

    def signature_from_request(
        self,
        request: Context | None = None,
        args: Iterable[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        queue: Any = None,
        **extra_options: Any,
    ) -> Any:
        """The running call (or that of ``request``) as a signature: its id, options, and what follows it.

        ``args`` and ``kwargs`` take the place of its own, ``queue`` and further options are set.
        """
        from celeriac.app.retry import signature_of

        given = extra_options if queue is None else {"queue": queue, **extra_options}
        return signature_of(self, self.request if request is None else request, args, kwargs, given)

    subtask_from_request = signature_from_request

    def replace(self, sig: Any) -> Any:
        """Let ``sig`` (a signature, chain, group or chord) take the place of the running call, and end it.

        It gets the call's id, callbacks, stamps, and what follows it in its chain, group or chord; the last
        task of ``sig`` gives the call's result (of a group, the list of its results). Write ``return
        self.replace(...)``: it raises ``Ignore``, and the worker sends ``sig`` in the step that ends this
        task. In eager mode, or called directly, it is run here and its value returned. Raises
        ``ImproperlyConfigured`` for an empty chain, or a signature that belongs to a chord.
        """
        from celeriac.canvas.replacing import replacement

        return self.on_replace(replacement(self, sig))

    def on_replace(self, sig: Any) -> Any:
        """Called by :meth:`replace` with the finished replacement; an override must call this one."""
        from celeriac.canvas.replacing import send_replacement

        return send_replacement(self, sig)

    def add_to_chord(self, sig: Any, lazy: bool = False) -> Any:
        """Add a call to the header of the chord that the running task belongs to; return its result.

        It takes effect in the step that ends this task, if it succeeds: then the call is sent, and the
        chord's body waits for it too. Its result comes after those of the header. ``lazy`` returns the
        signature instead; it goes out all the same (sending it is allowed and does nothing more). Raises
        ``ValueError`` outside of a chord's header.
        """
        from celeriac.canvas.replacing import add_to_chord

        return add_to_chord(self, sig, lazy)

    def progress(self, done: float, total: float | None = None, note: str = "") -> None:
        """Tell how far the running call has come, for ``AsyncResult.progress`` and ``updates``.

        ``done`` of ``total`` (``None``: not known), in any unit, and a ``note`` for people. It is stored as
        the state ``PROGRESS``, at most ten times a second, so it may be called in every round of a loop; the
        last one (``done`` has reached ``total``) is always stored. A task called directly stores nothing.
        """
        meta = self.app.results.progress(self, done, total, note)
        if meta is not None:
            self.update_state(state="PROGRESS", meta=meta)

    async def aprogress(self, done: float, total: float | None = None, note: str = "") -> None:
        """:meth:`progress` for coroutines: the event loop is not held up by the store."""
        meta = self.app.results.progress(self, done, total, note)
        if meta is not None:
            import asyncio

            await asyncio.to_thread(self.update_state, state="PROGRESS", meta=meta)

    def checkpoint(self, state: Any) -> bool:
        """Keep ``state`` in the store, in place of an earlier one, for the case that this run does not end.

        The next delivery or retry of the same call finds it in ``self.request.checkpoint``. It must be
        serialisable as JSON (``EncodeError``), is deleted when the task ends, and kept for
        ``checkpoint_expires`` at most. Returns ``False``, with a warning in the log, once another worker has
        taken the task over. Called directly, nothing is stored.
        """
        return self.request.keep_checkpoint(self.app, state)

    def send_event(
        self,
        type_: str,
        retry: bool = True,
        retry_policy: Mapping[str, Any] | None = None,
        **fields: Any,
    ) -> None:
        """Send an event of your own about the running call: ``self.send_event("task-progress", done=0.5)``.

        ``fields`` must be serialisable as JSON (``EncodeError``). In a worker an event called ``task-...`` is
        sent by the agent, soon, whether the worker sends events of its own (``-E``) or not; others, and
        those of other processes, are sent at once, and again if the broker is away, as ``retry`` and
        ``retry_policy`` say (``OperationalError``). Brokers that carry no events drop it.
        """
        request, tell = self.request, self.app.events.tell
        event = (type_, {"uuid": request.id, **fields}, request.hostname)
        if retry:
            self.app.publisher.patiently(lambda: tell(*event), retry_policy)
        else:
            tell(*event)

    @property
    def request(self) -> Context:
        """The call that is running here; outside of one, a context with the defaults."""
        frame = state.running.get()
        while frame is not None:
            if frame.task is self:
                return frame.request
            frame = frame.below
        if self._default_request is None:
            self._default_request = Context()
        return self._default_request

    def push_request(self, *args: Any, **kwargs: Any) -> None:
        """Make a :class:`Context` (or one made of these arguments) this task's running call."""
        context = args[0] if args and isinstance(args[0], Context) else Context(*args, **kwargs)
        state.running.set(state.Frame(self, context, state.running.get()))

    def pop_request(self) -> None:
        """Undo :meth:`push_request`."""
        if (frame := state.running.get()) is not None:
            state.running.set(frame.below)

    def add_trail(self, result: Any) -> Any:
        """Record ``result`` as a child of the running call; return it."""
        if self.trail:
            self.request.children.append(result)
        return result

    # -- as data -----------------------------------------------------------------------------------------

    def signature(self, args: Iterable[Any] | None = None, *starargs: Any, **starkwargs: Any) -> Signature:
        """A :class:`Signature` of this task: ``signature((2, 2), countdown=10)``."""
        starkwargs.setdefault("app", self.app)
        return Signature(self, args, *starargs, **starkwargs)

    subtask = signature

    def s(self, *args: P.args, **kwargs: P.kwargs) -> Signature:
        """A signature with these arguments."""
        return self.signature(args, kwargs)

    def si(self, *args: P.args, **kwargs: P.kwargs) -> Signature:
        """An immutable signature: it takes no result of a previous task."""
        return self.signature(args, kwargs, immutable=True)

    def map(self, it: Iterable[Any]) -> Signature:
        """A signature of one message that runs the task for each item: ``[task(x) for x in it]``."""
        from celeriac.canvas import xmap

        return xmap(self.s(), it, app=self.app)  # type: ignore[call-arg]

    def starmap(self, it: Iterable[Any]) -> Signature:
        """The same with each item as the arguments: ``[task(*x) for x in it]``."""
        from celeriac.canvas import xstarmap

        return xstarmap(self.s(), it, app=self.app)  # type: ignore[call-arg]

    def chunks(self, it: Iterable[Any], n: int) -> chunks:
        """A group of messages each of which runs the task for ``n`` items of ``it``, their arguments."""
        from celeriac.canvas import chunks

        return chunks(self.s(), it, n, app=self.app)  # type: ignore[call-arg]

    def AsyncResult(self, task_id: str, **kwargs: Any) -> AsyncResult[R]:
        """The handle of the result of the call with this id."""
        return self.app.AsyncResult(task_id, task_name=self.name, **kwargs)  # type: ignore[no-any-return]

    # -- what it is --------------------------------------------------------------------------------------

    @property
    def backend(self) -> ResultBackend | None:
        """Where results are stored: the application's backend unless one was set for the task."""
        return self.app.backend if self._backend is None else self._backend

    @backend.setter
    def backend(self, value: Any) -> None:
        self._backend = value

    @property
    def is_async(self) -> bool:
        """Whether the task's function is a coroutine function."""
        if self._is_async is None:
            self._is_async = inspect.iscoroutinefunction(self.run)
        return self._is_async

    @property
    def __name__(self) -> str:
        return self.__class__.__qualname__.rpartition(".")[2]

    def __reduce__(self) -> tuple[Any, ...]:
        return _unpickle, (self.name, type(self).__module__)

    def __repr__(self) -> str:
        return f"<@task: {self.name} of {self.app.main}>" if self._app else f"<unbound {type(self).__name__}>"

    def _as_args(self, args: Iterable[Any] | None) -> tuple[Any, ...]:
        if args is None:
            return ()
        if isinstance(args, str | bytes):
            raise TypeError(f"{self.name}: args must be a tuple or list, not {args!r}; write ({args!r},)")
        return tuple(args)


if TYPE_CHECKING:

    class AsyncTask(Task[P, R]):
        """A task of a coroutine function, as type checkers see it: called directly it must be awaited."""

        def __call__(  # type: ignore[override]
            self, *args: P.args, **kwargs: P.kwargs
        ) -> Coroutine[Any, Any, R]: ...


def _unpickle(name: str, module: str) -> Task[..., Any]:
    app = state.get_current_app()
    if name not in app.tasks:
        __import__(module)
    return app.tasks[name]
