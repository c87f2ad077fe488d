"""Celery's import path of ``celeriac.monitor.events.dispatcher``."""

from celeriac.monitor.events.dispatcher import EventDispatcher

__all__ = ["EventDispatcher"]
