"""Rows of attempts in a table of SQL: which of them to read for a question, and how far."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar

from celeriac.engines.attempts import LATE, PACK, SKEW, key, mark, needle, texts, unpack
from celeriac.engines.history import Attempt, Wanted


class AttemptRows:
    """The rows of one store, newest first; a row has the number of its last attempt."""

    page: ClassVar[int] = 256
    """Rows that are read at once, at most."""
    of_task: ClassVar[str]
    """The condition for the attempts of one task; its arguments are the id's key and mark."""
    fits: ClassVar[str]
    """The condition for a text: ``{marks}`` for packed rows, ``{bodies}`` for single ones."""
    in_marks: ClassVar[str]
    """That a mark stands in a packed row's marks."""
    in_body: ClassVar[str]
    """That a needle stands in a single row's body."""

    def newest(self) -> int:
        """The highest number; 0 if there is no row."""
        raise NotImplementedError

    def oldest(self) -> int:
        """The lowest number of a row; 1 if there is none."""
        raise NotImplementedError

    def stored(self, number: int) -> float | None:
        """When the first row with this number or a higher one was stored; ``None`` if there is none."""
        raise NotImplementedError

    def read(
        self, conditions: str, top: int, arguments: Sequence[int | bytes], most: int
    ) -> Sequence[Sequence[Any]]:
        """Up to ``most`` rows from ``top`` down: number, time, count, whether it is a single one, body."""
        raise NotImplementedError

    def found(self, wanted: Wanted, below: int | None) -> Iterator[tuple[int, Attempt]]:
        """Attempts that may be wanted, with their numbers, newest first."""
        newest = self.newest()
        # A row is known by its last attempt, so the one that holds the number before may come later.
        top = newest if below is None else min(newest, below - 1 + PACK)
        if wanted.until is not None:
            top = min(top, self._first_after(newest, wanted.until + LATE + SKEW) - 1)
        conditions, arguments = self._conditions(wanted)
        chunk = 8
        while True:
            rows = self.read(conditions, top, arguments, chunk)
            for number, at, count, single, body in rows:
                if wanted.since is not None and at < wanted.since - SKEW:
                    return
                yield from unpack(number, count, bool(single), body)
            if len(rows) < chunk:
                return
            top, chunk = rows[-1][0] - 1, min(self.page, 2 * chunk)

    def _conditions(self, wanted: Wanted) -> tuple[str, list[int | bytes]]:
        """What must be true of a row, in SQL, and its arguments."""
        sql = ""
        arguments: list[int | bytes] = []
        for either in texts(wanted):
            if wanted.id and either == (wanted.id,):
                sql += self.of_task
                arguments += (key(wanted.id), mark(wanted.id))
                continue
            some = len(either)
            sql += self.fits.format(
                marks=" OR ".join([self.in_marks] * some), bodies=" OR ".join([self.in_body] * some)
            )
            arguments += [*map(mark, either), *map(needle, either)]
        return sql, arguments

    def _first_after(self, newest: int, moment: float) -> int:
        """A number such that whatever has it or a higher one was stored after ``moment``."""

        def is_after(number: int) -> bool:
            at = self.stored(number)
            return at is not None and at > moment

        return bisect_left(range(newest + 1), True, lo=min(self.oldest(), newest + 1), key=is_after)
