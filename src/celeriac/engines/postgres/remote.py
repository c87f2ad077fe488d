"""Remote control in the database: orders and answers are rows for a moment, and notifications tell of them.

A worker that listens holds a session at the server; when that is gone it is dead, so who sends an order knows
whom it reaches. Behind a pool, where no notification arrives, both sides look once a second.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, Final

from celeriac.engines.mailbox import (
    Handler,
    Mailbox,
    addressed,
    answer_text,
    gather,
    keep_listening,
    order_text,
    read_answer_text,
    read_order_text,
    wants_answer,
)
from celeriac.engines.postgres.store import Connection, Store
from celeriac.engines.readiness import readable
from celeriac.engines.remote import Order
from celeriac.exceptions import OperationalError

if TYPE_CHECKING:
    from celeriac.engines.postgres.session import Session

LOOK: Final = 10.0
"""Seconds between two looks of a listener to which notifications come."""
ASKING: Final = 0.1
"""The same of who waits for answers where no notifications come."""
_FOR_EVER: Final = 3600.0

# Without a session of its own a listener counts as dead when it has not been seen for a minute.
_ALIVE = """CASE WHEN pid = 0 THEN seen > @now() - 60
ELSE pid IN (SELECT pid FROM pg_stat_get_activity(NULL)) END"""
_LISTENERS = f"SELECT node, pid = 0 FROM @remote_listener WHERE {_ALIVE}"
_FORGET_DEAD = f"DELETE FROM @remote_listener WHERE NOT {_ALIVE}"
_REGISTER = """INSERT INTO @remote_listener (id, node, pid, seen) VALUES (%s, %s, %s, @now())
ON CONFLICT (id) DO UPDATE SET seen = excluded.seen"""
_FORGET = "DELETE FROM @remote_listener WHERE id = %s"
# What has been kept long enough goes in the same step.
_ORDER = """WITH old AS (DELETE FROM @remote_order WHERE expires < @now()),
unfetched AS (DELETE FROM @remote_answer WHERE expires < @now()),
made AS (INSERT INTO @remote_order (body, reply, expires) VALUES (%s, %s, @now() + %s::float8))
SELECT pg_notify(%s, '')"""
_ANSWER = """WITH made AS (
    INSERT INTO @remote_answer (body, reply, expires) VALUES (%s, %s, @now() + %s::float8))
SELECT pg_notify(%s, '')"""
# Not what is above the last number seen: numbers are given out before their rows can be seen.
_LIVING = "SELECT id FROM @remote_order WHERE expires >= @now()"
_NEWS = """SELECT id, body, reply FROM @remote_order WHERE expires >= @now() AND id <> ALL (%s::bigint[])
ORDER BY id"""
_ANSWERS = "DELETE FROM @remote_answer WHERE reply = %s RETURNING id, body"


class PostgresRemote:
    """The part of the engine that is :class:`celeriac.engines.remote.RemoteControl`."""

    _store: Store
    mailbox: Callable[[], Mailbox]

    def tell(self, order: Order) -> None:
        """Send an order; nobody answers."""
        with self._store.borrowed() as connection:
            self._post(connection, order, "", self._life, self._reached(connection, order))

    def ask(self, order: Order, timeout: float, limit: int | None = None) -> Iterator[dict[str, Any]]:
        """Send an order and yield answers; it ends when all who are meant have answered.

        Those to whom no notifications come look once in ``poll`` seconds: they get that much longer.
        """
        inbox = f"{self._store.schema}_{secrets.token_hex(8)}"
        # One session for all: to open another one takes most of the time that workers take to answer.
        with self._store.borrowed() as connection:
            reached = self._reached(connection, order)
            if any(reached):
                timeout += 2 * self._store.options.poll
            addressed(order, timeout)
            with _listening(self._store, connection, inbox) as ear:

                def receive(seconds: float) -> list[dict[str, Any]]:
                    rows = connection.run(_ANSWERS, (inbox,))
                    if not rows:
                        ear.sleep(min(seconds, LOOK if ear.hears else ASKING))
                    return [read_answer_text(bytes(body), order) for _, body in sorted(rows)]

                try:
                    left = order.expires - time.time() if order.expires else timeout
                    self._post(connection, order, inbox, left, reached)
                    yield from gather(receive, timeout, limit, len(reached))
                finally:
                    with suppress(OperationalError):  # they expire
                        connection.run(_ANSWERS, (inbox,))

    def serve_orders(self, node: str, handle: Handler, stop: int) -> None:
        """Take orders for the worker named ``node`` until ``stop`` is readable. Blocks."""

        def listen(hearing: Callable[[], None]) -> None:
            ear = _Ear(self._store, self._store.listen(self._channel))
            name = secrets.token_hex(8)
            try:
                # Before anybody can know of us: what is sent from now on is ours.
                done = {number for (number,) in self._store.read(_LIVING)}
                self._store.read(_REGISTER, (name, node, ear.pid))
                hearing()
                while True:
                    done = self._take_all(node, handle, done)
                    if ear.sleep(LOOK if ear.hears else self._store.options.poll, stop):
                        return
                    self._store.read(_REGISTER, (name, node, ear.pid))
            finally:
                ear.close()
                with suppress(OperationalError):
                    self._store.read(_FORGET, (name,))

        keep_listening(listen, (OSError,), stop)

    @property
    def _channel(self) -> str:
        return f"{self._store.schema}_orders"

    @property
    def _life(self) -> float:
        return self.mailbox().ttl or _FOR_EVER

    def _reached(self, connection: Connection, order: Order) -> list[bool]:
        """For each listener who is meant, whether it must look because no notifications come to it."""
        return [looks for node, looks in connection.run(_LISTENERS) if order.concerns(node)]

    def _post(
        self, connection: Connection, order: Order, reply: str, life: float, reached: Sequence[bool]
    ) -> None:
        """Store the order for those who are meant, if anybody is, and call them."""
        text = order_text(order)
        if reached:
            connection.run(_ORDER, (text, reply, max(0.0, life), self._channel))
        else:
            connection.run(_FORGET_DEAD)

    def _take_all(self, node: str, handle: Handler, done: set[int]) -> set[int]:
        """Carry out what is new; return the numbers of the orders that were seen and are kept still."""
        rows = self._store.read(_NEWS, (list(done),))
        for _, body, reply in rows:
            order = read_order_text(bytes(body))
            answer = handle(order)
            if reply and wants_answer(order, answer):
                text = answer_text(node, answer, order)
                self._store.read(_ANSWER, (text, reply, self._life, reply))
        if rows:
            kept = {number for (number,) in self._store.read(_LIVING)}
            done = kept & (done | {number for number, _, _ in rows})
        return done


@contextmanager
def _listening(store: Store, connection: Connection, channel: str) -> Iterator[_Ear]:
    """An ear for the length of the block: ``connection`` itself, if notifications can reach it."""
    if store.location.listen != store.location.conninfo:
        ear = _Ear(store, store.listen(channel))
        try:
            yield ear
        finally:
            ear.close()
        return
    with connection.told() as session:
        session.execute(f'LISTEN "{channel}"'.encode())
    try:
        yield _Ear(store, session)
    finally:
        if session is connection.handle:  # else it has ended, and hears no more
            with suppress(OperationalError), connection.told():
                session.execute(f'UNLISTEN "{channel}"'.encode())


class _Ear:
    """Hears what is announced to one session; ``None``: where no notifications come."""

    def __init__(self, store: Store, session: Session | None) -> None:
        self._store = store
        self._session = session
        self.hears = self._session is not None
        self.pid = self._session.info.backend_pid if self._session is not None else 0
        """The session's process at the server; 0: there is none."""

    def sleep(self, seconds: float, stop: int | None = None) -> bool:
        """Wait for a call, for so many seconds at most; return whether ``stop`` is readable."""
        ends = [] if stop is None else [stop]
        if self._session is None:
            return stop in readable(ends, seconds)
        if self._called():  # while a statement was carried out
            seconds = 0.0
        ready = readable([*ends, self._session.fileno()], seconds)
        self._called()
        return stop in ready

    def _called(self) -> bool:
        """Take in the calls that have come; return whether there were any."""
        assert self._session is not None
        try:
            return bool(list(self._session.notifies(timeout=0)))
        except Exception as error:
            raise self._store.told(error) from error

    def close(self) -> None:
        """Hear nothing any more."""
        if self._session is not None:
            self._session.close()
