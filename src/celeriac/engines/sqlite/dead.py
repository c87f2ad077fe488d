"""Dead letters: messages that were given up, kept in bounds until they are replayed or purged."""

from __future__ import annotations

from collections.abc import Sequence

from celeriac.engines.base import DeadLetter, Outcome
from celeriac.engines.envelopes import for_replay, priority_of
from celeriac.engines.sqlite.step import Place, Step, step
from celeriac.engines.sqlite.store import Store

_BURY = """INSERT INTO dead (key, id, queue, rank, reason, detail, at, task, task_id)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)"""
_LIST = """SELECT d.key, d.queue, d.reason, d.detail, d.at, d.task, d.task_id, p.body
FROM dead d JOIN payload p ON p.id = d.id WHERE {where} ORDER BY d.key DESC LIMIT ? OFFSET ?"""
_TAKE = "DELETE FROM dead WHERE {where} RETURNING key, id, queue, rank"
_EXCESS = """DELETE FROM dead WHERE queue = ?1 AND key <=
(SELECT key FROM dead WHERE queue = ?1 ORDER BY key DESC LIMIT 1 OFFSET ?2) RETURNING id"""
_EXPIRED = """DELETE FROM dead WHERE at <= ? AND key IN (SELECT key FROM dead ORDER BY key LIMIT ?)
RETURNING id"""
_EXPIRED_AT_ONCE = 100
_DROP_PAYLOAD = "DELETE FROM payload WHERE id = ?"
_ADD_PAYLOAD = "INSERT INTO payload (id, body) VALUES (?, ?)"


def bury(work: Step, outcome: Outcome, place: Place) -> None:
    """Make a leased message a dead letter, and drop those over the bounds."""
    task_id = outcome.task_id or work.task_id(place.id)
    work.handle.execute(
        _BURY,
        (
            work.number(),
            place.id,
            place.queue,
            place.rank,
            outcome.reason,
            outcome.detail,
            work.now,
            outcome.task,
            task_id,
        ),
    )
    most = work.store.options.dead_letters_max
    # Finding the oldest to keep walks over all of them: where that is long, not every time.
    if most < 1000 or work.serial % 100 == 0:
        excess = work.handle.execute(_EXCESS, (place.queue, most)).fetchall()
        work.handle.executemany(_DROP_PAYLOAD, excess)
    expire_dead(work, _EXPIRED_AT_ONCE)


def expire_dead(work: Step, limit: int) -> int:
    """Delete up to ``limit`` dead letters that are too old; return how many."""
    before = work.now - work.store.options.dead_letters_expires
    rows = work.handle.execute(_EXPIRED, (before, limit)).fetchall()
    work.handle.executemany(_DROP_PAYLOAD, rows)
    return len(rows)


class DeadLetters:
    """The broker's dead letters; see :class:`celeriac.engines.base.Broker`."""

    _store: Store

    def dead_letters(self, queue: str | None = None, offset: int = 0, limit: int = 50) -> list[DeadLetter]:
        """Dead letters, newest first."""
        where, arguments = ("1", []) if queue is None else ("d.queue = ?", [queue])
        with self._store.read() as handle:
            rows = handle.execute(_LIST.format(where=where), (*arguments, limit, offset)).fetchall()
        return [
            DeadLetter(str(key), name, reason, detail, at, task, task_id, body)
            for key, name, reason, detail, at, task, task_id, body in rows
        ]

    def replay(self, keys: Sequence[str] | None = None, queue: str | None = None) -> int:
        """Put dead letters back in line, with count and mark cleared; all of ``queue`` if no keys."""
        with step(self._store, durable=True) as work:
            taken = sorted(_take(work, keys, queue))
            for _, id, name, rank in taken:
                work.rewrite(id, for_replay(work.body(id)))
                work.append(name, rank, id)
        return len(taken)

    def purge_dead(self, keys: Sequence[str] | None = None, queue: str | None = None) -> int:
        """Delete dead letters: those of ``keys``, or all of ``queue``, or all."""
        with step(self._store) as work:
            taken = _take(work, keys, queue)
            work.handle.executemany(_DROP_PAYLOAD, [(id,) for _, id, _, _ in taken])
        return len(taken)

    def bury(self, letters: Sequence[DeadLetter]) -> None:
        """Store dead letters of another store, the oldest first."""
        with step(self._store, durable=True) as work:
            for letter in letters:
                id, rank = work.number(), self._store.sign * priority_of(letter.payload)
                work.handle.execute(_ADD_PAYLOAD, (id, letter.payload))
                about = (letter.reason, letter.detail, letter.at, letter.task, letter.task_id)
                work.handle.execute(_BURY, (work.number(), id, letter.queue, rank, *about))
                work.know(letter.queue)
            for queue in {letter.queue for letter in letters}:
                excess = work.handle.execute(_EXCESS, (queue, work.store.options.dead_letters_max)).fetchall()
                work.handle.executemany(_DROP_PAYLOAD, excess)


def _take(work: Step, keys: Sequence[str] | None, queue: str | None) -> list[tuple[int, int, str, int]]:
    """Remove dead letters from the list, leaving their payloads."""
    conditions, arguments = ["1"], []
    if queue is not None:
        conditions.append("queue = ?")
        arguments.append(queue)
    if keys is None:
        return work.handle.execute(_TAKE.format(where=" AND ".join(conditions)), arguments).fetchall()
    sql = _TAKE.format(where=" AND ".join([*conditions, "key = ?"]))
    numbers = [int(key) for key in keys if key.isascii() and key.isdigit()]
    return [row for number in numbers for row in work.handle.execute(sql, (*arguments, number)).fetchall()]
