"""Celery's import path of ``celeriac.monitor.events.receiver``."""

from celeriac.monitor.events.receiver import EventReceiver

__all__ = ["EventReceiver"]
