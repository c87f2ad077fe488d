"""Progress: how far a running task says it has come."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing, closing
from typing import TYPE_CHECKING, Any, NamedTuple, TypeGuard

from celeriac import states
from celeriac.result.feed import aarrivals, arrivals

if TYPE_CHECKING:
    from celeriac.result.async_result import AsyncResult


class Progress(NamedTuple):
    """What a task has said last of how far it has come."""

    done: float
    total: float | None = None
    note: str = ""

    @property
    def fraction(self) -> float | None:
        """The part that is done, from 0 to 1; ``None`` if the total is not known."""
        if self.total is None:
            return None
        return min(1.0, max(0.0, self.done / self.total)) if self.total else 1.0


def progress_of(meta: dict[str, Any]) -> Progress | None:
    """The progress in a stored state: one of the user's own, usually ``PROGRESS``, with a dictionary as its
    ``meta`` that has a number ``current`` (or ``done``), and perhaps ``total`` and ``note``."""
    value = meta.get("result")
    if meta["status"] in states.ALL_STATES or not isinstance(value, dict):
        return None
    done, total, note = value.get("current", value.get("done")), value.get("total"), value.get("note")
    if not _is_number(done):
        return None
    return Progress(done, total if _is_number(total) else None, note if isinstance(note, str) else "")


def changes(result: AsyncResult[Any], timeout: float | None) -> Iterator[Progress]:
    """See ``AsyncResult.updates``."""
    if result.settled:
        return
    found = _Changes(result)
    with closing(arrivals([result], timeout)) as arriving:
        for _, payload in arriving:
            yield from found.take(payload)
            if result.settled:
                return
    raise result.too_late(timeout)


async def achanges(result: AsyncResult[Any], timeout: float | None) -> AsyncIterator[Progress]:
    """See ``AsyncResult.aupdates``."""
    if result.settled:
        return
    found = _Changes(result)
    async with aclosing(aarrivals([result], timeout)) as arriving:
        async for _, payload in arriving:
            for change in found.take(payload):
                yield change
            if result.settled:
                return
    raise result.too_late(timeout)


class _Changes:
    """Finds the changes of a result's progress among its states."""

    def __init__(self, result: AsyncResult[Any]) -> None:
        self._result = result
        self._last: Progress | None = None

    def take(self, payload: bytes) -> list[Progress]:
        """Take a stored state: the progress in it, if it is a new one. The last state ends the result."""
        meta = self._result.read(payload)
        if meta["status"] in states.READY_STATES:
            self._result.settle(meta)
            return []
        found = progress_of(meta)
        if found is None or found == self._last:
            return []
        self._last = found
        return [found]


def _is_number(value: Any) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool)
