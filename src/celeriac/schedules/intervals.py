"""Intervals, counted from a fixed moment so that they do not drift."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, tzinfo
from typing import Any

from celeriac.schedules.base import BaseSchedule, schedstate
from celeriac.schedules.zones import first_moment, zone_name

_UNITS = (timedelta(days=1), timedelta(hours=1), timedelta(minutes=1), timedelta(seconds=1))
_DAY, _HOUR, _MINUTE, _SECOND = _UNITS
_NOTHING = timedelta(0)


class schedule(BaseSchedule):
    """An interval: every ``run_every`` (a ``timedelta``, or seconds) of real time, counted from the anchor.

    ``relative`` rounds its due times down to whole days, hours, minutes or seconds, whichever is the largest
    unit that fits into the interval: every 2 hours at the full hour, each day at midnight of the zone ``tz``.
    The interval then is whole units too: 90 minutes are every full hour.

    Raises ``TypeError`` for what is no interval, ``ValueError`` for one that is not above 0.
    """

    relative: bool = False

    def __init__(
        self,
        run_every: float | timedelta | None = None,
        relative: bool = False,
        nowfun: Any = None,
        app: Any = None,
        tz: str | tzinfo | None = None,
    ) -> None:
        if isinstance(run_every, bool) or not isinstance(run_every, int | float | timedelta):
            raise TypeError(f"run_every is a timedelta or a number of seconds, not {run_every!r}")
        super().__init__(nowfun=nowfun, app=app, tz=tz)
        self.run_every = run_every if isinstance(run_every, timedelta) else timedelta(seconds=run_every)
        if self.run_every <= _NOTHING:
            raise ValueError(f"run_every must be above 0, not {run_every!r}")
        self.relative = relative

    @property
    def seconds(self) -> float:
        """The interval in seconds."""
        return self.run_every.total_seconds()

    @property
    def human_seconds(self) -> str:
        """The interval for people: ``"1.50 minutes"``."""
        for name, size in (("day", 86400.0), ("hour", 3600.0), ("minute", 60.0), ("second", 1.0)):
            if self.seconds >= size:
                count = self.seconds / size
                return f"{count:.2f} {name}{'s' if count > 1 else ''}"
        return f"{self.seconds:.2f} seconds"

    def next_due(self, after: datetime, anchor: datetime | None = None) -> datetime | None:
        """The first of ``anchor`` + n times the interval (n = 1, 2, ...) after ``after``, in UTC.

        ``None`` past the year 9999. The anchor is ``after`` if it is not given.
        """
        after = self._utc(after)
        start = after if anchor is None else self._utc(anchor)
        try:
            if self.relative and self.run_every >= _DAY:
                return self._midnight(start, after)
            if self.relative and self.run_every >= _SECOND:
                return self._rounded(start, after)
            return start + max((after - start) // self.run_every + 1, 1) * self.run_every
        except OverflowError:
            return None

    def is_due(self, last_run_at: datetime) -> schedstate:
        """Whether it is due now after a last run then, and in how many seconds to ask again."""
        left = self.remaining_estimate(last_run_at).total_seconds()
        if left > 0:
            return schedstate(False, left)
        again = self.remaining_estimate(self.now()).total_seconds() if self.relative else self.seconds
        return schedstate(True, again if again > 0 else self.seconds)

    def _midnight(self, start: datetime, after: datetime) -> datetime:
        """The calendar's days: they may last 23 or 25 hours."""
        step = timedelta(days=self.run_every.days)
        wall = start.astimezone(self.tz).replace(tzinfo=None, fold=0) + self.run_every
        wall = wall.replace(hour=0, minute=0, second=0, microsecond=0)
        passed = after.astimezone(self.tz).replace(tzinfo=None, fold=0) - wall
        wall += max(passed // step, 0) * step
        while (due := first_moment(wall, self.tz)[0]) <= max(after, start):
            wall += step
        return due

    def _rounded(self, start: datetime, after: datetime) -> datetime:
        unit = next(unit for unit in _UNITS if self.run_every >= unit)
        step = self.run_every // unit * unit
        due = self._whole(start + self.run_every, unit)
        due += max((after - due) // step, 0) * step
        # Rounded again each time: the offset from UTC may have changed by less than an hour.
        while (rounded := self._whole(due, unit)) <= max(after, start):
            due += step
        return rounded

    def _whole(self, moment: datetime, unit: timedelta) -> datetime:
        local = moment.astimezone(self.tz).replace(microsecond=0)
        if unit >= _MINUTE:
            local = local.replace(second=0)
        if unit >= _HOUR:
            local = local.replace(minute=0)
        return local.astimezone(UTC)

    def __json__(self) -> dict[str, Any]:
        written = {"type": "interval", "seconds": self.seconds, "relative": self.relative}
        return written if self._own_zone is None else {**written, "tz": zone_name(self._own_zone)}

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.run_every, self.relative), self._kept()

    def __eq__(self, other: object) -> bool:
        if isinstance(other, schedule):
            return self.run_every == other.run_every
        return bool(self.run_every == other)

    def __hash__(self) -> int:
        return hash(self.run_every)

    def __repr__(self) -> str:
        return f"<freq: {self.human_seconds}>"


def maybe_schedule(s: Any, relative: bool = False, app: Any = None) -> Any:
    """A number of seconds or a ``timedelta`` as a :class:`schedule`; a schedule as it is, for ``app``."""
    if isinstance(s, int | float | timedelta) and not isinstance(s, bool):
        return schedule(s, relative, app=app)
    if isinstance(s, BaseSchedule) and app is not None:
        s.app = app
    return s
