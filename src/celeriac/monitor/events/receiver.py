"""Receiver: calls handlers for events as they come."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from typing import Any

from celeriac.app import app_or_default
from celeriac.exceptions import ImproperlyConfigured, OperationalError
from celeriac.message import new_id

Handler = Callable[[dict[str, Any]], Any]


class EventReceiver:
    """Receives the events of all workers and clients on the application's broker.

    ``handlers`` maps types of events to functions of one event; ``"*"`` gets those that no other takes.
    """

    app: Any = None

    def __init__(
        self,
        channel: Any = None,
        handlers: Mapping[str, Handler] | None = None,
        routing_key: str = "#",
        node_id: str | None = None,
        app: Any = None,
        queue_prefix: str | None = None,
        accept: Any = None,
        queue_ttl: float | None = None,
        queue_expires: float | None = None,
        queue_exclusive: bool | None = None,
        queue_durable: bool | None = None,
    ) -> None:
        """``routing_key`` chooses events: ``"worker.#"``, ``"task.*"``.

        ``channel`` (a connection) may be left out. The queue's prefix, lifetimes and kind are the settings
        ``event_queue_*``, formats ``event_serializer``: given here, they must not be others. Raises
        ``ImproperlyConfigured`` for that, and for a broker that carries no events.
        """
        self.app = app_or_default(app or self.app)
        self.channel = channel
        self.handlers = {} if handlers is None else handlers
        self.routing_key = routing_key
        self.node_id = node_id or new_id()
        self.should_stop = False
        """Set it (from a handler, or another thread) to end :meth:`capture` within a second."""
        _check(
            self.app.conf, event_queue_prefix=queue_prefix, event_queue_ttl=queue_ttl,
            event_queue_expires=queue_expires, event_queue_exclusive=queue_exclusive,
            event_queue_durable=queue_durable,
        )  # fmt: skip
        broker = self.app.broker
        if not hasattr(broker, "receive_events"):
            raise ImproperlyConfigured(
                f"{getattr(broker, 'url', 'the broker')} carries no events: Redis and RabbitMQ do. "
                "'celeriac history' shows what became of tasks on every store"
            )
        self._broker = broker

    def capture(self, limit: int | None = None, timeout: float | None = None, wakeup: bool = True) -> None:
        """Call the handlers for events as they come: for ever, or until ``limit`` events have come.

        With ``wakeup`` the workers are asked to tell at once that they are there. Raises ``TimeoutError``
        when nothing has come for ``timeout`` seconds, and ``OperationalError`` when the connection is lost.
        """
        for _ in self.itercapture(limit, timeout, wakeup):
            pass

    def itercapture(
        self, limit: int | None = None, timeout: float | None = None, wakeup: bool = True
    ) -> Iterator[list[dict[str, Any]]]:
        """The same, step by step: it yields the events of each message after their handlers were called."""
        near, far = os.pipe()
        left, heard, asked = limit or math.inf, time.monotonic(), not wakeup
        try:
            for batch in self._broker.receive_events([self.routing_key], near):
                if not asked:
                    asked = True
                    self.wakeup_workers()
                for event in batch:
                    self._receive(event)
                if batch:
                    left, heard = left - len(batch), time.monotonic()
                    yield batch
                elif timeout and time.monotonic() - heard >= timeout:
                    raise TimeoutError(f"no event came for {timeout:g} seconds")
                if self.should_stop or left <= 0:
                    return
        finally:
            os.close(far)
            os.close(near)

    def process(self, type: str, event: dict[str, Any]) -> None:
        """Call the handler for an event, if there is one."""
        handler = self.handlers.get(type) or self.handlers.get("*")
        if handler is not None:
            handler(event)

    def wakeup_workers(self, channel: Any = None) -> None:
        """Ask the workers to send a heartbeat at once."""
        with suppress(OperationalError):  # they will anyway, soon
            self.app.control.broadcast("heartbeat")

    def event_from_message(self, body: dict[str, Any], localize: bool = True) -> tuple[str, dict[str, Any]]:
        """Complete a received event: ``local_received``, the logical clock. Returns its type and the event.

        ``timestamp`` is left as it is: epoch seconds are the same everywhere. (Celery moves it by the
        difference of the two machines' time zones.)
        """
        clock = self.app.clock
        if body["type"] == "task-sent":
            # Clients never hear of each other: their clocks say nothing.
            body["clock"] = max(clock.value, 1) - 1
        elif isinstance(body.get("clock"), int):
            clock.adjust(body["clock"])
        else:
            body["clock"] = clock.forward()
        body["local_received"] = time.time()
        return body["type"], body

    def _receive(self, event: dict[str, Any]) -> None:
        self.process(*self.event_from_message(event))


def _check(conf: Any, **given: Any) -> None:
    for name, value in given.items():
        if value is not None and value != conf[name]:
            raise ImproperlyConfigured(
                f"the queue of events is made by the broker's engine: set {name} instead of passing {value!r}"
            )
