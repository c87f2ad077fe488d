"""Celery's path to the task class and its request."""

from celeriac.app.request import Context
from celeriac.task import Task

__all__ = ["Context", "Task"]
