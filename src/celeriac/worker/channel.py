"""What supervisor and agent tell each other, and the socket pair on which they do."""

from __future__ import annotations

import socket
import threading

import msgspec

from celeriac.engines.base import Loss
from celeriac.engines.history import Attempt


class Death(msgspec.Struct, tag=True):
    """Supervisor to agent: an owner is dead; settle its leases."""

    owner: str
    started: dict[int, Loss]
    lost: list[Attempt] = []
    """What it ran, for the history."""


class Ready(msgspec.Struct, tag=True):
    """Supervisor to agent: all children are up."""

    again: bool = False
    """The agent is a new one of a node that was ready before."""


class Stopping(msgspec.Struct, tag=True):
    """Supervisor to agent: the shutdown has begun."""

    sig: str
    how: str


class Leave(msgspec.Struct, tag=True):
    """Supervisor to agent: all children are gone; sign off and exit."""


class Released(msgspec.Struct, tag=True):
    """Agent to supervisor: the dead owner's leases are settled."""

    owner: str


class Terminate(msgspec.Struct, tag=True):
    """Agent to supervisor: kill what runs under this token, with this signal."""

    child: int
    token: int
    signal: str


class Wake(msgspec.Struct, tag=True):
    """Agent to supervisor: there is a new notice; wake the children that sleep."""


class Resize(msgspec.Struct, tag=True):
    """Agent to supervisor: let the pool grow (or shrink) by so many processes."""

    by: int


class Autoscale(msgspec.Struct, tag=True):
    """Agent to supervisor: let the number of processes follow the work between these bounds."""

    high: int
    low: int


class Replace(msgspec.Struct, tag=True):
    """Agent to supervisor: replace all children, each when it has finished what it runs."""


class Stop(msgspec.Struct, tag=True):
    """Agent to supervisor: begin the shutdown, as on SIGTERM."""

    why: str


Message = Death | Ready | Stopping | Leave | Released | Terminate | Wake | Resize | Autoscale | Replace | Stop


PIECE = 32 * 1024
"""Bytes that are sent at once."""


class Channel:
    """One end of the socket pair between supervisor and agent; never blocks. Threads may share it.

    A message is a line, which goes in pieces: a child with a thousand slots can die over all of them, and the
    system takes 200 KiB at once at most. (Datagrams, because a stream whose other side has died is readable
    for ever.)
    """

    def __init__(self, end: socket.socket) -> None:
        end.setblocking(False)
        self.end = end
        self._unsent = bytearray()
        self._begun = b""
        """The part that has arrived of a message."""
        self._lock = threading.Lock()

    def fileno(self) -> int:
        return self.end.fileno()

    def send(self, message: Message) -> None:
        """Send it now, or with the next :meth:`flush` that can."""
        with self._lock:
            self._unsent += msgspec.json.encode(message) + b"\n"
        self.flush()

    def flush(self) -> None:
        """Send as much as the other side has room for."""
        with self._lock:
            while self._unsent:
                try:
                    del self._unsent[: self.end.send(self._unsent[:PIECE])]
                except OSError:  # full, or nobody is there any more
                    return

    def receive(self) -> list[Message]:
        """All messages that have arrived."""
        arrived = [self._begun]
        while True:
            try:
                data = self.end.recv(PIECE)
            except (BlockingIOError, ConnectionError):
                break
            if not data:
                break
            arrived.append(data)
        *lines, self._begun = b"".join(arrived).split(b"\n")
        return [msgspec.json.decode(line, type=Message) for line in lines]

    def close(self) -> None:
        self.end.close()
