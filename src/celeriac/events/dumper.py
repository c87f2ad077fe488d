"""Celery's import path of ``celeriac.monitor.events.dumper``."""

from celeriac.monitor.events.dumper import Dumper, evdump, humanize_type

__all__ = ["Dumper", "evdump", "humanize_type"]
