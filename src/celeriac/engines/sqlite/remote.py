"""Remote control in the file: orders and answers are rows for a moment, and pipes tell of them.

Each worker that listens, and each client that waits, has a pipe beside the file. A pipe that nobody has open
is a dead process's, so who sends an order knows whom it reaches.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final

from celeriac.engines.mailbox import (
    Handler,
    Mailbox,
    addressed,
    answer_text,
    expired,
    gather,
    keep_listening,
    order_text,
    read_answer_text,
    read_order_text,
    wants_answer,
)
from celeriac.engines.readiness import drain, readable
from celeriac.engines.remote import Order
from celeriac.engines.sqlite import clock
from celeriac.engines.sqlite.store import Store
from celeriac.exceptions import OperationalError

POLL: Final = 1.0
"""Seconds between two looks at the file while no pipe rings."""
_FOR_EVER: Final = 3600.0

_LISTENERS = "SELECT pipe, node FROM remote_listener"
_REGISTERED = "SELECT 1 FROM remote_listener WHERE pipe = ?"
_FORGET = "DELETE FROM remote_listener WHERE pipe = ?"
_REGISTER = "INSERT INTO remote_listener (pipe, node) VALUES (?, ?)"
_EXPIRE = "DELETE FROM remote_{} WHERE expires < ?"
_ORDER = "INSERT INTO remote_order (body, reply, expires) VALUES (?, ?, ?)"
_ANSWER = "INSERT INTO remote_answer (reply, body, expires) VALUES (?, ?, ?)"
_LAST = "SELECT coalesce(max(seq), 0) FROM sqlite_sequence WHERE name = 'remote_order'"
_NEWS = "SELECT id, body, reply FROM remote_order WHERE id > ? ORDER BY id"
_ANSWERS = "SELECT id, body FROM remote_answer WHERE reply = ? AND id > ? ORDER BY id"
_FETCHED = "DELETE FROM remote_answer WHERE reply = ?"


class SQLiteRemote:
    """The part of the engine that is :class:`celeriac.engines.remote.RemoteControl`."""

    _store: Store
    mailbox: Callable[[], Mailbox]

    def tell(self, order: Order) -> None:
        """Send an order; nobody answers."""
        self._post(order, "")

    def ask(self, order: Order, timeout: float, limit: int | None = None) -> Iterator[dict[str, Any]]:
        """Send an order and yield answers; it ends when all who are meant have answered."""
        addressed(order, timeout)
        seen = 0

        def receive(seconds: float) -> list[dict[str, Any]]:
            nonlocal seen
            with self._store.read() as handle:
                rows = handle.execute(_ANSWERS, (inbox.name, seen)).fetchall()
            if rows:
                seen = rows[-1][0]
            else:
                inbox.sleep(min(seconds, POLL))
            return [read_answer_text(body, order) for _, body in rows]

        with _open_pipe(self._store, "answers") as inbox:
            try:
                yield from gather(receive, timeout, limit, self._post(order, inbox.name))
            finally:
                if seen:
                    with suppress(OperationalError), self._store.write() as handle:
                        handle.execute(_FETCHED, (inbox.name,))

    def serve_orders(self, node: str, handle: Handler, stop: int) -> None:
        """Take orders for the worker named ``node`` until ``stop`` is readable. Blocks."""

        def listen(hearing: Callable[[], None]) -> None:
            # Before anybody can know of us: what is sent from now on is ours.
            with self._store.read() as reader:
                (last,) = reader.execute(_LAST).fetchone()
            with _open_pipe(self._store, "orders") as pipe:
                try:
                    with self._store.write() as writer:
                        writer.execute(_REGISTER, (pipe.name, node))
                    hearing()
                    while self._registered(pipe.name):
                        for number, body, reply in self._news(last):
                            last = number
                            self._take(node, handle, body, reply)
                        if pipe.sleep(POLL, stop):
                            return
                    raise OperationalError(f"{self._store.path} was emptied or made anew")
                finally:
                    with self._store.write() as writer:
                        writer.execute(_FORGET, (pipe.name,))

        keep_listening(listen, (OSError,), stop)

    def _post(self, order: Order, reply: str) -> int:
        """Store the order for those who are meant, and call them; return how many they are."""
        text = order_text(order)
        with self._store.read() as reader:
            listeners = reader.execute(_LISTENERS).fetchall()
        meant = []
        for pipe, node in listeners:
            if not _ring(self._store.location.folder, pipe, b""):
                with self._store.write() as writer:
                    writer.execute(_FORGET, (pipe,))
            elif order.concerns(node):
                meant.append(pipe)
        if meant:
            life = order.expires if reply else None
            self._insert(_ORDER, (text, reply, self._end(life)))
            for pipe in meant:
                _ring(self._store.location.folder, pipe)
        return len(meant)

    def _registered(self, pipe: str) -> bool:
        with self._store.read() as handle:
            return handle.execute(_REGISTERED, (pipe,)).fetchone() is not None

    def _news(self, last: int) -> list[tuple[int, bytes, str]]:
        with self._store.read() as handle:
            return handle.execute(_NEWS, (last,)).fetchall()

    def _take(self, node: str, handle: Handler, body: bytes, reply: str) -> None:
        order = read_order_text(body)
        if expired(order):
            return
        answer = handle(order)
        # Nobody to be told: who asked does not wait any more.
        if reply and wants_answer(order, answer) and _ring(self._store.location.folder, reply, b""):
            self._insert(_ANSWER, (reply, answer_text(node, answer, order), self._end(None)))
            _ring(self._store.location.folder, reply)

    def _insert(self, statement: str, values: tuple[Any, ...]) -> None:
        """Store a row; what has been kept long enough goes in the same step."""
        with self._store.write() as handle:
            for table in ("order", "answer"):
                handle.execute(_EXPIRE.format(table), (clock.now(),))
            handle.execute(statement, values)

    def _end(self, given: float | None) -> float:
        kept = self.mailbox().ttl or _FOR_EVER
        return clock.now() + kept if given is None else given


class _Pipe:
    """Our end of a pipe of our own."""

    def __init__(self, name: str, descriptor: int) -> None:
        self.name = name
        self._descriptor = descriptor

    def sleep(self, seconds: float, stop: int | None = None) -> bool:
        """Wait until it rings, for so many seconds at most; return whether ``stop`` is readable."""
        ends = [self._descriptor] if stop is None else [self._descriptor, stop]
        ready = readable(ends, seconds)
        drain(self._descriptor)
        return stop in ready


@contextmanager
def _open_pipe(store: Store, what: str) -> Iterator[_Pipe]:
    with store.read():  # makes the folder, and says it here if the store cannot be opened
        pass
    name = f"{what}-{os.getpid()}-{secrets.token_hex(6)}"
    path = store.location.folder / name
    os.mkfifo(path, 0o666)
    # Open for writing too: a pipe whose last writer has left would be readable for ever.
    descriptor = os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        yield _Pipe(name, descriptor)
    finally:
        os.close(descriptor)
        path.unlink(missing_ok=True)


def _ring(folder: Path, name: str, call: bytes = b"r") -> bool:
    """Write to a pipe; return whether somebody has it open. The pipe of a dead process is removed."""
    path = folder / name
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        path.unlink(missing_ok=True)
        return False
    try:
        if call:
            os.write(descriptor, call)
    except BlockingIOError:
        pass  # full: it has been called often enough
    finally:
        os.close(descriptor)
    return True
