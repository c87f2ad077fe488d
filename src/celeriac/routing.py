"""Queues and routes: to which queue a task's message goes.

Where a call does not say it, the first of these that does decides: the call's options, the route of
``task_routes``, the task's attributes, ``task_default_queue``. Kombu's ``Queue`` and ``Exchange`` objects
are accepted wherever ours are.
"""

from __future__ import annotations

import copy
import fnmatch
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

from celeriac.exceptions import ImproperlyConfigured, QueueNotFound


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

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Exchange) and (self.name, self.type) == (other.name, other.type)

    def __hash__(self) -> int:
        return hash((self.name, self.type))

    def __str__(self) -> str:
        return self.name

    def __repr__(self) -> str:
        return f"<Exchange {self.name!r} ({self.type})>"


class Queue:
    """A named queue. Without an exchange and a routing key it is reached by its name alone.

    Further keyword arguments (``durable``, ``exclusive``, ``auto_delete``, ``expires``, ``message_ttl``,
    ``max_length``, ``max_priority``, ``queue_arguments``, ...) are kept in ``options`` for engines whose
    server knows them.
    """

    def __init__(
        self,
        name: str = "",
        exchange: Exchange | str | None = None,
        routing_key: str = "",
        max_priority: int | None = None,
        queue_arguments: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> None:
        self.name = name
        # Dictionary entries of task_queues may use the words of Celery's earliest versions.
        kind = options.pop("exchange_type", "")
        routing_key = routing_key or options.pop("binding_key", "")
        self.exchange = exchange if isinstance(exchange, Exchange) else Exchange(exchange or "", kind)
        self.routing_key = routing_key
        self.max_priority = max_priority
        self.queue_arguments = dict(queue_arguments or {})
        self.options = options

    @classmethod
    def of(cls, queue: Any) -> Queue:
        """``queue`` itself, or ours made of a name or of another library's object (kombu's)."""
        if isinstance(queue, cls):
            return queue
        if isinstance(queue, str):
            return cls(queue)
        if not hasattr(queue, "name"):
            raise ImproperlyConfigured(
                f"{queue!r} is not a queue: use celeriac.Queue('name', routing_key='name')"
            )
        exchange = getattr(queue, "exchange", None)
        return cls(
            queue.name,
            Exchange(
                getattr(exchange, "name", "") or "",
                getattr(exchange, "type", "") or "",
                delivery_mode=getattr(exchange, "delivery_mode", None),
            ),
            getattr(queue, "routing_key", "") or "",
            getattr(queue, "max_priority", None),
            getattr(queue, "queue_arguments", None),
            **{
                name: getattr(queue, name)
                for name in ("durable", "exclusive", "auto_delete", "expires", "message_ttl", "max_length")
                if getattr(queue, name, None) is not None
            },
        )

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
    ) -> None:
        """``declared`` is ``task_queues``: a list of queues, or a dictionary of their options by name."""
        super().__init__()
        self.default = default
        self.create_missing = create_missing
        self._exchange = Exchange(default_exchange or default, default_exchange_type)
        self._routing_key = default_routing_key or default
        for queue in _declared(declared):
            self.add(queue)
        if not self:
            self.add(Queue(default, self._exchange, self._routing_key))
        self.consumed: dict[str, Queue] = dict(self)
        """Those a worker takes from: all that are declared, unless :meth:`select` chose."""

    def __missing__(self, name: str) -> Queue:
        if not self.create_missing:
            raise QueueNotFound(
                f"queue {name!r} is not in task_queues and task_create_missing_queues is off: "
                f"declare it or use one of {', '.join(sorted(self)) or 'none'}"
            )
        return self.add(Queue(name, Exchange(name, self._exchange.type), name))

    def add(self, queue: Any) -> Queue:
        """Declare a queue; what it leaves out is filled from the defaults."""
        made = copy.copy(Queue.of(queue))
        if not made.exchange.name:
            made.exchange = self._exchange
        if not made.routing_key:
            made.routing_key = self._routing_key
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

    def bound(self, exchange: str, routing_key: str) -> list[Queue]:
        """The declared queues that a broker with exchanges would give such a message to."""
        return [queue for queue in self.values() if _binds(queue, exchange, routing_key)]


class Target(NamedTuple):
    """Where a message goes, and the options that its route adds to the call's."""

    queue: str
    exchange: str
    routing_key: str
    extra: dict[str, Any]


class Router:
    """Finds a task's queue. ``routes`` is ``task_routes``."""

    def __init__(self, routes: Any, queues: Queues) -> None:
        self.queues = queues
        self._routes = _route_maps(routes)
        self._plain: dict[str, Target] = {}

    def target(self, name: str, call: Mapping[str, Any] | None = None, task: Any = None) -> Target:
        """Where a call of the task ``name`` goes.

        ``call`` may have ``queue``, ``exchange``, ``routing_key`` and ``exchange_type``; ``task`` the same as
        attributes. Raises ``QueueNotFound`` if nothing receives it.
        """
        if not call:
            found = self._plain.get(name)
            if found is None:
                found = self._plain[name] = self._target(self._places(name, {}, task))
            return found
        return self._target(self._places(name, call, task))

    def _places(self, name: str, call: Mapping[str, Any], task: Any) -> dict[str, Any]:
        """The route to take. Who names a queue or an exchange names the place alone: a queue from one
        source and an exchange from another would be a place that nobody meant."""
        route = self._route(name) or {}
        own = {key: getattr(task, key, None) for key in _PLACE}
        for source in (call, route, own):
            place = {k: v for k, v in source.items() if k in _PLACE and v is not None}
            if place:
                break
        return {**{k: v for k, v in route.items() if k not in _PLACE}, **place}

    def _route(self, name: str) -> dict[str, Any] | None:
        for lookup in self._routes:
            found = lookup(name)
            if found is not None:
                return {"queue": found} if isinstance(found, str) else dict(found)
        return None

    def _target(self, route: dict[str, Any]) -> Target:
        queue = route.pop("queue", None)
        exchange = _name(route.pop("exchange", None))
        routing_key = route.pop("routing_key", None) or ""
        kind = route.pop("exchange_type", None)
        if queue is None and exchange:
            return self._by_exchange(exchange, routing_key, route)
        known = self._queue(self.queues.default if queue is None else queue)
        kind = kind or known.exchange.type
        if kind == "direct" and not (exchange and routing_key):
            # A direct queue is reached by its name: nothing needs to be bound for it.
            return Target(known.name, "", known.name, route)
        return Target(known.name, exchange or known.exchange.name, routing_key or known.routing_key, route)

    def _queue(self, queue: Any) -> Queue:
        if isinstance(queue, str):
            return self.queues[queue]
        made = Queue.of(queue)
        return self.queues.get(made.name) or self.queues.add(made)

    def _by_exchange(self, exchange: str, routing_key: str, extra: dict[str, Any]) -> Target:
        bound = self.queues.bound(exchange, routing_key)
        if len(bound) == 1:
            return Target(bound[0].name, exchange, routing_key, extra)
        if bound:
            names = ", ".join(queue.name for queue in bound)
            raise ImproperlyConfigured(
                f"exchange {exchange!r} with key {routing_key!r} leads to several queues ({names}): "
                "name one of them with queue=..."
            )
        raise QueueNotFound(
            f"no queue of task_queues is bound to exchange {exchange!r} with key {routing_key!r}, "
            "so the message would be lost: declare one, or name a queue with queue=..."
        )


_PLACE = ("queue", "exchange", "routing_key", "exchange_type")


# -- reading settings ----------------------------------------------------------------------------------


def _declared(queues: Any) -> Iterable[Queue]:
    if not queues:
        return
    if isinstance(queues, Mapping):
        for name, options in queues.items():
            yield Queue(name, **(options or {})) if isinstance(options, Mapping | None) else Queue.of(options)
        return
    for queue in queues:
        yield Queue.of(queue)


def _route_maps(routes: Any) -> list[Callable[[str], Any]]:
    if not routes:
        return []
    if isinstance(routes, Mapping):
        return [_lookup(routes.items())]
    raise ImproperlyConfigured(
        f"task_routes must be a dictionary of task names, patterns and their routes, not {routes!r}"
    )


def _lookup(items: Iterable[tuple[Any, Any]]) -> Callable[[str], Any]:
    exact: dict[str, Any] = {}
    patterns: list[tuple[re.Pattern[str], Any]] = []
    for key, route in items:
        if isinstance(key, re.Pattern):
            patterns.append((key, route))
        elif "*" in key or "?" in key or "[" in key:
            patterns.append((re.compile(fnmatch.translate(key)), route))
        else:
            exact[key] = route

    def look(name: str) -> Any:
        if name in exact:
            return exact[name]
        return next((route for pattern, route in patterns if pattern.match(name)), None)

    return look


def _name(exchange: Any) -> str:
    return exchange if isinstance(exchange, str) else (getattr(exchange, "name", "") or "")


def _names(names: str | Iterable[str]) -> list[str]:
    listed = names.split(",") if isinstance(names, str) else names
    return [name.strip() for name in listed if name.strip()]


def _binds(queue: Queue, exchange: str, routing_key: str) -> bool:
    if queue.exchange.name != exchange:
        return False
    if queue.exchange.type == "fanout":
        return True
    if queue.exchange.type == "topic":
        return _topic_matches(queue.routing_key, routing_key)
    return queue.routing_key == routing_key


def _topic_matches(pattern: str, key: str) -> bool:
    words = [r"[^.]+" if w == "*" else "#" if w == "#" else re.escape(w) for w in pattern.split(".")]
    expression = r"\.".join(words)
    # "#" stands for any number of words, none included, together with the dot that would set it off.
    expression = expression.replace(r"\.#", r"(?:\.[^.]+)*").replace(r"#\.", r"(?:[^.]+\.)*")
    expression = expression.replace("#", ".*")
    return re.fullmatch(expression, key) is not None
