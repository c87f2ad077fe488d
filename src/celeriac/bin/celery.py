"""Celery's import path of the command line: the group of all commands, and what runs it."""

from celeriac.__main__ import main
from celeriac.cli.root import celeriac as celery

__all__ = ["celery", "main"]
