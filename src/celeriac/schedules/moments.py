"""One moment."""

from __future__ import annotations

from datetime import datetime, tzinfo
from typing import Any

from celeriac.schedules.base import BaseSchedule, schedstate
from celeriac.schedules.zones import first_moment, zone_name


class clocked(BaseSchedule):
    """Once, at ``clocked_time``. Without a zone it is a time of the schedule's zone.

    Raises ``TypeError`` for what is no ``datetime``.
    """

    def __init__(
        self, clocked_time: datetime, nowfun: Any = None, app: Any = None, tz: str | tzinfo | None = None
    ) -> None:
        if not isinstance(clocked_time, datetime):
            raise TypeError(f"clocked: clocked_time is a datetime, not {clocked_time!r}")
        super().__init__(nowfun=nowfun, app=app, tz=tz)
        self.clocked_time = clocked_time

    def next_due(self, after: datetime, anchor: datetime | None = None) -> datetime | None:
        """The moment in UTC, if it is after ``after``; else ``None``."""
        due = self._moment()
        return due if due > self._utc(after) else None

    def is_due(self, last_run_at: datetime) -> schedstate:
        """Whether it is due now after a last run then; once it has run, never again."""
        due = self._moment()
        if self._utc(last_run_at) >= due:
            return schedstate(False, None)
        left = (due - self._utc(self.now())).total_seconds()
        return schedstate(True, None) if left <= 0 else schedstate(False, left)

    def _moment(self) -> datetime:
        if self.clocked_time.tzinfo is None:
            return first_moment(self.clocked_time.replace(fold=0), self.tz)[0]
        return self._utc(self.clocked_time)

    def __json__(self) -> dict[str, Any]:
        written = {"type": "clocked", "clocked_time": self.clocked_time.isoformat()}
        return written if self._own_zone is None else {**written, "tz": zone_name(self._own_zone)}

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.clocked_time,), self._kept()

    def _key(self) -> tuple[Any, ...]:
        return (*super()._key(), self.clocked_time)

    def __repr__(self) -> str:
        return f"<clocked: {self.clocked_time.isoformat()}>"
