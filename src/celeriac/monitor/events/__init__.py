"""Events: what workers and clients tell as it happens, for monitors."""

from typing import Any

from celeriac.app.event import Event, group_from
from celeriac.monitor.events.dispatcher import EventDispatcher
from celeriac.monitor.events.receiver import EventReceiver
from celeriac.routing.queues import Exchange

__all__ = ["Event", "EventDispatcher", "EventReceiver", "event_exchange", "get_exchange", "group_from"]

event_exchange = Exchange("celeryev", type="topic")
"""Where events go, unless ``event_exchange`` is set."""


def get_exchange(conn: Any, name: str = event_exchange.name) -> Exchange:
    """The exchange of events on the broker of ``conn``, an ``app.connection()``: on Redis it is a fanout."""
    fanout = str(conn.as_uri()).startswith(("redis", "sentinel", "unix", "valkey"))
    return Exchange(name, type="fanout" if fanout else "topic")
