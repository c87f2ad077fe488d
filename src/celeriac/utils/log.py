"""Loggers and log formatting: what modules use to log, and how the lines are made.

A task's module gets its logger from :func:`get_task_logger`; its lines then carry the name and id of the
running task. Loggers form a tree below ``celeriac``: ``celeriac.worker``, ``celeriac.task``, ...
"""

from __future__ import annotations

import io
import logging
import re
import sys
import threading
from collections.abc import Iterable
from typing import Any, ClassVar, Final

from celeriac.urls import mask_url

base_logger: Final = logging.getLogger("celeriac")
task_logger: Final = logging.getLogger("celeriac.task")
worker_logger: Final = logging.getLogger("celeriac.worker")
redirect_logger: Final = logging.getLogger("celeriac.redirected")
"""Takes what tasks print."""

LOG_LEVELS: Final[dict[str, int]] = {
    **logging.getLevelNamesMapping(),
    "FATAL": logging.FATAL,
}
"""Level names and their numbers."""

_RESERVED = frozenset({"celeriac", "celeriac.task", "celery", "celery.task"})


def mlevel(level: str | int | None) -> int:
    """Return a level's number; names may be in lower case, ``None`` and 0 are ``NOTSET``.

    Raises ``ValueError`` naming the levels.
    """
    if level is None or isinstance(level, int):
        return level or 0
    try:
        return LOG_LEVELS[level.upper()]
    except KeyError:
        names = ", ".join(sorted(LOG_LEVELS, key=lambda name: LOG_LEVELS[name]))
        raise ValueError(f"there is no log level {level!r}: use one of {names}") from None


def get_logger(name: str) -> logging.Logger:
    """Return the logger of one of Celeriac's or the application's modules."""
    return _below(logging.getLogger(name), base_logger)


def get_task_logger(name: str) -> logging.Logger:
    """Return a logger for a module of tasks: its lines are formatted by ``worker_task_log_format``.

    Use it as ``logger = get_task_logger(__name__)``. Raises ``RuntimeError`` for a name that is a logger
    of Celeriac's own.
    """
    if name in _RESERVED:
        raise RuntimeError(f"the logger name {name!r} is reserved: use get_task_logger(__name__)")
    return _below(logging.getLogger(name), task_logger)


def _below(logger: logging.Logger, parent: logging.Logger) -> logging.Logger:
    """Hang a top-level logger below ``parent``, unless it is there or the user put it elsewhere."""
    if logger is parent or logger.name.startswith("celeriac."):
        return logger
    if logger.parent is None or isinstance(logger.parent, logging.RootLogger):
        logger.parent = parent
    elif parent is task_logger and not _is_below(logger, task_logger):
        logger.parent = task_logger
    return logger


def _is_below(logger: logging.Logger | None, parent: logging.Logger) -> bool:
    while logger is not None:
        if logger is parent:
            return True
        logger = logger.parent
    return False


# -- formatting ------------------------------------------------------------------------------------------


class ColorFormatter(logging.Formatter):
    """A formatter that colours messages by level and masks passwords in URLs."""

    colors: ClassVar[dict[str, str]] = {
        "DEBUG": "\033[34m",
        "WARNING": "\033[33m",
        "ERROR": "\033[31m",
        "CRITICAL": "\033[35m",
    }
    reset = "\033[0m"

    def __init__(self, fmt: str | None = None, use_color: bool = True, datefmt: str | None = None) -> None:
        super().__init__(fmt, datefmt)
        self.use_color = use_color

    def format(self, record: logging.LogRecord) -> str:
        """Return the record's text: the formatted line, then the exception's traceback if it has one."""
        return mask_text(super().format(record))

    def formatMessage(self, record: logging.LogRecord) -> str:
        """Return the record's line."""
        color = self.colors.get(record.levelname) if self.use_color else None
        if color:
            record.message = f"{color}{record.message}{self.reset}"
        return super().formatMessage(record)


_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.\-]*://[^\s'\"<>]+")


def mask_text(text: str) -> str:
    """Return ``text`` with the passwords of all URLs in it masked."""
    if "://" not in text:
        return text
    return _URL.sub(lambda found: mask_url(found[0]), text)


# -- prints as log lines ---------------------------------------------------------------------------------


class LoggingProxy(io.TextIOBase):
    """A text stream that logs each line written to it, for ``sys.stdout`` and ``sys.stderr``."""

    def __init__(self, logger: logging.Logger, loglevel: str | int | None = None) -> None:
        super().__init__()
        self.logger = logger
        self.loglevel = mlevel(loglevel or logger.level or logging.WARNING)
        self._here = threading.local()

    def writable(self) -> bool:
        """Say that it can be written to."""
        return True

    def write(self, data: str | bytes) -> int:
        """Log each line, once it is complete, that holds more than blanks; return the length of ``data``."""
        text = data.decode(errors="replace") if isinstance(data, bytes) else str(data)
        if getattr(self._here, "busy", False):
            # The log handler itself failed and reports it: to log that too would never end.
            return sys.__stderr__.write(text) if sys.__stderr__ else len(text)
        # print() writes each of its arguments alone; threads must not be mixed into one line
        *lines, self._here.rest = (getattr(self._here, "rest", "") + text).split("\n")
        self._log(lines)
        return len(text)

    def flush(self) -> None:
        """Log this thread's unfinished line."""
        if self._here.__dict__.get("rest") and not self._here.__dict__.get("busy"):
            rest, self._here.rest = self._here.rest, ""
            self._log([rest])

    def _log(self, lines: list[str]) -> None:
        self._here.busy = True
        try:
            for line in lines:
                if line.strip():
                    self.logger.log(self.loglevel, "%s", line.rstrip())
        finally:
            self._here.busy = False

    def writelines(self, lines: Iterable[Any]) -> None:
        """Log several lines."""
        for line in lines:
            self.write(line)
