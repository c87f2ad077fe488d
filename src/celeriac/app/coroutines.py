"""Methods that wait, for coroutines."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from functools import wraps
from typing import Any, Concatenate, ParamSpec, TypeVar

Owner = TypeVar("Owner")
P = ParamSpec("P")
R = TypeVar("R")


def in_thread(
    method: Callable[Concatenate[Owner, P], R],
) -> Callable[Concatenate[Owner, P], Coroutine[Any, Any, R]]:
    """Return the method for coroutines: it waits in a thread, where the object's own one is called."""
    name = method.__name__

    @wraps(method)
    async def waited(self: Owner, /, *args: P.args, **kwargs: P.kwargs) -> R:
        import asyncio

        found: Callable[P, R] = getattr(self, name)  # a subclass's
        return await asyncio.to_thread(found, *args, **kwargs)

    return waited
