"""Holdings: the messages that each child has claimed, and how many tasks of each name it has started.

They lie in shared memory (the board's area "holdings"), so that the agent can tell what a child runs and
holds whatever the child is doing. A child writes down a batch when it has claimed it: it copies the
envelopes as they are, and only who is asked reads them. That costs 0.2 us of CPU a task in batches of 32 and
0.5 us one by one, and the count of starts 0.2 us (bench/holdings.py). Which of them run, wait or have ended
stands on the board.

A reader may meet a writer. Each frame begins with a number that is odd while it is written, and is another
one afterwards: who sees it change, or odd, reads again.
"""

from __future__ import annotations

import struct
import time
from collections.abc import Iterator, Sequence

from celeriac.engines.base import Delivery
from celeriac.exceptions import DecodeError, EncodeError
from celeriac.message import Message, decode_envelope, encode_envelope
from celeriac.worker.board import Board

NAMES = 512
"""Task names that are counted apart; later ones count together."""
OTHERS = "(others)"

# Native sizes: struct writes these numbers in one piece, others byte by byte.
_U32 = struct.Struct("@I")
_U64 = struct.Struct("@Q")
_TOTAL = struct.Struct("@QH118s")
_NAME_SIZE = 118
_TOTALS_SIZE = 8 + NAMES * _TOTAL.size
_FRAME = struct.Struct("@II")
_ONE = struct.Struct("@IIQQ")
_KEPT = ("id", "task", "eta", "expires", "retries", "root_id", "parent_id", "group", "redelivered", "stamps")
"""What is left of the headers of a message that is too long."""
_ATTEMPTS = 20
_PAUSE = 0.0005


class Holdings:
    """One child's area. The child writes, one thread at a time; anybody reads."""

    def __init__(self, board: Board, number: int) -> None:
        self._memory = board.memory
        start, size = board.annex("holdings", number)
        self._totals = start
        self._frames = start + _TOTALS_SIZE
        self._frame_size = (size - _TOTALS_SIZE) // board.slots & ~7
        self._slots = board.slots
        self._sequence = _U32.unpack_from(self._memory, self._frames)[0] & ~1
        self._places: dict[str, int] = {}

    # -- the child's side --------------------------------------------------------------------------

    def hold(self, frame: int, deliveries: Sequence[Delivery]) -> None:
        """Write down what was claimed, in place of what stood in this frame.

        A child with one slot has one frame, for a whole batch; others have a frame a slot.
        """
        at, memory = self._frames + frame * self._frame_size, self._memory
        sequence, count = self._sequence, len(deliveries)
        self._sequence = (sequence + 2) & 0xFFFFFFFF
        if count == 1 and (size := len(deliveries[0].payload)) + _ONE.size <= self._frame_size:
            # The way of batches would cost a second microsecond here.
            _ONE.pack_into(memory, at, sequence + 1, 1, deliveries[0].token, size)
            memory[at + _ONE.size : at + _ONE.size + size] = deliveries[0].payload
        else:
            packed = self._packed(deliveries)
            _FRAME.pack_into(memory, at, sequence + 1, count)
            memory[at + 8 : at + 8 + len(packed)] = packed
        _U32.pack_into(memory, at, self._sequence)

    def _packed(self, deliveries: Sequence[Delivery]) -> bytes:
        """Tokens and lengths, then the envelopes."""
        payloads = [delivery.payload for delivery in deliveries]
        head = 8 + 16 * len(payloads)
        if head + sum(map(len, payloads)) > self._frame_size:
            payloads = _fitting(payloads, self._frame_size - head)
        numbers: list[int] = []
        for delivery, payload in zip(deliveries, payloads, strict=True):
            numbers += (delivery.token, len(payload))
        return struct.pack(f"@{len(numbers)}Q", *numbers) + b"".join(payloads)

    def count(self, task: str) -> None:
        """A task of this name is started."""
        place = self._places.get(task)
        if place is None:
            place = self._places[task] = self._place(_shortened(task))
        _U64.pack_into(self._memory, place, _U64.unpack_from(self._memory, place)[0] + 1)

    def _place(self, name: str) -> int:
        """Where the name is counted: children before this one may have begun."""
        known = [each for each, _ in self._named()]
        if name not in known and len(known) >= NAMES - 1:
            name = OTHERS
        if name not in known:
            encoded = name.encode()
            entry = (0, len(encoded), encoded)
            _TOTAL.pack_into(self._memory, self._totals + 8 + len(known) * _TOTAL.size, *entry)
            _U32.pack_into(self._memory, self._totals, len(known) + 1)
            known.append(name)
        return self._totals + 8 + known.index(name) * _TOTAL.size

    # -- a reader's side ---------------------------------------------------------------------------

    def held(self) -> dict[int, bytes]:
        """The envelopes last written down, by token: what runs, what waits, and some that have ended."""
        found: dict[int, bytes] = {}
        for frame in range(self._slots):
            found.update(self._read(self._frames + frame * self._frame_size))
        return found

    def totals(self) -> dict[str, int]:
        """How many tasks of each name were started, over all lives of this child."""
        return {name: count for name, count in self._named() if count}

    def _named(self) -> Iterator[tuple[str, int]]:
        for number in range(_U32.unpack_from(self._memory, self._totals)[0]):
            at = self._totals + 8 + number * _TOTAL.size
            count, length, name = _TOTAL.unpack_from(self._memory, at)
            yield name[:length].decode("utf-8", "replace"), count

    def _read(self, at: int) -> dict[int, bytes]:
        for _ in range(_ATTEMPTS):
            before, count = _FRAME.unpack_from(self._memory, at)
            if not before & 1:
                found = self._copied(at, count)
                if _U32.unpack_from(self._memory, at)[0] == before:
                    return found
            time.sleep(_PAUSE)
        return {}  # its writer died over it, or never rests: nothing is better than half of it

    def _copied(self, at: int, count: int) -> dict[int, bytes]:
        """What stands there, if it can be: it may be torn, so no number in it is trusted."""
        end, at = at + self._frame_size, at + 8
        if at + 16 * count > end:
            return {}
        numbers = struct.unpack_from(f"@{2 * count}Q", self._memory, at)
        found, at = {}, at + 16 * count
        for token, length in zip(numbers[::2], numbers[1::2], strict=True):
            if at + length > end:
                return {}
            found[token] = bytes(self._memory[at : at + length])
            at += length
        return found


def _fitting(payloads: list[bytes], room: int) -> list[bytes]:
    """The envelopes, the longest without their bodies, so that they have room."""
    longest = sorted(range(len(payloads)), key=lambda index: -len(payloads[index]))
    fair = room // len(payloads)
    payloads = list(payloads)
    excess = sum(map(len, payloads)) - room
    for index in longest:
        if excess <= 0:
            break
        short = _bare(payloads[index], fair)
        excess -= len(payloads[index]) - len(short)
        payloads[index] = short
    return payloads


def _bare(payload: bytes, room: int) -> bytes:
    """An envelope of what is shown of a message, in so many bytes; empty if that cannot be."""
    try:
        message = decode_envelope(payload)
        headers = {name: message.headers[name] for name in _KEPT if name in message.headers}
        for limit in (1024, 128, 0):
            for name in ("argsrepr", "kwargsrepr"):
                text = message.headers.get(name)
                if isinstance(text, str) and limit:
                    headers[name] = text if len(text) <= limit else text[:limit] + "..."
                else:
                    headers.pop(name, None)
            made = encode_envelope(Message(headers, message.properties, b""))
            if len(made) <= room:
                return made
    except (DecodeError, EncodeError):
        pass
    return b""


def _shortened(task: str) -> str:
    return task.encode()[:_NAME_SIZE].decode("utf-8", "ignore")
