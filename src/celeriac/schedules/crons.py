"""Cron strings with cron's own meaning."""

from __future__ import annotations

from datetime import UTC, datetime, tzinfo
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from celeriac.schedules.calendars import Calendar
from celeriac.schedules.days import Days, tabulate
from celeriac.schedules.walls import Walls
from celeriac.schedules.zones import zone_name

if TYPE_CHECKING:
    from cronsim import CronSim

NICKNAMES = {
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
    "@monthly": "0 0 1 * *",
    "@weekly": "0 0 * * 0",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@hourly": "0 * * * *",
}


class cron(Calendar):
    """A line of cron: ``cron("*/5 8-17 * * mon-fri", tz="Europe/Berlin")`` or ``cron("@daily")``.

    Five fields, read as Debian's cron does: minute, hour, day of month, month, day of week (0 and 7 are
    Sunday). If days of the month *and* of the week are restricted, either is enough; in ``crontab`` both must
    fit. Beyond cron: ``L`` (last day of the month), ``LW`` (its last weekday), ``5L`` (its last Friday) and
    ``1#2`` (its second Monday). Nicknames: ``@yearly``, ``@annually``, ``@monthly``, ``@weekly``, ``@daily``,
    ``@midnight``, ``@hourly``.

    The clocks that count and their jumps: as for ``crontab``. Raises ``ValueError`` for what is no such line
    and for a date that never comes.
    """

    def __init__(
        self, expression: str, tz: str | tzinfo | None = None, nowfun: Any = None, app: Any = None
    ) -> None:
        super().__init__(nowfun=nowfun, app=app, tz=tz)
        self.expression = " ".join(expression.split())
        self._walls = _read(self.expression)

    def __json__(self) -> dict[str, Any]:
        written = {"type": "cron", "expression": self.expression}
        return written if self._own_zone is None else {**written, "tz": zone_name(self._own_zone)}

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.expression,), self._kept()

    def _key(self) -> tuple[Any, ...]:
        return (*super()._key(), self.expression)

    def __repr__(self) -> str:
        return f"<cron: {self.expression}>"


@lru_cache(maxsize=4096)
def _read(expression: str) -> Walls:
    from cronsim import CronSim, CronSimError

    fields = NICKNAMES.get(expression.lower(), expression)
    if fields.startswith("@"):
        raise ValueError(f"cron: there is no {expression!r}; there are {', '.join(NICKNAMES)}")
    if len(fields.split()) != 5:
        raise ValueError(
            f"cron: five fields are wanted (minute hour day-of-month month day-of-week), not {expression!r}"
        )
    try:
        read = CronSim(fields, datetime(2000, 1, 1, tzinfo=UTC))
    except CronSimError as error:
        raise ValueError(f"cron: {expression!r} cannot be read: {str(error).lower()}") from error
    walls = Walls(frozenset(read.minutes), frozenset(read.hours), frozenset(read.months), _days(read))
    if not walls.possible():
        raise ValueError(f"cron: {expression!r} names a date that never comes")
    return walls


def _days(read: CronSim) -> Days:
    def wanted(day: int, weekday: int, length: int) -> bool:
        by_date = (
            day in read.days
            or (read.LAST in read.days and day == length)
            or (read.LAST_WEEKDAY in read.days and _is_last_weekday(day, weekday, length))
        )
        by_weekday = any(
            (number in read.weekdays)
            or ((number, read.LAST) in read.weekdays and day + 7 > length)
            or ((number, (day + 6) // 7) in read.weekdays)
            for number in ((0, 7) if weekday == 0 else (weekday,))
        )
        return by_date and by_weekday if read.day_and else by_date or by_weekday

    return tabulate(wanted)


def _is_last_weekday(day: int, weekday: int, length: int) -> bool:
    if weekday in (0, 6):
        return False
    return day == length or (weekday == 5 and day + 3 > length)
