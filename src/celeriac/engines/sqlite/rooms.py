"""Concurrency limits: rooms with seats, which leases take, and for which messages are parked.

The contract's *place* is a seat here, for a message's place in line is called so. A seat is noted on the
message's row (``SEATED``), which whoever ends the lease has at hand: messages without one cost nothing.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator, Sequence

SEATED = 2
"""In a row's ``admitted``: the message has a seat."""
_MOST = 100
"""Up to so many messages get a room's seats in one step; the next step goes on."""

_SIZE = """INSERT INTO room (name, size) VALUES (?1, ?2)
ON CONFLICT (name) DO UPDATE SET size = ?2 WHERE size <> ?2"""
_LEASE = """SELECT l.id, l.admitted FROM leased l JOIN owner o ON o.id = l.owner
WHERE o.name = ? AND l.queue = ? AND l.token = ?"""
_IS_FREE = "SELECT taken < size AND waiting = 0 FROM room WHERE name = ?"
_SIT = "INSERT INTO seat (message, room) VALUES (?, ?)"
_NOTE_SEAT = f"UPDATE leased SET admitted = admitted | {SEATED} WHERE token = ?"
_LEAVE = "DELETE FROM seat WHERE message = ? RETURNING room"
_LEAVE_LINE = f"""DELETE FROM seat WHERE message IN
(SELECT id FROM ready WHERE queue = ? AND admitted & {SEATED}) RETURNING room"""
_KNOW = "INSERT OR IGNORE INTO room (name, size) VALUES (?, 1)"
_WAIT = """INSERT INTO parked (room, bucket, queue, seq, id, rank, since, admitted, task_id)
VALUES (1, ?, ?, ?, ?, ?, ?, ?, ?)"""
_OPEN = "SELECT name, size - taken FROM room WHERE waiting > 0 AND taken < size"
_FIRST = """SELECT seq, queue, id, rank, since, admitted FROM parked
WHERE queue = ? AND room = 1 AND bucket = ? ORDER BY seq LIMIT ?"""
_STOP_WAITING = "DELETE FROM parked WHERE queue = ? AND room = 1 AND bucket = ? AND seq = ?"
_NEXT_QUEUE = f"""SELECT min(queue) FROM parked WHERE room = 1 AND bucket = ?1 AND queue > ?2
AND EXISTS ({_OPEN} AND name = ?1)"""
_SWEEP = "DELETE FROM room WHERE taken = 0 AND waiting = 0"


def enter(handle: sqlite3.Connection, room: str, size: int, lease: tuple[str, str, int]) -> bool:
    """Take a seat for a lease, unless none is free or messages wait for one already."""
    handle.execute(_SIZE, (room, size))
    row = handle.execute(_LEASE, lease).fetchone()
    if row is None:
        return False
    message, admitted = row
    if admitted & SEATED:
        return True
    if not handle.execute(_IS_FREE, (room,)).fetchone()[0]:
        return False
    handle.execute(_SIT, (message, room))
    handle.execute(_NOTE_SEAT, (lease[2],))
    return True


def leave(handle: sqlite3.Connection, message: int) -> str:
    """Free a message's seat; return its room."""
    room: str = handle.execute(_LEAVE, (message,)).fetchone()[0]
    return room


def leave_line(handle: sqlite3.Connection, queue: str) -> list[str]:
    """Free the seats of what is ready in a queue, before it is purged; return the rooms."""
    return [room for (room,) in handle.execute(_LEAVE_LINE, (queue,)).fetchall()]


def wait(handle: sqlite3.Connection, room: str, parked: tuple[str, int, int, int, float, int, str]) -> None:
    """Park ``(queue, seq, id, rank, since, admitted, task id)`` for a seat."""
    handle.execute(_KNOW, (room,))
    handle.execute(_WAIT, (room, *parked))


def hand_out(handle: sqlite3.Connection, queues: Sequence[str]) -> list[tuple[object, ...]]:
    """Give free seats to the messages that have waited longest in ``queues``; return their rows of ready."""
    seated: list[tuple[object, ...]] = []
    for room, free in handle.execute(_OPEN).fetchall():
        most = min(free, _MOST)
        waiting = [row for queue in queues for row in handle.execute(_FIRST, (queue, room, most))]
        for seq, queue, message, rank, since, admitted in sorted(waiting)[:most]:
            handle.execute(_STOP_WAITING, (queue, room, seq))
            handle.execute(_SIT, (message, room))
            seated.append((queue, rank, seq, message, since, admitted | SEATED))
    return seated


def queues_waiting(handle: sqlite3.Connection, rooms: Iterable[str]) -> Iterator[str]:
    """The queues with messages parked for one of ``rooms`` in which a seat is free."""
    for room in rooms:
        # From queue to queue by the index, not along all that is parked.
        queue = ""
        while (queue := handle.execute(_NEXT_QUEUE, (room, queue)).fetchone()[0]) is not None:
            yield queue


def sweep(handle: sqlite3.Connection) -> None:
    """Forget the rooms that nobody uses."""
    handle.execute(_SWEEP)
