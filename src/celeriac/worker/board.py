"""The board: shared memory in which a node's processes see each other.

Supervisor, agent and children map the same anonymous file. Each field has one writer, except *withdrawn*,
which is written under the child's fence. What stands here is what others must know at once and without
asking: who runs what since when, which claims have not been started, when the agent last reached the store.

Who withdraws unstarted messages must not race with the child that starts them. The child writes "started"
and then looks whether a withdrawal was asked for; who withdraws writes "asked" and then looks what was
started; so one of the two sees the other, provided that neither processor delays its write past its look.
Only the withdrawer pays for that, by ``membarrier`` (man 2 membarrier), which makes every processor
finish its writes; the child's start costs 0.3 us. Whoever has seen the other settles it under the
*fence*, a POSIX record lock on a byte of the file, which the kernel releases when its holder dies (a
shared-memory mutex would stay locked). Where there is no ``membarrier`` every start takes the fence: 3 to
10 us.
"""

from __future__ import annotations

import mmap
import os
import platform
import struct
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from enum import IntEnum
from fcntl import LOCK_EX, LOCK_UN, lockf
from functools import cache
from typing import NamedTuple

MAX_CLAIMS = 255
"""The most messages a child may hold unstarted."""
NOTICE_SIZE = 64 * 1024
"""Bytes for the notice: what the agent tells all children."""
ANNEXES = {"tape": 2 * 1024 * 1024, "holdings": 256 * 1024, "counters": 80 * 1024}
"""Further areas a child, by name, in bytes. Memory that nobody writes to is not there."""
HOLDINGS_A_SLOT = 2048
"""Bytes of the area "holdings" for each slot of a child, if that is more."""

_HEAD_SIZE = 64
# Offsets within it.
_LEASED_UNTIL, _BACKLOG, _NOTICED, _USED, _WANTED, _RANGE, _BORN, _PULSE = 0, 16, 24, 28, 32, 36, 48, 56
_CHILD_SIZE = 64
_ID_SIZE = 40
_SLOT = struct.Struct(f"<QdddII{_ID_SIZE}s80s")
_SLOT_SIZE = 160
_CLAIM_HEAD_SIZE = 16
# Single bytes, because a byte is written in one piece. At 0 the number of claims.
_STARTED, _ASKED, _WITHDRAWN, _FROM = 1, 2, 3, 4
_CLAIM = struct.Struct("<QQ")
_U32 = struct.Struct("<I")
_TWO_U32 = struct.Struct("<II")
_U64 = struct.Struct("<Q")
_F64 = struct.Struct("<d")


class Order(IntEnum):
    """What the supervisor wants of a child."""

    WORK = 0
    QUIT = 1
    """Start nothing more, finish what runs, give back the rest, exit."""
    DIE = 2
    """Follow the SIGTERM that comes now: a revoke ends the running task. Any other SIGTERM is not for us."""


class Life(IntEnum):
    """How far a child is."""

    STARTING = 0
    READY = 1
    LEAVING = 2


class Running(NamedTuple):
    """A started message, as the board shows it."""

    slot: int
    token: int
    since: float
    """When it was started, ``time.monotonic()``."""
    soft: float
    """When its soft limit falls due, ``time.monotonic()``; 0 is none."""
    hard: float
    queue: int
    """Index into the node's queues."""
    once: bool
    """It must not be repeated (``acks_late=False``)."""
    task_id: str
    task: str


def noted(task_id: str) -> str:
    """A task's id as the board shows it: the first 40 bytes of it."""
    return task_id.encode()[:_ID_SIZE].decode("utf-8", "replace")


class Board:
    """The whole board of a node: a header and a record a child. ``fd`` may be inherited over exec.

    ``children`` is how many there is room for: the pool may grow. Those that are not there cost nothing.
    """

    def __init__(self, children: int, slots: int, fd: int | None = None) -> None:
        self.children = children
        self.slots = slots
        self._areas = {**ANNEXES, "holdings": max(ANNEXES["holdings"], HOLDINGS_A_SLOT * slots)}
        self._stride = _CHILD_SIZE + slots * _SLOT_SIZE + _CLAIM_HEAD_SIZE + MAX_CLAIMS * _CLAIM.size
        self._notice = _HEAD_SIZE + children * self._stride
        self._annexes = self._notice + NOTICE_SIZE
        size = self._annexes + children * sum(self._areas.values())
        self.fd = _anonymous_file(size) if fd is None else fd
        self.memory = mmap.mmap(self.fd, size)
        if fd is None:
            _F64.pack_into(self.memory, _BORN, time.monotonic())
            self.used = children

    def close(self) -> None:
        with suppress(BufferError):  # somebody still counts in it: then it goes when they do
            self.memory.close()
        os.close(self.fd)

    def child(self, number: int) -> ChildRecord:
        """The record of one child; each process makes its own view."""
        return ChildRecord(self, number, _HEAD_SIZE + number * self._stride)

    def records(self) -> list[ChildRecord]:
        return [self.child(number) for number in range(self.children)]

    def annex(self, name: str, number: int) -> tuple[int, int]:
        """Where one child's area of this name (:data:`ANNEXES`) is in ``memory``: start and size."""
        start = self._annexes + number * sum(self._areas.values())
        for each, size in self._areas.items():
            if each == name:
                return start, size
            start += size
        raise KeyError(name)

    # -- the notice: written by the agent, read by children when its version has changed -----------------

    @property
    def notice_version(self) -> int:
        """Grows with each notice."""
        return int(_U32.unpack_from(self.memory, _NOTICED)[0])

    def post_notice(self, text: bytes) -> None:
        """Tell all children something, in place of the last notice (one thread; it does not wake them)."""
        if len(text) > NOTICE_SIZE - 8:
            raise ValueError(f"a notice of {len(text)} bytes is too long")
        with self._locked(_NOTICED):
            _U32.pack_into(self.memory, self._notice, len(text))
            self.memory[self._notice + 8 : self._notice + 8 + len(text)] = text
            _U32.pack_into(self.memory, _NOTICED, self.notice_version + 1)

    def notice(self) -> bytes:
        """The last notice; empty if there was none."""
        with self._locked(_NOTICED):
            length = _U32.unpack_from(self.memory, self._notice)[0]
            return bytes(self.memory[self._notice + 8 : self._notice + 8 + length])

    @contextmanager
    def _locked(self, byte: int) -> Iterator[None]:
        lockf(self.fd, LOCK_EX, 1, byte)
        try:
            yield
        finally:
            lockf(self.fd, LOCK_UN, 1, byte)

    # -- the header: written by the agent ----------------------------------------------------------

    def note_beat(self, lease: float) -> None:
        """The agent has just renewed the node's leases for ``lease`` seconds."""
        _F64.pack_into(self.memory, _LEASED_UNTIL, time.monotonic() + lease)

    @property
    def leased_until(self) -> float:
        """Until when (``time.monotonic()``) the node's leases are known to hold."""
        return float(_F64.unpack_from(self.memory, _LEASED_UNTIL)[0])

    def note_backlog(self, ready: int) -> None:
        """How many messages wait in the node's queues (for autoscaling)."""
        _U64.pack_into(self.memory, _BACKLOG, ready)

    @property
    def backlog(self) -> int:
        return int(_U64.unpack_from(self.memory, _BACKLOG)[0])

    # -- the header: written by the supervisor -----------------------------------------------------

    def note_pulse(self) -> None:
        """The supervisor is at work."""
        _F64.pack_into(self.memory, _PULSE, time.monotonic())

    @property
    def pulse_age(self) -> float | None:
        """Seconds since the supervisor last gave a sign; ``None`` if there is none (solo)."""
        at = float(_F64.unpack_from(self.memory, _PULSE)[0])
        return time.monotonic() - at if at else None

    @property
    def age(self) -> float:
        """Seconds since the node began."""
        return time.monotonic() - float(_F64.unpack_from(self.memory, _BORN)[0])

    used = property(
        lambda self: self._u32(_USED),
        lambda self, count: self._set_u32(_USED, count),
        doc="How many records, from the first on, may belong to a process: the others need no look.",
    )
    wanted = property(
        lambda self: self._u32(_WANTED),
        lambda self, count: self._set_u32(_WANTED, count),
        doc="How many child processes there are to be.",
    )

    @property
    def autoscale(self) -> tuple[int, int] | None:
        """The range ``(max, min)`` within which the number of processes follows the work, if it does."""
        high, low = _TWO_U32.unpack_from(self.memory, _RANGE)
        return (high, low) if high else None

    @autoscale.setter
    def autoscale(self, given: tuple[int, int] | None) -> None:
        _TWO_U32.pack_into(self.memory, _RANGE, *(given or (0, 0)))

    def _u32(self, at: int) -> int:
        return int(_U32.unpack_from(self.memory, at)[0])

    def _set_u32(self, at: int, value: int) -> None:
        _U32.pack_into(self.memory, at, value)


class ChildRecord:
    """One child's part of the board."""

    def __init__(self, board: Board, number: int, offset: int) -> None:
        self.board = board
        self.number = number
        self._memory = board.memory
        self._offset = offset
        self._slots = offset + _CHILD_SIZE
        self._claims = self._slots + board.slots * _SLOT_SIZE
        self._mutex = threading.Lock()
        self._started = 0
        self._barrier = barrier()

    # -- who it is ---------------------------------------------------------------------------------

    def reset(self, epoch: int) -> None:
        """Prepare the record for a new life (by the supervisor, before it starts the process)."""
        size = self.board._stride
        self._memory[self._offset : self._offset + size] = bytes(size)
        _U32.pack_into(self._memory, self._offset + 4, epoch)

    pid = property(lambda self: self._u32(0), lambda self, value: self._set_u32(0, value))
    epoch = property(lambda self: self._u32(4))
    life = property(lambda self: Life(self._u32(8)), lambda self, value: self._set_u32(8, value))
    order = property(lambda self: Order(self._u32(12)), lambda self, value: self._set_u32(12, value))

    @property
    def processed(self) -> int:
        """How many messages this life has finished."""
        return int(_U64.unpack_from(self._memory, self._offset + 16)[0])

    @processed.setter
    def processed(self, count: int) -> None:
        _U64.pack_into(self._memory, self._offset + 16, count)

    @property
    def quitting(self) -> bool:
        return self._memory[self._offset + 12] != 0

    # -- what runs ---------------------------------------------------------------------------------

    def note_start(
        self,
        slot: int,
        token: int,
        queue: int,
        task_id: str,
        task: str,
        limits: tuple[float, float] = (0.0, 0.0),
        once: bool = False,
    ) -> bool:
        """A slot starts a message. ``limits``: soft and hard limit in seconds, 0 for none.

        Returns ``True``, in the place of :meth:`start_claim` where there is one message only.
        """
        now = time.monotonic()
        soft, hard = limits
        _SLOT.pack_into(
            self._memory,
            self._slots + slot * _SLOT_SIZE,
            token,
            now,
            now + soft if soft else 0.0,
            now + hard if hard else 0.0,
            queue,
            once,
            task_id.encode()[:_ID_SIZE],
            task.encode()[:80],
        )
        return True

    def note_end(self, slot: int) -> None:
        """The slot's message has ended, or is about to be settled."""
        _U64.pack_into(self._memory, self._slots + slot * _SLOT_SIZE, 0)

    def running(self) -> Iterator[Running]:
        """What the slots run."""
        for slot in range(self.board.slots):
            offset = self._slots + slot * _SLOT_SIZE
            if self._memory[offset : offset + 8] == bytes(8):
                continue
            token, since, soft, hard, queue, once, task_id, task = _SLOT.unpack_from(self._memory, offset)
            if token:
                yield Running(
                    slot,
                    token,
                    since,
                    soft,
                    hard,
                    queue,
                    bool(once),
                    task_id.rstrip(b"\0").decode("utf-8", "replace"),
                    task.rstrip(b"\0").decode("utf-8", "replace"),
                )

    @property
    def busy(self) -> bool:
        return next(self.running(), None) is not None

    def clear_soft(self, slot: int, token: int) -> None:
        """The soft limit has been signalled: once is enough."""
        offset = self._slots + slot * _SLOT_SIZE
        if _U64.unpack_from(self._memory, offset)[0] == token:
            _F64.pack_into(self._memory, offset + 16, 0.0)

    # -- what is claimed and not started -----------------------------------------------------------

    def note_claims(self, claims: Sequence[tuple[int, int]]) -> None:
        """The child holds these messages ``(token, queue index)`` and will start them in this order."""
        flat = [number for claim in claims for number in claim]
        with self.fence():
            struct.pack_into(f"<{len(flat)}Q", self._memory, self._claims + _CLAIM_HEAD_SIZE, *flat)
            self._memory[self._claims : self._claims + 5] = bytes((len(claims), 0, 0, 0, 0))
        self._started = 0

    def start_claim(
        self,
        slot: int,
        token: int,
        queue: int,
        task_id: str,
        task: str,
        limits: tuple[float, float],
        once: bool,
    ) -> bool:
        """Start the next claim in order; ``False`` if it has been withdrawn."""
        index = self._started
        self._memory[self._claims + _STARTED] = index + 1
        # From here on a withdrawal either sees that we have started, or we see that it was asked for.
        if (self._memory[self._claims + _ASKED] or not self._barrier) and self._is_withdrawn(index):
            return False
        self._started = index + 1
        return self.note_start(slot, token, queue, task_id, task, limits, once)

    def _is_withdrawn(self, index: int) -> bool:
        with self.fence():
            withdrawn = self._memory[self._claims + _WITHDRAWN]
            if withdrawn and index >= self._memory[self._claims + _FROM]:
                self._memory[self._claims + _STARTED] = index
                return True
        return False

    def withdraw(self, own: bool = False) -> list[tuple[int, int]]:
        """Take away every claim that has not been started: none of them will start any more.

        ``own``: we are a thread of the child itself.
        """
        if not self.unstarted:
            return []
        memory, head = self._memory, self._claims
        memory[head + _ASKED] = 1
        if not own and self._barrier:
            self._barrier()
        with self.fence():
            count, started = memory[head], memory[head + _STARTED]
            # Not asked any more: the child has gone on to another batch meanwhile.
            if not memory[head + _ASKED] or memory[head + _WITHDRAWN] or started >= count:
                return []
            memory[head + _FROM] = started
            memory[head + _WITHDRAWN] = 1
            start = head + _CLAIM_HEAD_SIZE + started * _CLAIM.size
            flat = struct.unpack_from(f"<{2 * (count - started)}Q", memory, start)
        return list(zip(flat[::2], flat[1::2], strict=True))

    def waiting(self) -> list[tuple[int, int]]:
        """The claims ``(token, queue index)`` that wait behind the one that runs, in order."""
        count = self.unstarted
        start = self._claims + _CLAIM_HEAD_SIZE + max(0, self._memory[self._claims] - count) * _CLAIM.size
        flat = struct.unpack_from(f"<{2 * count}Q", self._memory, start)
        return list(zip(flat[::2], flat[1::2], strict=True))

    @property
    def unstarted(self) -> int:
        """How many claims wait behind the one that runs."""
        head = self._claims
        return 0 if self._memory[head + _WITHDRAWN] else self._memory[head] - self._memory[head + _STARTED]

    @contextmanager
    def fence(self) -> Iterator[None]:
        """Exclude other processes (record lock) and other threads of this one (mutex)."""
        with self._mutex:
            lockf(self.board.fd, LOCK_EX, 1, self._offset)
            try:
                yield
            finally:
                lockf(self.board.fd, LOCK_UN, 1, self._offset)

    def _u32(self, at: int) -> int:
        return int(_U32.unpack_from(self._memory, self._offset + at)[0])

    def _set_u32(self, at: int, value: int) -> None:
        _U32.pack_into(self._memory, self._offset + at, value)


@cache
def barrier() -> Callable[[], None] | None:
    """The system call that makes every processor finish its writes; ``None`` where there is none."""
    if sys.platform != "linux":
        return None
    import ctypes

    number = {"x86_64": 324, "aarch64": 283}.get(platform.machine())
    if number is None:
        return None
    call = ctypes.CDLL(None, use_errno=True).syscall
    supported: int = call(number, 0, 0, 0)  # MEMBARRIER_CMD_QUERY
    if supported < 0 or not supported & 1:
        return None
    return lambda: call(number, 1, 0, 0)  # MEMBARRIER_CMD_GLOBAL


def _anonymous_file(size: int) -> int:
    """An unnamed file in memory; on systems without memfd, an unlinked temporary one."""
    if hasattr(os, "memfd_create"):
        fd = os.memfd_create("celeriac-board", 0)
    else:
        import tempfile

        with tempfile.NamedTemporaryFile(prefix="celeriac-board-") as file:
            fd = os.dup(file.fileno())
    os.ftruncate(fd, size)
    os.set_inheritable(fd, True)
    return fd
