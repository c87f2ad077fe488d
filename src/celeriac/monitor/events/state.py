"""State: workers and tasks as their events tell of them, kept in memory."""

from __future__ import annotations

import bisect
import threading
import weakref
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import islice
from typing import Any, Final, NamedTuple

from celeriac.monitor.events.task import TASK_EVENT_TO_STATE, Task
from celeriac.monitor.events.worker import (
    HEARTBEAT_DRIFT_MAX,
    HEARTBEAT_EXPIRE_WINDOW,
    Worker,
    heartbeat_expires,
)

_Task = Task
_Worker = Worker

__all__ = [
    "HEARTBEAT_DRIFT_MAX",
    "HEARTBEAT_EXPIRE_WINDOW",
    "TASK_EVENT_TO_STATE",
    "State",
    "Task",
    "Worker",
    "heartbeat_expires",
]

_HEAP_FACTOR: Final = 4
"""Events a task is expected to have: so many times the tasks are kept in the order of time."""


class Recent(OrderedDict[str, Any]):
    """A dictionary of at most ``limit`` entries: the one that was written first goes first."""

    def __init__(self, limit: int | None = None, items: Iterable[tuple[str, Any]] = ()) -> None:
        self.limit = limit
        super().__init__(items)

    def __setitem__(self, key: str, value: Any) -> None:
        super().__setitem__(key, value)
        while self.limit and len(self) > self.limit:
            self.popitem(last=False)

    def itervalues(self) -> Iterator[Any]:
        """The values, as they are now."""
        return iter(list(self.values()))

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.limit, list(self.items()))


class Moment(NamedTuple):
    """When a task's event was, for the order of tasks: by the logical clock, then by time."""

    clock: int | None
    timestamp: float
    origin: str
    task: weakref.ref[Task]

    def __lt__(self, other: tuple[Any, ...]) -> bool:
        return _is_before(self, other)

    def __gt__(self, other: tuple[Any, ...]) -> bool:
        return _is_before(other, self)


def _is_before(one: tuple[Any, ...], other: tuple[Any, ...]) -> bool:
    if not (one[0] and other[0]):
        return bool(one[1] < other[1])
    return bool(one[2] < other[2]) if one[0] == other[0] else bool(one[0] < other[0])


class Index(defaultdict[str, "weakref.WeakSet[Task]"]):
    """Tasks by a name; called with one, it yields ``(uuid, task)`` in the order of time."""

    def __init__(self, by_time: Callable[..., Iterator[tuple[str, Task]]]) -> None:
        super().__init__(weakref.WeakSet)
        self._by_time = by_time

    def __call__(
        self, name: str, limit: int | None = None, reverse: bool = True
    ) -> Iterator[tuple[str, Task]]:
        return self._by_time(name, limit, reverse)


class State:
    """The state of a cluster. :meth:`event` is a handler for a receiver; threads may share it."""

    Worker = Worker
    Task = Task
    app: Any = None
    event_count = 0
    task_count = 0
    """How many tasks have been received."""
    heap_multiplier = _HEAP_FACTOR

    def __init__(
        self,
        callback: Callable[[State, dict[str, Any]], Any] | None = None,
        workers: Any = None,
        tasks: Any = None,
        taskheap: list[Moment] | None = None,
        max_workers_in_memory: int = 5000,
        max_tasks_in_memory: int = 10000,
        on_node_join: Callable[[_Worker], Any] | None = None,
        on_node_leave: Callable[[_Worker], Any] | None = None,
        tasks_by_type: Mapping[str, Iterable[str]] | None = None,
        tasks_by_worker: Mapping[str, Iterable[str]] | None = None,
    ) -> None:
        """``callback`` is called with this and each event before it counts, ``on_node_join`` and
        ``on_node_leave`` with a worker that appears or signs off."""
        self.event_callback = callback
        self.workers = Recent(max_workers_in_memory) if workers is None else workers
        self.tasks = Recent(max_tasks_in_memory) if tasks is None else tasks
        self.max_workers_in_memory = max_workers_in_memory
        self.max_tasks_in_memory = max_tasks_in_memory
        self.on_node_join = on_node_join
        self.on_node_leave = on_node_leave
        self.handlers: dict[str, Callable[[str, dict[str, Any]], Any]] = {}
        """Group of events -> who takes them in our place."""
        self._mutex = threading.RLock()
        self._taskheap: list[Moment] = [] if taskheap is None else taskheap
        self._seen_types: set[str] = set()
        self._orphans: Recent = Recent(max_tasks_in_memory)
        self.rebuild_taskheap()
        self.tasks_by_type = Index(lambda *asked: self._select(lambda task: task.name, *asked))
        self.tasks_by_worker = Index(
            lambda *asked: self._select(lambda task: task.worker and task.worker.hostname, *asked)
        )
        for index, given in ((self.tasks_by_type, tasks_by_type), (self.tasks_by_worker, tasks_by_worker)):
            for name, ids in (given or {}).items():
                index[name].update(self.tasks[each] for each in ids if each in self.tasks)

    # -- events ------------------------------------------------------------------------------------

    def event(self, event: dict[str, Any]) -> Any:
        """Take note of an event. Returns ``((worker or task, whether it is new), subject)``, if known."""
        with self._mutex:
            return self._event(event)

    def task_event(self, type_: str, fields: Mapping[str, Any]) -> Any:
        """An event ``task-<type_>``; returns the task and whether it is new."""
        return self.event({**fields, "type": f"task-{type_}"})[0]

    def worker_event(self, type_: str, fields: Mapping[str, Any]) -> Any:
        """An event ``worker-<type_>``; returns the worker and whether it is new."""
        return self.event({**fields, "type": f"worker-{type_}"})[0]

    def _event(self, event: dict[str, Any]) -> Any:
        self.event_count += 1
        if self.event_callback is not None:
            self.event_callback(self, event)
        group, _, subject = event["type"].partition("-")
        if group in self.handlers:
            return self.handlers[group](subject, event), subject
        if group == "worker":
            return self._worker_event(subject, event)
        return self._task_event(subject, event) if group == "task" else None

    def _worker_event(self, subject: str, event: dict[str, Any]) -> Any:
        hostname = event.get("hostname")
        if hostname is None:
            return None
        leaves = subject == "offline"
        known = self.workers.get(hostname)
        worker = known if known is not None else self.Worker(hostname)
        created = known is None and not leaves
        if created:
            self.workers[hostname] = worker
        worker.event(subject, event.get("timestamp"), event.get("local_received"), event)
        if self.on_node_join is not None and (created or subject == "online"):
            self.on_node_join(worker)
        if self.on_node_leave is not None and leaves:
            self.on_node_leave(worker)
            self.workers.pop(hostname, None)
        return (worker, created), subject

    def _task_event(self, subject: str, event: dict[str, Any]) -> Any:
        uuid, hostname = event["uuid"], event["hostname"]
        timestamp, local_received = event["timestamp"], event.get("local_received")
        task, created = self.get_or_create_task(uuid)
        if subject == "sent":
            task.client = origin = hostname
        else:
            worker, _ = self.get_or_create_worker(hostname)
            task.worker, origin = worker, worker.id
            if local_received:
                worker.event(None, timestamp, local_received)
        self._place(Moment(event.get("clock"), timestamp, origin, weakref.ref(task)))
        if subject == "received":
            self.task_count += 1
        named = task.name is not None
        task.event(subject, timestamp, local_received, event)
        if task.name is not None:
            self._seen_types.add(task.name)
            if not named:
                self.tasks_by_type[task.name].add(task)
            if subject != "sent":
                self.tasks_by_worker[hostname].add(task)
        self._relate(task)
        return (task, created), subject

    def _place(self, moment: Moment) -> None:
        heap = self._taskheap
        if len(heap) >= self.max_tasks_in_memory * self.heap_multiplier:
            del heap[0]
        if heap and moment > heap[-1]:
            heap.append(moment)
        else:
            bisect.insort(heap, moment)

    def _relate(self, task: _Task) -> None:
        """Make it known to its parent, and its children to it, whichever of them is told of first."""
        if task.parent_id:
            parent = self.tasks.get(task.parent_id)
            if parent is not None:
                parent.children.add(task)
            else:
                self._orphans.setdefault(task.parent_id, weakref.WeakSet()).add(task)
        waiting = self._orphans.pop(str(task.uuid), None)
        if waiting is not None:
            task.children.update(waiting)

    # -- looking -----------------------------------------------------------------------------------

    def get_or_create_worker(self, hostname: str, **kwargs: Any) -> tuple[_Worker, bool]:
        """The worker of this name, and whether it is new; ``kwargs`` are set on it."""
        worker = self.workers.get(hostname)
        if worker is not None:
            worker.update(kwargs)
            return worker, False
        worker = self.workers[hostname] = self.Worker(hostname, **kwargs)
        return worker, True

    def get_or_create_task(self, uuid: str) -> tuple[_Task, bool]:
        """The task with this id, and whether it is new."""
        task = self.tasks.get(uuid)
        if task is not None:
            return task, False
        task = self.tasks[uuid] = self.Task(uuid, cluster_state=self)
        return task, True

    def itertasks(self, limit: int | None = None) -> Iterator[tuple[str, _Task]]:
        """``(uuid, task)`` in the order in which they became known."""
        return islice(list(self.tasks.items()), limit or None)

    def tasks_by_time(self, limit: int | None = None, reverse: bool = True) -> Iterator[tuple[str, _Task]]:
        """``(uuid, task)`` in the order of their last events, the newest first; of ``limit`` events."""
        heap = list(self._taskheap)
        seen = set()
        for moment in islice(reversed(heap) if reverse else heap, limit):
            task = moment.task()
            if task is not None and task.uuid not in seen:
                seen.add(task.uuid)
                yield str(task.uuid), task

    tasks_by_timestamp = tasks_by_time

    def task_types(self) -> list[str]:
        """The names of all tasks seen, sorted."""
        return sorted(self._seen_types)

    def alive_workers(self) -> Iterator[_Worker]:
        """The workers that seem to be alive."""
        return (worker for worker in list(self.workers.values()) if worker.alive)

    def _select(
        self,
        key: Callable[[_Task], str | None],
        name: str,
        limit: int | None = None,
        reverse: bool = True,
    ) -> Iterator[tuple[str, _Task]]:
        found = ((uuid, task) for uuid, task in self.tasks_by_time(reverse=reverse) if key(task) == name)
        return islice(found, limit)

    # -- keeping -----------------------------------------------------------------------------------

    def freeze_while(self, fun: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Call ``fun`` while no event is taken; with ``clear_after=True`` forget everything then."""
        clear_after = kwargs.pop("clear_after", False)
        with self._mutex:
            try:
                return fun(*args, **kwargs)
            finally:
                if clear_after:
                    self._clear()

    def clear(self, ready: bool = True) -> None:
        """Forget the workers, and the tasks that have ended (all with ``ready=False``)."""
        with self._mutex:
            self._clear(ready)

    def clear_tasks(self, ready: bool = True) -> None:
        """Forget the tasks that have ended (all with ``ready=False``)."""
        with self._mutex:
            self._clear_tasks(ready)

    def rebuild_taskheap(self) -> None:
        """Put all tasks in order anew."""
        self._taskheap[:] = sorted(
            Moment(task.clock, task.timestamp or 0.0, task.origin or "", weakref.ref(task))
            for task in self.tasks.values()
        )

    def _clear(self, ready: bool = True) -> None:
        self.workers.clear()
        self._clear_tasks(ready)
        self.event_count = self.task_count = 0

    def _clear_tasks(self, ready: bool = True) -> None:
        running = [(uuid, task) for uuid, task in self.tasks.items() if ready and not task.ready]
        self.tasks.clear()
        self.tasks.update(running)
        self._taskheap.clear()

    def __repr__(self) -> str:
        return f"<State: events={self.event_count} tasks={self.task_count}>"

    def __reduce__(self) -> tuple[Any, ...]:
        return State, (
            self.event_callback, self.workers, self.tasks, None, self.max_workers_in_memory,
            self.max_tasks_in_memory, self.on_node_join, self.on_node_leave, _ids(self.tasks_by_type),
            _ids(self.tasks_by_worker),
        )  # fmt: skip


def _ids(index: Index) -> dict[str, list[str]]:
    return {name: [str(task.uuid) for task in tasks] for name, tasks in index.items()}
