"""A clock that the test drives: delays, retries and rate limits without waiting."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from celeriac import clock as wall
from celeriac.contrib.testing.draining import drain
from celeriac.exceptions import ImproperlyConfigured

if TYPE_CHECKING:
    from celeriac.app.base import Celeriac
    from celeriac.engines.memory import MemoryEngine

MONTH = 30 * 86400.0


class Clock:
    """The time in a :func:`frozen` block. It moves only when told to."""

    def __init__(self, app: Celeriac, engines: list[MemoryEngine], start: float) -> None:
        self._app = app
        self._engines = engines
        self._now = start

    def time(self) -> float:
        """The time, epoch seconds."""
        return self._now

    @property
    def now(self) -> datetime:
        """The time as an aware ``datetime``, in UTC."""
        return datetime.fromtimestamp(self._now, UTC)

    def advance(self, by: float | timedelta) -> None:
        """Let so much time pass (seconds or ``timedelta``). What falls due meanwhile is ready now, and a
        worker that waits for it is woken; living workers count as having beaten all the time."""
        seconds = by.total_seconds() if isinstance(by, timedelta) else float(by)
        if seconds < 0:
            raise ValueError("time does not go back")
        self._now += seconds
        for engine in self._engines:
            engine.state.time_passed()

    def move_to(self, moment: float | datetime) -> None:
        """Let time pass until ``moment``: epoch seconds or an aware ``datetime``."""
        self.advance((moment.timestamp() if isinstance(moment, datetime) else moment) - self._now)

    def run_for(self, period: float | timedelta) -> int:
        """Let time pass and run every task at its time, in this thread (:func:`drain`).

        Returns how often a task was run. Time stands still while a task runs.
        """
        seconds = period.total_seconds() if isinstance(period, timedelta) else float(period)
        return self._run_until(self._now + seconds)[0]

    def run_until_idle(self, at_most: float | timedelta = MONTH) -> int:
        """Run every task at its time until none is left, letting as much time pass as that takes.

        Returns how often a task was run. Raises ``RuntimeError`` if some are left after ``at_most``.
        """
        seconds = at_most.total_seconds() if isinstance(at_most, timedelta) else float(at_most)
        began = self._now
        count, left = self._run_until(began + seconds, stay=True)
        if left is not None:
            late = datetime.fromtimestamp(left, UTC)
            raise RuntimeError(
                f"after {self._now - began:g} s there is still a message that waits, until {late.isoformat()}"
            )
        return count

    def _run_until(self, end: float, stay: bool = False) -> tuple[int, float | None]:
        """Drain, move to the next due time, and so on; return what was run and what is due after ``end``."""
        count = 0
        while True:
            drained = drain(self._app)
            count += drained.ran
            due = drained.next_due
            if due is None or due > end:
                if not stay:
                    self.move_to(end)
                return count, due
            self.move_to(max(due, self._now))


@contextmanager
def frozen(app: Celeriac, at: float | datetime | None = None) -> Iterator[Clock]:
    """Stop time for ``app`` in this block and drive it by the :class:`Clock` that is handed out.

    It begins at ``at`` (epoch seconds or an aware ``datetime``), or now. The application's stores must be
    ``memory://``: other servers have clocks of their own, and ``ImproperlyConfigured`` is raised. What the
    client and the worker compare with the store's time (``eta``, ``expires``) follows the same clock, for
    every application in this process. ``time.time()`` in your tasks does not: see docs/testing.md.
    """
    engines = [_memory(store) for store in app.stores]
    start = wall.now() if at is None else at.timestamp() if isinstance(at, datetime) else float(at)
    clock = Clock(app, engines, start)
    before, own = wall.source, [engine.state.clock for engine in engines]
    wall.source = clock.time
    for engine in engines:
        engine.state.clock = wall.now
        engine.state.time_passed()
    try:
        yield clock
    finally:
        wall.source = before
        for engine, previous in zip(engines, own, strict=True):
            engine.state.clock = previous
            engine.state.time_passed()


def _memory(store: object) -> MemoryEngine:
    from celeriac.engines.memory import MemoryEngine

    if not isinstance(store, MemoryEngine):
        raise ImproperlyConfigured(
            f"{getattr(store, 'url', 'the store')} has a clock of its own, which no test can drive: give the "
            "application broker_url='memory://...' for this test"
        )
    return store
