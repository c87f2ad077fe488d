"""The commands about the queues that a worker takes messages from."""

from __future__ import annotations

import logging
from typing import Any
from uuid import uuid4

from celeriac.routing.queues import Binding, Exchange, Queue, own_queue
from celeriac.worker.control.panel import control_command, inspect_command, ok
from celeriac.worker.control.state import State

logger = logging.getLogger("celeriac.worker.control")


@control_command(
    args=[("queue", str), ("exchange", str), ("exchange_type", str), ("routing_key", str)],
    signature="<queue> [exchange [type [routing_key]]]",
)
def add_consumer(
    state: State,
    queue: str,
    exchange: str | None = None,
    exchange_type: str | None = None,
    routing_key: str | None = None,
    **options: Any,
) -> dict[str, Any]:
    """Take messages from one more queue; one that the application does not declare is made."""
    agent = state.agent
    made = _declared(state, queue, exchange, exchange_type, routing_key, options)
    told = agent.posting.last
    if name := _name_here(state, made.name):
        cancelled = [each for each in told.cancelled if each != name]
        agent.tell_children(cancelled=cancelled)
    elif made.is_fanout:
        name = own_queue(made.name, uuid4().hex)
        agent.tell_children(
            added=[*told.added, name], own_bindings=[*told.own_bindings, *made.bindings(name)]
        )
    else:
        agent.tell_children(added=[*told.added, queue], bindings=[*told.bindings, *made.bindings()])
    agent.hasten(agent.beat, agent.bind)
    logger.info("Taking messages from %s as well: ordered", queue)
    return ok(f"add consumer {queue}")


@control_command(args=[("queue", str)], signature="<queue>")
def cancel_consumer(state: State, queue: str, **options: Any) -> dict[str, Any]:
    """Take no more messages from a queue; what a process has claimed already still runs."""
    agent = state.agent
    name = _name_here(state, queue)
    if name in agent.consumed:
        agent.tell_children(cancelled=[*agent.posting.last.cancelled, name])
        agent.hasten(agent.beat)
        logger.info("Taking no more messages from %s: ordered", queue)
    return ok(f"no longer consuming from {queue}")


@inspect_command()
def active_queues(state: State, **kwargs: Any) -> list[dict[str, Any]]:
    """The queues that the worker takes messages from."""
    return [_described(state, name) for name in state.agent.consumed]


def _declared(
    state: State,
    name: str,
    exchange: str | None,
    kind: str | None,
    routing_key: str | None,
    options: dict[str, Any],
) -> Queue:
    """The queue as the application knows it, or made of what was ordered."""
    queues = state.app.queues
    if name in queues:
        return queues[name]
    kept = {option: value for option, value in options.items() if value is not None}
    return queues.add(Queue(name, Exchange(exchange or name, kind or "direct"), routing_key or name, **kept))


def _name_here(state: State, queue: str) -> str | None:
    """The name of a queue among those that the node has ever taken from: its own copy's, of a broadcast."""
    if queue in state.agent.queues:
        return queue
    ties = [tie for tie in state.agent.own_bindings if tie.queue.startswith(own_queue(queue, ""))]
    return ties[0].queue if ties else None


def _described(state: State, name: str) -> dict[str, Any]:
    """A queue as kombu describes its own."""
    alias, queue = _known(state, name)
    options = queue.options
    return {
        "name": name,
        "exchange": _exchange(queue.exchange),
        "routing_key": queue.routing_key,
        "queue_arguments": queue.queue_arguments or None,
        "binding_arguments": options.get("binding_arguments"),
        "consumer_arguments": options.get("consumer_arguments"),
        "durable": options.get("durable", True),
        "exclusive": options.get("exclusive", False),
        "auto_delete": options.get("auto_delete", False),
        "no_ack": False,
        "alias": alias,
        "bindings": [
            {"exchange": _exchange(exchange), "routing_key": key, "arguments": None, "unbind_arguments": None}
            for exchange, key in queue.more
        ],
        "no_declare": options.get("no_declare"),
        "expires": options.get("expires"),
        "message_ttl": options.get("message_ttl"),
        "max_length": options.get("max_length"),
        "max_length_bytes": options.get("max_length_bytes"),
        "max_priority": queue.max_priority,
    }


def _known(state: State, name: str) -> tuple[str | None, Queue]:
    """What a queue is called in the application, if otherwise, and its definition."""
    queues = state.app.queues
    if name in queues:
        return None, queues[name]
    agent = state.agent
    ties: list[Binding] = [tie for tie in (*agent.own_bindings, *agent.bindings) if tie.queue == name]
    alias = next((each for each in queues if name.startswith(own_queue(each, ""))), None)
    if alias is not None:
        return alias, queues[alias]
    if not ties:
        return None, Queue(name, Exchange(name), name)
    # It was added before this agent took over from one that died.
    return None, Queue(name, Exchange(ties[0].exchange, ties[0].type), ties[0].routing_key)


def _exchange(exchange: Exchange) -> dict[str, Any]:
    return {
        "name": exchange.name,
        "type": exchange.type,
        "arguments": exchange.arguments or None,
        "durable": exchange.durable,
        "passive": False,
        "auto_delete": exchange.auto_delete,
        "delivery_mode": exchange.delivery_mode,
        "no_declare": False,
    }
