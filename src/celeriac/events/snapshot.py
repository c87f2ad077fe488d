"""Celery's import path of ``celeriac.monitor.events.snapshot``."""

from celeriac.monitor.events.snapshot import Polaroid, evcam

__all__ = ["Polaroid", "evcam"]
