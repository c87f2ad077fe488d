"""A connection to RabbitMQ: py-amqp's, with reads of our own.

py-amqp reads a frame in three system calls and waits inside them. Here bytes are taken as they come, so that
a worker can wait for the server and its own signals at once, and finds what has arrived without waiting.
"""

from __future__ import annotations

import logging
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import islice
from typing import Any, Final

import amqp
from amqp.exceptions import RecoverableConnectionError, UnexpectedFrame
from amqp.method_framing import frame_writer

from celeriac.engines.rabbitmq.address import Address, Host
from celeriac.engines.rabbitmq.errors import CONNECT, FAILURES, translate
from celeriac.engines.rabbitmq.frames import frame_reader
from celeriac.engines.readiness import readable
from celeriac.exceptions import OperationalError

logger = logging.getLogger("celeriac.rabbitmq")

_HEADER: Final = struct.Struct(">BHI")
_CHUNK: Final = 1 << 17

SOCKET_OPTIONS: Final = {
    option: value
    for name, value in (
        ("TCP_USER_TIMEOUT", 30_000),
        ("TCP_KEEPIDLE", 10),
        ("TCP_KEEPINTVL", 5),
        ("TCP_KEEPCNT", 3),
        ("TCP_NODELAY", 1),
    )
    if (option := getattr(socket, name, None)) is not None
}
"""A peer that vanished without a word is noticed by the system within half a minute."""


class Link(amqp.Connection):  # type: ignore[misc]
    """One connection. Not for several threads at once, except :meth:`beat`."""

    def __init__(self, host: Host, address: Address, beats: bool = True) -> None:
        self.shown = host.shown
        self.blocked = False
        """The server refuses messages (memory or disk alarm)."""
        self.write_lock = threading.RLock()
        self._buffer = bytearray()
        self._at = 0
        self._deadline: float | None = None
        self._answer_within = address.timeout
        super().__init__(
            host=f"[{host.host}]:{host.port}" if ":" in host.host else f"{host.host}:{host.port}",
            userid=host.user,
            password=host.password,
            login_method=address.login_method or "PLAIN",
            virtual_host=host.vhost,
            ssl=host.tls,
            connect_timeout=address.connect_timeout,
            heartbeat=int(address.heartbeat) if beats else 0,
            socket_settings=SOCKET_OPTIONS,
            on_blocked=self._block,
            on_unblocked=self._unblock,
            frame_handler=frame_reader,
            frame_writer=_locked_writer,
        )

    def open(self) -> Link:
        """Connect and log in; at most ``connect_timeout`` seconds for each answer."""
        self.connect()
        self.transport.sock.settimeout(self._answer_within)
        return self

    def fileno(self) -> int:
        return int(self.transport.sock.fileno())

    @property
    def usable(self) -> bool:
        """Whether nothing has ended it so far, as far as is known here."""
        return bool(self.connected)

    def blocking_read(self, timeout: float | None = None) -> Any:
        """Take one frame and act on it; py-amqp waits for answers with this."""
        within = self._answer_within if timeout is None else timeout
        frame = self._frame()
        deadline = time.monotonic() + within
        while frame is None:
            self._fill(max(0.0, deadline - time.monotonic()))
            frame = self._frame()
        return self.on_inbound_frame(frame)

    def pump(self) -> None:
        """Act on everything that has arrived, without waiting. Raises if the connection has ended."""
        while self._arrived():
            self._receive()
        self._dispatch()

    def await_bytes(self, timeout: float, also: int | None = None) -> bool:
        """Wait until the server has sent something, or ``also`` is readable, or ``timeout`` seconds passed.

        Returns whether the server has.
        """
        if self._at < len(self._buffer) or self._decrypted():
            return True
        own = self.fileno()
        ends = [own] if also is None else [own, also]
        return own in readable(ends, timeout)

    def send(self, frames: bytes) -> None:
        """Send frames that are written already."""
        with self.write_lock:
            if self._transport is None:
                raise RecoverableConnectionError("the connection is closed")
            self._transport.write(frames)

    def beat(self) -> None:
        """Send a heartbeat. May be called from another thread."""
        with self.write_lock:
            if self.usable:
                self.send_heartbeat()

    @property
    def encrypted(self) -> bool:
        """Whether it is one of TLS."""
        return bool(self.ssl)

    def sever(self) -> None:
        """End the connection without a word, whoever else has its socket: the server takes its messages
        back."""
        sock = getattr(getattr(self, "_transport", None), "sock", None)
        if sock is not None:
            with suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
        self.drop()

    def drop(self) -> None:
        """Let go of the connection without a word, as a forked child must with its parent's."""
        transport, self._transport = getattr(self, "_transport", None), None
        sock = getattr(transport, "sock", None)
        if sock is not None:
            sock.close()
        self.channels = None

    def end(self) -> None:
        """Close in order, waiting a moment at most for the server's word."""
        if not self.usable:
            return self.drop()
        self._answer_within = min(self._answer_within, 2.0)
        try:
            self.close()
        except FAILURES:
            self.drop()
        return None

    # -- frames ------------------------------------------------------------------------------------

    def _dispatch(self) -> None:
        frame = self._frame()
        while frame is not None:
            self.on_inbound_frame(frame)
            if self._transport is None:
                raise RecoverableConnectionError("the server closed the connection")
            frame = self._frame()

    def _frame(self) -> tuple[int, int, bytes] | None:
        """The next whole frame of what has been read."""
        buffer, at = self._buffer, self._at
        if len(buffer) - at < 8:
            return None
        kind, channel, size = _HEADER.unpack_from(buffer, at)
        end = at + 7 + size
        if len(buffer) <= end:
            return None
        if buffer[end] != 0xCE:
            raise UnexpectedFrame(f"the frame ends with {buffer[end]:#04x}, not 0xce: the stream is damaged")
        payload = bytes(memoryview(buffer)[at + 7 : end])
        if end + 1 == len(buffer):
            buffer.clear()
            self._at = 0
        elif end > _CHUNK:
            del buffer[: end + 1]
            self._at = 0
        else:
            self._at = end + 1
        return kind, channel, payload

    def _fill(self, timeout: float) -> None:
        if not self._decrypted() and not readable([self.fileno()], timeout):
            raise TimeoutError("timed out")
        self._receive()

    def _receive(self) -> None:
        try:
            with self.write_lock:  # OpenSSL must not be used for reading and writing at once
                data = self.transport.sock.recv(_CHUNK)
        except OSError:
            self.transport.connected = False
            raise
        if not data:
            self.transport.connected = False
            raise ConnectionResetError("the server closed the connection")
        self._buffer += data

    def _arrived(self) -> bool:
        return self._decrypted() or bool(readable([self.fileno()], 0))

    def _decrypted(self) -> bool:
        """Whether TLS has decrypted more than was taken: the socket does not show that."""
        if self._transport is None:
            raise RecoverableConnectionError("the connection is closed")
        pending = getattr(self._transport.sock, "pending", None)
        return bool(pending is not None and pending())

    # -- alarms ------------------------------------------------------------------------------------

    def _block(self, reason: str) -> None:
        self.blocked = True
        logger.error(
            "RabbitMQ at %s takes no messages: a memory or disk alarm is on (rabbitmqctl status tells "
            "which). Until it is off, calls fail, and workers wait with what they have to send",
            self.shown,
        )

    def _unblock(self) -> None:
        self.blocked = False
        logger.warning("RabbitMQ at %s takes messages again", self.shown)


class Dialler:
    """Opens connections, to the next server if one cannot be reached."""

    def __init__(self, address: Address) -> None:
        self.address = address
        self._hosts: Iterator[Host] = iter(address.order(address.hosts))
        self._next: Host | None = None

    def dial(self, beats: bool = True) -> Link:
        """A new connection to the server that answered last, or the next that does.

        With ``beats`` the server is told to expect heartbeats, which somebody must then send. Each server is
        tried once. Raises ``OperationalError`` with the last one's reason.
        """
        failure: OperationalError | None = None
        first = self._next or next(self._hosts)
        for host in (first, *islice(self._hosts, len(self.address.hosts) - 1)):
            link = Link(host, self.address, beats)
            try:
                link.open()
            except FAILURES as error:
                link.drop()
                failure = translate(error, host.shown, CONNECT)
                continue
            self._next = host
            return link
        self._next = None
        assert failure is not None
        raise failure


def _locked_writer(connection: Link, transport: Any) -> Callable[..., None]:
    """py-amqp's writer, made safe for the thread that sends heartbeats."""
    write = frame_writer(connection, transport)

    def locked(*frame: Any) -> None:
        with connection.write_lock:
            write(*frame)

    return locked
