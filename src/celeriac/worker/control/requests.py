"""What a node's children hold, as Celery's inspect commands show it: a record a task."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from celeriac.exceptions import CeleriacError, DecodeError, ImproperlyConfigured
from celeriac.message import Message, decode_body, decode_envelope
from celeriac.worker.board import ChildRecord
from celeriac.worker.holdings import Holdings

if TYPE_CHECKING:
    from celeriac.app.base import Celeriac
    from celeriac.worker.agent import Agent

_READABLE = frozenset({"application/json"})
"""Bodies that are read for being shown: nothing that could do something when it is read."""
_LONGEST = 1 << 20
"""Bytes of a compressed body that are read."""


def active(agent: Agent, safe: bool = False) -> list[dict[str, Any]]:
    """What runs. ``safe`` shows arguments as text, else they are values; secrets are masked in both."""
    return [record for child in agent.records for record in _active(agent, child, safe)]


def reserved(agent: Agent) -> list[dict[str, Any]]:
    """What has been claimed and waits behind what runs."""
    return [record for child in agent.records for record in _reserved(agent, child)]


def scheduled(agent: Agent, limit: int) -> list[dict[str, Any]]:
    """Delayed messages of the node's queues, ``limit`` at most: they wait in the store.

    None where it cannot show them (RabbitMQ).
    """
    found: list[dict[str, Any]] = []
    for queue in agent.consumed:
        try:
            payloads = agent.app.broker.peek(queue, 0, limit - len(found), "delayed")
        except ImproperlyConfigured:
            return []
        for payload in payloads:
            message = _read(payload)
            if message is not None:
                entry = {
                    "eta": message.headers.get("eta"),
                    "priority": message.properties.get("priority") or 0,
                    "request": info(agent.app, agent.options.name, message, queue),
                }
                found.append(entry)
        if len(found) >= limit:
            break
    return found


def find(agent: Agent, ids: Iterable[str]) -> dict[str, tuple[str, dict[str, Any]]]:
    """Which of these tasks the node holds, and where: ``"active"``, ``"reserved"`` or ``"scheduled"``.

    A task that waits for its time waits in the store, so each node says it of all.
    """
    wanted = set(ids)
    found: dict[str, tuple[str, dict[str, Any]]] = {}
    for state, records in (("active", active(agent)), ("reserved", reserved(agent))):
        found.update({record["id"]: (state, record) for record in records if record["id"] in wanted})
    left = wanted.difference(found)
    for task_id, payload in (agent.app.broker.find(sorted(left)) if left else {}).items():
        message = _read(payload)
        if message is not None:
            found[task_id] = "scheduled", info(agent.app, agent.options.name, message, "")
    return found


def stamped(agent: Agent) -> Iterator[tuple[str, dict[str, Any]]]:
    """The ids of tasks that run and carry stamps, with these."""
    for child in agent.records:
        held = Holdings(agent.board, child.number).held()
        for running in child.running():
            message = _read(held.get(running.token, b""))
            stamps = message.headers.get("stamps") if message is not None else None
            if message is not None and isinstance(stamps, dict):
                yield str(message.headers.get("id")), stamps


def info(app: Celeriac, hostname: str, message: Message, queue: str, safe: bool = False) -> dict[str, Any]:
    """The record of a message that does not run, with Celery's fields."""
    name = message.headers.get("task")
    args, kwargs = _texts(message) if safe else _values(app, message, str(name))
    properties = message.properties
    place = properties.get("delivery_info")
    place = place if isinstance(place, dict) else {}
    return {
        "id": message.headers.get("id"),
        "name": name,
        "args": args,
        "kwargs": kwargs,
        "type": name,
        "hostname": hostname,
        "time_start": None,
        "acknowledged": False,
        "delivery_info": {
            "exchange": place.get("exchange") or "",
            "routing_key": place.get("routing_key") or queue,
            "priority": properties.get("priority") or 0,
            "redelivered": bool(message.headers.get("redelivered")),
        },
        "worker_pid": None,
    }


def _active(agent: Agent, child: ChildRecord, safe: bool) -> Iterator[dict[str, Any]]:
    running = list(child.running())
    if not running:
        return
    held = Holdings(agent.board, child.number).held()
    for run in running:
        message = _read(held.get(run.token, b""))
        if message is None:  # not written down whole: the board knows its names
            message = Message({"id": run.task_id, "task": run.task}, {}, b"")
        record = info(agent.app, agent.options.name, message, agent.queues[run.queue], safe)
        record["time_start"] = time.time() - (time.monotonic() - run.since)
        record["acknowledged"] = run.once
        record["worker_pid"] = child.pid
        yield record


def _reserved(agent: Agent, child: ChildRecord) -> Iterator[dict[str, Any]]:
    waiting = child.waiting()
    if not waiting:
        return
    held = Holdings(agent.board, child.number).held()
    for token, queue in waiting:
        message = _read(held.get(token, b""))
        if message is not None:
            yield info(agent.app, agent.options.name, message, agent.queues[queue])


def _read(payload: bytes) -> Message | None:
    try:
        return decode_envelope(payload) if payload else None
    except DecodeError:
        return None


def _texts(message: Message) -> tuple[str, str]:
    """The arguments as the sender has written them for people."""
    headers = message.headers
    return str(headers.get("argsrepr") or "()"), str(headers.get("kwargsrepr") or "{}")


def _values(app: Celeriac, message: Message, task: str) -> tuple[Any, Any]:
    """The arguments themselves, with their secrets replaced; as text if they must not or cannot be read."""
    try:
        args, kwargs, _ = decode_body(message, _READABLE, _LONGEST)
        return app.redact.arguments(app.registry.get(task), args, kwargs)
    except CeleriacError:
        return _texts(message)
