"""Unreached: the tasks of a written-down call that will never run, because what comes before has failed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple


class Unreached(NamedTuple):
    """One such task. Its id was fixed when the call was frozen."""

    task_id: str
    name: str
    group: str | None
    group_index: int | None
    chord: Mapping[str, Any] | None
    """The body of the chord to whose header the task belongs, if others of that header may run."""
    args: Any
    kwargs: Any
    root_id: str | None
    parent_id: str | None


def unreached(signatures: Iterable[Any]) -> Iterator[Unreached]:
    """The tasks of these calls (signatures, or dictionaries in their form), in order."""
    for signature in signatures:
        if isinstance(signature, Mapping):
            yield from _walk(signature)


def _walk(signature: Mapping[str, Any]) -> Iterator[Unreached]:
    inner = signature.get("kwargs") or {}
    options = signature.get("options") or {}
    match signature.get("subtask_type"):
        case "chain" | "group":
            yield from unreached(inner.get("tasks") or ())
        case "chord":
            header = inner.get("header") or ()
            # Nobody of this header runs: nothing is counted for its chord, which fails with it.
            tasks = [header] if isinstance(header, Mapping) else header
            yield from (task._replace(chord=None) for task in unreached(tasks))
            yield from unreached([inner.get("body")])
        case _:
            if options.get("task_id"):
                yield _leaf(signature, options)
    yield from unreached(reversed(options.get("chain") or ()))


def _leaf(signature: Mapping[str, Any], options: Mapping[str, Any]) -> Unreached:
    return Unreached(
        options["task_id"],
        signature["task"],
        options.get("group_id"),
        options.get("group_index"),
        options.get("chord"),
        signature.get("args"),
        signature.get("kwargs"),
        options.get("root_id"),
        options.get("parent_id"),
    )
