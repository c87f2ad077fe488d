"""Logging of a worker: handlers, formats and files, as the ``worker_log_*`` settings say.

The root logger gets ``worker_log_format``; the task loggers (``celeriac.task`` and what
:func:`celeriac.utils.log.get_task_logger` returns) get ``worker_task_log_format``, which may name the running
task. A receiver of the signal ``setup_logging`` replaces all of it; ``after_setup_logger`` and
``after_setup_task_logger`` let receivers add to it.
"""

from __future__ import annotations

import logging
import os
import sys
from logging.handlers import WatchedFileHandler
from typing import IO, TYPE_CHECKING, Any, Final

from celeriac import signals
from celeriac.app.state import worker_frame
from celeriac.platforms import is_per_child, node_file, node_name
from celeriac.utils.log import (
    ColorFormatter,
    LoggingProxy,
    base_logger,
    get_logger,
    get_task_logger,
    mlevel,
    redirect_logger,
    task_logger,
)

if TYPE_CHECKING:
    from celeriac.app.base import Celeriac

__all__ = ["Logging", "TaskFormatter", "get_logger", "get_task_logger"]

Target = str | os.PathLike[str] | IO[str] | None
"""Where lines go: a path, an open stream, or ``None`` for standard error."""

_NO_TASK: Final = "???"


class TaskFormatter(ColorFormatter):
    """A formatter that knows the running task: ``%(task_name)s`` and ``%(task_id)s``, else ``???``."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the record's text, with the attributes ``task_name`` and ``task_id`` set."""
        frame = worker_frame()
        if frame is not None:
            record.task_name, record.task_id = frame.task.name, frame.request.id
        else:
            record.__dict__.setdefault("task_name", _NO_TASK)
            record.__dict__.setdefault("task_id", _NO_TASK)
        return super().format(record)


class Logging:
    """An application's logging (``app.log``)."""

    def __init__(self, app: Celeriac) -> None:
        self.app = app
        self.already_setup = False
        """Set by the first set-up; later ones change nothing."""
        self._pattern: Target = None
        self._node = ""
        self._files: list[tuple[logging.Logger, logging.Handler]] = []

    def setup(
        self,
        loglevel: str | int | None = None,
        logfile: Target = None,
        redirect_stdouts: bool = False,
        redirect_level: str | int = "WARNING",
        colorize: bool | None = None,
        hostname: str | None = None,
    ) -> bool:
        """Set logging up for a worker, once; return whether this call did it.

        ``loglevel`` is a name or number (default ``WARNING``). ``logfile`` may hold ``%n``, ``%h``, ``%d``,
        ``%i`` and ``%I`` (:func:`celeriac.platforms.node_file`); ``hostname`` is the node's name for them.
        Without it lines go to standard error, coloured (``colorize`` and the setting ``worker_log_color``
        not saying otherwise) if that is a terminal. With ``redirect_stdouts`` prints become log lines of
        ``redirect_level`` from now on. Raises ``ValueError`` for an unknown level, ``OSError`` if the
        file cannot be opened.
        """
        done = self.setup_logging_subsystem(loglevel, logfile, colorize=colorize, hostname=hostname)
        if redirect_stdouts:
            self.redirect_stdouts(redirect_level)
        return done

    def setup_logging_subsystem(
        self,
        loglevel: str | int | None = None,
        logfile: Target = None,
        format: str | None = None,
        colorize: bool | None = None,
        hostname: str | None = None,
        datefmt: str | None = None,
        **kwargs: Any,
    ) -> bool:
        """Set up the root and the task loggers; arguments as :meth:`setup`, with the line's format."""
        if self.already_setup:
            return False
        conf = self.app.conf
        level = mlevel(loglevel or logging.WARNING)
        format = format or conf.worker_log_format
        self.already_setup = True
        self._node, self._pattern = hostname or node_name(), logfile
        path = self._path(0)
        colorize = self.supports_color(colorize, path)
        logging.captureWarnings(True)
        options = {"loglevel": level, "logfile": path, "format": format, "colorize": colorize, **kwargs}
        if signals.setup_logging.receivers:
            signals.setup_logging.send(None, **options)
            return True
        root = logging.getLogger()
        if conf.worker_hijack_root_logger:
            for logger in (root, base_logger, task_logger):
                logger.handlers = []
        self._configure(
            root, level, path, ColorFormatter(format, colorize, datefmt or conf.worker_log_datefmt)
        )
        signals.after_setup_logger.send(None, logger=root, **options)
        self.setup_task_loggers(level, path, colorize=colorize, **kwargs)
        return True

    def setup_task_loggers(
        self,
        loglevel: str | int | None = None,
        logfile: Target = None,
        format: str | None = None,
        colorize: bool | None = None,
        propagate: bool = False,
        datefmt: str | None = None,
        **kwargs: Any,
    ) -> logging.Logger:
        """Set up the logger that all task loggers hang on, and return it."""
        conf = self.app.conf
        level = mlevel(loglevel or logging.WARNING)
        format = format or conf.worker_task_log_format
        colorize = self.supports_color(colorize, logfile)
        formatter = TaskFormatter(format, colorize, datefmt or conf.worker_task_log_datefmt)
        self._configure(task_logger, level, logfile, formatter)
        task_logger.propagate = propagate
        signals.after_setup_task_logger.send(
            None,
            logger=task_logger,
            loglevel=level,
            logfile=logfile,
            format=format,
            colorize=colorize,
            **kwargs,
        )
        return task_logger

    def redirect_stdouts(self, loglevel: str | int | None = None, name: str = redirect_logger.name) -> None:
        """Make what is printed to standard output and error log lines of ``loglevel`` from now on."""
        level = mlevel(loglevel or self.app.conf.worker_redirect_stdouts_level)
        self.redirect_stdouts_to_logger(logging.getLogger(name), level)

    def redirect_stdouts_to_logger(
        self,
        logger: logging.Logger,
        loglevel: str | int | None = None,
        stdout: bool = True,
        stderr: bool = True,
    ) -> LoggingProxy:
        """Put a :class:`~celeriac.utils.log.LoggingProxy` in place of the chosen streams; return it."""
        proxy = LoggingProxy(logger, loglevel)
        if stdout:
            sys.stdout = proxy
        if stderr:
            sys.stderr = proxy
        return proxy

    def enter_child(self, number: int, name: str) -> None:
        """Log from now on as the child process ``number`` (from 1), called ``name`` in ``%(processName)s``.

        A log file whose name holds ``%i`` or ``%I`` is changed for the child's own.
        """
        from multiprocessing import process

        process.current_process().name = name
        if not isinstance(self._pattern, str | os.PathLike) or not is_per_child(os.fspath(self._pattern)):
            return
        for position, (logger, old) in enumerate(self._files):
            new = WatchedFileHandler(str(self._path(number)), encoding="utf-8")
            new.setFormatter(old.formatter)
            logger.removeHandler(old)
            old.close()
            logger.addHandler(new)
            self._files[position] = (logger, new)

    def supports_color(self, colorize: bool | None = None, logfile: Target = None) -> bool:
        """Return whether to colour: as told, else as ``worker_log_color`` says, else if it is a terminal."""
        if colorize is None:
            colorize = self.app.conf.worker_log_color
        if colorize is not None:
            return colorize
        if logfile is not None or os.environ.get("NO_COLOR"):
            return False
        return bool(sys.__stderr__ and sys.__stderr__.isatty())

    def get_default_logger(self, name: str = "celeriac", **kwargs: Any) -> logging.Logger:
        """Return the logger ``name``."""
        return logging.getLogger(name)

    def _path(self, child: int) -> Target:
        if isinstance(self._pattern, str | os.PathLike):
            return node_file(os.fspath(self._pattern), self._node, child)
        return self._pattern

    def _configure(
        self, logger: logging.Logger, level: int, target: Target, formatter: logging.Formatter
    ) -> None:
        """Give the logger a handler, unless the user's code already gave it one."""
        logger.setLevel(level)
        if any(not isinstance(handler, logging.NullHandler) for handler in logger.handlers):
            return
        handler: logging.Handler
        if isinstance(target, str | os.PathLike):
            handler = WatchedFileHandler(target, encoding="utf-8")
            self._files.append((logger, handler))
        else:
            handler = logging.StreamHandler(target or sys.__stderr__)
        handler.setFormatter(formatter)
        logger.addHandler(handler)
