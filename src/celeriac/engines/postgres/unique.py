"""Unique keys: who holds one, taking one with a publication, and setting it free.

Who would take a key has locked its name (``Step.lock``) before.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from celeriac.engines.base import Hold, Unique

if TYPE_CHECKING:
    from celeriac.engines.postgres.step import Step

HOLDER = f"""SELECT h.task_id, h.message FROM @held h WHERE h.key = %s AND h.expires > @now()
AND (h.until <> '{Hold.DELAYED}' OR EXISTS (SELECT 1 FROM @message d
    WHERE d.task_id = h.task_id AND d.state = 2 AND d.id = h.message AND d.due = h.due))"""
_TAKE = """INSERT INTO @held (key, task_id, until, expires, message, due) VALUES (%s, %s, %s, %s, %s, %s)
ON CONFLICT (key) DO UPDATE SET task_id = excluded.task_id, until = excluded.until,
expires = excluded.expires, message = excluded.message, due = excluded.due"""
_DROP = "DELETE FROM @held WHERE key = %s"
_FREE = f"DELETE FROM @held WHERE key = %s AND task_id = %s AND until <> '{Hold.EXPIRY}'"
_FREE_MESSAGES = f"DELETE FROM @held WHERE message = ANY (%s::bigint[]) AND until <> '{Hold.EXPIRY}'"
_DROP_DELAYED = "DELETE FROM @message WHERE task_id = %s AND state = 2 AND id = %s"
_DROP_PAYLOAD = "DELETE FROM @payload WHERE id = %s"


def refusal(work: Step, unique: Unique) -> str | None:
    """Who stands in the way of a publication ("": nobody holds the key any more), or ``None``: publish it.

    The delayed message it comes instead of, if any, is gone then.
    """
    rows = work.run(HOLDER, (unique.key,))
    if not unique.instead_of:
        return str(rows[0][0]) if rows else None
    if not rows:
        return ""
    task_id, message = rows[0]
    if task_id != unique.instead_of or not work.count(_DROP_DELAYED, (task_id, message)):
        return str(task_id)
    work.run(_DROP_PAYLOAD, (message,))
    return None


def take(work: Step, unique: Unique, task_id: str, message: int, due: float | None) -> None:
    """Let a task hold the key of its publication, stored as ``message`` to be delivered at ``due``."""
    if unique.until is Hold.DELAYED and due is None:
        work.run(_DROP, (unique.key,))  # what it came instead of held the key
        return
    work.run(_TAKE, (unique.key, task_id, unique.until.value, work.now + unique.ttl, message, due))


def free(work: Step, key: str, task_id: str) -> None:
    """End a task's hold on ``key``, as it has ended."""
    work.run(_FREE, (key, task_id))


def free_messages(work: Step, messages: Sequence[int]) -> None:
    """Free what messages hold that are cancelled or purged."""
    work.run(_FREE_MESSAGES, (list(messages),))
