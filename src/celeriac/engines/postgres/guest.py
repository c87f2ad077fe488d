"""Steps in a transaction of the application's own, over whatever it calls a connection."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from celeriac.engines.postgres.step import Step
from celeriac.engines.postgres.store import Store


class Guest:
    """An open transaction of the application's; what of a session :class:`Step` uses."""

    def __init__(self, connection: Any) -> None:
        self._cursor = _cursor(connection)

    def execute(self, sql: bytes, arguments: Sequence[Any] = ()) -> Any:
        """Carry out one statement and return the cursor."""
        self._cursor.execute(sql.decode().replace("%b", "%s"), arguments)
        return self._cursor

    def close(self) -> None:
        """Give the cursor back; the transaction goes on."""
        self._cursor.close()


@contextmanager
def step(store: Store, connection: Any) -> Iterator[Step]:
    """Do one step in the transaction of ``connection``, which stays open."""
    transaction = Guest(connection)
    try:
        work = Step.within(store, transaction)
        work.guest = True
        yield work
    finally:
        transaction.close()


def _cursor(connection: Any) -> Any:
    """A DB-API cursor of a psycopg, SQLAlchemy or Django connection."""
    if callable(getattr(connection, "get_bind", None)) and callable(getattr(connection, "connection", None)):
        connection = connection.connection()  # a session of SQLAlchemy
    if not hasattr(connection, "cursor") and hasattr(getattr(connection, "connection", None), "cursor"):
        if not connection.in_transaction():
            connection.exec_driver_sql("SELECT 1")  # so that SQLAlchemy knows of a transaction to commit
        connection = connection.connection  # the driver's
    if type(connection).__name__.startswith("Async") or not callable(getattr(connection, "cursor", None)):
        raise TypeError(
            f"connection={connection!r} is no open connection to PostgreSQL: give psycopg's, SQLAlchemy's "
            "(a session or connection; of an AsyncSession, within its run_sync) or Django's"
        )
    return _plain_cursor(connection)


def _plain_cursor(connection: Any) -> Any:
    """A cursor with rows and placeholders as usual, whatever the application has chosen for its own."""
    import psycopg
    from psycopg.rows import tuple_row

    driver = getattr(connection, "dbapi_connection", connection)  # within SQLAlchemy's
    return (
        psycopg.Cursor(driver, row_factory=tuple_row)
        if isinstance(driver, psycopg.Connection)
        else connection.cursor()
    )
