"""The agenda: which entry is due next. A heap, so that 50,000 entries cost no more to wait for than one."""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable, Iterator

from celeriac.app.definition import Definition
from celeriac.engines.schedule import Entry


class Item:
    """An entry at work: its definition, how far it has come, and its next due time."""

    __slots__ = ("definition", "due", "last", "ran", "since", "version")

    def __init__(self, definition: Definition, entry: Entry) -> None:
        self.definition = definition
        self.since = entry.since
        self.last = entry.last_due
        """The due time of its last tick."""
        self.ran = entry.last_run
        """When that was fired."""
        self.due: float | None = None
        """The due time that it waits for; ``None`` if none will come, or ``is_due`` has to be asked."""
        self.version = 0
        """Of its place in the heap that counts: older ones, also of its forerunners, do not."""


class Agenda:
    """Entries by name, and in the order in which they have to be looked at."""

    def __init__(self) -> None:
        self.items: dict[str, Item] = {}
        self._heap: list[tuple[float, str, int]] = []
        self._puts = 0

    def __len__(self) -> int:
        return len(self.items)

    def put(self, item: Item, at: float | None) -> None:
        """Keep the item, in place of one of the same name, and look at it then (epoch seconds, or never)."""
        name = item.definition.name
        self._puts += 1
        item.version = self._puts
        self.items[name] = item
        if at is not None:
            heapq.heappush(self._heap, (at, name, item.version))
        if len(self._heap) > 2 * len(self.items) + 1000:
            self._clean()

    def drop(self, name: str) -> None:
        """Forget an entry, if it is there."""
        self.items.pop(name, None)

    def clear(self) -> None:
        """Forget all."""
        self.items.clear()
        self._heap.clear()

    def take(self, now: float, limit: int) -> list[Item]:
        """Take the items that have to be looked at by ``now``, the earliest first; :meth:`put` them back."""
        taken: list[Item] = []
        heap = self._heap
        while heap and heap[0][0] <= now and len(taken) < limit:
            _, name, version = heapq.heappop(heap)
            item = self.items.get(name)
            if item is not None and item.version == version:
                taken.append(item)
        return taken

    @property
    def next(self) -> float | None:
        """When the next item has to be looked at."""
        heap = self._heap
        while heap and not self._counts(heap[0]):
            heapq.heappop(heap)
        return heap[0][0] if heap else None

    def _counts(self, place: tuple[float, str, int]) -> bool:
        item = self.items.get(place[1])
        return item is not None and item.version == place[2]

    def _clean(self) -> None:
        """Drop places that do not count, where frequent changes have left many of them."""
        self._heap = [place for place in self._heap if self._counts(place)]
        heapq.heapify(self._heap)

    def __iter__(self) -> Iterator[Item]:
        return iter(self.items.values())


def newest(
    following: Callable[[float], float | None], first: float, now: float, count: int = 1
) -> list[float]:
    """The last ``count`` due times from ``first`` to ``now``, the earliest first.

    ``following`` gives the due time after a moment. It is asked about ever longer spans before ``now``, so
    that a schedule of seconds that was away for a week costs a few dozen questions and not 600,000.
    """
    span = 1.0
    while now - span > first:
        found = deque(_walk(following, following(now - span), now), maxlen=count)
        if len(found) == count:
            return list(found)
        span *= 2
    return list(deque(_walk(following, first, now), maxlen=count))


def _walk(following: Callable[[float], float | None], due: float | None, now: float) -> Iterator[float]:
    while due is not None and due <= now:
        yield due
        due = following(due)
