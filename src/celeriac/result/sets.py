"""ResultSet: several results, waited for together."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator, Callable, Generator, Iterable, Iterator
from contextlib import aclosing
from typing import TYPE_CHECKING, Any, Generic, Self, TypeVar

from celeriac import states
from celeriac.app import state as current
from celeriac.app.waiting import assert_will_not_block
from celeriac.result.async_result import AsyncResult
from celeriac.result.base import ResultBase
from celeriac.result.feed import Feed
from celeriac.result.gathering import Gathering, OnMessage, acompleted, completed
from celeriac.result.promise import Promise
from celeriac.result.stored import forget, look_up
from celeriac.result.waiting import reply_options

if TYPE_CHECKING:
    from celeriac.engines.results import ResultBackend

R = TypeVar("R")


class ResultSet(ResultBase, Generic[R]):
    """Several results in an order; members may be groups of results themselves. ``await`` waits for all.

    However many they are, waiting takes one subscription, and asking for their states one request.
    """

    app: Any = None

    def __init__(self, results: Iterable[Any], app: Any = None) -> None:
        self.results: list[Any] = list(results)
        """The members."""
        if app is not None:
            self.app = app
        elif self.app is None:
            apps = (leaf.app for leaf in self.leaves() if leaf.app is not None)
            self.app = next(apps, None) or current.app_or_default()

    # -- waiting ---------------------------------------------------------------------------------------

    def join(
        self,
        timeout: float | None = None,
        propagate: bool = True,
        interval: float = 0.5,
        callback: Callable[[str, Any], Any] | None = None,
        no_ack: bool = True,
        on_message: OnMessage = None,
        disable_sync_subtasks: bool = True,
        on_interval: Callable[[], Any] | None = None,
    ) -> list[R]:
        """Wait until all have ended, and return their values in the order of the set.

        The error of any task that fails is raised as soon as it is known; with ``propagate=False`` errors
        are in the list. With a ``callback`` the list is empty, and ``callback(id, value)`` is called for
        each member in the order in which they end. The other arguments, and the errors raised, are those of
        :meth:`AsyncResult.get`; ``timeout`` is for all together.
        """
        if disable_sync_subtasks:
            assert_will_not_block()
        gathering = Gathering(self.results, propagate, on_message)
        for member in completed(gathering, timeout, interval, on_interval):
            if callback is not None:
                callback(member.id, member.value())
        return self.value() if callback is None else []

    get = join_native = join

    async def aget(
        self, timeout: float | None = None, propagate: bool = True, disable_sync_subtasks: bool = True
    ) -> list[R]:
        """:meth:`join` for coroutines; ``await results`` is the same without a timeout."""
        if disable_sync_subtasks:
            assert_will_not_block()
        async with aclosing(acompleted(Gathering(self.results, propagate), timeout)) as members:
            async for _ in members:
                pass
        return self.value()

    def __await__(self) -> Generator[Any, None, list[R]]:
        return self.aget().__await__()

    def as_completed(self, timeout: float | None = None) -> AsCompleted:
        """The members in the order in which they end, for ``for`` as well as ``async for``.

        Errors of tasks are not raised: they are in the members. ``TimeoutError`` if some have not ended
        within ``timeout`` seconds.
        """
        assert_will_not_block()
        return AsCompleted(self.results, timeout)

    def iterate(
        self, timeout: float | None = None, propagate: bool = True, interval: float = 0.5
    ) -> Iterator[R]:
        """The members' values in the order in which they end; arguments as for :meth:`join`."""
        assert_will_not_block()
        members = completed(Gathering(self.results, propagate), timeout, interval)
        return (member.value() for member in members)

    def iter_native(
        self,
        timeout: float | None = None,
        interval: float = 0.5,
        no_ack: bool = True,
        on_message: OnMessage = None,
        on_interval: Callable[[], Any] | None = None,
    ) -> Iterator[tuple[str, Any]]:
        """The members in the order in which they end: ``(id, last state)`` as it is stored, a dictionary with
        ``status`` and ``result``; of a group ``(id, its list of results)``. Arguments as for :meth:`join`."""
        assert_will_not_block()
        members = completed(Gathering(self.results, on_message=on_message), timeout, interval, on_interval)
        return ((member.id, member.last_state()) for member in members)

    def then(
        self,
        callback: Callable[[Self], Any],
        on_error: Callable[[Self], Any] | None = None,
        weak: bool = False,
    ) -> Promise:
        """Call ``callback(self)`` when all have succeeded, or ``on_error(self)`` when all have ended and some
        have failed; otherwise as :meth:`AsyncResult.then`."""
        promise = Promise(callback, on_error, weak)
        gathering = Gathering(self.results)
        if not gathering.waiting:
            self._fulfil(promise, here=True)
            return promise
        lock = threading.Lock()

        def arrived(task_id: str, payload: bytes) -> None:
            # Several stores call from several threads.
            with lock:
                done = bool(gathering.take(task_id, payload)) and not gathering.waiting
            if done:
                feed.close()
                self._fulfil(promise)

        feed = Feed(gathering.results(), arrived)
        promise.until(feed.close)
        feed.open()
        return promise

    def _fulfil(self, promise: Promise, here: bool = False) -> None:
        ended = (leaf for leaf in self.leaves() if leaf.last_state() is not None)
        failed = next((leaf for leaf in ended if not _succeeded(leaf)), None)
        if failed is None:
            promise.fulfil(self, here)
        else:
            promise.fail(failed.error(), self, here)

    # -- what came of them -----------------------------------------------------------------------------

    def ready(self) -> bool:
        """Whether all have ended."""
        return not self.waiting()

    def waiting(self) -> bool:
        """Whether some have not ended."""
        self._look()
        return any(leaf.last_state() is None for leaf in self.leaves())

    def successful(self) -> bool:
        """Whether all have ended well."""
        self._look()
        return all(map(_succeeded, self.leaves()))

    def failed(self) -> bool:
        """Whether some have failed."""
        self._look()
        return any(_status(leaf) == states.FAILURE for leaf in self.leaves())

    def completed_count(self) -> int:
        """How many members have ended well."""
        self._look()
        return sum(all(map(_succeeded, member.leaves())) for member in self.results)

    def maybe_throw(self, callback: Callable[[str, Any], Any] | None = None, propagate: bool = True) -> None:
        """Raise the error of the first task that has failed; before, ``callback(id, result)`` for each."""
        found = self._look()
        pending = {"status": states.PENDING, "result": None}
        for leaf in self.leaves():
            leaf.judge(found.get(leaf.id, pending), propagate, callback)

    maybe_reraise = maybe_throw

    def value(self) -> list[R]:
        """The members' values known here, in order; ``None`` for those that have not ended."""
        return [member.value() for member in self.results]

    def leaves(self) -> Iterator[AsyncResult[Any]]:
        """The results of single tasks, those of groups in the set too."""
        for member in self.results:
            yield from member.leaves()

    def last_state(self) -> list[Any]:
        """The members (in place of a single task's last state)."""
        return self.results

    @property
    def backend(self) -> ResultBackend | None:
        """Where the results are looked for, unless they have stores of their own."""
        backend: ResultBackend | None = self.app.backend
        return backend

    @property
    def supports_native_join(self) -> bool | None:
        """Whether they are awaited by notification (eager ones need not be); ``None`` of an empty set."""
        return self.results[0].supports_native_join if self.results else None

    def _look(self) -> dict[str, dict[str, Any]]:
        return look_up(self.leaves())

    # -- acting on the tasks ---------------------------------------------------------------------------

    def forget(self) -> None:
        """Delete the results, and those of their parents."""
        forget(self.results)

    def revoke(
        self,
        connection: Any = None,
        terminate: bool = False,
        signal: str | None = None,
        wait: bool = False,
        timeout: float | None = None,
    ) -> None:
        """Do not let the tasks run, by one order for all; otherwise as :meth:`AsyncResult.revoke`."""
        stored = []
        for leaf in self.leaves():
            if leaf.local:
                leaf.revoke()
            else:
                stored.append(leaf.id)
        self.app.control.revoke(
            stored, terminate=terminate, signal=signal or "SIGTERM", **reply_options(wait, timeout)
        )

    # -- as a collection -------------------------------------------------------------------------------

    def add(self, result: Any) -> None:
        """Append a result, unless it is a member."""
        if result not in self.results:
            self.results.append(result)

    def remove(self, result: Any) -> None:
        """Remove a member, by itself or its id; ``KeyError`` if it is none."""
        try:
            self.results.remove(result)
        except ValueError:
            raise KeyError(result) from None

    def discard(self, result: Any) -> None:
        """:meth:`remove` that does nothing if it is no member."""
        if result in self.results:
            self.results.remove(result)

    def update(self, results: Iterable[Any]) -> None:
        """Append those results that are not members."""
        known = set(self.results)
        for result in results:
            if result not in known:
                known.add(result)
                self.results.append(result)

    def clear(self) -> None:
        """Remove all members."""
        self.results.clear()

    def __len__(self) -> int:
        return len(self.results)

    def __iter__(self) -> Iterator[Any]:
        return iter(self.results)

    def __getitem__(self, index: Any) -> Any:
        return self.results[index]

    def __eq__(self, other: object) -> bool:
        if isinstance(other, ResultSet):
            return bool(self.results == other.results)
        return NotImplemented

    __hash__ = None  # type: ignore[assignment]  # it can be changed

    def __reduce__(self) -> tuple[Any, ...]:
        return _unpickle, (self.results,)

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: [{', '.join(str(result.id) for result in self.results)}]>"


class AsCompleted:
    """The members of a set in the order in which they end, for ``for`` and ``async for``."""

    def __init__(self, members: list[Any], timeout: float | None) -> None:
        self._members, self._timeout = members, timeout

    def __iter__(self) -> Iterator[Any]:
        return completed(Gathering(self._members), self._timeout)

    def __aiter__(self) -> AsyncIterator[Any]:
        return acompleted(Gathering(self._members), self._timeout)


def _status(leaf: AsyncResult[Any]) -> str | None:
    last = leaf.last_state()
    return None if last is None else last["status"]


def _succeeded(leaf: AsyncResult[Any]) -> bool:
    return _status(leaf) == states.SUCCESS


def _unpickle(results: list[Any]) -> ResultSet[Any]:
    made: ResultSet[Any] = current.app_or_default().ResultSet(results)
    return made
