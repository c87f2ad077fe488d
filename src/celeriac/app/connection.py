"""A connection as Celery's programs open one, to pass it on: ``with app.connection() as connection``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from celeriac.app.base import Celeriac


class Connection:
    """Stands for the application's connections to its broker, which are opened when they are used."""

    def __init__(self, app: Celeriac, broker: Any) -> None:
        self.app = app
        self._broker = broker

    def as_uri(self) -> str:
        """The broker's URL, its password masked."""
        return str(self._broker.url)

    def ensure_connection(self, *args: Any, **kwargs: Any) -> Self:
        """Raise ``OperationalError`` if the broker cannot be reached; the arguments have no meaning."""
        self._broker.depth([])
        return self

    connect = ensure_connection

    def close(self) -> None:
        """Nothing: the application keeps its connections (``app.close()``)."""

    release = close

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
