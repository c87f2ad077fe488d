"""Events on RabbitMQ: Celery's topic exchange, and a queue for each who listens."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

from celeriac.engines.events import EventOptions
from celeriac.engines.rabbitmq.address import Address
from celeriac.engines.rabbitmq.connection import Dialler
from celeriac.engines.rabbitmq.errors import FAILURES, translate
from celeriac.engines.rabbitmq.session import Parcel, Session
from celeriac.engines.rabbitmq.topology import Topology
from celeriac.engines.rabbitmq.wire import Content, body_of
from celeriac.engines.readiness import readable
from celeriac.message import new_id
from celeriac.routing.queues import Exchange


class RabbitEvents:
    """The part of the engine that is an :class:`celeriac.engines.remote.EventCarrier`."""

    address: Address
    dialler: Dialler
    topology: Topology
    publish_timeout: float
    event_options: EventOptions
    session: Callable[[str], AbstractContextManager[Session]]

    def publish_events(self, routing_key: str, body: bytes, headers: Mapping[str, Any]) -> bool:
        """Publish one event or a batch; that nobody listens is no error, and not told."""
        content = Content(
            body,
            content_type="application/json",
            content_encoding="utf-8",
            application_headers=dict(headers),
            delivery_mode=1,
            priority=0,
        )
        exchange = self.event_options.exchange
        with self.session("send events") as session:
            self.topology.declare_exchange(session, Exchange(exchange, "topic"))
            session.publish([Parcel(exchange, routing_key, content, mandatory=False)], self.publish_timeout)
        return True

    def receive_events(self, routing_keys: Sequence[str], stop: int) -> Iterator[list[dict[str, Any]]]:
        """Yield events as they come, an empty list each second in which none does.

        Raises ``OperationalError`` when the connection is lost: what was sent meanwhile is lost too.
        """
        self.event_options.check_queue()
        session = Session(self.dialler.dial())
        try:
            arrived = self._event_queue(session, routing_keys)
            yield []
            yield from self._hear_events(session, arrived, stop)
        except FAILURES as error:
            session.link.drop()
            raise translate(error, session.shown, "receive events", maybe_done=False) from error
        finally:
            session.link.end()

    def _event_queue(self, session: Session, routing_keys: Sequence[str]) -> list[Any]:
        """Make a queue and take from it; messages are added to the list that is returned."""
        options = self.event_options
        self.topology.declare_exchange(session, Exchange(options.exchange, "topic"))
        lifetimes = {"x-message-ttl": options.ttl, "x-expires": options.expires}
        channel = session.link.channel()
        channel.auto_decode = False
        name = f"{options.prefix}.{new_id()}"
        channel.queue_declare(
            name,
            durable=options.durable,
            exclusive=options.exclusive,
            auto_delete=not options.durable,
            arguments={key: int(value * 1000) for key, value in lifetimes.items() if value is not None},
        )
        for key in routing_keys:
            channel.queue_bind(name, options.exchange, key)
        arrived: list[Any] = []
        channel.basic_consume(name, "celeriac-events", no_ack=True, callback=arrived.append)
        return arrived

    def _hear_events(self, session: Session, arrived: list[Any], stop: int) -> Iterator[list[dict[str, Any]]]:
        every = self.address.heartbeat / 3 or 10.0
        beaten = time.monotonic()
        while not readable((stop,), 0):
            session.link.await_bytes(1.0, stop)
            session.link.pump()
            if time.monotonic() - beaten > every:
                beaten = time.monotonic()
                session.link.beat()
            contents, arrived[:] = arrived[:], []
            yield [event for content in contents for event in self._events_in(content)]

    def _events_in(self, content: Any) -> list[dict[str, Any]]:
        properties = content.properties
        return self.event_options.read(
            body_of(content),
            properties.get("content_type") or "application/json",
            properties.get("content_encoding") or "utf-8",
        )
