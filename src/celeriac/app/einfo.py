"""ExceptionInfo: an error with its traceback as text, as hooks and signals get it (``einfo``)."""

from __future__ import annotations

import traceback
from types import TracebackType


class ExceptionInfo:
    """``type``, ``exception``, ``traceback`` (text) and ``tb`` of an error."""

    def __init__(self, exception: BaseException, internal: bool = False) -> None:
        self.type = type(exception)
        self.exception = exception
        self.tb: TracebackType | None = exception.__traceback__
        self.traceback = "".join(traceback.format_exception(exception))
        self.internal = internal

    def __str__(self) -> str:
        return self.traceback

    def __repr__(self) -> str:
        return f"<ExceptionInfo: {self.exception!r}>"
