"""Unique and debounced calls: sent on the condition that no other call holds their key.

A unique call (``unique_for``, ``unique_key``) that finds its key held is not sent: the caller gets the
handle of the task that holds it, with ``duplicate`` set. A debounced call (``debounce``) waits for so many
seconds; one that comes meanwhile takes its place, under the same id, and the wait begins anew.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from celeriac.app import keys
from celeriac.engines.base import Hold, Publication, Unique
from celeriac.exceptions import ImproperlyConfigured, OperationalError

if TYPE_CHECKING:
    from celeriac.app.base import Celeriac
    from celeriac.task import Task

ATTEMPTS = 10
"""How often a debounced call may find that another one was quicker before it gives up."""


def concerns(task: Task[..., Any] | None, options: Mapping[str, Any]) -> bool:
    """Whether a call may have a condition: the quick look that every call pays for."""
    own = task is not None and (task.unique_for or task.unique_key or task.debounce)
    if own or "unique_for" in options or "unique_key" in options or "debounce" in options:
        return not any(options.get(key) is not None for key in _MEMBERSHIP)
    return False


_MEMBERSHIP = ("chain", "chord", "group_id", "replaced_task_nesting")
"""A member of a chain, group or chord is always sent, for those after it wait for it; so is what takes the
place of a running task."""


def send(
    app: Celeriac,
    name: str,
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    task: Task[..., Any] | None,
    sending: Mapping[str, Any],
    options: dict[str, Any],
) -> tuple[Publication, str | None]:
    """Send a call on its condition; return its message, and who holds its key if it was not sent.

    ``sending`` are the options of ``Publisher.send``. Raises ``ImproperlyConfigured`` if the broker keeps no
    keys.
    """
    condition = keys.unique_of(name, task, args, kwargs, options)
    wait = options.get("debounce") or getattr(task, "debounce", None)
    options = {key: value for key, value in options.items() if key not in keys.OPTIONS}
    if condition is None:
        publication = app.publisher.build(name, args, kwargs, task=task, **options)
        app.publisher.send((publication,), **sending)
        return publication, None
    broker = app.write_broker
    if not hasattr(broker, "holder"):
        raise ImproperlyConfigured(
            f"{name} is unique or debounced, and {app.broker_shown} keeps no keys: "
            "use SQLite, PostgreSQL or Redis as broker"
        )
    if condition.until is Hold.DELAYED:
        if options.get("eta") is None and options.get("countdown") is None:
            options["countdown"] = keys.seconds(wait, "debounce")
        return _debounced(app, name, args, kwargs, task, condition, sending, options), None
    publication = app.publisher.build(name, args, kwargs, task=task, unique=condition, **options)
    if publication.also or not publication.queue:
        raise ImproperlyConfigured(
            f"{name} is unique, but its route leads to several queues: "
            "give it one, or let it be sent each time"
        )
    return publication, app.publisher.send((publication,), **sending).get(0)


def _debounced(
    app: Celeriac,
    name: str,
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    task: Task[..., Any] | None,
    condition: Unique,
    sending: Mapping[str, Any],
    options: dict[str, Any],
) -> Publication:
    """Start the wait, or take the place of the call that waits. Its id stays: its callers wait on for it."""
    # What a worker stores with a task's end cannot be asked again there, so it is looked up before.
    coordinator = app.coordinator
    holder = coordinator.holder(condition.key) if coordinator and app.publisher.is_collecting else None
    for _ in range(ATTEMPTS):
        chosen = Unique(condition.key, condition.ttl, condition.until, holder or "")
        if holder:
            options["task_id"] = holder
        publication = app.publisher.build(name, args, kwargs, task=task, unique=chosen, **options)
        held = app.publisher.send((publication,), **sending)
        if not held:
            return publication
        if holder:
            del options["task_id"]
        holder = held[0] or None
    raise OperationalError(
        f"{name}: {ATTEMPTS} other calls with the key {condition.key!r} were quicker. Call again, or "
        "debounce where fewer calls come at once"
    )
