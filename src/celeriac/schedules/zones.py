"""Time zones: by name, and where their offsets change."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, tzinfo
from functools import lru_cache
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

_SECOND = timedelta(seconds=1)


def zone(given: str | tzinfo) -> tzinfo:
    """A zone by its name in the IANA database; a ``tzinfo`` as it is. ``ValueError`` if it is unknown."""
    if isinstance(given, tzinfo):
        return given
    if not isinstance(given, str):
        raise TypeError(f"a time zone is a name such as 'Europe/Berlin' or a tzinfo, not {given!r}")
    return _named(given)


def zone_name(made: tzinfo) -> str:
    """The name by which :func:`zone` finds it again. Raises ``ValueError`` for a zone without one."""
    name = "UTC" if made is UTC else getattr(made, "key", None)
    if not isinstance(name, str):
        raise ValueError(f"the time zone {made!r} has no name that can be stored; use tz='Area/City'")
    return name


def first_moment(wall: datetime, tz: tzinfo) -> tuple[datetime, bool]:
    """When the clocks of ``tz`` show ``wall`` for the first time, in UTC, and whether they ever do.

    If they jump over it, the moment of the jump. Raises ``OverflowError`` beyond the years 1 to 9999.
    """
    moment = wall.replace(tzinfo=tz, fold=0).astimezone(UTC)
    if moment.astimezone(tz).replace(tzinfo=None) == wall:
        return moment, True
    # Before the jump by the offset after it, after the jump by the offset before it.
    return last_change(wall.replace(tzinfo=tz, fold=1).astimezone(UTC), moment, tz), False


def last_change(before: datetime, after: datetime, tz: tzinfo) -> datetime:
    """The first moment, in UTC, of the offset that ``tz`` has at ``after`` and has not at ``before``.

    There must be one change of the offset between the two.
    """
    old = before.astimezone(tz).utcoffset()
    # Offsets change at whole seconds of UTC.
    low, high = before.replace(microsecond=0), after.replace(microsecond=0)
    while high - low > _SECOND:
        middle = low + (high - low) // _SECOND // 2 * _SECOND
        if middle.astimezone(tz).utcoffset() == old:
            low = middle
        else:
            high = middle
    return high


@lru_cache(maxsize=1024)
def _named(name: str) -> tzinfo:
    if name.upper() == "UTC":
        return UTC
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError) as error:
        raise ValueError(
            f"there is no time zone {name!r}; names are as 'Europe/Berlin'. If this system has no zone data, "
            "install the package tzdata"
        ) from error
