"""The router: from a call to the queues that its message goes to."""

from __future__ import annotations

import inspect
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, NamedTuple

from celeriac.exceptions import QueueNotFound
from celeriac.routing.direct import EXCHANGE as DIRECT
from celeriac.routing.queues import Binding, Queue, Queues
from celeriac.routing.routes import PLACE, Call, Routes
from celeriac.routing.topics import reaches

REMEMBERED: Final = 5.0
"""Seconds for which it is remembered what the store has bound to an exchange."""

Lookup = Callable[[str], Sequence[Binding]]


class Target(NamedTuple):
    """Where a message goes, and the options that its route adds to the call's."""

    queue: str
    """The first queue, or "" for every queue that workers have bound to the fanout exchange."""
    exchange: str
    routing_key: str
    extra: dict[str, Any]
    also: tuple[str, ...] = ()
    """More queues that get a copy."""


class Router:
    """Finds a task's queues. ``routes`` is ``task_routes``; ``lookup`` tells what the store has bound to an
    exchange that no declared queue is tied to."""

    def __init__(self, routes: Any, queues: Queues, lookup: Lookup | None = None) -> None:
        self.queues = queues
        self._routes = Routes(routes)
        self.dynamic = self._routes.dynamic
        """Whether callables among the routes may want the arguments of a call."""
        self._lookup = lookup
        self._plain: dict[str, Target] = {}
        self._bound: dict[str, tuple[float, Sequence[Binding]]] = {}

    def target(
        self,
        name: str,
        call: Mapping[str, Any] | None = None,
        task: Any = None,
        args: Any = (),
        kwargs: Mapping[str, Any] | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> Target:
        """Where a call of the task ``name`` goes.

        ``call`` may have ``queue``, ``exchange``, ``routing_key`` and ``exchange_type``; ``task`` the same as
        attributes. ``args``, ``kwargs`` and ``options`` (all of the call's) are for callable routes. Raises
        ``QueueNotFound`` if nothing receives it.
        """
        if not call:
            found = self._plain.get(name)
            if found is not None:
                return found
        options = call if options is None else options
        route, fixed = self._routes.find(Call(name, args, kwargs or {}, options or {}, task))
        own = {key: getattr(task, key, None) for key in PLACE} if task is not None else {}
        place = _place(call or {}, own, route or {})
        extra = {k: v for k, v in (route or {}).items() if k not in PLACE and not has_own(task, k)}
        target = self._target(place, extra)
        if fixed and not call and (not target.exchange or self.queues.kind(target.exchange)):
            self._plain[name] = target
        return target

    def _target(self, place: dict[str, Any], extra: dict[str, Any]) -> Target:
        queue = place.get("queue")
        exchange = _name(place.get("exchange"))
        routing_key = place.get("routing_key") or ""
        kind = place.get("exchange_type")
        if exchange and "fanout" in (kind, self.queues.kind(exchange)):
            return Target("", exchange, routing_key or self._key_of(exchange), extra)
        known = None if queue is None else self._queue(queue)
        if exchange and routing_key:
            return self._by_exchange(exchange, routing_key, known, extra)
        known = known or self.queues[self.queues.default]
        if (kind or known.exchange.type) == "direct":
            # A direct queue is reached by its name: nothing needs to be bound for it. (That an exchange
            # without a key says nothing is Celery's rule.)
            return Target(known.name, "", known.name, extra)
        if not exchange and known.is_fanout:
            return Target("", known.exchange.name, routing_key or known.routing_key, extra)
        return self._by_exchange(
            exchange or known.exchange.name, routing_key or known.routing_key, known, extra
        )

    def _queue(self, queue: Any) -> Queue:
        if isinstance(queue, str):
            return self.queues[queue]
        made = Queue.of(queue)
        return self.queues.get(made.name) or self.queues.add(made)

    def _by_exchange(
        self, exchange: str, routing_key: str, named: Queue | None, extra: dict[str, Any]
    ) -> Target:
        """The queues bound to ``exchange``; ``named`` is the one that the route names besides, which gets the
        message if no other would."""
        if exchange == DIRECT:
            return Target(f"{routing_key}.dq2", exchange, routing_key, extra)
        names = [queue.name for queue in self.queues.bound(exchange, routing_key)]
        if not names and named is not None:
            names = [named.name]
        if not names:
            bound = self._stored(exchange)
            if any(tie.type == "fanout" for tie in bound):
                return Target("", exchange, routing_key, extra)
            ties = (tie for tie in bound if reaches(tie.type, tie.routing_key, routing_key))
            names = list(dict.fromkeys(tie.queue for tie in ties))
        if not names:
            raise QueueNotFound(
                f"no queue is bound to exchange {exchange!r} with key {routing_key!r}, so the message would "
                "be lost: declare one in task_queues, or name a queue with queue=..."
            )
        return Target(names[0], exchange, routing_key, extra, tuple(names[1:]))

    def _key_of(self, exchange: str) -> str:
        """The key of a fanout's messages where none is given: Celery's workers on Redis listen for that of
        the queue."""
        return next((q.routing_key for q in self.queues.values() if q.exchange.name == exchange), "")

    def _stored(self, exchange: str) -> Sequence[Binding]:
        if self._lookup is None:
            return ()
        now = time.monotonic()
        until, bound = self._bound.get(exchange, (0.0, ()))
        if now >= until:
            bound = self._lookup(exchange)
            self._bound[exchange] = (now + REMEMBERED, bound)
        return bound


def _place(*sources: Mapping[str, Any]) -> dict[str, Any]:
    """The place that the sources name together, each one's word going before the next one's.

    Where a queue has been named, a source that names another place adds nothing: a queue from one source and
    the exchange of another would be a place that nobody meant.
    """
    place: dict[str, Any] = {}
    for source in sources:
        said = {key: source[key] for key in PLACE if source.get(key) is not None}
        if not said:
            continue
        elsewhere = (
            _name(said["queue"]) != _name(place.get("queue")) if "queue" in said else "exchange" in said
        )
        if "queue" in place and elsewhere:
            continue
        place = {**said, **place}
    return place


def has_own(task: Any, option: str) -> bool:
    """Whether a task says itself what ``option`` is, not only the settings for it."""
    if option in ("priority", "urgency") and getattr(task, "urgency", None) is not None:
        return True
    if option == "urgency":
        option = "priority"
    given = inspect.getattr_static(task, option, None)
    return given is not None and not getattr(given, "reads_setting", False)


def _name(thing: Any) -> str:
    return thing if isinstance(thing, str) else (getattr(thing, "name", "") or "")
