"""Heartbeats that do not need a busy child's interpreter.

A child sends its own heartbeats by a thread (see ``keeper.py``). A task whose C code holds the interpreter
stops that thread, and the server would soon give the task to another worker. So each child hands a duplicate
of its connection's socket to its node's agent, over a local socket, and tells it of every beat of its own.
Where these stop, the agent beats in the child's place.

It is not done over TLS, whose records only the child itself can write, and on Linux only. What a pool in the
worker's own process (``solo``) runs has no agent beside it.
"""

from __future__ import annotations

import array
import fcntl
import logging
import os
import selectors
import socket
import struct
import sys
import termios
import threading
import time
from contextlib import suppress
from typing import Final

import msgspec

from celeriac.engines.rabbitmq.connection import Link

logger = logging.getLogger("celeriac.rabbitmq")

_FRAME: Final = b"\x08\x00\x00\x00\x00\x00\x00\xce"
"""A heartbeat."""
_POSSIBLE: Final = sys.platform == "linux"
LATE: Final = 0.6
"""The share of the heartbeat's time after which a child that has not beaten is helped."""


def _place(node: str) -> str:
    """The node's local socket: a name without a file, which goes with the agent."""
    return f"\0celeriac-heart-{node}"


class Pulse:
    """The child's side: lets the node's agent beat for it."""

    def __init__(self, node: str, heartbeat: float) -> None:
        self._node = node
        self._heartbeat = heartbeat
        self._link: Link | None = None
        self._line: socket.socket | None = None

    def tell(self, link: Link) -> None:
        """The child has just beaten on this connection, which may be a new one."""
        if not _POSSIBLE or link.encrypted:
            return
        if self._link is not link:
            self.stop()
        try:
            if self._line is None:
                self._hand_over(link)
            else:
                self._line.send(b".")
        except OSError:
            self.stop()  # there is no agent now; the next beat tries again

    def stop(self) -> None:
        """Nobody is to beat for the child any more."""
        line, self._line = self._line, None
        if line is not None:
            line.close()

    def _hand_over(self, link: Link) -> None:
        line = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        line.settimeout(1.0)
        try:
            line.connect(_place(self._node))
            if not _is_ours(line):
                raise OSError("another user's process answers in the agent's name")
            socket.send_fds(line, [struct.pack("d", self._heartbeat)], [link.fileno()])
        except BaseException:
            line.close()
            raise
        self._link, self._line = link, line


class _Patient(msgspec.Struct):
    """A child that is looked after."""

    line: socket.socket
    interval: float = 0.0
    wire: socket.socket | None = None
    """Its connection to the server."""
    heard: float = 0.0
    """When it, or somebody for it, has beaten last."""


class Heart:
    """The agent's side: a thread that beats for children that cannot. Children find it by the node's id."""

    def __init__(self, node: str) -> None:
        self._patients: dict[int, _Patient] = {}
        self._selector = selectors.DefaultSelector()
        self._stopping = threading.Event()
        self._listener: socket.socket | None = None
        if _POSSIBLE:
            self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            self._listener.bind(_place(node))
            self._listener.listen(256)
            self._listener.setblocking(False)
            self._selector.register(self._listener, selectors.EVENT_READ)
            threading.Thread(target=self._run, name="celeriac-heart", daemon=True).start()

    def stop(self) -> None:
        """End the thread, within a second."""
        self._stopping.set()

    def _run(self) -> None:
        while not self._stopping.is_set():
            # The end of a child's line is an event: its connection must end with it, at once.
            for key, _ in self._selector.select(self._rest()):
                if key.fileobj is self._listener:
                    self._welcome()
                else:
                    self._hear(self._patients[key.fd])
            now = time.monotonic()
            for patient in list(self._patients.values()):
                if patient.wire is not None and now - patient.heard >= LATE * patient.interval:
                    self._beat(patient, now)
        for patient in list(self._patients.values()):
            self._dismiss(patient)
        self._selector.close()
        if self._listener is not None:
            self._listener.close()

    def _rest(self) -> float:
        """Until somebody may need help; at most a second, after which :meth:`stop` is noticed."""
        now = time.monotonic()
        waits = (each.heard + LATE * each.interval - now for each in self._patients.values() if each.wire)
        return max(0.05, min(1.0, min(waits, default=1.0)))

    def _welcome(self) -> None:
        assert self._listener is not None
        with suppress(OSError):
            line, _ = self._listener.accept()
            line.setblocking(False)
            if not _is_ours(line):
                line.close()
                return
            self._patients[line.fileno()] = _Patient(line)
            self._selector.register(line, selectors.EVENT_READ)

    def _hear(self, patient: _Patient) -> None:
        try:
            told, handed, _, _ = socket.recv_fds(patient.line, 4096, 1)
        except BlockingIOError:
            return
        except OSError:
            told, handed = b"", []
        if not told:
            return self._dismiss(patient)
        for fd in handed:
            patient.wire = socket.socket(fileno=fd)
            (patient.interval,) = struct.unpack_from("d", told)
        patient.heard = time.monotonic()
        return None

    def _beat(self, patient: _Patient, now: float) -> None:
        """Beat in a child's place, unless it is in the middle of sending, or the server takes nothing."""
        patient.heard = now
        assert patient.wire is not None
        try:
            if not _unsent(patient.wire):
                patient.wire.send(_FRAME, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
        except BlockingIOError:
            pass
        except OSError:
            self._dismiss(patient)

    def _dismiss(self, patient: _Patient) -> None:
        del self._patients[patient.line.fileno()]
        self._selector.unregister(patient.line)
        patient.line.close()
        if patient.wire is not None:
            patient.wire.close()


def _unsent(wire: socket.socket) -> int:
    """How many bytes the other side has not taken yet."""
    count = array.array("i", [0])
    fcntl.ioctl(wire.fileno(), termios.TIOCOUTQ, count)
    return count[0]


def _is_ours(line: socket.socket) -> bool:
    """Whether a process of the same user is at the other end: anybody can take a name without a file."""
    told = line.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    return bool(struct.unpack("3i", told)[1] == os.getuid())
