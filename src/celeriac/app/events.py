"""``app.events``: sending and receiving events, as Celery's monitors know them."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import TYPE_CHECKING, Any

from celeriac.app import ids
from celeriac.app.event import Event, group_from, routing_key, utcoffset
from celeriac.app.names import bound
from celeriac.exceptions import EncodeError, OperationalError
from celeriac.extended_json import dumps

if TYPE_CHECKING:
    from celeriac.app.base import Celeriac
    from celeriac.engines.base import Publication
    from celeriac.engines.remote import EventCarrier

logger = logging.getLogger("celeriac.events")


class Events:
    """The events of one application.

    Redis and RabbitMQ carry events; with other brokers what is sent here goes nowhere.
    """

    receiver_cls: Any = "celeriac.monitor.events.receiver:EventReceiver"
    dispatcher_cls: Any = "celeriac.monitor.events.dispatcher:EventDispatcher"
    state_cls: Any = "celeriac.monitor.events.state:State"

    def __init__(self, app: Celeriac) -> None:
        self.app = app
        self.sink: Callable[[dict[str, Any]], bool] | None = None
        """Where a worker's process writes task events, for its agent to send; ``False`` if it cannot."""
        self._told = False

    @cached_property
    def Receiver(self) -> Any:
        """:class:`celeriac.events.EventReceiver`, bound to this application."""
        return bound(self.app, self.receiver_cls)

    @cached_property
    def Dispatcher(self) -> Any:
        """:class:`celeriac.events.EventDispatcher`, bound to this application."""
        return bound(self.app, self.dispatcher_cls)

    @cached_property
    def State(self) -> Any:
        """:class:`celeriac.events.state.State`: workers and tasks, as events tell of them."""
        return bound(self.app, self.state_cls)

    @contextmanager
    def default_dispatcher(
        self, hostname: str | None = None, enabled: bool = True, buffer_while_offline: bool = False
    ) -> Iterator[Any]:
        """A dispatcher for the length of the block."""
        with self.Dispatcher(
            hostname=hostname, enabled=enabled, buffer_while_offline=buffer_while_offline
        ) as dispatcher:
            yield dispatcher

    @property
    def carrier(self) -> EventCarrier | None:
        """The broker if it carries events."""
        broker: Any = self.app.write_broker
        return broker if hasattr(broker, "publish_events") else None

    def complete(
        self, type: str, fields: Mapping[str, Any], hostname: str | None = None, blind: bool = False
    ) -> dict[str, Any]:
        """An event with the fields that all have. ``blind`` leaves out the logical clock's value."""
        clock = None if blind else self.app.clock.forward()
        common = {
            "hostname": hostname or ids.origin(),
            "utcoffset": utcoffset(),
            "pid": os.getpid(),
            "clock": clock,
        }
        return Event(type, common, **fields)

    def tell(self, type: str, fields: Mapping[str, Any], hostname: str | None = None) -> None:
        """Send an event: by the agent where this is a worker's process, else over a connection of our own.

        Raises ``EncodeError`` for a field that JSON cannot carry, ``OperationalError``.
        """
        event = self.complete(type, fields, hostname)
        if self.sink is None or group_from(type) != "task" or not self._put(event):
            self.publish(routing_key(type), event)

    def publish(self, key: str, events: dict[str, Any] | Sequence[dict[str, Any]]) -> None:
        """Send a complete event, or a list of them (of one host), under a routing key.

        Raises ``EncodeError`` for a field that JSON cannot carry, ``OperationalError``.
        """
        carrier = self.carrier
        if carrier is not None and events:
            first = events if isinstance(events, dict) else events[0]
            carrier.publish_events(key, self._written(events), {"hostname": first["hostname"]})

    def sent(self, publications: Sequence[Publication]) -> None:
        """Tell that these tasks have been sent (``task_send_sent_event``); it does not raise."""
        try:
            if self.carrier is None:
                return
            events = [self.complete("task-sent", _sent(each)) for each in publications]
            if self.sink is not None:
                events = [event for event in events if not self._put(event)]
            self.publish("task.sent", events[0] if len(events) == 1 else events)
            self._told = False
        except (OperationalError, EncodeError) as error:
            level, self._told = (logging.DEBUG if self._told else logging.WARNING), True
            logger.log(level, "Could not send the event task-sent (the tasks themselves are sent): %s", error)

    def _put(self, event: dict[str, Any]) -> bool:
        assert self.sink is not None
        try:
            return self.sink(event)
        except (TypeError, ValueError) as error:
            raise _unfit(event, error) from error

    @staticmethod
    def _written(events: Any) -> bytes:
        try:
            return dumps(events)
        except (TypeError, ValueError) as error:
            raise _unfit(events if isinstance(events, dict) else events[0], error) from error


def _unfit(event: Mapping[str, Any], error: Exception) -> EncodeError:
    return EncodeError(f"the event {event.get('type')} cannot be written as JSON: {error}")


def _sent(publication: Publication) -> dict[str, Any]:
    headers = publication.message.headers
    fields = {
        "uuid": headers.get("id"),
        "root_id": headers.get("root_id"),
        "parent_id": headers.get("parent_id"),
        "name": headers.get("task"),
        "args": headers.get("argsrepr"),
        "kwargs": headers.get("kwargsrepr"),
        "retries": headers.get("retries"),
        "eta": headers.get("eta"),
        "expires": headers.get("expires"),
        "queue": publication.queue,
        "exchange": publication.exchange,
        "routing_key": publication.routing_key,
    }
    if headers.get("group"):
        fields["group_id"] = headers["group"]
    return fields
