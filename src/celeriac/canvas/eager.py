"""Canvases run in the caller's process, with the results that workers would give."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from celeriac import states
from celeriac.app.state import allow_join_result
from celeriac.canvas.chain import chain
from celeriac.canvas.chord import chord
from celeriac.canvas.group import group
from celeriac.canvas.signature import listed, maybe_signature
from celeriac.canvas.steps import first_of, prepared
from celeriac.message import new_id
from celeriac.result import EagerResult


def apply_chain(sig: chain, args: tuple[Any, ...], kwargs: Mapping[str, Any], options: dict[str, Any]) -> Any:
    """Run the steps one after another; a step that is ignored or rejected ends the chain."""
    whole = sig.clone()
    link = listed(options.pop("link", None))
    errbacks = listed(options.pop("link_error", None))
    whole["options"] = {"link": link, "link_error": errbacks}
    task_id = options.pop("task_id", None)
    steps = prepared(whole.unchained(), whole.app)
    last: Any = None
    for number, step in enumerate(steps, 1):
        own = {**options, "task_id": task_id} if number == len(steps) and task_id else options
        with allow_join_result():
            given = args if last is None else (last.get(),)
        result = step.apply(given, kwargs if last is None else None, **own)
        first_of(result).parent = last
        last = result
        if isinstance(result, EagerResult) and result.state in (states.IGNORED, states.REJECTED):
            break
    return last


def apply_group(
    sig: group, args: tuple[Any, ...], kwargs: Mapping[str, Any] | None, options: dict[str, Any]
) -> Any:
    """Run the members one after another."""
    whole = sig.clone()
    gid = options.pop("task_id", None) or new_id()
    options = {k: v for k, v in options.items() if k not in ("group_id", "group_index", "chord", "chain")}
    results = [
        member.apply(args, kwargs, **{**options, "group_id": gid, "group_index": index})
        for index, member in enumerate(whole._members())
    ]
    return whole.app.GroupResult(gid, results, app=whole.app)


def apply_chord(
    sig: chord,
    args: Iterable[Any],
    kwargs: Mapping[str, Any] | None,
    propagate: bool,
    options: dict[str, Any],
) -> Any:
    """Run the header, then the body with the list of results."""
    body: Any = maybe_signature(sig.body, sig._app)
    task_id = options.pop("task_id", None)
    for key in ("link", "link_error"):
        for callback in listed(options.pop(key, None)):
            body.append_to_list_option(key, callback)
    header = group(sig.tasks, app=sig.app).apply((*(args or ()), *sig["args"]), kwargs)
    with allow_join_result():
        values = header.get(propagate=propagate)
    result = body.apply((values,), **({"task_id": task_id} if task_id else {}))
    first_of(result).parent = header
    return result
