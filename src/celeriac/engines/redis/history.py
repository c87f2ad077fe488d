"""Redis as a keeper of the history: a list of attempts, the newest first, numbered as they come."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from typing import Any, Final

from celeriac.engines.attempts import LATE, SKEW, collect, decode, encode, needle, number_of, texts
from celeriac.engines.history import Attempt, Wanted
from celeriac.engines.redis.connection import Link, Links, Word, pack
from celeriac.engines.redis.keys import Keys
from celeriac.engines.redis.scripts import Scripts

LOOK: Final = 2000
"""Attempts that one run of the script looks at: a millisecond's work for the server."""
CUT: Final = 10_000
"""Attempts that one run of the script drops."""
CHUNK: Final = 1000


class RedisHistory:
    """The part of the engine that is a :class:`celeriac.engines.history.HistoryStore`.

    A settle cuts the list when it is 1,000 over ``history_max``, so it is never much longer.
    """

    keys: Keys
    links: Links
    scripts: Scripts
    history_max: int

    def note_attempts(self, attempts: Sequence[Attempt]) -> None:
        """Store attempts that no settle brought along."""
        for start in range(0, len(attempts), CHUNK):
            words: list[Word] = [encode(attempt) for attempt in attempts[start : start + CHUNK]]
            with self.links.borrow() as link:
                self.scripts["note"].run(link, [], words)

    def attempts(self, wanted: Wanted, limit: int = 100, before: str = "") -> tuple[list[Attempt], str]:
        """A page, newest first, and where the next one begins.

        To look through 100,000 attempts takes some 50 round trips of a millisecond.
        """
        return collect(self._found(wanted, limit, number_of(before)), wanted, limit, before)

    def prune_history(self, keep: int, age: float) -> int:
        """Delete what is too much or too old."""
        with self.links.borrow() as link:
            oldest, newest, now = self._bounds(link)
            first = max(oldest, newest - keep + 1)
            first = bisect_left(
                range(newest + 1),
                True,
                lo=first,
                key=lambda number: self._ended(link, number, oldest) > now - age,
            )
            count = 0
            for stop in (*range(oldest + CUT, first, CUT), first):
                count += int(self.scripts["cut_history"].run(link, [], [stop]))
        return count

    def _found(self, wanted: Wanted, limit: int, below: int | None) -> Iterator[tuple[int, Attempt]]:
        """Attempts in which what is wanted may stand, with their numbers, newest first."""
        words: list[Word] = []
        for either in texts(wanted):
            words += (len(either), *map(needle, either))
        look = LOOK if words or wanted.until is not None else min(LOOK, limit + 1)
        stop = None if wanted.since is None else wanted.since - LATE - SKEW
        while True:
            with self.links.borrow() as link:
                if below is None and wanted.until is not None:
                    below = self._first_after(link, wanted.until + LATE + SKEW)
                start: Word = "" if below is None else below
                below, last, *found = self.scripts["look_back"].run(link, [], [start, look, *words])
            for number, body in zip(found[::2], found[1::2], strict=True):
                yield number, decode(body)
            if not below or (stop is not None and decode(last).ended < stop):
                return

    def _first_after(self, link: Link, moment: float) -> int:
        """A number such that whatever has it or a higher one ended after ``moment``."""
        oldest, newest, _ = self._bounds(link)
        return bisect_left(
            range(newest + 1),
            True,
            lo=oldest,
            key=lambda number: self._ended(link, number, oldest) > moment,
        )

    def _bounds(self, link: Link) -> tuple[int, int, float]:
        """The numbers of the oldest and the newest attempt, and the store's clock."""
        commands = [("GET", self.keys.own("history:dropped")), ("LLEN", self.keys.own("history")), ("TIME",)]
        dropped, length, time = link.calls(b"".join(map(pack, commands)), len(commands))
        return int(dropped or 0) + 1, int(dropped or 0) + length, int(time[0]) + int(time[1]) / 1e6

    def _ended(self, link: Link, number: int, oldest: int) -> float:
        """When an attempt ended. Counted from the oldest one: those that come meanwhile change nothing."""
        body: Any = link.call(pack(("LINDEX", self.keys.own("history"), oldest - number - 1)))
        return float("inf") if body is None else decode(body).ended
