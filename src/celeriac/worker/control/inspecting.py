"""The commands that look at a worker."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from celeriac.worker.control import requests, statistics, tasks
from celeriac.worker.control.panel import inspect_command, ok
from celeriac.worker.control.state import State

SCHEDULED_MAX = 1000
"""Delayed messages that are shown."""
TASK_INFO = ("exchange", "routing_key", "rate_limit")
"""What is told of registered tasks, if the sender names nothing."""


def truth(text: Any) -> bool:
    """A boolean of a command line: yes, on, true, 1 and their opposites. Raises ``ValueError``."""
    if isinstance(text, bool):
        return text
    word = str(text).lower()
    if word in ("yes", "on", "true", "1"):
        return True
    if word in ("no", "off", "false", "0"):
        return False
    raise ValueError(f"{text!r} is neither true nor false")


@inspect_command(default_timeout=0.2)
def ping(state: State, **kwargs: Any) -> dict[str, Any]:
    """See whether the worker answers."""
    return ok("pong")


@inspect_command()
def clock(state: State, **kwargs: Any) -> dict[str, Any]:
    """The logical clock."""
    return {"clock": state.app.clock.value}


@inspect_command()
def report(state: State, **kwargs: Any) -> dict[str, Any]:
    """What a bug report should contain."""
    return ok(state.app.bugreport())


@inspect_command(alias="dump_conf", signature="[include_defaults=False]", args=[("with_defaults", truth)])
def conf(state: State, with_defaults: bool = False, **kwargs: Any) -> dict[str, Any]:
    """The settings, secrets masked."""
    return state.app.conf.table(with_defaults=truth(with_defaults))


@inspect_command()
def stats(state: State, **kwargs: Any) -> dict[str, Any]:
    """Counters, the pool, the broker and the resources used."""
    return statistics.collect(state.agent)


@inspect_command(alias="dump_active")
def active(state: State, safe: bool = False, **kwargs: Any) -> list[dict[str, Any]]:
    """The tasks that run."""
    return requests.active(state.agent, safe)


@inspect_command(alias="dump_reserved")
def reserved(state: State, **kwargs: Any) -> list[dict[str, Any]]:
    """The tasks that a process has claimed and not started."""
    return requests.reserved(state.agent)


@inspect_command(alias="dump_schedule")
def scheduled(state: State, **kwargs: Any) -> list[dict[str, Any]]:
    """Delayed tasks of the worker's queues (up to 1,000)."""
    return requests.scheduled(state.agent, SCHEDULED_MAX)


@inspect_command(variadic="ids", signature="[id1 [id2 [... [idN]]]]")
def query_task(state: State, ids: str | Sequence[str], **kwargs: Any) -> dict[str, Any]:
    """Where tasks are, by their ids."""
    return requests.find(state.agent, [ids] if isinstance(ids, str) else ids)


@inspect_command(alias="dump_revoked")
def revoked(state: State, **kwargs: Any) -> list[str]:
    """The ids of revoked tasks."""
    return tasks.revoked_ids(state)


@inspect_command(alias="dump_tasks", variadic="taskinfoitems", signature="[attr1 [attr2 [... [attrN]]]]")
def registered(
    state: State, taskinfoitems: Sequence[str] | None = None, builtins: bool = False, **kwargs: Any
) -> list[str]:
    """The registered tasks, each with these attributes (exchange, routing_key and rate_limit)."""
    named = [str(item) for item in taskinfoitems or TASK_INFO if not str(item).startswith("_")]
    known, coordinator = state.app.tasks, state.app.coordinator
    ordered: dict[str, str] = {}
    if "rate_limit" in named and coordinator is not None:
        ordered = coordinator.control(0).rate_limits
    return [
        _described(known[name], named, ordered)
        for name in sorted(known)
        if builtins or not name.startswith("celery.")
    ]


def _described(task: Any, attributes: Sequence[str], ordered: dict[str, str]) -> str:
    found = {name: getattr(task, name, None) for name in attributes}
    if "rate_limit" in found and task.name in ordered:
        found["rate_limit"] = ordered[task.name] or None  # "" is no limit, by order
    told = [f"{name}={value}" for name, value in found.items() if value is not None]
    return f"{task.name} [{' '.join(told)}]" if told else str(task.name)
