"""A consumer's marks: below which places of a lane no ready message lies, so that claims need not look there.

An old transaction anywhere in the database keeps the index entries of messages that are gone, and a claim
that began at a lane's first entry would walk over all of them. Why a mark holds stands in
``migrations/0005_marks.sql``.
"""

from __future__ import annotations

import random
import time
from collections.abc import Mapping, Sequence
from typing import Any, Final

from celeriac.engines.postgres.store import Connection

WORTH: Final = 256
"""Messages claimed since the marks were raised, for raising them to be worth while."""
PERIOD: Final = 0.1
"""Seconds between two raisings, at least."""
FORGET: Final = 60.0
"""Seconds after which the marks are forgotten, so that what lies below them against the rules is found."""
_FORGET_COST: Final = 1000.0
"""How many times as long as the first look at everything took they are kept, at least."""

_RAISE = "SELECT * FROM @raise(%s::text[], %s::text[], %s::int[], %s::bigint[], %s, %s, %s, %s::text[])"
_NO_LIMIT: Final[tuple[int, float, list[str]]] = (-1, float("-inf"), [])


class Marks:
    """The marks of one consumer's lanes."""

    def __init__(self) -> None:
        self._queues: frozenset[str] = frozenset()
        self._forget_at = 0.0
        self._raised = 0.0
        self.forget()

    @property
    def known(self) -> bool:
        """Whether a claim is spared anything."""
        return bool(self._columns[0])

    def columns(self, queues: Sequence[str]) -> tuple[list[str], list[int], list[int], float]:
        """The marks as arguments, lanes ordered by rank, and no earlier time any message is delayed to."""
        if self._queues != set(queues):
            self._queues = frozenset(queues)
            self.forget()
        return self._columns

    def claimed(self, lanes: Mapping[tuple[str, int], int]) -> None:
        """Note from which lanes, queue and rank, how many messages have been claimed."""
        for lane, count in lanes.items():
            self._claimed += count
            self._lanes.setdefault(lane, 0)

    def tend(self, connection: Connection) -> None:
        """Raise the marks, if it is time and worth while, or forget them. Raises ``OperationalError``."""
        if self._claimed < WORTH or not self._lanes:
            return
        clock = time.monotonic()
        if self.known and clock > self._forget_at:
            self.forget()
        elif clock - self._raised > PERIOD:
            self._raised = clock
            self._raise(connection)

    def forget(self) -> None:
        """Have no marks: the next claim looks at everything."""
        self._lanes: dict[tuple[str, int], int] = {}
        self._columns: tuple[list[str], list[int], list[int], float] = ([], [], [], float("-inf"))
        self._limit = _NO_LIMIT
        self._claimed = 0

    def _raise(self, connection: Connection) -> None:
        lanes = sorted(self._lanes, key=lambda lane: lane[1])
        names, ranks = [queue for queue, _ in lanes], [rank for _, rank in lanes]
        arguments: tuple[Any, ...] = (list(self._queues), names, ranks, [self._lanes[lane] for lane in lanes])
        seqs, due, limit, limit_due, witnesses = connection.run(
            _RAISE, (*arguments, self._columns[3], *self._limit)
        )[0]
        if witnesses is None:
            return  # some of those who might store something below are still about it
        if not self.known:  # it looked at everything, as the claims till now
            cost = _FORGET_COST * (time.monotonic() - self._raised)
            self._forget_at = time.monotonic() + max(FORGET, cost) * random.uniform(0.8, 1.2)
        self._claimed = 0
        self._limit = (limit, limit_due, witnesses)
        self._lanes = dict(zip(lanes, seqs, strict=True))
        self._columns = (names, ranks, seqs, due)
