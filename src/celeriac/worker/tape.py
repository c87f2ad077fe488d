"""The tape: a ring in shared memory on which a child writes events, and from which the agent takes them.

One process writes (its threads share a lock), one reads; neither ever waits for the other. What does not fit
is dropped and counted. A record counts only when the writer has moved the head past it, so that one of a
writer that was killed in the middle was never there; a record whose frame is damaged all the same makes the
reader skip to the head.

The area begins with four numbers of 8 bytes: *head* (bytes ever written), *dropped* (events) are the
writer's, *tail* (bytes ever read) and *clock* the reader's. Each is written in one piece: ``struct`` does so
only with native sizes. The tape outlives its writers: the next process of the same child goes on.
"""

from __future__ import annotations

import platform
import threading
from struct import Struct
from typing import Final

from celeriac.worker.board import Board, barrier

_NUMBER: Final = Struct("@Q")
_FRAME: Final = Struct("@II")
_HEAD, _DROPPED, _TAIL, _CLOCK, _DATA = 0, 8, 16, 24, 64
_SEAL: Final = 0x5EA1C0DE
"""A frame holds its record's length twice, once combined with this."""
_FILLER: Final = 0xFFFFFFFF
"""The length of what is left at the end of the ring when the next record does not fit there."""
_ORDERED: Final = platform.machine() in ("x86_64", "AMD64", "i686")
"""Whether this processor shows its writes to others in order."""


class Tape:
    """The writer's end."""

    def __init__(self, board: Board, child: int) -> None:
        start, size = board.annex("tape", child)
        self._memory = board.memory
        self._start, self._data, self._size = start, start + _DATA, size - _DATA
        self._lock = threading.Lock()
        self._head = self._number(_HEAD)
        self._clock = 0
        self.longest = self._size // 4
        """The longest record that is taken, in bytes."""

    def tick(self, steps: int = 1) -> int:
        """Advance the logical clock by ``steps`` and return the first new value.

        It is ahead of all that the reader has seen of the node. Threads may get the same value.
        """
        (known,) = _NUMBER.unpack_from(self._memory, self._start + _CLOCK)
        mine = self._clock
        first: int = (mine if mine > known else known) + 1
        self._clock = first + steps - 1
        return first

    def append(self, record: bytes, events: int = 1) -> bool:
        """Write a record of so many events; ``False`` if it was dropped: the tape is full, or it too long."""
        length = len(record)
        with self._lock:
            head, memory = self._head, self._memory
            at = head % self._size
            filler = 0 if at + 8 + length <= self._size else self._size - at
            needed = filler + _padded(length)
            (tail,) = _NUMBER.unpack_from(memory, self._start + _TAIL)
            if length > self.longest or head + needed - tail > self._size:
                dropped = self._number(_DROPPED) + events
                _NUMBER.pack_into(memory, self._start + _DROPPED, dropped)
                return False
            if filler:
                _FRAME.pack_into(memory, self._data + at, _FILLER, _FILLER ^ _SEAL)
                at = 0
            begin = self._data + at
            _FRAME.pack_into(memory, begin, length, length ^ _SEAL)
            memory[begin + 8 : begin + 8 + length] = record
            # Last: until here the record is not there.
            self._head = head + needed
            _NUMBER.pack_into(memory, self._start + _HEAD, self._head)
            return True

    def _number(self, field: int) -> int:
        return int(_NUMBER.unpack_from(self._memory, self._start + field)[0])


class TapeReader:
    """The reader's end. One thread."""

    def __init__(self, board: Board, child: int) -> None:
        start, size = board.annex("tape", child)
        self._memory = board.memory
        self._start, self._data, self._size = start, start + _DATA, size - _DATA
        self._dropped = self._number(_DROPPED)
        self.damaged = 0
        """How often it had to skip what could not be read."""

    def take(self, most: int) -> list[bytes]:
        """Remove and return records, oldest first, until they are ``most`` bytes or more."""
        head, tail = self._number(_HEAD), self._number(_TAIL)
        if head == tail:
            return []
        settle = None if _ORDERED else barrier()
        if settle is not None:
            settle()
        records: list[bytes] = []
        taken = 0
        while tail < head and taken < most:
            at = tail % self._size
            length, seal = _FRAME.unpack_from(self._memory, self._data + at)
            if length ^ seal != _SEAL or (length != _FILLER and at + 8 + length > self._size):
                self.damaged += 1
                tail = head
            elif length == _FILLER:
                tail += self._size - at
            else:
                begin = self._data + at + 8
                records.append(self._memory[begin : begin + length])
                taken += length
                tail += _padded(length)
        _NUMBER.pack_into(self._memory, self._start + _TAIL, min(tail, head))
        return records

    def skip(self) -> None:
        """Remove all records."""
        _NUMBER.pack_into(self._memory, self._start + _TAIL, self._number(_HEAD))

    def note_clock(self, clock: int) -> None:
        """Tell the writer how far the node's logical clock is."""
        _NUMBER.pack_into(self._memory, self._start + _CLOCK, clock)

    @property
    def waiting(self) -> int:
        """Bytes that have been written and not taken."""
        return self._number(_HEAD) - self._number(_TAIL)

    def newly_dropped(self) -> int:
        """How many events were dropped since this was last asked."""
        total = self._number(_DROPPED)
        new, self._dropped = total - self._dropped, total
        return new

    def _number(self, field: int) -> int:
        return int(_NUMBER.unpack_from(self._memory, self._start + field)[0])


def _padded(length: int) -> int:
    """The room a record takes: its frame and itself, in steps of 8 bytes, so that a frame always fits."""
    return 8 + (length + 7 & ~7)
