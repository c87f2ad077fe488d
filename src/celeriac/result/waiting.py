"""Waiting for one task, while the earlier steps of its chain are watched for errors."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import aclosing, closing
from typing import TYPE_CHECKING, Any

from celeriac.result.feed import aarrivals, arrivals
from celeriac.result.stored import look_up

if TYPE_CHECKING:
    from celeriac.result.async_result import AsyncResult
    from celeriac.result.base import ResultBase


def wait_for_end(
    result: AsyncResult[Any],
    timeout: float | None,
    parents: list[AsyncResult[Any]],
    interval: float,
    on_message: Callable[[dict[str, Any]], Any] | None,
    on_interval: Callable[[], Any] | None,
) -> None:
    """Wait until ``result`` has ended. Raises the error of one of ``parents``, and ``TimeoutError``."""
    with closing(arrivals([result, *parents], timeout, interval, on_interval)) as arriving:
        for task_id, payload in arriving:
            if _arrived(result, task_id, payload, parents, on_message):
                return
    raise result.too_late(timeout)


async def await_end(result: AsyncResult[Any], timeout: float | None, follow_parents: bool) -> None:
    """:func:`wait_for_end` for coroutines."""
    import asyncio

    parents: list[AsyncResult[Any]] = []
    if follow_parents and result.parent:
        parents = await asyncio.to_thread(unended_parents, result)
    async with aclosing(aarrivals([result, *parents], timeout)) as arriving:
        async for task_id, payload in arriving:
            if _arrived(result, task_id, payload, parents, None):
                return
    raise result.too_late(timeout)


def unended_parents(result: AsyncResult[Any]) -> list[AsyncResult[Any]]:
    """The earlier steps of the chain that have not ended; the error of one that has failed is raised.

    A group among them is passed over: what becomes of a chord's header reaches its body as ChordError.
    """
    steps = [step for step in _single_steps(result) if not step.ignored]
    look_up(steps)
    for step in steps:
        if step.settled:
            step.maybe_throw()
    return [step for step in steps if not step.settled]


def _single_steps(result: AsyncResult[Any]) -> list[AsyncResult[Any]]:
    steps: list[AsyncResult[Any]] = []
    node: ResultBase | None = result.parent
    while node is not None:
        if node.single:
            steps.extend(node.leaves())
        node = node.parent
    return steps[::-1]


def _arrived(
    result: AsyncResult[Any],
    task_id: str,
    payload: bytes,
    parents: list[AsyncResult[Any]],
    on_message: Callable[[dict[str, Any]], Any] | None,
) -> bool:
    """Take a state that has arrived; return whether it ends ``result``. Raises the error of a parent."""
    if task_id == result.id:
        ended = result.take(payload)
        if on_message is not None:
            on_message(result.last_state() or result.read(payload))
        return ended
    for parent in parents:
        if parent.id == task_id and parent.take(payload):
            parent.maybe_throw()
    return False


def reply_options(wait: bool, timeout: float | None) -> dict[str, Any]:
    """What ``app.control`` has to be told so that it waits, or does not, for what workers say."""
    return {"reply": True, "timeout": 1.0 if timeout is None else timeout} if wait else {}
