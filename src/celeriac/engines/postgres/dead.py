"""Dead letters: messages that were given up, kept in bounds until they are replayed or purged."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from celeriac.engines.base import DeadLetter, Outcome
from celeriac.engines.envelopes import for_replay, priority_of
from celeriac.engines.postgres.parcels import clean
from celeriac.engines.postgres.step import Lease, Step, step
from celeriac.engines.postgres.store import Store

_BURY = """INSERT INTO @dead (key, id, queue, rank, reason, detail, at, task, task_id)
VALUES (nextval('@serial'), %s, %s, %s, %s, %s, @now(), %s, %s) RETURNING key"""
_ADD_PAYLOAD = "INSERT INTO @payload (id, body) VALUES (nextval('@serial'), %b) RETURNING id"
_BURY_OLD = """INSERT INTO @dead (key, id, queue, rank, reason, detail, at, task, task_id)
VALUES (nextval('@serial'), %s, %s, %s, %s, %s, %s, %s, %s)"""
_KNOW = "INSERT INTO @queue (name) VALUES (%s) ON CONFLICT DO NOTHING"
_UNLEASE = "DELETE FROM @message WHERE state = 1 AND owner = %s AND token = %s"
_LIST = """SELECT d.key, d.queue, d.reason, d.detail, d.at, d.task, d.task_id, p.body
FROM @dead d JOIN @payload p ON p.id = d.id WHERE (%s::text IS NULL OR d.queue = %s::text)
ORDER BY d.key DESC LIMIT %s OFFSET %s"""
_TAKE = """DELETE FROM @dead WHERE (%s::text IS NULL OR queue = %s::text)
AND (%s::bigint[] IS NULL OR key = ANY (%s::bigint[])) RETURNING key, id, queue, rank"""
_EXCESS = """DELETE FROM @dead WHERE queue = %s AND key <=
(SELECT key FROM @dead WHERE queue = %s ORDER BY key DESC LIMIT 1 OFFSET %s) RETURNING id"""
_EXPIRED = """DELETE FROM @dead WHERE at <= %s
AND key = ANY (ARRAY(SELECT key FROM @dead ORDER BY key LIMIT %s)) RETURNING id"""
_EXPIRED_AT_ONCE = 100
_DROP_PAYLOADS = "DELETE FROM @payload WHERE id = ANY (%s::bigint[])"


def bury(work: Step, outcome: Outcome, lease: Lease) -> None:
    """Make a leased message a dead letter, and drop those over the bounds."""
    task_id = outcome.task_id or work.task_id(lease.id)
    texts = (clean(outcome.reason), clean(outcome.detail), clean(outcome.task), clean(task_id))
    key = work.run(_BURY, (lease.id, lease.queue, lease.rank, *texts))[0][0]
    work.run(_UNLEASE, (lease.owner, lease.token))
    most = work.store.options.dead_letters_max
    # Finding the oldest to keep walks over all of them: where that is long, not every time.
    if most < 1000 or key % 100 == 0:
        _drop(work, work.run(_EXCESS, (lease.queue, lease.queue, most)))
    expire_dead(work, _EXPIRED_AT_ONCE)


def expire_dead(work: Step, limit: int) -> int:
    """Delete up to ``limit`` dead letters that are too old; return how many."""
    rows = work.run(_EXPIRED, (work.now - work.store.options.dead_letters_expires, limit))
    _drop(work, rows)
    return len(rows)


class DeadLetters:
    """The broker's dead letters; see :class:`celeriac.engines.base.Broker`."""

    _store: Store

    def dead_letters(self, queue: str | None = None, offset: int = 0, limit: int = 50) -> list[DeadLetter]:
        """Dead letters, newest first."""
        rows = self._store.read(_LIST, (queue, queue, limit, offset), patient=True)
        return [
            DeadLetter(str(key), name, reason, detail, at, task, task_id, bytes(body))
            for key, name, reason, detail, at, task, task_id, body in rows
        ]

    def replay(self, keys: Sequence[str] | None = None, queue: str | None = None) -> int:
        """Put dead letters back in line, with count and mark cleared; all of ``queue`` if no keys."""
        with step(self._store, durable=True, patient=True) as work:
            taken = sorted(_take(work, keys, queue))
            for _, id, name, rank in taken:
                work.rewrite(id, for_replay(work.body(id)))
                work.append(name, rank, id)
        return len(taken)

    def purge_dead(self, keys: Sequence[str] | None = None, queue: str | None = None) -> int:
        """Delete dead letters: those of ``keys``, or all of ``queue``, or all."""
        with step(self._store, patient=True) as work:
            taken = _take(work, keys, queue)
            _drop(work, [(id,) for _, id, _, _ in taken])
        return len(taken)

    def bury(self, letters: Sequence[DeadLetter]) -> None:
        """Store dead letters of another store, the oldest first."""
        with step(self._store, durable=True) as work:
            for letter in letters:
                id = work.run(_ADD_PAYLOAD, (letter.payload,))[0][0]
                rank = self._store.sign * priority_of(letter.payload)
                words = (clean(letter.reason), clean(letter.detail), letter.at)
                whose = (clean(letter.task), clean(letter.task_id))
                work.run(_BURY_OLD, (id, letter.queue, rank, *words, *whose))
            most = work.store.options.dead_letters_max
            for queue in sorted({letter.queue for letter in letters}):
                work.run(_KNOW, (queue,))
                _drop(work, work.run(_EXCESS, (queue, queue, most)))


def _take(work: Step, keys: Sequence[str] | None, queue: str | None) -> list[tuple[Any, ...]]:
    """Remove dead letters from the list, leaving their payloads."""
    numbers = None if keys is None else [int(key) for key in keys if key.isascii() and key.isdigit()]
    return work.run(_TAKE, (queue, queue, numbers, numbers))


def _drop(work: Step, rows: Sequence[tuple[Any, ...]]) -> None:
    if rows:
        work.run(_DROP_PAYLOADS, ([row[0] for row in rows],))
