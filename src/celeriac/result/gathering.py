"""Gathering: waiting for many results together, and telling in which order they come."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Generator, Iterable
from contextlib import aclosing, closing
from typing import TYPE_CHECKING, Any

from celeriac import exceptions, states
from celeriac.app.waiting import refuse_in_event_loop
from celeriac.result.feed import aarrivals, arrivals

if TYPE_CHECKING:
    from celeriac.result.async_result import AsyncResult

OnMessage = Callable[[dict[str, Any]], Any] | None


class Gathering:
    """The members of a set that have not ended, and the tasks that each of them still waits for.

    A member that is a set itself has ended when all its tasks have. With ``propagate``, the error of a
    failed task is raised as soon as it is known. ``on_message`` gets each stored state.
    """

    def __init__(self, members: Iterable[Any], propagate: bool = False, on_message: OnMessage = None) -> None:
        self._propagate, self._on_message = propagate, on_message
        self.ended: list[Any] = []
        """The members that had ended at the beginning."""
        self.waiting: dict[str, list[tuple[AsyncResult[Any], _Member]]] = {}
        """The tasks that have not ended, by id. Several handles may be of the same task."""
        for member in members:
            open = []
            for leaf in member.leaves():
                if not leaf.settled:
                    open.append(leaf)
                elif propagate:
                    leaf.maybe_throw()
            entry = _Member(member, len(open))
            for leaf in open:
                self.waiting.setdefault(leaf.id, []).append((leaf, entry))
            if not open:
                self.ended.append(member)
        self._count = len(self.waiting)

    def results(self) -> list[AsyncResult[Any]]:
        """One handle for each task that has not ended."""
        return [entries[0][0] for entries in self.waiting.values()]

    def take(self, task_id: str, payload: bytes) -> list[Any]:
        """Take a stored state; return the members that have ended by it."""
        entries = self.waiting.get(task_id)
        if entries is None:
            return []
        meta = entries[0][0].read(payload)
        if self._on_message is not None:
            self._on_message(meta)
        if meta["status"] not in states.READY_STATES:
            return []
        del self.waiting[task_id]
        ended = []
        for leaf, entry in entries:
            leaf.settle(meta)
            entry.left -= 1
            if not entry.left:
                ended.append(entry.member)
        if self._propagate:
            entries[0][0].maybe_throw()
        return ended

    def too_late(self, timeout: float | None) -> exceptions.TimeoutError:
        """The error that says what has not come."""
        return exceptions.TimeoutError(
            f"{len(self.waiting)} of {self._count} tasks did not end within {timeout} seconds, among them "
            f"{next(iter(self.waiting))}. They may still do so, and a later get() returns their results; if "
            "they do not even start, look with 'celeriac queues' whether a worker serves their queue"
        )


class _Member:
    """A member, and how many of its tasks have not ended."""

    __slots__ = ("left", "member")

    def __init__(self, member: Any, left: int) -> None:
        self.member, self.left = member, left


def completed(
    gathering: Gathering,
    timeout: float | None,
    interval: float = 0.5,
    on_interval: Callable[[], Any] | None = None,
) -> Generator[Any, None, None]:
    """The members in the order in which they end.

    ``TimeoutError`` if some have not within ``timeout`` seconds.
    """
    yield from gathering.ended
    if not gathering.waiting:
        return
    refuse_in_event_loop()
    with closing(arrivals(gathering.results(), timeout, interval, on_interval)) as arriving:
        for state in arriving:
            yield from gathering.take(*state)
            if not gathering.waiting:
                return
    raise gathering.too_late(timeout)


async def acompleted(gathering: Gathering, timeout: float | None) -> AsyncGenerator[Any, None]:
    """:func:`completed` for coroutines."""
    for member in gathering.ended:
        yield member
    if not gathering.waiting:
        return
    async with aclosing(aarrivals(gathering.results(), timeout)) as arriving:
        async for state in arriving:
            for member in gathering.take(*state):
                yield member
            if not gathering.waiting:
                return
    raise gathering.too_late(timeout)
