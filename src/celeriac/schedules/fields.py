"""The fields of a crontab: numbers, and the text that stands for them."""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache
from typing import Any

CRON_DAYS = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")
CRON_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")


class ParseException(Exception):
    """A part of a crontab field cannot be read."""


def expand(field: str, value: Any, least: int, most: int) -> frozenset[int]:
    """The numbers that a field's value stands for. Equal ones are one object, to save memory.

    Raises as :class:`celeriac.schedules.crontab` says.
    """
    if isinstance(value, bool) or not isinstance(value, int | str | Iterable):
        raise TypeError(f"crontab: {field} is a number, text or numbers, not {value!r}")
    if isinstance(value, str):
        return _parsed(value, most - least + 1, least)
    numbers = [value] if isinstance(value, int) else list(value)
    for number in numbers:
        if isinstance(number, str) or number != int(number):
            raise TypeError(f"crontab: {field} has {number!r}, which is no number; or give text, as '1,5'")
        if not least <= number <= most:
            raise ValueError(f"crontab: {field} is from {least} to {most}, not {number}")
    if not numbers:
        raise ValueError(f"crontab: {field} is empty, so it would never run")
    return _shared(frozenset(int(number) for number in numbers))


class crontab_parser:
    """Reads one field of a crontab: ``crontab_parser(24).parse("*/6") == {0, 6, 12, 18}``."""

    ParseException = ParseException

    def __init__(self, max_: int = 60, min_: int = 0) -> None:
        self.min_, self.max_ = min_, max_ + min_ - 1

    def parse(self, spec: str) -> set[int]:
        """Return the numbers that the text stands for. Raises ``ParseException`` or ``ValueError``."""
        found: set[int] = set()
        for part in map(str.strip, spec.split(",")):
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
        if step == "":
            raise ParseException(f"crontab: {part!r}: the step after '/' is missing")
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


_PART = re.compile(r"^(?:(\*)|(\d+|[A-Za-z]+)(?:-(\d+|[A-Za-z]+))?)(?:/(\d*))?$")


@lru_cache(maxsize=4096)
def _parsed(text: str, count: int, least: int) -> frozenset[int]:
    return _shared(frozenset(crontab_parser(count, least).parse(text)))


@lru_cache(maxsize=4096)
def _shared(numbers: frozenset[int]) -> frozenset[int]:
    return numbers


def _named(text: str) -> int:
    start = text[:3].lower()
    if len(text) >= 3 and start in CRON_DAYS:
        return CRON_DAYS.index(start)
    if len(text) >= 3 and start in CRON_MONTHS:
        return CRON_MONTHS.index(start) + 1
    raise ValueError(f"crontab: {text!r} is not the name of a day or month")
