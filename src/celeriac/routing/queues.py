"""Exchanges, queues, and the set of them that an application knows."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from celeriac.exceptions import ImproperlyConfigured, QueueNotFound
from celeriac.routing.topics import reaches


class Exchange:
    """A named exchange of a broker that has them; elsewhere a label by which queues are chosen."""

    def __init__(
        self,
        name: str = "",
        type: str = "",
        durable: bool = True,
        auto_delete: bool = False,
        delivery_mode: int | str | None = None,
        arguments: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> None:
        self.name = name
        self.type = type or "direct"
        self.durable = durable
        self.auto_delete = auto_delete
        self.delivery_mode = delivery_mode
        self.arguments = dict(arguments or {})
        self.options = options

    @classmethod
    def of(cls, exchange: Any, kind: str = "") -> Exchange:
        """``exchange`` itself, or ours made of a name or of another library's object (kombu's)."""
        if isinstance(exchange, cls):
            return exchange
        if exchange is None or isinstance(exchange, str):
            return cls(exchange or "", kind)
        return cls(
            getattr(exchange, "name", "") or "",
            getattr(exchange, "type", "") or kind,
            bool(getattr(exchange, "durable", True)),
            bool(getattr(exchange, "auto_delete", False)),
            getattr(exchange, "delivery_mode", None),
            getattr(exchange, "arguments", None),
        )

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Exchange) and (self.name, self.type) == (other.name, other.type)

    def __hash__(self) -> int:
        return hash((self.name, self.type))

    def __str__(self) -> str:
        return self.name

    def __repr__(self) -> str:
        return f"<Exchange {self.name!r} ({self.type})>"


class Binding(NamedTuple):
    """A queue's tie to an exchange."""

    exchange: str
    type: str
    """``direct``, ``topic`` or ``fanout``."""
    routing_key: str
    """The key, or its pattern, of the messages that the queue gets; a fanout exchange ignores it."""
    queue: str


_KEPT = ("durable", "exclusive", "auto_delete", "expires", "message_ttl", "max_length", "max_length_bytes",
         "binding_arguments", "consumer_arguments")  # fmt: skip
"""Options of kombu's queues that are carried over."""


class Queue:
    """A named queue. Without an exchange and a routing key it is reached by its name alone.

    ``bindings`` ties it to more exchanges: pairs of exchange and routing key (or kombu's ``binding``).
    Further keyword arguments (``durable``, ``exclusive``, ``auto_delete``, ``expires``, ``message_ttl``,
    ``max_length``, ``queue_arguments``, ...) are kept in ``options`` for engines whose server knows them.
    """

    def __init__(
        self,
        name: str = "",
        exchange: Any = None,
        routing_key: str = "",
        max_priority: int | None = None,
        queue_arguments: Mapping[str, Any] | None = None,
        bindings: Iterable[Any] = (),
        **options: Any,
    ) -> None:
        self.name = name
        # Dictionary entries of task_queues may use the words of Celery's earliest versions.
        kind = options.pop("exchange_type", "")
        routing_key = routing_key or options.pop("binding_key", "") or ""
        self.exchange = Exchange.of(exchange, kind)
        self.routing_key = routing_key
        self.max_priority = max_priority
        self.queue_arguments = dict(queue_arguments or {})
        self.more = [_more(binding) for binding in bindings or ()]
        """Its further bindings: pairs of exchange and routing key."""
        self.options = options

    @classmethod
    def of(cls, queue: Any) -> Queue:
        """``queue`` itself, or ours made of a name or of another library's object (kombu's)."""
        if isinstance(queue, Queue):
            return queue
        if isinstance(queue, str):
            return Queue(queue)
        if not hasattr(queue, "name"):
            raise ImproperlyConfigured(
                f"{queue!r} is not a queue: use celeriac.Queue('name', routing_key='name')"
            )
        exchange = Exchange.of(getattr(queue, "exchange", None))
        # A broadcast queue of kombu's is known by its alias: its name is new in each process.
        alias = getattr(queue, "alias", None) if exchange.type == "fanout" else None
        return Queue(
            alias or queue.name,
            exchange,
            getattr(queue, "routing_key", "") or "",
            getattr(queue, "max_priority", None),
            getattr(queue, "queue_arguments", None),
            getattr(queue, "bindings", None) or (),
            **{name: getattr(queue, name) for name in _KEPT if getattr(queue, name, None) is not None},
        )

    @property
    def is_fanout(self) -> bool:
        """Whether each worker that takes from it has a queue of its own, which gets a copy of everything."""
        return self.exchange.type == "fanout"

    def bindings(self, name: str = "") -> list[Binding]:
        """Its ties to exchanges; ``name`` stands in for its own name."""
        ties = [(self.exchange, self.routing_key), *self.more]
        return [
            Binding(exchange.name, exchange.type, key, name or self.name)
            for exchange, key in ties
            if exchange.name
        ]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Queue) and self._identity() == other._identity()

    def __hash__(self) -> int:
        return hash(self._identity())

    def _identity(self) -> tuple[str, Exchange, str]:
        return (self.name, self.exchange, self.routing_key)

    def __str__(self) -> str:
        return self.name

    def __repr__(self) -> str:
        return f"<Queue {self.name!r} exchange={self.exchange.name!r} routing_key={self.routing_key!r}>"


def Broadcast(
    name: str = "",
    queue: str | None = None,
    unique: bool = False,
    auto_delete: bool = True,
    exchange: Any = None,
    alias: str | None = None,
    **options: Any,
) -> Queue:
    """A queue whose messages go to every worker that takes from it (kombu's ``Broadcast``).

    ``name`` is that of its fanout exchange, and what routes and ``-Q`` call it (or ``alias``). Each worker
    has a queue of its own under it, made by us: ``queue`` and ``unique``, which name it in kombu, have no
    effect.
    """
    made = Exchange.of(exchange) if exchange is not None else Exchange(name, "fanout")
    if not (alias or name):
        raise ImproperlyConfigured("a Broadcast queue needs a name: Broadcast('news')")
    return Queue(alias or name, made, auto_delete=auto_delete, **options)


SETTINGS = (
    "task_queues", "task_default_queue", "task_create_missing_queues", "task_default_exchange",
    "task_default_exchange_type", "task_default_routing_key", "task_default_queue_type",
    "task_create_missing_queue_type", "task_create_missing_queue_exchange_type", "task_queue_max_priority",
)  # fmt: skip
"""The settings that :meth:`Queues.of_settings` reads, in the order of the arguments of :class:`Queues`."""


class Queues(dict[str, Queue]):
    """The queues that the application knows, by name; unknown ones are added when they are asked for."""

    def __init__(
        self,
        declared: Any,
        default: str,
        create_missing: bool = True,
        default_exchange: str | None = None,
        default_exchange_type: str = "direct",
        default_routing_key: str | None = None,
        default_type: str = "classic",
        missing_type: str = "classic",
        missing_exchange_type: str | None = None,
        max_priority: int | None = None,
    ) -> None:
        """``declared`` is ``task_queues``: a list of queues, or a dictionary of their options by name.

        The others are named after the settings that they take the values of.
        """
        super().__init__()
        self.default = default
        self.create_missing = create_missing
        self._exchange = Exchange(default_exchange or default, default_exchange_type)
        self._routing_key = default_routing_key or default
        self._missing_type = missing_type
        self._missing_exchange_type = missing_exchange_type or "direct"
        self._max_priority = max_priority
        for queue in _declared(declared):
            self.add(queue)
        if not self:
            self.add(Queue(default, self._exchange, self._routing_key, queue_arguments=_typed(default_type)))
        self.consumed: dict[str, Queue] = dict(self)
        """Those a worker takes from: all that are declared, unless :meth:`select` chose."""

    @classmethod
    def of_settings(cls, values: Mapping[str, Any]) -> Queues:
        """The queues that an application's settings describe."""
        return cls(*(values[name] for name in SETTINGS))

    def __missing__(self, name: str) -> Queue:
        if not self.create_missing and not is_workers_own(name):
            raise QueueNotFound(
                f"queue {name!r} is not in task_queues and task_create_missing_queues is off: "
                f"declare it or use one of {', '.join(sorted(self)) or 'none'}"
            )
        exchange = Exchange(name, self._missing_exchange_type)
        return self.add(Queue(name, exchange, name, queue_arguments=_typed(self._missing_type)))

    def add(self, queue: Any) -> Queue:
        """Declare a queue; what it leaves out is filled from the defaults."""
        made = copy.copy(Queue.of(queue))
        if not made.exchange.name:
            made.exchange = self._exchange
        if not made.routing_key:
            made.routing_key = self._routing_key
        if made.max_priority is None and "x-max-priority" not in made.queue_arguments:
            made.max_priority = self._max_priority
        self[made.name] = made
        return made

    def select(self, names: str | Iterable[str] | None) -> dict[str, Queue]:
        """Let a worker take from these queues only (``-Q``); ``None`` keeps all. Return them, in order."""
        if names is not None:
            self.consumed = {name: self[name] for name in _names(names)}
        return self.consumed

    def deselect(self, names: str | Iterable[str] | None) -> dict[str, Queue]:
        """Let a worker not take from these queues (``-X``); return what is left."""
        if names is not None:
            excluded = set(_names(names))
            self.consumed = {name: queue for name, queue in self.consumed.items() if name not in excluded}
        return self.consumed

    def select_add(self, queue: Any) -> Queue:
        """Declare a queue and let a worker take from it as well, whatever was selected."""
        made = self.add(queue)
        self.consumed[made.name] = made
        return made

    def kind(self, exchange: str) -> str | None:
        """The type of an exchange that a declared queue is tied to."""
        ties = (tie for queue in self.values() for tie in queue.bindings())
        return next((tie.type for tie in ties if tie.exchange == exchange), None)

    def bound(self, exchange: str, routing_key: str) -> list[Queue]:
        """The declared queues that a broker with exchanges would give such a message to."""
        return [
            queue
            for queue in self.values()
            if any(
                tie.exchange == exchange and reaches(tie.type, tie.routing_key, routing_key)
                for tie in queue.bindings()
            )
        ]


def own_queue(exchange: str, unique: str) -> str:
    """The name of a worker's own queue on a fanout exchange."""
    return f"bcast.{exchange}.{unique}"


def is_workers_own(name: str) -> bool:
    """Whether a queue belongs to one worker, and need not be declared: its own copy of a broadcast queue, or
    its direct one. (What it retries goes back there by name.)"""
    return name.startswith("bcast.") or name.endswith(".dq2")


def _typed(kind: str) -> dict[str, Any]:
    """The arguments of a queue of this type; a classic one needs none, and Celery's has none."""
    return {} if kind == "classic" else {"x-queue-type": kind}


def _more(binding: Any) -> tuple[Exchange, str]:
    if isinstance(binding, tuple | list):
        exchange, key = binding
    else:
        exchange, key = binding.exchange, binding.routing_key
    return Exchange.of(exchange), key or ""


def _declared(queues: Any) -> Iterable[Queue]:
    if not queues:
        return
    if isinstance(queues, Mapping):
        for name, options in queues.items():
            if isinstance(options, Mapping | None):
                queue = Queue(name, **(options or {}))
                queue.routing_key = queue.routing_key or name
                yield queue
            else:
                yield Queue.of(options)
        return
    for queue in queues:
        yield Queue.of(queue)


def _names(names: str | Iterable[str]) -> list[str]:
    listed = names.split(",") if isinstance(names, str) else names
    return [name.strip() for name in listed if name.strip()]
