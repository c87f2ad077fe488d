"""Events, under Celery's import paths (``celeriac.monitor.events``)."""

from celeriac.monitor.events import (
    Event,
    EventDispatcher,
    EventReceiver,
    event_exchange,
    get_exchange,
    group_from,
)

__all__ = ["Event", "EventDispatcher", "EventReceiver", "event_exchange", "get_exchange", "group_from"]
