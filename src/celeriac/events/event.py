"""Celery's import path of ``celeriac.app.event``."""

from celeriac.app.event import Event, group_from

__all__ = ["Event", "group_from"]
