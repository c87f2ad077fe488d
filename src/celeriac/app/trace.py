"""What is kept of an exception that ended a task: the object, and its traceback as text."""

from __future__ import annotations

import traceback
from types import TracebackType
from typing import Any


class ExceptionInfo:
    """The ``einfo`` that hooks and signals receive. ``str(einfo)`` is the traceback."""

    internal = False

    def __init__(self, exception: BaseException, tb: TracebackType | None = None) -> None:
        self.exception = exception
        self.type = type(exception)
        self.tb = exception.__traceback__ if tb is None else tb
        self.traceback = "".join(traceback.format_exception(self.type, exception, self.tb))

    @property
    def exc_info(self) -> tuple[Any, Any, Any]:
        """As ``sys.exc_info()`` had it."""
        return self.type, self.exception, self.tb

    def __str__(self) -> str:
        return self.traceback

    def __repr__(self) -> str:
        return f"<ExceptionInfo: {self.exception!r}>"
