"""``app.history``: what became of each attempt to run a task, as its workers noted it."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

import msgspec

from celeriac import clock
from celeriac.app.coroutines import in_thread
from celeriac.app.times import aware
from celeriac.engines.history import Attempt, HistoryStore, Wanted
from celeriac.exceptions import ImproperlyConfigured

if TYPE_CHECKING:
    from celeriac.app.base import Celeriac

Moment = float | datetime | timedelta
"""Epoch seconds, a time (in the application's time zone if it names none), or so long ago."""

_POLL = 0.5
"""Seconds between two looks of :meth:`History.follow`."""
_OVERLAP = 5.0
"""Seconds before the newest attempt that are looked at again: others may have been settled late."""


class Page(list[Attempt]):
    """Attempts, newest first; ``next`` is where the next page begins, "" if there is none."""

    def __init__(self, attempts: Sequence[Attempt], next: str) -> None:
        super().__init__(attempts)
        self.next = next


class History:
    """The attempts of an application's tasks, newest first."""

    def __init__(self, app: Celeriac) -> None:
        self._app = app

    def __call__(
        self,
        id: str = "",
        *,
        task: str = "",
        states: str | Sequence[str] = (),
        worker: str = "",
        queue: str = "",
        since: Moment | None = None,
        until: Moment | None = None,
        limit: int = 100,
        before: str = "",
    ) -> Page:
        """Return up to ``limit`` attempts that fit all that is given, newest first.

        ``id`` is a task's id; ``since`` and ``until`` speak of when attempts ended. ``before`` is the
        ``next`` of the page before. Raises ``ImproperlyConfigured`` if neither broker nor backend keeps a
        history, and ``OperationalError`` if the store cannot be reached.
        """
        wanted = self._wanted(id, task, states, worker, queue, since, until)
        return Page(*self.store.attempts(wanted, limit, before))

    aget = in_thread(__call__)
    """The same for coroutines: the store is asked from a thread."""

    def follow(
        self,
        id: str = "",
        *,
        task: str = "",
        states: str | Sequence[str] = (),
        worker: str = "",
        queue: str = "",
        since: Moment | None = None,
        past: int = 0,
    ) -> Iterator[Attempt]:
        """The last ``past`` attempts that fit, oldest first, and then each one as it is settled, for ever."""
        wanted = self._wanted(id, task, states, worker, queue, since, None)
        horizon = clock.now()
        recent = msgspec.structs.replace(wanted, since=max(wanted.since or 0.0, horizon - _OVERLAP))
        seen = {_identity(attempt): attempt.ended for attempt in self._all(recent)}
        newest, _ = self.store.attempts(wanted, past) if past else ([], "")
        yield from reversed(newest)
        seen.update((_identity(attempt), attempt.ended) for attempt in newest)
        while True:
            recent.since = horizon - _OVERLAP
            fresh = [attempt for attempt in self._all(recent) if _identity(attempt) not in seen]
            for attempt in sorted(fresh, key=lambda attempt: attempt.ended):
                seen[_identity(attempt)] = attempt.ended
                yield attempt
            horizon = max([horizon, *(attempt.ended for attempt in fresh)])
            seen = {name: ended for name, ended in seen.items() if ended >= horizon - _OVERLAP}
            time.sleep(_POLL)

    def _all(self, wanted: Wanted) -> Iterator[Attempt]:
        page, cursor = self.store.attempts(wanted, 1000)
        yield from page
        while cursor:
            page, cursor = self.store.attempts(wanted, 1000, cursor)
            yield from page

    @property
    def store(self) -> HistoryStore:
        """Where it is kept. Raises ``ImproperlyConfigured`` if neither broker nor backend can."""
        store = self._app.history_store
        if store is None:
            raise ImproperlyConfigured(
                f"no history is kept: neither {self._app.broker_shown} nor the result backend can. Use "
                "Redis, PostgreSQL or SQLite as result_backend"
            )
        return store

    @property
    def most(self) -> int:
        """How many attempts are kept (``task_history_max``)."""
        most: int | None = self._app.conf.task_history_max
        return self.store.history_max if most is None else most

    def _wanted(
        self,
        id: str,
        task: str,
        states: str | Sequence[str],
        worker: str,
        queue: str,
        since: Moment | None,
        until: Moment | None,
    ) -> Wanted:
        states = (states,) if isinstance(states, str) else tuple(states)
        return Wanted(id, task, states, worker, queue, self._epoch(since), self._epoch(until))

    def _epoch(self, moment: Moment | None) -> float | None:
        if isinstance(moment, timedelta):
            return clock.now() - moment.total_seconds()
        if isinstance(moment, datetime):
            return aware(moment, self._app.timezone).timestamp()
        return moment


def _identity(attempt: Attempt) -> tuple[str, float, str]:
    return attempt.id, attempt.ended, attempt.state
