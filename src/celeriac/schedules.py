"""Schedules as data: when a periodic task is wanted.

:class:`schedule` is an interval, :class:`crontab` a set of minutes of the calendar. They are checked when
they are made, can be compared, pickled and written as JSON (:func:`from_json` reads them). Finding out when
one is due is the scheduler's business.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from datetime import timedelta
from typing import Any, ClassVar

__all__ = ["ParseException", "crontab", "crontab_parser", "from_json", "maybe_schedule", "schedule"]

CRON_DAYS = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")
CRON_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")


class ParseException(Exception):
    """A part of a crontab field cannot be read."""


class schedule:
    """An interval: every ``run_every`` (a ``timedelta``, or seconds).

    ``relative`` rounds the times to the resolution of the interval: every 10 seconds at :00, :10, :20, ...
    """

    def __init__(
        self,
        run_every: float | timedelta | None = None,
        relative: bool = False,
        nowfun: Any = None,
        app: Any = None,
    ) -> None:
        if isinstance(run_every, bool) or not isinstance(run_every, int | float | timedelta):
            raise TypeError(f"run_every is a timedelta or a number of seconds, not {run_every!r}")
        self.run_every = run_every if isinstance(run_every, timedelta) else timedelta(seconds=run_every)
        self.relative = relative
        self.nowfun = nowfun
        self.app = app

    @property
    def seconds(self) -> float:
        """The interval in seconds, never below 0."""
        return max(self.run_every.total_seconds(), 0)

    def __json__(self) -> dict[str, Any]:
        return {"type": "interval", "seconds": self.seconds, "relative": self.relative}

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.run_every, self.relative, self.nowfun)

    def __eq__(self, other: object) -> bool:
        if isinstance(other, schedule):
            return self.run_every == other.run_every
        return bool(self.run_every == other)

    def __hash__(self) -> int:
        return hash(self.run_every)

    def __repr__(self) -> str:
        return f"<freq: {_human(self.seconds)}>"


class crontab:
    """The minutes of the calendar that all five fields allow (also day of month *and* day of week).

    A field is a number, a text as in cron, or an iterable of numbers. Text: ``"*"``, numbers, ranges
    ``"8-17"`` (``"22-2"`` goes round), steps ``"*/15"`` and ``"8-17/3"``, names of days and months
    (``"mon-fri"``), and several of these with commas. Sunday is 0. Raises ``ValueError`` or
    :class:`ParseException` for anything else, ``TypeError`` for a field of another type.
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
        minute: Any = "*",
        hour: Any = "*",
        day_of_week: Any = "*",
        day_of_month: Any = "*",
        month_of_year: Any = "*",
        nowfun: Any = None,
        app: Any = None,
    ) -> None:
        self._orig_minute = minute
        self._orig_hour = hour
        self._orig_day_of_week = day_of_week
        self._orig_day_of_month = day_of_month
        self._orig_month_of_year = month_of_year
        self.minute = self._expand("minute", minute)
        self.hour = self._expand("hour", hour)
        self.day_of_week = self._expand("day_of_week", day_of_week)
        self.day_of_month = self._expand("day_of_month", day_of_month)
        self.month_of_year = self._expand("month_of_year", month_of_year)
        self.nowfun = nowfun
        self.app = app

    @classmethod
    def from_string(cls, crontab: str) -> crontab:
        """Read the five fields in cron's own order: ``"0 8 * * mon-fri"``."""
        fields = crontab.split()
        if len(fields) != 5:
            raise ValueError(
                f"a crontab has five fields (minute hour day-of-month month day-of-week), not {crontab!r}"
            )
        minute, hour, day_of_month, month_of_year, day_of_week = fields
        return cls(minute, hour, day_of_week, day_of_month, month_of_year)

    @classmethod
    def _expand(cls, field: str, value: Any) -> set[int]:
        least, most = cls.FIELDS[field]
        if isinstance(value, bool) or not isinstance(value, int | str | Iterable):
            raise TypeError(f"crontab: {field} is a number, text or numbers, not {value!r}")
        if isinstance(value, str):
            found = crontab_parser(most - least + 1, least).parse(value)
        else:
            found = {value} if isinstance(value, int) else {int(one) for one in value}
        for number in sorted(found):
            if not least <= number <= most:
                raise ValueError(f"crontab: {field} is from {least} to {most}, not {number}")
        return found

    def fields(self) -> dict[str, Any]:
        """The fields as they were given, sets and tuples as lists."""
        given = {name: getattr(self, f"_orig_{name}") for name in self.FIELDS}
        return {k: v if isinstance(v, int | str) else sorted(int(one) for one in v) for k, v in given.items()}

    def __json__(self) -> dict[str, Any]:
        return {"type": "crontab", **self.fields()}

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), tuple(getattr(self, f"_orig_{name}") for name in self.FIELDS)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, crontab):
            return NotImplemented
        return self._minutes() == other._minutes()

    def __hash__(self) -> int:
        return hash(self._minutes())

    def _minutes(self) -> tuple[frozenset[int], ...]:
        return tuple(frozenset(getattr(self, name)) for name in self.FIELDS)

    def __repr__(self) -> str:
        order = ("minute", "hour", "day_of_month", "month_of_year", "day_of_week")
        fields = " ".join(str(getattr(self, f"_orig_{name}")) for name in order)
        return f"<crontab: {fields} (m/h/dM/MY/d)>"


class crontab_parser:
    """Reads one field of a crontab: ``crontab_parser(24).parse("*/6") == {0, 6, 12, 18}``."""

    ParseException = ParseException

    def __init__(self, max_: int = 60, min_: int = 0) -> None:
        self.min_, self.max_ = min_, max_ + min_ - 1

    def parse(self, spec: str) -> set[int]:
        """Return the numbers that the text stands for. Raises ``ParseException`` or ``ValueError``."""
        found: set[int] = set()
        for part in spec.split(","):
            if not part:
                raise ParseException(f"crontab: {spec!r} has an empty part")
            found.update(self._part(part))
        return found

    def _part(self, part: str) -> Iterable[int]:
        match = _PART.match(part)
        if match is None:
            if part.startswith("-"):
                raise ParseException(f"crontab: {part!r}: negative numbers have no meaning here")
            raise ValueError(f"crontab: {part!r} is neither a number, a range, a step nor a name")
        star, first, last, step = match.groups()
        if step is not None and int(step) == 0:
            raise ValueError(f"crontab: {part!r}: a step of 0 leads nowhere")
        if star:
            numbers = list(range(self.min_, self.max_ + 1))
        elif last is None:
            if step is not None:
                raise ValueError(f"crontab: {part!r}: a step needs a range, such as '*/{step}'")
            return [self._number(first)]
        else:
            start, end = self._number(first), self._number(last)
            if start <= end:
                numbers = list(range(start, end + 1))
            else:
                numbers = [*range(start, self.max_ + 1), *range(self.min_, end + 1)]
        return numbers[:: int(step or 1)]

    def _number(self, text: str) -> int:
        number = int(text) if text.isdigit() else _named(text)
        if not self.min_ <= number <= self.max_:
            raise ValueError(f"crontab: {text} is not from {self.min_} to {self.max_}")
        return number


_PART = re.compile(r"^(?:(\*)|(\d+|[A-Za-z]+)(?:-(\d+|[A-Za-z]+))?)(?:/(\d+))?$")


def maybe_schedule(s: Any, relative: bool = False, app: Any = None) -> Any:
    """A number of seconds or a ``timedelta`` as a :class:`schedule`; a schedule as it is."""
    if isinstance(s, int | float | timedelta):
        return schedule(s, relative, app=app)
    return s


def from_json(data: Mapping[str, Any]) -> schedule | crontab:
    """The schedule that was written as JSON. Raises ``ValueError`` for another kind."""
    kind, rest = data.get("type"), {key: value for key, value in data.items() if key != "type"}
    if kind == "crontab":
        return crontab(**rest)
    if kind == "interval":
        return schedule(rest["seconds"], rest["relative"])
    raise ValueError(f"there is no schedule of the type {kind!r}")


def _named(text: str) -> int:
    start = text[:3].lower()
    if len(text) >= 3 and start in CRON_DAYS:
        return CRON_DAYS.index(start)
    if len(text) >= 3 and start in CRON_MONTHS:
        return CRON_MONTHS.index(start) + 1
    raise ValueError(f"crontab: {text!r} is not the name of a day or month")


def _human(seconds: float) -> str:
    for name, size in (("day", 86400.0), ("hour", 3600.0), ("minute", 60.0), ("second", 1.0)):
        if seconds >= size:
            count = seconds / size
            return f"{count:.2f} {name}{'s' if count > 1 else ''}"
    return f"{seconds:.2f} seconds"
