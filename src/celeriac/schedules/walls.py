"""Minutes of the calendar, and when the clocks of a zone show them.

The rule where a zone changes its offset (daylight saving, or a law):

* A schedule that names hours (``hour`` is not every hour) runs **once for each time of day that it names**:
  never skipped, never twice. A time that the clocks jump over runs at the moment of the jump; several such
  times run there once, together. A time that the clocks show twice runs the first time.
* A schedule that runs in **every hour** is about a pace, so it follows the clocks' face. When an hour comes
  twice it runs in both; a whole hour that is jumped over is no time at all. So it comes each real hour.
  Where the clocks jump ahead by something else than whole hours (Lord Howe Island: 30 minutes), what was
  due in between runs at the moment of the jump, so that an hourly task is never more than an hour away.
"""

from __future__ import annotations

from bisect import bisect_right
from datetime import UTC, date, datetime, timedelta, tzinfo

from celeriac.schedules.days import Days
from celeriac.schedules.zones import first_moment, last_change

_LENGTHS = (0, 31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)
_INSTANT = timedelta(microseconds=1)
_HOUR = timedelta(hours=1)
_NONE = timedelta(0)


class Walls:
    """The times of day and dates that the fields of a crontab name, as wall clocks show them."""

    __slots__ = ("_days", "_hours", "_minutes", "_months")

    def __init__(
        self, minutes: frozenset[int], hours: frozenset[int], months: frozenset[int], days: Days
    ) -> None:
        self._minutes = tuple(sorted(minutes))
        self._hours = tuple(sorted(hours))
        self._months = months
        self._days = days

    def possible(self) -> bool:
        """Whether there is any such day; calendars repeat after 400 years."""
        return self._day_after(1999, 12, 31, 2400) is not None

    def due_after(self, moment: datetime, tz: tzinfo) -> datetime | None:
        """The first due time after ``moment`` by the clocks of ``tz``, in UTC.

        ``None`` if there is none before the calendar ends with the year 9999.
        """
        try:
            local = moment.astimezone(tz)
            if len(self._hours) == 24:
                return self._at_pace(moment, local, tz)
            return self._by_name(moment, local.replace(tzinfo=None), tz)
        except OverflowError:
            return None

    def after(self, wall: datetime) -> datetime | None:
        """The first time after ``wall``, both without a zone; ``None`` past the year 9999."""
        if self._month(wall.year, wall.month) >> wall.day & 1:
            hours, minutes = self._hours, self._minutes
            at = bisect_right(hours, wall.hour)
            if at and hours[at - 1] == wall.hour and wall.minute < minutes[-1]:
                minute = minutes[bisect_right(minutes, wall.minute)]
                return wall.replace(minute=minute, second=0, microsecond=0)
            if at < len(hours):
                return wall.replace(hour=hours[at], minute=minutes[0], second=0, microsecond=0)
        day = self._day_after(wall.year, wall.month, wall.day, 9999)
        return None if day is None else datetime(*day, self._hours[0], self._minutes[0])

    def _by_name(self, moment: datetime, wall: datetime, tz: tzinfo) -> datetime | None:
        found = self.after(wall)
        while found is not None:
            due, _ = first_moment(found, tz)
            if due > moment:
                return due
            found = self.after(found)  # the clocks showed this one for the second time
        return None

    def _at_pace(self, moment: datetime, local: datetime, tz: tzinfo) -> datetime | None:
        due = self._on_face(moment, local.replace(tzinfo=None), local.utcoffset() or _NONE, tz)
        second = local.replace(fold=1)
        if local.fold or second.utcoffset() == local.utcoffset():
            return due
        # The clocks will be set back over this time: what they then show again may come first.
        turn = last_change(moment, second.astimezone(UTC), tz)
        if due is not None and due < turn:
            return due
        face = turn.astimezone(tz).replace(tzinfo=None)
        return self._on_face(turn - _INSTANT, face - _INSTANT, second.utcoffset() or _NONE, tz)

    def _on_face(self, moment: datetime, wall: datetime, offset: timedelta, tz: tzinfo) -> datetime | None:
        """The next that the clocks show after ``wall``, at ``moment``, when they were at ``offset``."""
        found = self.after(wall)
        while found is not None:
            due = (found - offset).replace(tzinfo=UTC)
            there = due.astimezone(tz)
            if there.utcoffset() == offset and not there.fold:
                return due
            first, shown = first_moment(found, tz)
            if shown:
                return first if first > moment else due
            jumped = first.astimezone(tz)
            if ((jumped.utcoffset() or _NONE) - offset) % _HOUR:
                return first
            found = self.after(jumped.replace(tzinfo=None) - _INSTANT)
        return None

    def _day_after(self, year: int, month: int, day: int, last_year: int) -> tuple[int, int, int] | None:
        left = self._month(year, month) >> (day + 1) << (day + 1)
        while not left:
            month += 1
            if month > 12:
                year, month = year + 1, 1
                if year > last_year:
                    return None
            left = self._month(year, month)
        return year, month, (left & -left).bit_length() - 1

    def _month(self, year: int, month: int) -> int:
        if month not in self._months:
            return 0
        leap = month == 2 and year % 4 == 0 and (year % 100 != 0 or year % 400 == 0)
        return self._days[date(year, month, 1).weekday()][_LENGTHS[month] + leap - 28]
