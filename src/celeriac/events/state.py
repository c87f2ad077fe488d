"""Celery's import path of ``celeriac.monitor.events.state``."""

from celeriac.monitor.events.state import State, Task, Worker, heartbeat_expires

__all__ = ["State", "Task", "Worker", "heartbeat_expires"]
