"""Celery's crontab."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import tzinfo
from functools import lru_cache
from typing import Any, ClassVar

from celeriac.schedules.calendars import Calendar
from celeriac.schedules.days import both
from celeriac.schedules.fields import expand
from celeriac.schedules.walls import Walls
from celeriac.schedules.zones import zone_name

Cronspec = int | str | Iterable[int]


class crontab(Calendar):
    """The minutes of the calendar that all five fields allow (also day of month *and* day of week).

    A field is a number, a text as in cron, or an iterable of numbers. Text: ``"*"``, numbers, ranges
    ``"8-17"`` (``"22-2"`` goes round), steps ``"*/15"`` and ``"8-17/3"``, names of days and months
    (``"mon-fri"``), and several of these with commas. Sunday is 0. ``tz`` is the zone whose clocks count, a
    name or a ``tzinfo`` (default: the application's ``timezone``).

    Where the clocks jump, a crontab that names hours runs once for each time of day that it names: at the
    moment of the jump if the clocks jump over it, the first time if they show it twice. One that runs every
    hour follows real time. :mod:`celeriac.schedules.walls` has the rule in full.

    Raises ``ValueError`` or :class:`ParseException` for a field that cannot be read and for a date that never
    comes, such as February 30; ``TypeError`` for a field of another type.
    """

    FIELDS: ClassVar[dict[str, tuple[int, int]]] = {
        "minute": (0, 59),
        "hour": (0, 23),
        "day_of_week": (0, 6),
        "day_of_month": (1, 31),
        "month_of_year": (1, 12),
    }
    """Field -> its least and greatest value."""

    def __init__(
        self,
        minute: Cronspec = "*",
        hour: Cronspec = "*",
        day_of_week: Cronspec = "*",
        day_of_month: Cronspec = "*",
        month_of_year: Cronspec = "*",
        nowfun: Any = None,
        app: Any = None,
        tz: str | tzinfo | None = None,
    ) -> None:
        super().__init__(nowfun=nowfun, app=app, tz=tz)
        self._orig_minute = minute = _reusable(minute)
        self._orig_hour = hour = _reusable(hour)
        self._orig_day_of_week = day_of_week = _reusable(day_of_week)
        self._orig_day_of_month = day_of_month = _reusable(day_of_month)
        self._orig_month_of_year = month_of_year = _reusable(month_of_year)
        self.minute = expand("minute", minute, 0, 59)
        self.hour = expand("hour", hour, 0, 23)
        self.day_of_week = expand("day_of_week", day_of_week, 0, 6)
        self.day_of_month = expand("day_of_month", day_of_month, 1, 31)
        self.month_of_year = expand("month_of_year", month_of_year, 1, 12)
        self._walls = _walls(self.minute, self.hour, self.month_of_year, self.day_of_month, self.day_of_week)
        if not self._walls.possible():
            raise ValueError(
                f"crontab: day_of_month {day_of_month!r} never comes in month_of_year {month_of_year!r}"
            )

    @classmethod
    def from_string(cls, crontab: str, **options: Any) -> crontab:
        """Read the five fields in cron's own order: ``"0 8 * * mon-fri"``. ``options``: as for the class."""
        fields = crontab.split()
        if len(fields) != 5:
            raise ValueError(
                f"a crontab has five fields (minute hour day-of-month month day-of-week), not {crontab!r}"
            )
        minute, hour, day_of_month, month_of_year, day_of_week = fields
        return cls(minute, hour, day_of_week, day_of_month, month_of_year, **options)

    def fields(self) -> dict[str, Any]:
        """The fields as they were given, sets and tuples as sorted lists."""
        given = {name: getattr(self, f"_orig_{name}") for name in self.FIELDS}
        return {k: v if isinstance(v, int | str) else sorted(int(one) for one in v) for k, v in given.items()}

    def __json__(self) -> dict[str, Any]:
        written = {"type": "crontab", **self.fields()}
        return written if self._own_zone is None else {**written, "tz": zone_name(self._own_zone)}

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), tuple(getattr(self, f"_orig_{name}") for name in self.FIELDS), self._kept()

    def _key(self) -> tuple[Any, ...]:
        return (*super()._key(), *(getattr(self, name) for name in self.FIELDS))

    def __repr__(self) -> str:
        order = ("minute", "hour", "day_of_month", "month_of_year", "day_of_week")
        fields = " ".join(str(getattr(self, f"_orig_{name}")) for name in order)
        return f"<crontab: {fields} (m/h/dM/MY/d)>"


def _reusable(value: Any) -> Any:
    """A generator as a list: fields are read more than once."""
    return list(value) if isinstance(value, Iterator) else value


@lru_cache(maxsize=4096)
def _walls(
    minute: frozenset[int],
    hour: frozenset[int],
    month_of_year: frozenset[int],
    day_of_month: frozenset[int],
    day_of_week: frozenset[int],
) -> Walls:
    return Walls(minute, hour, month_of_year, both(day_of_month, day_of_week))
