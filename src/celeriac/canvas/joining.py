"""What ``a | b`` makes of two signatures: Celery's rules.

A task after a group makes a chord of both; a task after a chord joins its body; chains are taken apart, so
that a chain holds no chains; empty groups are left out, and a group of one is its member.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from celeriac.canvas.chain import chain
from celeriac.canvas.chord import chord
from celeriac.canvas.group import group
from celeriac.canvas.signature import Signature, maybe_signature, members


def join(left: Signature, right: Any) -> Any:
    """The canvas in which ``right`` follows ``left``; ``NotImplemented`` if it is no signature."""
    if isinstance(right, Mapping):
        right = maybe_signature(right)  # or dict's own operator would merge them into nonsense
    if not isinstance(right, Signature):
        return NotImplemented
    if isinstance(left, group):
        return left if is_empty(right) else chord(left, right, app=left._app)
    if isinstance(left, chain):
        return _joined(left.unchained(), [right], left)
    if isinstance(left, chord):
        right = unrolled(right)
        if not isinstance(right, group | chain):
            made = left.clone()
            made["kwargs"]["body"] = made.body | right
            return made
    steps = right.unchained() if isinstance(right, chain) else [] if is_empty(right) else [unrolled(right)]
    return chain.of([left, *steps], left._app)


def fold(tasks: Iterable[Any], like: Signature | None = None) -> Any:
    """The same as joining all of them by ``|``, in linear time."""
    return _joined([], members(tasks, None, "chain"), like)


def unrolled(sig: Any) -> Any:
    """The only member of a group of one; anything else as it is."""
    while isinstance(sig, group) and len(sig.tasks) == 1:
        sig = sig.tasks[0]
    return sig


def is_empty(sig: Any) -> bool:
    """Whether it is a group without members."""
    return isinstance(sig, group) and not sig.tasks


def _joined(steps: list[Any], following: list[Any], like: Signature | None) -> Any:
    """A chain of ``steps`` with what follows added one by one; ``like`` gives its class and application."""
    todo = following[::-1]
    while todo:
        sig = todo.pop()
        if is_empty(sig):
            continue
        sig = unrolled(sig)
        if isinstance(sig, chain):
            todo.extend(reversed(sig.unchained()))
        elif isinstance(sig, group) and not steps:
            # What follows a group alone is no chain's next step, but the body of a chord.
            result: Any = sig
            while todo:
                result = result | todo.pop()
            return result
        elif steps and isinstance(steps[-1], group):
            steps[-1] = chord(steps[-1], sig, app=steps[-1]._app)
        elif steps and isinstance(steps[-1], chord) and not isinstance(sig, chord):
            last = steps[-1].clone()
            last["kwargs"]["body"] = last.body | sig
            steps[-1] = last
        else:
            steps.append(sig)
    kind = type(like) if isinstance(like, chain) else chain
    return kind.of(steps, like._app if like is not None else None)
