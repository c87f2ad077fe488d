"""The PostgreSQL engine's history: attempts, stored with the settles they belong to."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final

from celeriac.engines.attempt_rows import AttemptRows
from celeriac.engines.attempts import (
    FEW,
    PACK,
    collect,
    encode,
    key,
    marks,
    number_of,
)
from celeriac.engines.history import Attempt, Wanted
from celeriac.engines.postgres.step import step
from celeriac.engines.postgres.store import Connection, Store

CHUNK: Final = 1000
"""Rows that a pruning statement deletes."""

ARGUMENTS: Final = "%s::bigint[], %s::int[], %b::bytea, %b::bytea[]"
NOTE: Final = f"SELECT @note('{{}}', {ARGUMENTS})"
_NEWEST = "SELECT coalesce(max(id), 0) FROM @attempt"
_ROWS = """SELECT id, at, count, key IS NOT NULL, body FROM @attempt
WHERE id <= %s{conditions} ORDER BY id DESC LIMIT %s"""
_OF_TASK = """ AND id IN (SELECT id FROM @attempt WHERE key = %s
UNION ALL SELECT id FROM @attempt WHERE key IS NULL AND position(%b IN marks) > 0)"""
_FITS = " AND CASE WHEN key IS NULL THEN {marks} ELSE {bodies} END"
_AT = "SELECT at FROM @attempt WHERE id >= %s ORDER BY id LIMIT 1"
_OLDEST = "SELECT id FROM @attempt ORDER BY id LIMIT 1"
# One node at a time: the others have nothing to do then.
_TURN = "SELECT pg_try_advisory_xact_lock(hashtextextended('celeriac history', hashtext(%s)))"
_DROP = """WITH old AS (SELECT id FROM (SELECT id, at FROM @attempt ORDER BY id LIMIT %s) o
    WHERE id <= (SELECT max(id) FROM @attempt) - %s OR at <= @now() - %s),
gone AS (DELETE FROM @attempt WHERE id <= (SELECT max(id) FROM old) RETURNING count)
SELECT count(*), coalesce(sum(count), 0)::bigint FROM gone"""


class PostgresHistory:
    """The part of the engine that is a :class:`celeriac.engines.history.HistoryStore`."""

    _store: Store
    history_max = 1_000_000

    def note_attempts(self, attempts: Sequence[Attempt]) -> None:
        """Store attempts that no settle brought along."""
        with self._store.borrowed() as connection:
            for arguments in notes([(0, attempt) for attempt in attempts]):
                connection.run(NOTE, arguments, binary=True)

    def attempts(self, wanted: Wanted, limit: int = 100, before: str = "") -> tuple[list[Attempt], str]:
        """A page, newest first, and where the next one begins."""
        with self._store.borrowed() as connection:
            return collect(_Rows(connection).found(wanted, number_of(before)), wanted, limit, before)

    def prune_history(self, keep: int, age: float) -> int:
        """Delete what is too much or too old, in small transactions, if nobody else is at it."""
        dropped, rows = 0, CHUNK
        while rows >= CHUNK:
            with step(self._store) as work:
                if not work.run(_TURN, (self._store.schema,))[0][0]:
                    return dropped
                rows, count = work.run(_DROP, (CHUNK, keep, age))[0]
                dropped += count
        return dropped


def notes(attempts: Sequence[tuple[int, Attempt]]) -> Iterator[tuple[Any, ...]]:
    """The arguments of ``note`` for attempts and the tokens of the leases they ended."""
    size = PACK if len(attempts) > FEW else FEW
    for start in range(0, len(attempts), size):
        some = [attempt for _, attempt in attempts[start : start + size]]
        yield (
            [token for token, _ in attempts[start : start + size] if token],
            [key(attempt.id) for attempt in some],
            marks(some) if len(attempts) > FEW else None,
            [encode(attempt) for attempt in some],
        )


class _Rows(AttemptRows):
    page = 512
    of_task, fits = _OF_TASK, _FITS
    in_marks, in_body = "position(%b IN marks) > 0", "position(%b IN body) > 0"

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def newest(self) -> int:
        newest: int = self._connection.run(_NEWEST)[0][0]
        return newest

    def oldest(self) -> int:
        return next((row[0] for row in self._connection.run(_OLDEST)), 1)

    def stored(self, number: int) -> float | None:
        return next((row[0] for row in self._connection.run(_AT, (number,))), None)

    def read(
        self, conditions: str, top: int, arguments: Sequence[int | bytes], most: int
    ) -> Sequence[Sequence[Any]]:
        sql = _ROWS.format(conditions=conditions)
        return self._connection.run(sql, (top, *arguments, most), binary=True)
