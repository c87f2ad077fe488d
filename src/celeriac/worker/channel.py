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


class Channel:
    """One end of the socket pair between supervisor and agent; never blocks. Threads may share it."""

    def __init__(self, end: socket.socket) -> None:
        end.setblocking(False)
        self.end = end
        self._unsent: list[bytes] = []
        self._lock = threading.Lock()

    def fileno(self) -> int:
        return self.end.fileno()

    def send(self, message: Message) -> None:
        self._unsent.append(msgspec.json.encode(message))
        self.flush()

    def flush(self) -> None:
        with self._lock:
            while self._unsent:
                try:
                    self.end.send(self._unsent[0])
                except OSError:  # it is full, or the other end is gone
                    return
                del self._unsent[0]

    def receive(self) -> list[Message]:
        """All messages that have arrived."""
        messages: list[Message] = []
        while True:
            try:
                data = self.end.recv(1 << 20)
            except (BlockingIOError, ConnectionError):
                return messages
            if not data:
                return messages
            messages.append(msgspec.json.decode(data, type=Message))

    def close(self) -> None:
        self.end.close()
