"""What ``crontab`` and ``cron`` have in common: due times on the calendar and the wall clock of a zone."""

from __future__ import annotations

from datetime import datetime, timedelta, tzinfo
from typing import Any

from celeriac.schedules.base import NEVER, BaseSchedule, schedstate
from celeriac.schedules.walls import Walls
from celeriac.schedules.zones import zone

_INSTANT = timedelta(microseconds=1)


class Calendar(BaseSchedule):
    """A schedule by the clocks of its zone; a subclass sets ``_walls``."""

    _walls: Walls

    def next_due(self, after: datetime, anchor: datetime | None = None) -> datetime | None:
        """The first due time after ``after``, in UTC; ``None`` if the calendar has no more."""
        return self._walls.due_after(self._utc(after), self.tz)

    def is_due(self, last_run_at: datetime) -> schedstate:
        """Whether it is due now after a last run then, and in how many seconds to ask again.

        It is not due if its last due time is more than ``beat_cron_starting_deadline`` seconds ago.
        """
        left = self.remaining_estimate(last_run_at).total_seconds()
        if left > 0:
            return schedstate(False, left)
        wait = max(self.remaining_estimate(self.now()).total_seconds(), 0)
        return schedstate(left == 0 or not self._too_late(), wait)

    def remaining_delta(
        self, last_run_at: datetime, tz: str | tzinfo | None = None, ffwd: Any = None
    ) -> tuple[datetime, timedelta, datetime]:
        """The last run and the present in the zone ``tz``, and between them the real time to the next run."""
        there = self.tz if tz is None else zone(tz)
        last = self._utc(last_run_at)
        due = self._walls.due_after(last, there)
        delta = NEVER if due is None else due - last
        return last.astimezone(there), delta, self._utc(self.now()).astimezone(there)

    def _too_late(self) -> bool:
        deadline = self.app.conf.beat_cron_starting_deadline
        if deadline is None:
            return False
        since = self._utc(self.now()) - timedelta(seconds=deadline) - _INSTANT
        return self.remaining_estimate(since).total_seconds() > 0
