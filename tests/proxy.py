"""A TCP proxy that misbehaves when told to: it drops replies, swallows everything, delays, cuts."""

from __future__ import annotations

import contextlib
import selectors
import socket
import threading
import time
from types import TracebackType

from tests.servers import free_port


class Proxy:
    """Forwards a loopback port to ``target``; as a context manager.

    * :meth:`drop_replies`: requests go through; the next answers are thrown away and the connection is cut.
    * :meth:`black_hole`: connections stay open, and nothing passes in either direction.
    * :attr:`latency`: seconds that each chunk waits, one way (towards the client).
    * :meth:`cut`: every connection is closed now; new ones are accepted, unless :attr:`refuse`.
    """

    def __init__(self, target_host: str, target_port: int) -> None:
        self.target = (target_host, target_port)
        self.port = free_port()
        self.latency = 0.0
        self.refuse = False
        self.dropped = 0
        """Replies thrown away so far."""
        self._drop = 0
        self._hole = False
        self._pairs: dict[socket.socket, socket.socket] = {}
        self._servers: set[socket.socket] = set()
        self._lock = threading.RLock()
        self._selector = selectors.DefaultSelector()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Proxy:
        self._listener = socket.create_server(("127.0.0.1", self.port))
        self._selector.register(self._listener, selectors.EVENT_READ)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()
        self.cut()
        self._listener.close()

    def url(self, db: int = 0) -> str:
        """The URL of a Redis behind the proxy."""
        return f"redis://127.0.0.1:{self.port}/{db}"

    def drop_replies(self, count: int = 1) -> None:
        """Throw the next ``count`` replies away, cutting their connections."""
        with self._lock:
            self._drop = count

    def black_hole(self, on: bool = True) -> None:
        """Let nothing pass; what was sent meanwhile is lost when the hole closes."""
        with self._lock:
            self._hole = on

    def cut(self) -> None:
        """Close every connection."""
        with self._lock:
            for client in [one for one in self._pairs if one not in self._servers]:
                self._close(client)

    def _run(self) -> None:
        while not self._stop.is_set():
            for key, _ in self._selector.select(0.05):
                sock = key.fileobj
                assert isinstance(sock, socket.socket)
                with self._lock:
                    if sock is self._listener:
                        self._accept()
                    elif sock in self._pairs:
                        self._forward(sock)

    def _accept(self) -> None:
        client, _ = self._listener.accept()
        if self.refuse:
            client.close()
            return
        try:
            server = socket.create_connection(self.target)
        except OSError:
            client.close()
            return
        self._servers.add(server)
        for one, other in ((client, server), (server, client)):
            one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._pairs[one] = other
            self._selector.register(one, selectors.EVENT_READ)

    def _forward(self, sock: socket.socket) -> None:
        try:
            data = sock.recv(1 << 16)
        except OSError:
            data = b""
        if not data:
            self._close(sock)
            return
        if self._hole:
            return
        if sock in self._servers:
            if self._drop:
                self._drop -= 1
                self.dropped += 1
                self._close(sock)
                return
            if self.latency:
                time.sleep(self.latency)
        with contextlib.suppress(OSError):
            self._pairs[sock].sendall(data)

    def _close(self, sock: socket.socket) -> None:
        other = self._pairs.pop(sock, None)
        for one in (sock, other):
            if one is not None:
                self._pairs.pop(one, None)
                self._servers.discard(one)
                with contextlib.suppress(KeyError, ValueError):
                    self._selector.unregister(one)
                one.close()
