"""Concurrency limits: rooms with seats, which leases take, and for which messages are parked.

The contract's *place* is a seat here, for a message's place in line is called so. A seat is noted on the
message's row (``SEATED``), which whoever ends the lease has at hand: messages without one cost nothing.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator, Sequence

SEATED = 2
"""In a row's ``admitted``: the message has a seat, in some room."""

Seated = tuple[str, int, int, int, float, int, bytes]
"""Queue, rank, seq, id, since, admitted and envelope of a message that has got a seat."""

_SIZE = """INSERT INTO room (name, size) VALUES (?1, ?2)
ON CONFLICT (name) DO UPDATE SET size = ?2 WHERE size <> ?2"""
_LEASE = """SELECT l.id, l.admitted FROM leased l JOIN owner o ON o.id = l.owner
WHERE o.name = ? AND l.queue = ? AND l.token = ?"""
_IS_FREE = "SELECT taken < size AND waiting = 0 FROM room WHERE name = ?"
_SIT = "INSERT INTO seat (message, room) VALUES (?, ?)"
_SITS = "SELECT EXISTS (SELECT 1 FROM seat WHERE message = ? AND room = ?)"
_NOTE_SEAT = f"UPDATE leased SET admitted = admitted | {SEATED} WHERE token = ?"
_LEAVE = "DELETE FROM seat WHERE message = ? RETURNING room"
_KNOW = "INSERT OR IGNORE INTO room (name, size) VALUES (?, 1)"
_WAIT = """INSERT INTO parked (room, bucket, turn, queue, seq, id, rank, since, admitted, task_id)
VALUES (1, ?, ?, ?, ?, ?, ?, ?, ?, ?)"""
_OPEN = "SELECT name, size - taken FROM room WHERE waiting > 0 AND taken < size"
_FIRST = """SELECT turn, bucket, queue, rank, seq, id, since, admitted FROM parked
WHERE queue = ? AND room = 1 AND bucket = ? ORDER BY turn LIMIT ?"""
_STOP_WAITING = "DELETE FROM parked WHERE queue = ? AND room = 1 AND bucket = ? AND turn = ?"
_BODY = "SELECT body FROM payload WHERE id = ?"
_IS_OPEN = f"SELECT EXISTS ({_OPEN} AND name = ?)"
_NEXT_QUEUE = "SELECT min(queue) FROM parked WHERE room = 1 AND bucket = ? AND queue > ?"
# Of a message that has gone: a worker of version 1, which knows no seats, has settled it.
_SWEEP_SEATS = "DELETE FROM seat WHERE NOT EXISTS (SELECT 1 FROM payload p WHERE p.id = message)"
_SWEEP = "DELETE FROM room WHERE taken = 0 AND waiting = 0"


def resize(handle: sqlite3.Connection, room: str, size: int) -> bool:
    """Let a room have so many seats; return whether it had not."""
    return handle.execute(_SIZE, (room, size)).rowcount == 1


def enter(handle: sqlite3.Connection, room: str, lease: tuple[str, str, int]) -> bool:
    """Take a seat for a lease, unless none is free or messages wait for one already."""
    row = handle.execute(_LEASE, lease).fetchone()
    if row is None:
        return False
    message, admitted = row
    if admitted & SEATED and handle.execute(_SITS, (message, room)).fetchone()[0]:
        return True
    if not handle.execute(_IS_FREE, (room,)).fetchone()[0]:
        return False
    handle.execute(_SIT, (message, room))
    handle.execute(_NOTE_SEAT, (lease[2],))
    return True


def leave(handle: sqlite3.Connection, message: int) -> list[str]:
    """Free a message's seats; return the rooms."""
    return [room for (room,) in handle.execute(_LEAVE, (message,)).fetchall()]


def wait(
    handle: sqlite3.Connection,
    room: str,
    turn: int,
    parked: tuple[str, int, int, int, float, int, str],
) -> None:
    """Park ``(queue, seq, id, rank, since, admitted, task id)`` for a seat, behind lower turns."""
    handle.execute(_KNOW, (room,))
    handle.execute(_WAIT, (room, turn, *parked))


def hand_out(handle: sqlite3.Connection, queues: Sequence[str], limit: int) -> list[Seated]:
    """Give free seats to the up to ``limit`` messages of ``queues`` that have waited longest: the caller
    leases them."""
    first = []
    for room, free in handle.execute(_OPEN).fetchall():
        most = min(free, limit)
        waiting = [row for queue in queues for row in handle.execute(_FIRST, (queue, room, most))]
        first += sorted(waiting)[:most]
    seated = []
    for turn, room, queue, rank, seq, message, since, admitted in sorted(first)[:limit]:
        handle.execute(_STOP_WAITING, (queue, room, turn))
        handle.execute(_SIT, (message, room))
        (body,) = handle.execute(_BODY, (message,)).fetchone()
        seated.append((queue, rank, seq, message, since, admitted | SEATED, body))
    return seated


def queues_waiting(handle: sqlite3.Connection, rooms: Iterable[str]) -> Iterator[str]:
    """The queues with messages parked for one of ``rooms`` in which a seat is free."""
    for room in rooms:
        if not handle.execute(_IS_OPEN, (room,)).fetchone()[0]:
            continue
        # From queue to queue by the index, not along all that is parked.
        queue = ""
        while (queue := handle.execute(_NEXT_QUEUE, (room, queue)).fetchone()[0]) is not None:
            yield queue


def sweep(handle: sqlite3.Connection) -> None:
    """Forget the rooms that nobody uses."""
    handle.execute(_SWEEP_SEATS)
    handle.execute(_SWEEP)
