"""Events, under Celery's import paths (``celeriac.monitor.events``)."""

from celeriac.monitor.events import Event, EventDispatcher, EventReceiver, group_from

__all__ = ["Event", "EventDispatcher", "EventReceiver", "group_from"]
