"""Ticks: from a definition and a due time to the message of its task."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote
from uuid import NAMESPACE_URL, uuid5

from celeriac.app.definition import BeatLazyFunc, Definition
from celeriac.app.keys import UNIQUE_AT_MOST
from celeriac.app.stores import schedule_scope
from celeriac.engines.base import Publication, Unique
from celeriac.message import OWN_HEADER

if TYPE_CHECKING:
    from celeriac.app.base import Celeriac

HEADER: Final = "celeriac_schedule"
"""The message header that names the entry and, for a tick, its due time; ``self.request`` has it too."""

_NAMESPACE: Final = uuid5(NAMESPACE_URL, "celeriac:tick")


def tick_id(scope: str, name: str, due: float) -> str:
    """The task id of a tick: the same in every scheduler, so that nobody can fire it a second time."""
    return str(uuid5(_NAMESPACE, f"{scope}\0{name}\0{due:.6f}"))


def overlap_key(scope: str, name: str) -> str:
    """The unique key that a tick's task holds where ticks must not overlap."""
    return f"schedule:{quote(scope, safe='')}:{name}"


def messages(
    app: Celeriac, definition: Definition, task_id: str, due: float | None = None
) -> list[Publication]:
    """The message of a tick, or of a run out of turn (without ``due``).

    It is what ``apply_async`` makes of it, so a task class of the user's has its say: it may make none
    (``task_always_eager``: the task has run) or several, of which the last one is the tick's. Raises what
    ``apply_async`` raises for arguments and options that cannot be, and what a :class:`BeatLazyFunc` raises.
    """
    options = dict(definition.options)
    about: dict[str, Any] = {"entry": definition.name}
    if due is not None:
        about["due"] = datetime.fromtimestamp(due, UTC).isoformat()
    options["headers"] = {**(options.get("headers") or {}), "celery_beat_task": True, HEADER: about}
    options["task_id"] = task_id
    if definition.expires is not None:
        options["expires"] = definition.expires
    args, kwargs = _args(definition.args), _kwargs(definition.kwargs)
    task = app.tasks.get(definition.task)
    with app.publisher.collecting() as batch:
        if task is not None:
            task.apply_async(args, kwargs, add_to_parent=False, **options)
        else:
            app.send_task(definition.task, args, kwargs, add_to_parent=False, **options)
    if batch and not definition.overlap:
        condition = Unique(overlap_key(schedule_scope(app), definition.name), UNIQUE_AT_MOST)
        _hold(batch[-1], condition)
    return batch


def _hold(publication: Publication, condition: Unique) -> None:
    """Let the message's task hold the entry's key, in place of a unique key of its own."""
    publication.unique = condition
    publication.message.headers[OWN_HEADER]["unique"] = condition.key


def _args(given: Any) -> tuple[Any, ...]:
    if isinstance(given, BeatLazyFunc):
        given = given()
    return tuple(one() if isinstance(one, BeatLazyFunc) else one for one in given or ())


def _kwargs(given: Any) -> dict[str, Any]:
    if isinstance(given, BeatLazyFunc):
        given = given()
    found: Mapping[str, Any] = given or {}
    return {key: value() if isinstance(value, BeatLazyFunc) else value for key, value in found.items()}
