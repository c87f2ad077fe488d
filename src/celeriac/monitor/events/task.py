"""A task, as its events tell of it."""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, Final

from celeriac import states

if TYPE_CHECKING:
    from celeriac.monitor.events.state import State

TASK_EVENT_TO_STATE: Final = {
    "sent": states.PENDING,
    "received": states.RECEIVED,
    "started": states.STARTED,
    "failed": states.FAILURE,
    "retried": states.RETRY,
    "succeeded": states.SUCCESS,
    "revoked": states.REVOKED,
    "rejected": states.REJECTED,
}
"""The state that an event ``task-<name>`` tells; any other name is a state of its own, in capitals."""


class Task:
    """A task. Every field of its events is an attribute; the times (``received``, ``started``, ...) are when
    the event of that name was, epoch seconds."""

    name: Any = None
    received = sent = started = succeeded = failed = retried = revoked = rejected = None
    args = kwargs = eta = expires = retries = result = exception = timestamp = runtime = None
    traceback = exchange = routing_key = client = None
    root_id: str | None = None
    parent_id: str | None = None
    worker: Any = None
    """The :class:`Worker` that told of it last."""
    state = states.PENDING
    clock = 0
    uuid: str | None
    children: weakref.WeakSet[Task]
    """The tasks that this one sent."""

    _fields = (
        "uuid", "name", "state", "received", "sent", "started", "rejected", "succeeded", "failed", "retried",
        "revoked", "args", "kwargs", "eta", "expires", "retries", "worker", "result", "exception",
        "timestamp", "runtime", "traceback", "exchange", "routing_key", "clock", "client", "root", "root_id",
        "parent", "parent_id", "children",
    )  # fmt: skip
    _info_fields = (
        "args", "kwargs", "retries", "result", "eta", "runtime", "expires", "exception", "exchange",
        "routing_key", "root_id", "parent_id",
    )  # fmt: skip
    merge_rules: Mapping[str, tuple[str, ...]] = {
        states.RECEIVED: (
            "name", "args", "kwargs", "parent_id", "root_id", "retries", "eta", "expires", "queue",
            "group_id", "chord", "stamps",
        ),
    }  # fmt: skip
    """State -> the fields that its event still tells when it comes after one that it was before."""

    def __init__(
        self,
        uuid: str | None = None,
        cluster_state: State | None = None,
        children: Iterable[str] | None = None,
        **kwargs: Any,
    ) -> None:
        self.uuid = uuid
        self.cluster_state = cluster_state
        known = cluster_state.tasks if cluster_state is not None else {}
        self.children = weakref.WeakSet(known[each] for each in children or () if each in known)
        self.__dict__.update(kwargs)

    def event(
        self,
        type_: str,
        timestamp: float | None = None,
        local_received: float | None = None,
        fields: Mapping[str, Any] | None = None,
    ) -> None:
        """Take note of an event ``task-<type_>``."""
        told = {key: value for key, value in (fields or {}).items() if not _is_fixed(key)}
        state = TASK_EVENT_TO_STATE.get(type_)
        if state is not None:
            setattr(self, type_, timestamp)
        else:
            state = type_.upper()
        late = (
            states.RETRY not in (state, self.state)
            and states.precedence(state) > states.precedence(self.state)
        )  # fmt: skip
        if late:
            keep = self.merge_rules.get(state)
            if keep is not None:
                told = {key: value for key, value in told.items() if key in keep}
        else:
            told.update(state=state, timestamp=timestamp)
        self.__dict__.update(told)

    def info(self, fields: Iterable[str] | None = None, extra: Iterable[str] = ()) -> dict[str, Any]:
        """Those of these attributes that are known, for people."""
        names = [*(self._info_fields if fields is None else fields), *(extra or ())]
        return {name: value for name in names if (value := getattr(self, name, None)) is not None}

    def as_dict(self) -> dict[str, Any]:
        """All that Celery's monitors know of a task; other tasks by their ids."""
        found = {name: getattr(self, name) for name in self._fields if name not in _RELATED}
        related = {
            "children": [child.id for child in self.children],
            "root": self.root_id,
            "parent": self.parent_id,
        }
        return {name: related[name] if name in related else found[name] for name in self._fields}

    @property
    def id(self) -> str | None:
        """The task's id."""
        return self.uuid

    @property
    def origin(self) -> str | None:
        """Who told of it: the worker, else the client."""
        return self.client if self.worker is None else self.worker.id

    @property
    def ready(self) -> bool:
        """Whether it has ended."""
        return self.state in states.READY_STATES

    @property
    def parent(self) -> Task | None:
        """The task that sent it, if it is known."""
        return self._known(self.parent_id)

    @property
    def root(self) -> Task | None:
        """The first task of its workflow, if it is known."""
        return self._known(self.root_id)

    def _known(self, uuid: str | None) -> Task | None:
        if not uuid or self.cluster_state is None:
            return None
        found: Task | None = self.cluster_state.tasks.get(uuid)
        return found

    def __eq__(self, other: object) -> bool:
        return self.uuid == other.uuid if isinstance(other, Task) else NotImplemented

    def __hash__(self) -> int:
        return hash(self.uuid)

    def __repr__(self) -> str:
        return f"<Task: {self.name}({self.uuid}) {self.state} clock:{self.clock}>"

    def __reduce__(self) -> tuple[Any, ...]:
        fields = {key: value for key, value in self.as_dict().items() if key not in ("root", "parent")}
        return _unpickled, (type(self), fields)


_RELATED: Final = ("children", "root", "parent")


def _is_fixed(name: str) -> bool:
    """Whether a field's name is that of something that a task works out itself."""
    return (
        name in ("cluster_state", "children")
        or callable(getattr(Task, name, None))
        or isinstance(getattr(Task, name, None), property)
    )


def _unpickled(cls: type[Task], fields: dict[str, Any]) -> Task:
    return cls(**fields)
