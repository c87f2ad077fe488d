"""The days of a month that a schedule wants, as bits, for every month that calendars know."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

Days = tuple[tuple[int, ...], ...]
"""``days[weekday of the first][length - 28]``: bit n is set if day n is wanted. Monday is 0."""


def tabulate(wanted: Callable[[int, int, int], bool]) -> Days:
    """The table of what ``wanted(day, weekday, length of the month)`` says; there, Sunday is 0."""
    return tuple(
        tuple(
            sum(1 << day for day in range(1, length + 1) if wanted(day, (first + day) % 7, length))
            for length in range(28, 32)
        )
        for first in range(7)
    )


@lru_cache(maxsize=1024)
def both(days: frozenset[int], weekdays: frozenset[int]) -> Days:
    """The days that are among ``days`` and fall on one of ``weekdays`` (Sunday is 0)."""
    return tabulate(lambda day, weekday, length: day in days and weekday in weekdays)
