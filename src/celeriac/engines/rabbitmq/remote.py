"""Remote control on RabbitMQ, as kombu carries it: a fanout exchange to each worker, a direct one back.

AMQP tells whether an order has reached nobody, not how many it has reached. Of a named worker its queue tells
whether it listens. Else those are waited for that are known to live (``living``: presence in the store that
workers agree by), and Celery's workers, which are not known, for a moment more; where nobody is known the
time is waited out.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from typing import Any, Final

from amqp.exceptions import NotFound, ResourceLocked

from celeriac.engines.mailbox import (
    Handler,
    Mailbox,
    addressed,
    gather,
    keep_listening,
    wants_answer,
)
from celeriac.engines.rabbitmq.address import Address
from celeriac.engines.rabbitmq.connection import Dialler
from celeriac.engines.rabbitmq.errors import FAILURES, translate
from celeriac.engines.rabbitmq.session import Parcel, Session
from celeriac.engines.rabbitmq.wire import body_of, to_wire
from celeriac.engines.readiness import readable
from celeriac.engines.remote import Order
from celeriac.message import Message, new_id

LINGER: Final = 0.25
"""Seconds of silence, after all known workers have answered, in which Celery's may still."""
_BEAT: Final = 10.0
_PATIENCE: Final = 10.0


class RabbitRemote:
    """The part of the engine that is :class:`celeriac.engines.remote.RemoteControl`."""

    foreign_workers = True
    """Celery's workers may be among those who answer."""
    address: Address
    dialler: Dialler
    mailbox: Callable[[], Mailbox]
    living: Callable[[], Collection[str]]
    """The names of the workers that are known to live."""

    def session(self, doing: str) -> Any:
        """The process's connection (:class:`celeriac.engines.rabbitmq.broker.RabbitBroker`)."""
        raise NotImplementedError

    def tell(self, order: Order) -> None:
        """Send an order; nobody answers."""
        mailbox = self.mailbox()
        with self.session("send a remote control command") as session:
            _declare(session, mailbox)
            session.publish([_order(mailbox, order)], _PATIENCE)

    def ask(self, order: Order, timeout: float, limit: int | None = None) -> Iterator[dict[str, Any]]:
        """Send an order and yield answers; see above when it ends."""
        mailbox, asker = self.mailbox(), new_id()
        addressed(order, timeout)
        order.reply_to = {"exchange": mailbox.answers, "routing_key": asker}
        inbox = _Inbox(mailbox, order)
        session = Session(self.dialler.dial())
        try:
            with _told(session, "ask the workers"):
                _declare(session, mailbox)
                inbox.open(session, asker)
                awaited = self._awaited(session, mailbox, order)
                if session.publish([_order(mailbox, order)], _PATIENCE):
                    return  # it came back: no queue is bound

            def receive(seconds: float) -> list[dict[str, Any]]:
                with _told(session, "wait for the workers' answers"):
                    return inbox.receive(session, seconds)

            if order.destination:
                yield from gather(receive, timeout, limit, len(awaited))
            else:
                yield from _linger(receive, timeout, limit, awaited)
        finally:
            session.link.end()

    def serve_orders(self, node: str, handle: Handler, stop: int) -> None:
        """Take orders for the worker named ``node`` until ``stop`` is readable. Blocks."""

        def listen(hearing: Callable[[], None]) -> None:
            session = Session(self.dialler.dial())
            try:
                with _told(session, "listen to remote control"):
                    self._listen(session, node, handle, stop, hearing)
                session.link.end()
            finally:
                session.link.drop()

        keep_listening(listen, FAILURES, stop)

    def _awaited(self, session: Session, mailbox: Mailbox, order: Order) -> set[str]:
        """The workers that are known to be reached: of those meant, the ones whose queues are there."""
        if order.destination:
            names = set(order.destination)
        else:
            names = {name for name in self.living() if order.concerns(name)}
        return {name for name in names if _is_there(session, mailbox.queue(name))}

    def _listen(
        self, session: Session, node: str, handle: Handler, stop: int, hearing: Callable[[], None]
    ) -> None:
        mailbox, queue = self.mailbox(), self.mailbox().queue(node)
        orders: deque[Any] = deque()
        channel = session.link.channel()
        channel.auto_decode = False
        _declare(session, mailbox)
        channel.queue_declare(
            queue,
            durable=mailbox.durable,
            exclusive=mailbox.exclusive,
            auto_delete=not mailbox.durable,
            arguments=_arguments(mailbox),
        )
        channel.queue_bind(queue, mailbox.orders, "")
        channel.basic_consume(queue, no_ack=True, callback=orders.append)
        hearing()
        beat = self.address.heartbeat / 3 or _BEAT
        while True:
            if not session.link.await_bytes(beat, stop):
                if readable((stop,), 0):
                    return
                session.alive()
            session.link.pump()
            session.link.beat()
            while orders:
                self._take(session, mailbox, node, handle, orders.popleft())

    def _take(self, session: Session, mailbox: Mailbox, node: str, handle: Handler, content: Any) -> None:
        order = mailbox.read_order(_message(content))
        if order is None:
            return
        answer = handle(order)
        if order.reply_to and wants_answer(order, answer):
            message = mailbox.answer_message(node, answer, order)
            to = message.properties["delivery_info"]
            _declare_exchange(session, to["exchange"], "direct")
            # Nobody may wait for it any more.
            parcel = Parcel(to["exchange"], to["routing_key"], to_wire(message), mandatory=False)
            session.publish([parcel], _PATIENCE)


class _Inbox:
    """The queue of one question's answers."""

    def __init__(self, mailbox: Mailbox, order: Order) -> None:
        self._mailbox, self._order = mailbox, order
        self._arrived: deque[Any] = deque()

    def open(self, session: Session, asker: str) -> None:
        """Declare it; it goes with its connection."""
        channel = session.link.channel()
        channel.auto_decode = False
        queue = self._mailbox.reply_queue(asker)
        channel.queue_declare(queue, exclusive=True, auto_delete=True, arguments=_arguments(self._mailbox))
        channel.queue_bind(queue, self._mailbox.answers, asker)
        channel.basic_consume(queue, no_ack=True, callback=self._arrived.append)

    def receive(self, session: Session, seconds: float) -> list[dict[str, Any]]:
        """The answers that are there, or come within so many seconds."""
        until = time.monotonic() + seconds
        answers: list[dict[str, Any]] = []
        while not answers:
            left = until - time.monotonic()
            if left <= 0 and not self._arrived:
                break
            if self._arrived or session.link.await_bytes(max(0.0, left)):
                session.link.pump()
            session.link.beat()
            while self._arrived:
                message = _message(self._arrived.popleft())
                answer = self._mailbox.read_answer(message, self._order)
                answers += [] if answer is None else [answer]
        return answers


def _linger(
    receive: Callable[[float], list[dict[str, Any]]], timeout: float, limit: int | None, awaited: set[str]
) -> Iterator[dict[str, Any]]:
    """Yield answers until all who are awaited, if anybody is, have answered, and for a moment more."""
    until, known, taken = time.monotonic() + timeout, bool(awaited), 0
    while (left := until - time.monotonic()) > 0:
        last = known and not awaited
        answers = receive(min(left, LINGER) if last else left)
        if last and not answers:
            return
        for answer in answers:
            yield answer
            awaited.difference_update(answer)
            taken += 1
            if taken == limit:
                return


def _order(mailbox: Mailbox, order: Order) -> Parcel:
    return Parcel(mailbox.orders, "", to_wire(mailbox.order_message(order)))


def _declare(session: Session, mailbox: Mailbox) -> None:
    _declare_exchange(session, mailbox.orders, "fanout")
    _declare_exchange(session, mailbox.answers, "direct")


def _declare_exchange(session: Session, name: str, kind: str) -> None:
    if f"exchange {name}" not in session.declared:
        session.desk.exchange_declare(name, kind, durable=False, auto_delete=False)
        session.declared.add(f"exchange {name}")


def _arguments(mailbox: Mailbox) -> dict[str, int]:
    given = {"x-expires": mailbox.expires, "x-message-ttl": mailbox.ttl}
    return {name: int(seconds * 1000) for name, seconds in given.items() if seconds}


def _is_there(session: Session, queue: str) -> bool:
    """Whether somebody takes from a worker's queue, which mostly is that worker's alone."""
    try:
        return bool(session.desk.queue_declare(queue, passive=True).consumer_count)
    except ResourceLocked:
        return True
    except NotFound:
        return False


def _message(content: Any) -> Message:
    properties = content.properties
    return Message(
        properties.get("application_headers") or {},
        {},
        body_of(content),
        properties.get("content_type") or "application/json",
        properties.get("content_encoding") or "utf-8",
    )


@contextmanager
def _told(session: Session, doing: str) -> Iterator[None]:
    """Raise the connection's errors as ours."""
    try:
        yield
    except FAILURES as error:
        session.link.drop()
        raise translate(error, session.shown, doing) from error
