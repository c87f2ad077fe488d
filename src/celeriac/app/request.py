"""Context: what a running task knows about its own call (``self.request``)."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any

from celeriac.app import state
from celeriac.app.checkpoint import Checkpoint
from celeriac.message import Message

if TYPE_CHECKING:
    from celeriac.app.base import Celeriac

_PROTOCOL_HEADERS = frozenset(
    ("lang", "task", "id", "shadow", "eta", "expires", "group", "group_index", "retries", "timelimit",
     "root_id", "parent_id", "argsrepr", "kwargsrepr", "origin", "ignore_result", "replaced_task_nesting",
     "stamped_headers", "stamps", "compression", "celeriac", "redelivered")
)  # fmt: skip


class Context:
    """One call's attributes; those a message does not set have the class's defaults.

    Every header of the message is an attribute too, the user's own included. ``headers`` holds the
    user's own alone (``None`` if there are none).
    """

    args: Any = None
    callbacks: list[Any] | None = None
    called_directly: bool = True
    """``False`` in a worker and in eager mode."""
    chain: list[Any] | None = None
    """The steps that follow, the next one last."""
    chord: Any = None
    chord_additions: list[Any] | None = None
    """Signatures that are to join the header of the task's chord when it succeeds (``Task.add_to_chord``)."""
    connection: Any = None
    """The database connection of a task that is ``transactional``, in its transaction: not to be committed or
    rolled back by the task."""
    delivery_token: int | None = None
    """Grows with every delivery of this message: a fencing id for stores that can check one."""
    errbacks: list[Any] | None = None
    eta: str | None = None
    expires: Any = None
    group: str | None = None
    group_index: int | None = None
    hostname: str | None = None
    """The node name of the worker that runs the task."""
    id: str | None = None
    ignore_result: bool = False
    is_eager: bool = False
    kwargs: Any = None
    lease: tuple[str, str, int] | None = None
    """``(owner, queue, token)`` under which the worker holds the message (``ResultRecord.lease``)."""
    logfile: str | None = None
    loglevel: int | None = None
    message: Message | None = None
    """The message that brought the call; ``None`` for direct and eager calls."""
    origin: str | None = None
    parent_id: str | None = None
    properties: dict[str, Any] | None = None
    queue: str | None = None
    """The queue from which the message was taken."""
    redelivered: bool = False
    replaced_task_nesting: int = 0
    retries: int = 0
    """How many attempts came before this one."""
    root_id: str | None = None
    shadow: str | None = None
    soft_time_limit: float | None = None
    stamped_headers: list[str] | None = None
    stamps: dict[str, Any] | None = None
    time_limit: float | None = None
    timelimit: Any = None
    """``[hard, soft]``, seconds or ``None``."""
    utc: bool | None = None
    _children: list[Any] | None = None
    _progressed: float = -1.0
    """When the call last told of its progress, by the monotonic clock."""
    _update: dict[str, Any] | None = None
    """The last ``update_state`` of an eager call."""
    _checkpoint: Checkpoint | None = None

    def __init__(
        self,
        message: Message | None = None,
        args: Any = None,
        kwargs: Any = None,
        embed: Mapping[str, Any] | None = None,
        *,
        queue: str | None = None,
        delivery_token: int | None = None,
        redelivered: bool = False,
        hostname: str | None = None,
        **attributes: Any,
    ) -> None:
        """Describe the call that ``message`` asks for, or one made here of ``attributes`` alone."""
        values = self.__dict__
        if message is not None:
            values.update(message.headers)
            # Not self._take_message: a header may have that name.
            Context._take_message(self, message, embed or {})
            values["called_directly"] = False
        values["args"] = args
        values["kwargs"] = kwargs
        values["queue"] = queue
        values["delivery_token"] = delivery_token
        values["redelivered"] = redelivered
        values["hostname"] = hostname
        if attributes:
            values.update(attributes)
        limits = values.get("timelimit")
        if limits and len(limits) == 2:
            values["time_limit"], values["soft_time_limit"] = limits

    def _take_message(self, message: Message, embed: Mapping[str, Any]) -> None:
        values = self.__dict__
        values["message"] = message
        values["properties"] = message.properties
        if embed:
            values["callbacks"] = embed.get("callbacks")
            values["errbacks"] = embed.get("errbacks")
            values["chain"] = embed.get("chain")
            values["chord"] = embed.get("chord")
        # A header of the message; the attribute of this name holds the user's own headers.
        values.pop("headers", None)

    # Few tasks ask for these, so they are worked out when one does (2 us a task).

    @cached_property
    def headers(self) -> dict[str, Any] | None:
        """The message's headers that are not the protocol's: the user's own. ``None`` if there are none."""
        if self.message is None:
            return None
        own = {key: value for key, value in self.message.headers.items() if key not in _PROTOCOL_HEADERS}
        return own or None

    @cached_property
    def delivery_info(self) -> dict[str, Any] | None:
        """``exchange``, ``routing_key``, ``priority``, ``redelivered``."""
        if self.message is None:
            return None
        properties = self.message.properties
        info = properties.get("delivery_info") or {}
        return {
            "exchange": info.get("exchange", ""),
            "routing_key": info.get("routing_key", self.queue),
            "priority": properties.get("priority", 0),
            "redelivered": self.redelivered,
        }

    @cached_property
    def correlation_id(self) -> str | None:
        """The message's, by which its reply is known: the task's id."""
        return None if self.properties is None else self.properties.get("correlation_id")

    @cached_property
    def reply_to(self) -> str | None:
        """The reply queue that the client named."""
        return None if self.properties is None else self.properties.get("reply_to")

    @cached_property
    def taskset(self) -> str | None:
        """An old name of ``group``."""
        return self.group

    @property
    def children(self) -> list[Any]:
        """Results of the tasks that this one has called so far."""
        if self._children is None:
            self._children = []
        return self._children

    @property
    def checkpoint(self) -> Any:
        """What an earlier run of this call kept with ``Task.checkpoint``, or this one did; else ``None``.

        The first look asks the store.
        """
        frame = state.worker_frame()
        if self._checkpoint is None and self.message is not None and frame is not None:
            self._checkpoint = Checkpoint.fetched(frame.task.app, str(self.id))
        return None if self._checkpoint is None else self._checkpoint.state

    def keep_checkpoint(self, app: Celeriac, kept: Any) -> bool:
        """Keep ``kept`` for this call's next run; see ``Task.checkpoint``."""
        self._checkpoint = Checkpoint(kept)
        return self.message is None or self._checkpoint.store(app, str(self.id), self.lease)

    @property
    def has_checkpoint(self) -> bool:
        """Whether one is known to be stored: it is deleted with the end of the task."""
        return self._checkpoint is not None and self._checkpoint.stored

    @property
    def task_name(self) -> str | None:
        """The name under which the task was called."""
        name: str | None = self.__dict__.get("task")
        return name

    def get(self, key: str, default: Any = None) -> Any:
        """The attribute ``key``, or ``default``."""
        return getattr(self, key, default)

    def update(self, *args: Any, **kwargs: Any) -> None:
        """Set attributes, as ``dict.update`` does."""
        self.__dict__.update(*args, **kwargs)

    def clear(self) -> None:
        """Return to the defaults."""
        self.__dict__.clear()

    def __getattr__(self, name: str) -> Any:
        if name == "name":
            # What receivers of task_received and task_revoked call it; a header of this name goes first.
            return self.task_name
        raise AttributeError(f"this task's request has no attribute or header {name!r}")

    def __repr__(self) -> str:
        return f"<Context: {self.__dict__.get('task')} id={self.id} retries={self.retries}>"
