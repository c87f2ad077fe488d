"""Unique keys: who holds one, taking one with a publication, and setting it free."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence

from celeriac.engines.base import Hold, Unique

_HOLDER = f"""SELECT h.task_id, h.message FROM held h WHERE h.key = ? AND h.expires > ?
AND (h.until <> '{Hold.DELAYED}' OR EXISTS (SELECT 1 FROM delayed d
    WHERE d.task_id = h.task_id AND d.id = h.message AND d.due = h.due))"""
_TAKE = """INSERT OR REPLACE INTO held (key, task_id, until, expires, message, due)
VALUES (?, ?, ?, ?, ?, ?)"""
_DROP = "DELETE FROM held WHERE key = ?"
_FREE = f"DELETE FROM held WHERE key = ? AND task_id = ? AND until <> '{Hold.EXPIRY}'"
_FREE_MESSAGE = f"DELETE FROM held WHERE message = ? AND until <> '{Hold.EXPIRY}'"
_FREE_QUEUE = f"""DELETE FROM held WHERE until <> '{Hold.EXPIRY}'
AND message IN (SELECT id FROM {{table}} WHERE queue = ?)"""
_ANY = "SELECT EXISTS (SELECT 1 FROM held)"
_DROP_DELAYED = "DELETE FROM delayed WHERE task_id = ? AND id = ?"
_DROP_PAYLOAD = "DELETE FROM payload WHERE id = ?"


def holder(handle: sqlite3.Connection, key: str, now: float) -> str | None:
    """The task id that holds ``key``."""
    row = handle.execute(_HOLDER, (key, now)).fetchone()
    return None if row is None else str(row[0])


def refusal(handle: sqlite3.Connection, unique: Unique, now: float) -> str | None:
    """Who stands in the way of a publication ("": nobody holds the key any more), or ``None``: publish it.

    The delayed message it comes instead of, if any, is gone then.
    """
    row = handle.execute(_HOLDER, (unique.key, now)).fetchone()
    if not unique.instead_of:
        return None if row is None else str(row[0])
    if row is None:
        return ""
    task_id, message = row
    if task_id != unique.instead_of or not handle.execute(_DROP_DELAYED, (task_id, message)).rowcount:
        return str(task_id)
    handle.execute(_DROP_PAYLOAD, (message,))
    return None


def take(
    handle: sqlite3.Connection, unique: Unique, task_id: str, message: int, due: float | None, now: float
) -> None:
    """Let a task hold the key of its publication, stored as ``message`` to be delivered at ``due``."""
    if unique.until is Hold.DELAYED and due is None:
        handle.execute(_DROP, (unique.key,))  # what it came instead of held the key
        return
    handle.execute(_TAKE, (unique.key, task_id, unique.until.value, now + unique.ttl, message, due))


def free(handle: sqlite3.Connection, key: str, task_id: str) -> None:
    """End a task's hold on ``key``, as it has ended."""
    handle.execute(_FREE, (key, task_id))


def free_messages(handle: sqlite3.Connection, messages: Sequence[tuple[int]]) -> None:
    """Free what messages hold that are cancelled."""
    handle.executemany(_FREE_MESSAGE, messages)


def free_queue(handle: sqlite3.Connection, table: str, queue: str) -> None:
    """Free what a queue's messages in ``table`` hold, before they are purged."""
    if handle.execute(_ANY).fetchone()[0]:  # else a million messages would be listed for nothing
        handle.execute(_FREE_QUEUE.format(table=table), (queue,))
