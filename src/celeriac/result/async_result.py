"""AsyncResult: the handle by which a caller waits for a task and reads what came of it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Generator, Iterable, Iterator
from datetime import datetime
from typing import TYPE_CHECKING, Any, Generic, Self, TypeVar

from celeriac import exceptions, states
from celeriac.app import state as current
from celeriac.app.waiting import assert_will_not_block, refuse_in_event_loop, with_traceback
from celeriac.engines.results import Presence
from celeriac.result import dependencies
from celeriac.result.base import ResultBase
from celeriac.result.feed import Feed
from celeriac.result.progress import Progress, achanges, changes, progress_of
from celeriac.result.promise import Promise
from celeriac.result.stored import forget
from celeriac.result.tuples import result_from_tuple
from celeriac.result.waiting import await_end, reply_options, unended_parents, wait_for_end

if TYPE_CHECKING:
    from celeriac.app.base import Celeriac
    from celeriac.engines.results import ResultBackend
    from celeriac.utils.graph import DependencyGraph

R = TypeVar("R")


class AsyncResult(ResultBase, Generic[R]):
    """The result of the task with the id ``id``, which may not be there yet. ``await`` waits for it.

    ``str()`` gives the id; results of the same id are equal; it can be pickled.
    """

    TimeoutError = exceptions.TimeoutError
    app: Any = None
    single = True
    ignored: bool = False
    """The task was sent with ``ignore_result``: nothing will come."""
    local: bool = False
    """The outcome is here and nowhere else (:class:`EagerResult`)."""
    duplicate: bool = False
    """The call was not sent, because another holds its unique key: this is the holder's result."""
    _children: list[Any] | None = None

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

        ``timeout`` is in seconds (``None``: for ever; 0: do not wait); then
        ``celeriac.exceptions.TimeoutError`` is raised. ``propagate=False`` returns the error instead.
        ``on_message`` gets every stored state on the way, ``on_interval`` is called every ``interval``
        seconds, ``callback(id, result)`` at the end. The wait itself is by notification, and ``no_ack`` has
        no meaning here. With ``follow_parents`` the error of an earlier step of a chain is raised too.

        Raises ``RuntimeError`` where waiting would block others: inside a task (unless in
        ``allow_join_result()`` or with ``disable_sync_subtasks=False``) and in a running event loop.
        """
        if self.ignored:
            return None  # type: ignore[return-value]
        if disable_sync_subtasks:
            assert_will_not_block()
        parents = unended_parents(self) if propagate and follow_parents and self.parent else []
        if self._cache is None:
            refuse_in_event_loop()
            wait_for_end(self, timeout, parents, interval, on_message, on_interval)
        self.maybe_throw(propagate, callback)
        return self.value()  # type: ignore[no-any-return]

    wait = get

    async def aget(
        self, timeout: float | None = None, propagate: bool = True, disable_sync_subtasks: bool = True
    ) -> R:
        """:meth:`get` for coroutines; ``await result`` is the same without a timeout."""
        if self.ignored:
            return None  # type: ignore[return-value]
        if disable_sync_subtasks:
            assert_will_not_block()
        if self._cache is None:
            await await_end(self, timeout, follow_parents=propagate)
        self.maybe_throw(propagate)
        return self.value()  # type: ignore[no-any-return]

    def __await__(self) -> Generator[Any, None, R]:
        return self.aget().__await__()

    def then(
        self,
        callback: Callable[[Self], Any],
        on_error: Callable[[Self], Any] | None = None,
        weak: bool = False,
    ) -> Promise:
        """Call ``callback(result)`` when the task has succeeded, ``on_error(result)`` when it has failed.

        They run in a thread of the result store's, soon after, where what they raise is logged; or here and
        now if the result is known. With ``weak`` the callbacks are not kept alive. The promise returned has a
        ``then`` of its own, for what is to follow the callback, and ``cancel``.
        """
        promise = Promise(callback, on_error, weak)
        if self._cache is not None:
            self._fulfil(promise, here=True)
            return promise

        def arrived(_: str, payload: bytes) -> None:
            # A state may be announced more than once.
            if not promise.ready and self.take(payload):
                feed.close()
                self._fulfil(promise)

        feed = Feed([self], arrived)
        promise.until(feed.close)
        feed.open()
        return promise

    def _fulfil(self, promise: Promise, here: bool = False) -> None:
        if self.successful():
            promise.fulfil(self, here)
        else:
            promise.fail(self.error(), self, here)

    def too_late(self, timeout: float | None) -> exceptions.TimeoutError:
        """The error of a wait that took longer than ``timeout`` seconds."""
        return exceptions.TimeoutError(
            f"task {self.id} did not end within {timeout} seconds. It may still do so, and a later get() "
            "returns its result; if it does not even start, look with 'celeriac queues' whether a worker "
            "serves its queue"
        )

    # -- progress --------------------------------------------------------------------------------------

    @property
    def progress(self) -> Progress | None:
        """How far the task says it has come (``Task.progress``).

        ``None`` if it has not said, or has ended.
        """
        return progress_of(self._meta())

    def updates(self, timeout: float | None = None) -> Iterator[Progress]:
        """Each change of :attr:`progress` as it is stored, until the task has ended, well or not.

        ``TimeoutError`` if it has not in ``timeout`` seconds. ``RuntimeError`` as in :meth:`get`.
        """
        assert_will_not_block()
        refuse_in_event_loop()
        return changes(self, timeout)

    def aupdates(self, timeout: float | None = None) -> AsyncIterator[Progress]:
        """:meth:`updates` for coroutines: ``async for progress in result.aupdates()``."""
        assert_will_not_block()
        return achanges(self, timeout)

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
        return self.store().presence([self.id])[self.id]

    @property
    def children(self) -> list[Any] | None:
        """The results of the tasks and groups that this one called; ``None`` until it has ended."""
        if self._children is None:
            children = self._meta().get("children")
            if children is None:
                return None
            made = [result_from_tuple(child, self.app) for child in children]
            if self._cache is None:
                return made
            self._children = made
        return self._children

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
        return self.judge(self._meta(), propagate, callback)

    maybe_reraise = maybe_throw

    def throw(self, *args: Any, **kwargs: Any) -> Any:
        """The same as :meth:`maybe_throw`."""
        return self.maybe_throw(*args, **kwargs)

    def judge(self, meta: dict[str, Any], propagate: bool, callback: Callable[[str, Any], Any] | None) -> Any:
        """:meth:`maybe_throw` of a state that has been read already."""
        if propagate and meta["status"] in states.PROPAGATE_STATES:
            raise _error(meta)
        value = meta.get("result")
        if callback is not None:
            callback(self.id, value)
        return value

    def error(self) -> BaseException:
        """The error of a task that is known to have failed, to be raised."""
        return _error(self._meta())

    def _meta(self) -> dict[str, Any]:
        if self._cache is not None:
            return self._cache
        payload = self.store().fetch([self.id]).get(self.id)
        if payload is None:
            return {"status": states.PENDING, "result": None}
        meta = self.read(payload)
        if meta["status"] in states.READY_STATES:
            self._cache = meta
        return meta

    # -- for sets of results ---------------------------------------------------------------------------

    @property
    def settled(self) -> bool:
        """Whether nothing more is to be asked of the store: the end is known here, or nothing will come."""
        return self.ignored or self._cache is not None

    def take(self, payload: bytes) -> bool:
        """Keep a stored state if it is the last one; return whether it is."""
        meta = self.read(payload)
        if meta["status"] in states.READY_STATES:
            self._cache = meta
            return True
        return False

    def settle(self, meta: dict[str, Any]) -> None:
        """Keep the task's last state."""
        self._cache = meta

    def unsettle(self) -> None:
        """Know nothing of the task."""
        self._cache = self._children = None

    def last_state(self) -> dict[str, Any] | None:
        """The task's last state as it is stored, if it is known here."""
        return self._cache

    def leaves(self) -> Iterable[AsyncResult[Any]]:
        """This result alone."""
        return (self,)

    def value(self) -> Any:
        """The result, or the error, without asking the store; ``None`` if there is none."""
        meta = self._cache
        if meta is None or self.ignored or meta["status"] not in states.READY_STATES:
            return None
        return meta.get("result")

    def read(self, payload: bytes) -> dict[str, Any]:
        """A state as it is stored, decoded."""
        meta: dict[str, Any] = self.app.results.decode(payload, self.id)
        return meta

    def store(self) -> ResultBackend:
        """Where the result is looked for; raises ``NotImplementedError`` if results are turned off."""
        backend = self.backend
        if backend is None:
            raise NotImplementedError(
                "results are turned off: set result_backend to a store, or leave it out for the broker's own"
            )
        return backend

    # -- acting on the task ----------------------------------------------------------------------------

    def forget(self) -> None:
        """Delete the result, and those of its parents."""
        forget([self])

    def revoke(
        self,
        connection: Any = None,
        terminate: bool = False,
        signal: str | None = None,
        wait: bool = False,
        timeout: float | None = None,
    ) -> None:
        """Do not let the task run; with ``terminate`` kill it if it runs (``signal``, default SIGTERM).

        See ``app.control.revoke``: the order is stored when this returns. With ``wait`` the workers that run
        now have taken it as well, or ``timeout`` seconds (default 1) have passed.
        """
        self.app.control.revoke(
            self.id, terminate=terminate, signal=signal or "SIGTERM", **reply_options(wait, timeout)
        )

    def revoke_by_stamped_headers(
        self,
        headers: dict[str, Any],
        connection: Any = None,
        terminate: bool = False,
        signal: str | None = None,
        wait: bool = False,
        timeout: float | None = None,
    ) -> None:
        """Do not let any task run that is stamped with these ``headers``: name -> value or values.

        See ``app.control.revoke_by_stamped_headers``; otherwise as :meth:`revoke`.
        """
        self.app.control.revoke_by_stamped_headers(
            headers, terminate=terminate, signal=signal or "SIGTERM", **reply_options(wait, timeout)
        )

    # -- the tasks it called ---------------------------------------------------------------------------

    def iterdeps(self, intermediate: bool = False) -> Iterator[tuple[Any, Any]]:
        """Go through this result and those of the tasks it called, breadth first: ``(parent, result)``.

        Raises ``IncompleteStream`` if one has not ended, unless ``intermediate``.
        """
        return dependencies.iterdeps(self, intermediate)

    def collect(self, intermediate: bool = False, **kwargs: Any) -> Iterator[tuple[Any, Any]]:
        """Wait for this result and those of the tasks it called: ``(result, its value)`` each.

        The keyword arguments are those of :meth:`get`.
        """
        for _, node in self.iterdeps(intermediate=intermediate):
            yield node, node.get(**kwargs)

    def get_leaf(self) -> Any:
        """The value of the last result of :meth:`collect`."""
        value = None
        for _, node in self.iterdeps():
            value = node.get()
        return value

    @property
    def graph(self) -> DependencyGraph[Any]:
        """Each result, and the results of the tasks it called."""
        return self.build_graph()

    def build_graph(self, intermediate: bool = False, formatter: Any = None) -> DependencyGraph[Any]:
        """The same as :attr:`graph`; with ``intermediate`` also while tasks run.

        ``formatter`` draws it (``celeriac.utils.graph.GraphFormatter``).
        """
        return dependencies.graph(self, intermediate, formatter)

    # -- as data ---------------------------------------------------------------------------------------

    def as_tuple(self) -> tuple[Any, Any]:
        """``((id, parent), None)``, from which :func:`result_from_tuple` makes it again."""
        return (self.id, None if self.parent is None else self.parent.as_tuple()), None

    def as_list(self) -> list[str]:
        """The ids of this task and of the steps before it."""
        return [result.id for result in self.lineage()]

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


def _error(meta: dict[str, Any]) -> BaseException:
    return with_traceback(meta.get("result"), meta.get("traceback"))
