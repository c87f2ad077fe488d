"""Events: what workers and clients tell as it happens, for monitors."""

from celeriac.app.event import Event, group_from
from celeriac.monitor.events.dispatcher import EventDispatcher
from celeriac.monitor.events.receiver import EventReceiver

__all__ = ["Event", "EventDispatcher", "EventReceiver", "group_from"]
