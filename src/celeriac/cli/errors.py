"""How a command fails: a sentence on standard error and an exit status, never a traceback."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import IO, Any

import click

from celeriac.platforms import EX_FAILURE


class Failure(click.ClickException):
    """A command cannot do what it was asked; ``status`` is the process's status."""

    def __init__(self, message: str, status: int = EX_FAILURE) -> None:
        super().__init__(message)
        self.status = status

    def show(self, file: IO[Any] | None = None) -> None:
        """Print the message to standard error."""
        click.echo(f"Error: {self.message}", file=file, err=file is None)


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return a sentence that proposes the known words nearest to ``word``, or nothing."""
    import difflib

    near = difflib.get_close_matches(word, list(known), 3, 0.6)
    # Names of one module look alike by their first parts: those whose last part is near as well come alone.
    last = word.rpartition(".")[2]
    nearer = [name for name in near if difflib.get_close_matches(last, [name.rpartition(".")[2]], 1, 0.6)]
    near = nearer or near
    if not near:
        return ""
    return f" Did you mean {' or '.join(near)}?"


def nearest_task(name: str, tasks: Iterable[str]) -> str:
    """:func:`did_you_mean` for tasks; the built-in ones are proposed only for names that begin as they do."""
    prefix = "celery."
    return did_you_mean(
        name, [task for task in tasks if name.startswith(prefix) or not task.startswith(prefix)]
    )


def wants_traceback() -> bool:
    """Whether ``CELERIAC_DEBUG`` asks for tracebacks of errors that otherwise are one sentence."""
    return os.environ.get("CELERIAC_DEBUG", "") not in ("", "0")
