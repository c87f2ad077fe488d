"""The memory engine's history: attempts in the order in which they were settled."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from celeriac.engines.attempts import collect
from celeriac.engines.history import Attempt, Wanted
from celeriac.engines.memory.state import Store


def note(store: Store, attempts: Iterable[Attempt], most: int) -> None:
    """Add attempts; the oldest make room when there are more than ``most``. The lock is held."""
    store.history.extend((next(store.attempts), attempt) for attempt in attempts)
    while len(store.history) > most:
        store.history.popleft()


class MemoryHistory:
    """The part of the engine that is a :class:`celeriac.engines.history.HistoryStore`."""

    state: Store
    history_max: int

    def note_attempts(self, attempts: Sequence[Attempt]) -> None:
        """Store attempts that no settle brought along."""
        with self.state.lock:
            note(self.state, attempts, self.history_max)

    def attempts(self, wanted: Wanted, limit: int = 100, before: str = "") -> tuple[list[Attempt], str]:
        """A page, newest first, and where the next one begins."""
        with self.state.lock:
            return collect(reversed(self.state.history), wanted, limit, before)

    def prune_history(self, keep: int, age: float) -> int:
        """Delete what is too much or too old."""
        with self.state.lock:
            history, horizon = self.state.history, self.state.clock() - age
            before = len(history)
            while history and (len(history) > keep or history[0][1].ended <= horizon):
                history.popleft()
            return before - len(history)
