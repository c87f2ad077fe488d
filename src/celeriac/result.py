"""AsyncResult: the handle by which a caller waits for a task and reads what came of it."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Generator, Iterator
from datetime import datetime
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any, Generic, Self, TypeVar

from celeriac import exceptions, states
from celeriac.app import state as current
from celeriac.app.state import allow_join_result, denied_join_result
from celeriac.app.waiting import (
    RemoteTraceback,
    assert_will_not_block,
    call_and_log,
    reference,
    refuse_in_event_loop,
    with_traceback,
)
from celeriac.engines.base import Presence
from celeriac.exceptions import IncompleteStream

if TYPE_CHECKING:
    from celeriac.app.base import Celeriac
    from celeriac.engines.base import ResultBackend, Subscription

R = TypeVar("R")

__all__ = [
    "AsyncResult",
    "EagerResult",
    "RemoteTraceback",
    "ResultBase",
    "allow_join_result",
    "assert_will_not_block",
    "denied_join_result",
    "result_from_tuple",
]


class ResultBase:
    """Base of results."""

    parent: ResultBase | None = None
    """The result of the step before, in a chain."""


class AsyncResult(ResultBase, Generic[R]):
    """The result of the task with the id ``id``, which may not be there yet. ``await`` waits for it.

    ``str()`` gives the id; results of the same id are equal; it can be pickled.
    """

    TimeoutError = exceptions.TimeoutError
    app: Any = None
    ignored: bool = False
    """The task was sent with ``ignore_result``: nothing will come."""

    def __init__(
        self,
        id: str,
        backend: ResultBackend | None = None,
        task_name: str | None = None,
        app: Celeriac | None = None,
        parent: ResultBase | None = None,
    ) -> None:
        if id is None:
            raise ValueError("AsyncResult requires a task id")
        self.id = id
        if app is not None or self.app is None:
            self.app = current.app_or_default(app)
        self._backend = backend
        self._name = task_name
        self.parent = parent
        self._cache: dict[str, Any] | None = None

    # -- waiting ---------------------------------------------------------------------------------------

    def get(
        self,
        timeout: float | None = None,
        propagate: bool = True,
        interval: float = 0.5,
        no_ack: bool = True,
        follow_parents: bool = True,
        callback: Callable[[str, Any], Any] | None = None,
        on_message: Callable[[dict[str, Any]], Any] | None = None,
        on_interval: Callable[[], Any] | None = None,
        disable_sync_subtasks: bool = True,
    ) -> R:
        """Wait until the task has ended, and return its result or raise its error.

        ``timeout`` is in seconds (``None``: for ever); then ``celeriac.exceptions.TimeoutError`` is raised.
        ``propagate=False`` returns the error instead. ``on_message`` gets every stored state on the way,
        ``on_interval`` is called every ``interval`` seconds, ``callback(id, result)`` at success. The wait
        itself is by notification, and ``no_ack`` has no meaning here.

        Raises ``RuntimeError`` where waiting would block others: inside a task (unless in
        ``allow_join_result()`` or with ``disable_sync_subtasks=False``) and in a running event loop.
        """
        if self.ignored:
            return None  # type: ignore[return-value]
        if disable_sync_subtasks:
            assert_will_not_block()
        if propagate and follow_parents:
            self._raise_parents_error()
        if self._cache is None:
            refuse_in_event_loop()
            self._wait(timeout, interval, on_message, on_interval)
        if propagate:
            self.maybe_throw(callback=callback)
        return self.result  # type: ignore[no-any-return]

    wait = get

    async def aget(self, timeout: float | None = None, propagate: bool = True) -> R:
        """:meth:`get` for coroutines; ``await result`` is the same without a timeout."""
        if self.ignored:
            return None  # type: ignore[return-value]
        assert_will_not_block()
        if self._cache is None:
            await self._await_ready(timeout)
        if propagate:
            self.maybe_throw()
        return self.result  # type: ignore[no-any-return]

    def __await__(self) -> Generator[Any, None, R]:
        return self.aget().__await__()

    def then(
        self,
        callback: Callable[[Self], Any],
        on_error: Callable[[Self], Any] | None = None,
        weak: bool = False,
    ) -> Self:
        """Call ``callback(result)`` when the task has succeeded, ``on_error(result)`` when it has failed.

        They run in a thread of the result store's, soon after; what they raise is logged there. With
        ``weak`` the callbacks are not kept alive.
        """
        succeeded = reference(callback, weak)
        failed = reference(on_error, weak)
        held: list[Subscription] = []

        def arrived(_: str, payload: bytes) -> None:
            if self._cache is None and self._take(payload):
                chosen = succeeded() if self.successful() else failed()
                if chosen is not None:
                    call_and_log(chosen, self)
                for subscription in held:
                    subscription.close()

        subscription = self._store().subscribe([self.id], arrived)
        held.append(subscription)
        if self._cache is not None:
            subscription.close()
        return self

    def _wait(
        self,
        timeout: float | None,
        interval: float,
        on_message: Callable[[dict[str, Any]], Any] | None,
        on_interval: Callable[[], Any] | None,
    ) -> None:
        arrived: SimpleQueue[bytes] = SimpleQueue()
        deadline = None if timeout is None else time.monotonic() + timeout
        subscription = self._store().subscribe([self.id], lambda _, payload: arrived.put(payload))
        try:
            while True:
                rest = None if deadline is None else max(0.0, deadline - time.monotonic())
                pause = rest if on_interval is None else min(interval, interval if rest is None else rest)
                try:
                    payload = arrived.get(timeout=pause)
                except Empty:
                    if on_interval is not None:
                        on_interval()
                    if deadline is not None and time.monotonic() >= deadline:
                        raise self._too_late(timeout) from None
                    continue
                ready = self._take(payload)
                if on_message is not None:
                    on_message(self._cache or self.app.results.decode(payload, self.id))
                if ready:
                    return
        finally:
            subscription.close()

    async def _await_ready(self, timeout: float | None) -> None:
        import asyncio

        loop = asyncio.get_running_loop()
        arrived: asyncio.Queue[bytes] = asyncio.Queue()

        def announce(_: str, payload: bytes) -> None:
            # A loop that was closed meanwhile has nobody left to tell.
            if not loop.is_closed():
                loop.call_soon_threadsafe(arrived.put_nowait, payload)

        subscription = await asyncio.to_thread(self._store().subscribe, [self.id], announce)
        try:
            async with asyncio.timeout(timeout):
                while not self._take(await arrived.get()):
                    pass
        except TimeoutError:
            raise self._too_late(timeout) from None
        finally:
            await asyncio.to_thread(subscription.close)

    def _take(self, payload: bytes) -> bool:
        """Keep a stored state if it is the last one; return whether it is."""
        meta = self.app.results.decode(payload, self.id)
        if meta["status"] in states.READY_STATES:
            self._cache = meta
            return True
        return False

    def _too_late(self, timeout: float | None) -> exceptions.TimeoutError:
        return exceptions.TimeoutError(
            f"task {self.id} did not end within {timeout} seconds. It may still do so, and a later get() "
            "returns its result; if it does not even start, look with 'celeriac queues' whether a worker "
            "serves its queue"
        )

    # -- what came of it -------------------------------------------------------------------------------

    @property
    def state(self) -> str:
        """The task's state; ``PENDING`` also for ids that nothing is known of (see :attr:`presence`)."""
        state: str = self._meta()["status"]
        return state

    status = state

    @property
    def result(self) -> Any:
        """The return value, the exception, or the ``meta`` of a state of the user's own."""
        return self._meta().get("result")

    info = result

    @property
    def traceback(self) -> str | None:
        """The traceback of a failed task, as text."""
        return self._meta().get("traceback")

    @property
    def presence(self) -> Presence:
        """What the store knows of this id: tells a waiting task, an expired result and a wrong id apart."""
        return self._store().presence([self.id])[self.id]

    @property
    def children(self) -> list[Any] | None:
        """The results of the tasks that this one called; ``None`` until it has ended."""
        children = self._meta().get("children")
        return None if children is None else [result_from_tuple(child, self.app) for child in children]

    @property
    def date_done(self) -> datetime | None:
        """When the task ended, UTC."""
        done = self._meta().get("date_done")
        return datetime.fromisoformat(done) if isinstance(done, str) else done

    @property
    def name(self) -> str | None:
        """The task's name (with ``result_extended``)."""
        return self._meta().get("name")

    @property
    def args(self) -> Any:
        """The task's arguments (with ``result_extended``)."""
        return self._meta().get("args")

    @property
    def kwargs(self) -> Any:
        """The task's keyword arguments (with ``result_extended``)."""
        return self._meta().get("kwargs")

    @property
    def worker(self) -> str | None:
        """The node that ran the task (with ``result_extended``)."""
        return self._meta().get("worker")

    @property
    def retries(self) -> int | None:
        """How many attempts came before the last one (with ``result_extended``)."""
        return self._meta().get("retries")

    @property
    def queue(self) -> str | None:
        """The queue that the message was taken from (with ``result_extended``)."""
        return self._meta().get("queue")

    @property
    def task_id(self) -> str:
        """The same as ``id``."""
        return self.id

    @task_id.setter
    def task_id(self, value: str) -> None:
        self.id = value

    @property
    def backend(self) -> ResultBackend | None:
        """Where the result is looked for."""
        return self._backend if self._backend is not None else self.app.backend

    @property
    def supports_native_join(self) -> bool:
        """Whether many results are awaited together, by notification: always."""
        return True

    def ready(self) -> bool:
        """Whether the task has ended."""
        return self.state in states.READY_STATES

    def successful(self) -> bool:
        """Whether the task has ended well."""
        return self.state == states.SUCCESS

    def failed(self) -> bool:
        """Whether the task has failed."""
        return self.state == states.FAILURE

    def exists(self) -> bool:
        """Whether a state is stored for this id."""
        return self.presence is Presence.KNOWN

    def maybe_throw(self, propagate: bool = True, callback: Callable[[str, Any], Any] | None = None) -> Any:
        """Raise the task's error if it has failed; else return its result."""
        meta = self._meta()
        state, value = meta["status"], meta.get("result")
        if propagate and state in states.PROPAGATE_STATES:
            raise with_traceback(value, meta.get("traceback"))
        if callback is not None:
            callback(self.id, value)
        return value

    maybe_reraise = maybe_throw

    def throw(self, *args: Any, **kwargs: Any) -> Any:
        """The same as :meth:`maybe_throw`."""
        return self.maybe_throw(*args, **kwargs)

    def _meta(self) -> dict[str, Any]:
        if self._cache is not None:
            return self._cache
        payload = self._store().fetch([self.id]).get(self.id)
        if payload is None:
            return {"status": states.PENDING, "result": None}
        meta: dict[str, Any] = self.app.results.decode(payload, self.id)
        if meta["status"] in states.READY_STATES:
            self._cache = meta
        return meta

    def _store(self) -> ResultBackend:
        backend = self.backend
        if backend is None:
            raise NotImplementedError(
                "results are turned off: set result_backend to a store, or leave it out for the broker's own"
            )
        return backend

    # -- acting on the task ----------------------------------------------------------------------------

    def forget(self) -> None:
        """Delete the result, and those of its parents."""
        self._cache = None
        if isinstance(self.parent, AsyncResult):
            self.parent.forget()
        self._store().forget([self.id])

    def revoke(
        self,
        connection: Any = None,
        terminate: bool = False,
        signal: str | None = None,
        wait: bool = False,
        timeout: float | None = None,
    ) -> None:
        """Do not let the task run; with ``terminate`` kill it if it runs (``signal``, default SIGTERM).

        See ``app.control.revoke``. ``wait`` and ``timeout`` have no meaning: the order is stored when this
        returns.
        """
        self.app.control.revoke(self.id, terminate=terminate, signal=signal or "SIGTERM")

    # -- the tasks it called ---------------------------------------------------------------------------

    def iterdeps(self, intermediate: bool = False) -> Iterator[tuple[Any, Any]]:
        """Go through this result and those of the tasks it called, breadth first: ``(parent, result)``.

        Raises ``IncompleteStream`` if one has not ended, unless ``intermediate``.
        """
        stack: deque[tuple[Any, Any]] = deque([(None, self)])
        while stack:
            parent, node = stack.popleft()
            yield parent, node
            if node.ready():
                stack.extend((node, child) for child in node.children or ())
            elif not intermediate:
                raise IncompleteStream

    def collect(self, intermediate: bool = False, **kwargs: Any) -> Iterator[tuple[Any, Any]]:
        """Wait for this result and those of the tasks it called: ``(result, its value)`` each."""
        for _, node in self.iterdeps(intermediate=intermediate):
            yield node, node.get(**kwargs)

    def get_leaf(self) -> Any:
        """The value of the last result of :meth:`collect`."""
        value = None
        for _, node in self.iterdeps():
            value = node.get()
        return value

    @property
    def graph(self) -> dict[Any, list[Any]]:
        """Each result, and the results of the tasks it called."""
        return self.build_graph()

    def build_graph(self, intermediate: bool = False, formatter: Any = None) -> dict[Any, list[Any]]:
        """The same as :attr:`graph`; with ``intermediate`` also while tasks run."""
        edges: dict[Any, list[Any]] = {}
        for parent, node in self.iterdeps(intermediate=intermediate):
            edges.setdefault(node, [])
            if parent is not None:
                edges.setdefault(parent, []).append(node)
        return edges

    def _raise_parents_error(self) -> None:
        parents = []
        node = self.parent
        while node is not None:
            parents.append(node)
            node = node.parent
        for parent in reversed(parents):
            if isinstance(parent, AsyncResult):
                parent.maybe_throw()

    # -- as data ---------------------------------------------------------------------------------------

    def as_tuple(self) -> tuple[Any, Any]:
        """``((id, parent), None)``, from which :func:`result_from_tuple` makes it again."""
        parent = self.parent
        return (self.id, parent.as_tuple() if isinstance(parent, AsyncResult) else None), None

    def as_list(self) -> list[str]:
        """The ids of this result and its parents."""
        parent = self.parent
        return [self.id, *(parent.as_list() if isinstance(parent, AsyncResult) else [])]

    def __reduce__(self) -> tuple[Any, ...]:
        return result_from_tuple, (self.as_tuple(),)

    def __str__(self) -> str:
        return str(self.id)

    def __repr__(self) -> str:
        return f"<AsyncResult: {self.id}>"

    def __hash__(self) -> int:
        return hash(self.id)

    def __eq__(self, other: object) -> bool:
        if isinstance(other, AsyncResult):
            return bool(self.id == other.id)
        return self.id == other if isinstance(other, str) else NotImplemented

    def __copy__(self) -> AsyncResult[R]:
        return type(self)(self.id, self._backend, self._name, self.app, self.parent)


class EagerResult(AsyncResult[R]):
    """The outcome of a task that was run in this process (``Task.apply``)."""

    def __init__(
        self, id: str, ret_value: Any, state: str, traceback: str | None = None, name: str | None = None
    ) -> None:
        self.id = id
        self.app = None
        self._backend = None
        self._name = name
        self.parent = None
        self._children: list[Any] = []
        self._cache = {
            "status": state, "result": ret_value, "traceback": traceback, "task_id": id, "name": name
        }  # fmt: skip

    def get(
        self,
        timeout: float | None = None,
        propagate: bool = True,
        interval: float = 0.5,
        no_ack: bool = True,
        follow_parents: bool = True,
        callback: Callable[[str, Any], Any] | None = None,
        on_message: Callable[[dict[str, Any]], Any] | None = None,
        on_interval: Callable[[], Any] | None = None,
        disable_sync_subtasks: bool = True,
    ) -> R:
        """The task's result, or its error (raised, or returned with ``propagate=False``)."""
        if disable_sync_subtasks:
            assert_will_not_block()
        state, value = self._meta()["status"], self._meta()["result"]
        if propagate and state in states.PROPAGATE_STATES:
            raise value if isinstance(value, BaseException) else Exception(value)
        if state in states.PROPAGATE_STATES or state == states.SUCCESS:
            return value  # type: ignore[no-any-return]
        return None  # type: ignore[return-value]

    wait = get

    async def aget(self, timeout: float | None = None, propagate: bool = True) -> R:
        """The same as :meth:`get`."""
        return self.get(propagate=propagate)

    def then(
        self,
        callback: Callable[[Self], Any],
        on_error: Callable[[Self], Any] | None = None,
        weak: bool = False,
    ) -> Self:
        """Call ``callback(self)``, or ``on_error(self)`` if the task failed, at once."""
        chosen = callback if self.successful() else on_error
        if chosen is not None:
            chosen(self)
        return self

    def ready(self) -> bool:
        """Always true."""
        return True

    @property
    def children(self) -> list[Any] | None:
        """The results of the tasks that it called."""
        return self._children

    @property
    def presence(self) -> Presence:
        """It is here, so it is known."""
        return Presence.KNOWN

    @property
    def supports_native_join(self) -> bool:
        """Nothing is awaited."""
        return False

    def forget(self) -> None:
        """Nothing is stored that could be forgotten."""

    def revoke(self, *args: Any, **kwargs: Any) -> None:
        """Mark the outcome as revoked; the task has run already."""
        self._meta()["status"] = states.REVOKED

    def __reduce__(self) -> tuple[Any, ...]:
        meta = self._meta()
        return EagerResult, (self.id, meta["result"], meta["status"], meta["traceback"], self._name)

    def __repr__(self) -> str:
        return f"<EagerResult: {self.id}>"


def result_from_tuple(r: Any, app: Celeriac | None = None) -> Any:
    """Make a result of its tuple form (``AsyncResult.as_tuple``, also as JSON lists) or of an id."""
    application = current.app_or_default(app)
    if isinstance(r, ResultBase):
        return r
    if isinstance(r, str):
        return application.AsyncResult(r)
    result, nodes = r
    identifier, parent = result if isinstance(result, list | tuple) else (result, None)
    if nodes:
        raise NotImplementedError("results of groups are not supported yet")
    if parent:
        parent = result_from_tuple(parent, application)
    return application.AsyncResult(identifier, parent=parent)
