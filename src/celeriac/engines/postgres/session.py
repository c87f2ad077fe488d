"""psycopg's connection, with an end to waiting for a server that is there and does not answer."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator
from typing import Any

import psycopg


class Session(psycopg.Connection[Any]):
    """A connection whose statements must be answered within :attr:`patience`.

    The system notices a peer that has vanished; one that hangs (a frozen machine, a stuck disk, a proxy that
    lost its other side) it does not.
    """

    patience: float | None = None
    """Seconds for each statement; ``None`` means no limit. Afterwards the connection is closed, and what
    became of the statement is unknown."""

    def wait(self, gen: Generator[Any, Any, Any], *args: Any, **kwargs: Any) -> Any:
        """Wait for a statement's answer, as psycopg does. Raises ``psycopg.OperationalError``."""
        if self.patience is not None:
            gen = _bounded(gen, self.patience, self.pgconn.finish)
        return super().wait(gen, *args, **kwargs)


def _bounded(
    gen: Generator[Any, Any, Any], seconds: float, give_up: Callable[[], None]
) -> Generator[Any, Any, Any]:
    """The same conversation with the server; psycopg looks at it several times a second, answer or not."""
    deadline = time.monotonic() + seconds
    try:
        wanted = next(gen)
        while True:
            ready = yield wanted
            if not ready and time.monotonic() > deadline:
                give_up()
                raise psycopg.OperationalError(f"no answer within {seconds:g} s")
            wanted = gen.send(ready)
    except StopIteration as end:
        return end.value
