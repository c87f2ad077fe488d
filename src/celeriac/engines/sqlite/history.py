"""The SQLite engine's history: attempts, stored with the settles they belong to."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from typing import Any, Final

from celeriac.engines.attempt_rows import AttemptRows
from celeriac.engines.attempts import Row, collect, encode, number_of, rows
from celeriac.engines.history import Attempt, Wanted
from celeriac.engines.sqlite import clock
from celeriac.engines.sqlite.step import Step, step
from celeriac.engines.sqlite.store import Store

CHUNK: Final = 500
"""Rows that a pruning transaction deletes: the gate is held for a few milliseconds."""

_LAST = "SELECT max(id) FROM attempt"
_ADD = "INSERT INTO attempt (id, at, count, key, body) VALUES (?, ?, ?, ?, ?)"
_ADD_MARKS = "INSERT INTO attempt_marks (id, marks) VALUES (?, ?)"
_ROWS = """SELECT id, at, count, key IS NOT NULL, body FROM attempt a
WHERE id <= ?{conditions} ORDER BY id DESC LIMIT ?"""
_OF_TASK = """ AND id IN (SELECT id FROM attempt WHERE key = ?
UNION ALL SELECT id FROM attempt_marks WHERE instr(marks, ?))"""
_FITS = """ AND CASE WHEN key IS NULL
THEN EXISTS (SELECT 1 FROM attempt_marks m WHERE m.id = a.id AND ({marks})) ELSE {bodies} END"""
_AT = "SELECT at FROM attempt WHERE id >= ? ORDER BY id LIMIT 1"
_OLDEST = "SELECT id, at, count FROM attempt ORDER BY id LIMIT ?"
_DROP = "DELETE FROM attempt WHERE id <= ?"
_DROP_MARKS = "DELETE FROM attempt_marks WHERE id <= ?"


class SQLiteHistory:
    """The part of the engine that is a :class:`celeriac.engines.history.HistoryStore`."""

    _store: Store
    history_max = 1_000_000

    def note_attempts(self, attempts: Sequence[Attempt]) -> None:
        """Store attempts that no settle brought along."""
        bodies = [encode(attempt) for attempt in attempts]
        with step(self._store) as work:
            note(work, attempts, bodies)

    def attempts(self, wanted: Wanted, limit: int = 100, before: str = "") -> tuple[list[Attempt], str]:
        """A page, newest first, and where the next one begins."""
        with self._store.read() as handle:
            return collect(_Rows(handle).found(wanted, number_of(before)), wanted, limit, before)

    def prune_history(self, keep: int, age: float) -> int:
        """Delete what is too much or too old, in small transactions."""
        dropped = 0
        while True:
            with self._store.read() as handle:
                last, _ = _overdue(handle, keep, age, 1)
            if not last:
                return dropped
            with step(self._store) as work:
                last, count = _overdue(work.handle, keep, age, CHUNK)
                work.handle.execute(_DROP, (last,))
                work.handle.execute(_DROP_MARKS, (last,))
            dropped += count


def note(work: Step, attempts: Sequence[Attempt], bodies: Sequence[bytes]) -> None:
    """Store encoded attempts within a step."""
    number = work.handle.execute(_LAST).fetchone()[0] or 0
    for row in rows(attempts, bodies):
        number += row.size
        _add(work, number, row)


def _add(work: Step, number: int, row: Row) -> None:
    work.handle.execute(_ADD, (number, work.now, row.size, row.key, row.body))
    if row.marks:
        work.handle.execute(_ADD_MARKS, (number, row.marks))


def _overdue(handle: sqlite3.Connection, keep: int, age: float, most: int) -> tuple[int, int]:
    """The id of the last of the oldest rows that are to go (0: none), and how many attempts they hold."""
    newest = handle.execute(_LAST).fetchone()[0] or 0
    horizon = clock.now() - age
    last = dropped = 0
    for id, at, count in handle.execute(_OLDEST, (most,)):
        if id > newest - keep and at > horizon:
            break
        last, dropped = id, dropped + count
    return last, dropped


class _Rows(AttemptRows):
    of_task, fits = _OF_TASK, _FITS
    in_marks, in_body = "instr(m.marks, ?)", "instr(body, ?)"

    def __init__(self, handle: sqlite3.Connection) -> None:
        self._handle = handle

    def newest(self) -> int:
        return self._handle.execute(_LAST).fetchone()[0] or 0

    def oldest(self) -> int:
        return next((id for id, _, _ in self._handle.execute(_OLDEST, (1,))), 1)

    def stored(self, number: int) -> float | None:
        row = self._handle.execute(_AT, (number,)).fetchone()
        return None if row is None else row[0]

    def read(
        self, conditions: str, top: int, arguments: Sequence[int | bytes], most: int
    ) -> Sequence[Sequence[Any]]:
        return self._handle.execute(_ROWS.format(conditions=conditions), (top, *arguments, most)).fetchall()
