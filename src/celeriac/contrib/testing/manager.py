"""Waiting and asserting on many results: what Celery's own integration tests use."""

from __future__ import annotations

import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from itertools import count
from typing import TYPE_CHECKING, Any, TextIO

from celeriac import states
from celeriac.exceptions import OperationalError, TimeoutError
from celeriac.result import AsyncResult, allow_join_result

if TYPE_CHECKING:
    from celeriac.app.base import Celeriac
    from celeriac.app.inspector import Inspect


class Sentinel(Exception):
    """Raised by :meth:`ManagerMixin.true_or_raise` while something is not true yet."""


class ManagerMixin:
    """The helpers; ``app`` is given by :class:`Manager`."""

    app: Celeriac
    block_timeout: float
    no_join: bool
    stdout: TextIO
    stderr: TextIO

    def _init_manager(
        self,
        block_timeout: float = 30 * 60.0,
        no_join: bool = False,
        stdout: TextIO | None = None,
        stderr: TextIO | None = None,
    ) -> None:
        self.block_timeout = block_timeout
        self.no_join = no_join
        self.stdout, self.stderr = stdout or sys.stdout, stderr or sys.stderr

    def remark(self, s: str, sep: str = "-") -> None:
        """Print a line."""
        print(f"{sep}{s}", file=self.stdout)

    def warn(self, s: str) -> None:
        """Print a line to the error stream."""
        print(s, file=self.stderr)

    def missing_results(self, r: Iterable[AsyncResult[Any]]) -> list[str]:
        """The ids of those that have not ended."""
        return [result.id for result in r if not result.ready()]

    def wait_for(
        self,
        fun: Callable[..., Any],
        catch: Any,
        desc: str = "thing",
        args: Sequence[Any] = (),
        kwargs: dict[str, Any] | None = None,
        errback: Callable[..., Any] | None = None,
        max_retries: int | None = 10,
        interval_start: float = 0.1,
        interval_step: float = 0.5,
        interval_max: float = 5.0,
        emit_warning: bool = False,
        **options: Any,
    ) -> Any:
        """Call ``fun`` until it no longer raises ``catch``; return what it returns.

        The pauses grow from ``interval_start`` by ``interval_step`` to ``interval_max`` seconds. After
        ``max_retries`` more attempts (``None``: never) the last error is raised.
        """
        pause = interval_start
        for attempt in count():
            try:
                return fun(*args, **(kwargs or {}))
            except catch as error:
                if max_retries is not None and attempt >= max_retries:
                    raise
                if errback is not None:
                    errback(error, iter((pause,)), attempt)
                if emit_warning:
                    self.warn(f"still waiting for {desc}: {error}")
            time.sleep(pause)
            pause = min(pause + interval_step, interval_max)

    def retry_over_time(self, *args: Any, **kwargs: Any) -> Any:
        """:meth:`wait_for`."""
        return self.wait_for(*args, **kwargs)

    def ensure_not_for_a_while(
        self,
        fun: Callable[..., Any],
        catch: Any,
        desc: str = "thing",
        max_retries: int = 20,
        interval_start: float = 0.1,
        interval_step: float = 0.02,
        interval_max: float = 1.0,
        emit_warning: bool = False,
        **options: Any,
    ) -> None:
        """Call ``fun`` for a while, and raise ``AssertionError`` if it ever does not raise ``catch``."""
        pause = interval_start
        for _ in range(max_retries):
            try:
                fun()
            except catch:
                time.sleep(pause)
                pause = min(pause + interval_step, interval_max)
            else:
                raise AssertionError(f"should not have happened: {desc}")

    def join(self, r: Any, propagate: bool = False, max_retries: int | None = 10, **kwargs: Any) -> Any:
        """The result of ``r`` (one or a set); each attempt waits ``timeout`` seconds (default 1).

        Raises ``AssertionError`` if it has not come after ``max_retries`` attempts.
        """
        if self.no_join:
            return None
        kwargs.setdefault("timeout", 1.0)
        for _ in range(max_retries if max_retries is not None else sys.maxsize):
            try:
                with allow_join_result():
                    return r.get(propagate=propagate, **kwargs)
            except TimeoutError:
                continue
            except OperationalError as error:
                self.warn(f"cannot reach the result backend: {error}")
        raise AssertionError(f"no result after {max_retries} attempts: {r}")

    def true_or_raise(self, fun: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """What ``fun`` returns; :class:`Sentinel` is raised if that is false."""
        value = fun(*args, **kwargs)
        if not value:
            raise Sentinel
        return value

    # -- what workers say ------------------------------------------------------------------------------

    def inspect(self, timeout: float = 3.0) -> Inspect:
        """Questions to workers (``app.control.inspect``)."""
        made: Inspect = self.app.control.inspect(timeout=timeout)
        return made

    def query_tasks(self, ids: Iterable[str], timeout: float = 0.5) -> Iterator[tuple[str, Any]]:
        """What each worker knows of these tasks: ``(node, {id: [state, record]})``."""
        yield from (self.inspect(timeout).query_task(*ids) or {}).items()

    def query_task_states(self, ids: Iterable[str], timeout: float = 0.5) -> dict[str, set[str]]:
        """The ids by what they are in the workers: ``"active"``, ``"reserved"``, ``"scheduled"``."""
        found: dict[str, set[str]] = defaultdict(set)
        for _, reply in self.query_tasks(ids, timeout):
            for task_id, (state, _) in reply.items():
                found[state].add(task_id)
        return found

    def is_received(self, ids: Iterable[str], timeout: float = 0.5) -> bool:
        """Whether workers have claimed all of these tasks."""
        return self._are(("reserved", "active", "ready"), ids, timeout)

    def is_accepted(self, ids: Iterable[str], timeout: float = 0.5) -> bool:
        """Whether workers run all of these tasks."""
        return self._are(("active", "ready"), ids, timeout)

    def _are(self, wanted: Iterable[str], ids: Iterable[str], timeout: float) -> bool:
        states = self.query_task_states(ids := list(ids), timeout)
        return set(ids) <= {task_id for state in wanted for task_id in states.get(state, ())}

    def assert_received(self, ids: Sequence[str], interval: float = 0.5, **policy: Any) -> Any:
        """Wait until :meth:`is_received`."""
        policy = {"desc": "tasks to be received", **policy}
        return self.assert_task_worker_state(self.is_received, ids, interval, **policy)

    def assert_accepted(self, ids: Sequence[str], interval: float = 0.5, **policy: Any) -> Any:
        """Wait until :meth:`is_accepted`."""
        policy = {"desc": "tasks to be accepted", **policy}
        return self.assert_task_worker_state(self.is_accepted, ids, interval, **policy)

    def assert_task_worker_state(
        self, fun: Callable[..., Any], ids: Sequence[str], interval: float = 0.5, **policy: Any
    ) -> Any:
        """Wait until ``fun(ids, timeout=interval)`` is true."""
        return self.wait_for(partial(self.true_or_raise, fun, ids, timeout=interval), (Sentinel,), **policy)

    # -- what results say ------------------------------------------------------------------------------

    def assert_result_tasks_in_progress_or_completed(
        self, async_results: Sequence[AsyncResult[Any]], interval: float = 0.5, desc: str = "", **policy: Any
    ) -> Any:
        """Wait until all of these have started (with ``task_track_started``) or ended."""
        return self.assert_task_state_from_result(
            self.is_result_task_in_progress,
            async_results,
            interval=interval,
            desc=desc or "tasks to be started or completed",
            **policy,
        )

    def assert_task_state_from_result(
        self,
        fun: Callable[..., Any],
        results: Sequence[AsyncResult[Any]],
        interval: float = 0.5,
        **policy: Any,
    ) -> Any:
        """Wait until ``fun(results)`` is true, looking every ``interval`` seconds."""
        policy = {"interval_start": interval, "interval_step": 0.0, **policy}
        return self.wait_for(partial(self.true_or_raise, fun, results), (Sentinel,), **policy)

    @staticmethod
    def is_result_task_in_progress(results: Iterable[AsyncResult[Any]], **kwargs: Any) -> bool:
        """Whether each of these has started or ended."""
        return all(result.state in states.READY_STATES | {states.STARTED} for result in results)

    def wait_until_idle(self) -> None:
        """Wait until no message of the application's queues is ready, leased or parked."""
        queues = list(self.app.queues)

        def idle() -> bool:
            depths = self.app.broker.depth(queues).values()
            return not any(depth.ready or depth.leased or depth.parked for depth in depths)

        self.wait_for(partial(self.true_or_raise, idle), (Sentinel,), "idle workers", max_retries=None)


class Manager(ManagerMixin):
    """The helpers for an application: ``Manager(app).join(result)``."""

    def __init__(self, app: Celeriac, **kwargs: Any) -> None:
        self.app = app
        self._init_manager(**kwargs)
