"""The form in which a chain's steps are sent: no chains in chains, no group that something follows.

Every step but the last then has one final task, whose result the next one gets: a task, or the body of a
chord.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from celeriac.canvas.chain import chain
from celeriac.canvas.chord import chord
from celeriac.canvas.group import group
from celeriac.canvas.joining import is_empty, unrolled
from celeriac.canvas.maps import as_group
from celeriac.canvas.signature import Signature, listed, maybe_signature
from celeriac.routing.routes import PLACE

if TYPE_CHECKING:
    from celeriac.app.base import Celeriac


def prepared(steps: list[Any], app: Celeriac) -> list[Any]:
    """The steps in that form. Chains are taken apart, also those that are bodies of chords; groups that are
    followed become chords."""
    flat: list[Any] = []
    empty: list[Any] = []
    todo = steps[::-1]
    while todo:
        step = as_group(unrolled(maybe_signature(todo.pop(), app)))
        if isinstance(step, chain):
            todo.extend(reversed(step.unchained(clone=False)))
        elif is_empty(step):
            empty = [step]
        elif isinstance(step, chord) and isinstance(step.body, chain) and step.body.tasks:
            first, *rest = _split(step, app)
            flat.append(first)
            todo.extend(reversed(rest))
        else:
            flat.append(step)
    done: list[Any] = []  # the last step first
    for step in reversed(flat):
        joined = _followed(step, done[-1]) if done else None
        if joined is None:
            done.append(step)
        else:
            done[-1] = joined
    return done[::-1] or empty


def freeze_steps(
    steps: list[Any], last: Mapping[str, Any], root_id: str | None, parent_id: str | None
) -> Any:
    """Freeze all steps, the last one as ``last`` says; return its result, linked to its parents."""
    final: Any = None
    first: Any = None
    for number in range(len(steps) - 1, -1, -1):
        place = last if number == len(steps) - 1 else {}
        result = steps[number].freeze(**place, root_id=root_id, parent_id=parent_id if not number else None)
        if final is None:
            final = result
        else:
            first.parent = result
        first = first_of(result)
    return final


def first_of(result: Any) -> Any:
    """The result of the first step that led to this one: a chord's own parent is its header."""
    while result.parent is not None:
        result = result.parent
    return result


def synchronised(sig: Any, app: Celeriac) -> Any:
    """``sig``, or if it ends in a group the chord that gathers the group's results: something with one final
    task."""
    gather = Signature("celery.accumulate", kwargs={"index": 0}, options=_beside(sig, app), app=app)
    joined = _followed(sig, gather)
    return sig if joined is None else joined


def _beside(sig: Any, app: Celeriac) -> dict[str, Any]:
    """Options that send a task where the tasks of the group in which ``sig`` ends are sent.

    The default queue, where the task would go by itself, may have no workers.
    """
    place: dict[str, Any] = {}
    while isinstance(sig, group | chain | chord) and (isinstance(sig, chord) or sig.tasks):
        if isinstance(sig, group):
            place = _place(sig["options"].get) or place
            sig = sig.tasks[0]
        else:
            sig = sig.body if isinstance(sig, chord) else sig.tasks[-1]
        sig = maybe_signature(sig, app)
    if not isinstance(sig, Signature):
        return {}
    task = sig._type or app.tasks.get(sig["task"])
    place = place or _place(sig["options"].get) or _place(lambda key: getattr(task, key, None))
    return place or {"route_name": sig["task"]}


def _place(get: Callable[[str], Any]) -> dict[str, Any]:
    """The place that is named; none if it is one where every worker would get the message."""
    place = {key: get(key) for key in PLACE if get(key) is not None}
    return {} if place.get("exchange_type") == "fanout" else place


def _followed(step: Any, following: Any) -> Any:
    """``step`` with ``following`` after its last group, or ``None`` if it does not end in a group."""
    if isinstance(step, group):
        made = chord(step, following, app=step._app)
        gid = step["options"].get("task_id")
        if gid and following["options"].get("task_id"):  # frozen already: it keeps its id
            made["options"]["task_id"] = gid
        return made
    if isinstance(step, chord) and step.body is not None:
        body = _followed(step.body, following)
        if body is not None:
            made = step.clone()
            made["kwargs"]["body"] = body
            return made
    return None


def _split(step: chord, app: Celeriac) -> list[Any]:
    """A chord whose body is a chain, as a chord of the chain's first step and the other steps.

    Every task of a header carries the body: the rest of a long chain would be copied into each of them.
    """
    made: Any = step.clone()
    options = made.body["options"]
    steps = prepared(made.body.unchained(), app)
    for callback in listed(made["options"].pop("link", None)):
        steps[-1].link(callback)
    if "task_id" in options:
        steps[-1]["options"].setdefault("task_id", options["task_id"])
    for key in ("group_id", "group_index", "chord"):
        if key in options:
            steps[-1]["options"].setdefault(key, options[key])
    for key in options.keys() - _OF_THE_CHAIN:
        steps[0]["options"][key] = options[key]
    made["kwargs"]["body"] = steps[0]
    return [made, *steps[1:]]


_OF_THE_CHAIN = {"chord", "group_id", "group_index", "link", "link_error", "parent_id", "root_id", "task_id"}
