"""The server as one process sees it: its connections, their fate when the process forks, and transactions."""

from __future__ import annotations

import os
import threading
import time
import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from celeriac.engines.postgres import schema
from celeriac.engines.postgres.errors import missing_driver, translated
from celeriac.engines.postgres.location import Location
from celeriac.engines.readiness import readable
from celeriac.exceptions import OperationalError

if TYPE_CHECKING:
    import psycopg

    from celeriac.engines.postgres.session import Session

    Handle = psycopg.Connection[Any]

FRESH = 0.02
"""Seconds after its last use for which a session is taken to be alive without a look at its socket."""


class Connection:
    """One session, opened when first used and again when it broke; one thread at a time."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._used = 0.0
        self.handle: Session | None = None
        self.patience = store.patience
        """Seconds that an answer may take; ``None`` for ever."""

    def run(self, sql: str, arguments: Sequence[Any] = (), binary: bool = False) -> list[tuple[Any, ...]]:
        """Carry out one statement, in a transaction of its own, and return its rows."""
        with self.told() as handle, handle.cursor(binary=binary) as cursor:
            cursor.execute(self._store.sql(sql), arguments)
            return cursor.fetchall() if cursor.description is not None else []

    @contextmanager
    def told(self) -> Iterator[Session]:
        """Give the session for statements of their own; the driver's errors are raised as ours."""
        handle = self.open()
        import psycopg  # after opening, which says it if there is none

        try:
            yield handle
        except psycopg.Error as error:
            raise self.failed(error) from error
        except BaseException:
            self.drop()  # somebody interrupted us: what is still on its way is nobody's
            raise

    @contextmanager
    def transaction(self) -> Iterator[Handle]:
        """Give the session within one transaction, committed at the end, rolled back on an error."""
        handle = self.open()
        import psycopg

        try:
            yield handle
            handle.execute("COMMIT")
        except psycopg.Error as error:
            raise self.failed(error) from error
        except Exception:
            self._roll_back()
            raise
        except BaseException:
            self.drop()
            raise

    def open(self) -> Session:
        """Return the session, which was alive a moment ago."""
        handle = self.handle
        clock = time.monotonic()
        if (
            handle is not None
            and clock - self._used > FRESH
            and (handle.closed or readable([handle.fileno()], 0))
        ):
            self._listen_in(handle)
            handle = self.handle
        if handle is None:
            handle = self.handle = self._store.connect()
        handle.patience = self.patience
        self._used = clock
        return handle

    def failed(self, error: psycopg.Error) -> Exception:
        """Return what to raise for ``error``, and see to the session."""
        handle = self.handle
        broken = handle is None or handle.closed or handle.broken
        told = translated(error, self._store.url, sent=True)
        if broken:
            self.drop()
        else:
            self._roll_back()
            if isinstance(told, OperationalError):
                told.maybe_done = False
        return told

    def close(self) -> None:
        """End the session; the next use opens another."""
        handle, self.handle = self.handle, None
        if handle is not None:
            handle.close()

    drop = close

    def forget(self) -> None:
        """Leave the session to the process that opened it."""
        handle, self.handle = self.handle, None
        if handle is not None:
            _INHERITED.append(handle)

    def _roll_back(self) -> None:
        import psycopg

        try:
            if (
                self.handle is not None
                and self.handle.info.transaction_status != psycopg.pq.TransactionStatus.IDLE
            ):
                self.handle.execute("ROLLBACK")
        except psycopg.Error:
            self.drop()

    def _listen_in(self, handle: Handle) -> None:
        """Something has come unasked: a notice, or the session's end, which must not count as ours."""
        import psycopg

        try:
            if not handle.closed:
                handle.pgconn.consume_input()
        except psycopg.Error:
            pass
        if (
            handle.closed
            or handle.broken
            or handle.pgconn.status != psycopg.pq.ConnStatus.OK
            or readable([handle.fileno()], 0)
        ):
            self.drop()


class Store:
    """Sessions of one process, lent to one thread at a time."""

    def __init__(self, location: Location) -> None:
        self.location = location
        self.options = location.options
        self.url = location.url
        self.schema = location.options.schema
        self.sign = 1 if self.options.priority_order == "lower" else -1
        """What turns a priority into a rank."""
        self.patience = self.options.socket_timeout or None
        """Seconds that any answer may take, unless the connection is told otherwise."""
        self.relaxed = self.options.synchronous_commit or None
        """The commit level of what merely repeats if a crash takes it back: claims, settles, beats."""
        self.known_queues: set[str] = set()
        """Queues that are in the store for sure."""
        self._ready = False
        self._idle: list[Connection] = []
        self._all: weakref.WeakSet[Connection] = weakref.WeakSet()
        self._statements: dict[str, bytes] = {}
        self._lock = threading.Lock()
        _STORES.add(self)

    def sql(self, template: str) -> bytes:
        """The statement with the schema's name in place of ``@``."""
        made = self._statements.get(template)
        if made is None:
            made = self._statements[template] = template.replace("@", f"{self.schema}.").encode()
        return made

    def session(self) -> Connection:
        """Return a connection of the caller's own, not open yet."""
        connection = Connection(self)
        with self._lock:
            self._all.add(connection)
        return connection

    @contextmanager
    def borrowed(self, patient: bool = False) -> Iterator[Connection]:
        """Lend a connection; a ``patient`` one waits for an answer as long as it takes."""
        try:
            connection = self._idle.pop()
        except IndexError:
            connection = self.session()
        connection.patience = None if patient else self.patience
        try:
            yield connection
        finally:
            self._idle.append(connection)

    def read(
        self, sql: str, arguments: Sequence[Any] = (), binary: bool = False, patient: bool = False
    ) -> list[tuple[Any, ...]]:
        """Carry out one statement on a borrowed connection and return its rows."""
        with self.borrowed(patient) as connection:
            return connection.run(sql, arguments, binary)

    def connect(self, conninfo: str | None = None) -> Session:
        """Open a session, and bring the schema into order if that was not done yet."""
        handle = self.open_handle(conninfo)
        try:
            if not self._ready:
                self._prepare(handle)
        except BaseException:
            handle.close()
            raise
        return handle

    def open_handle(self, conninfo: str | None = None) -> Session:
        """Open a session as it is. Raises ``OperationalError``; ``ImproperlyConfigured`` without psycopg."""
        try:
            import psycopg
        except ImportError:
            raise missing_driver() from None
        from celeriac.engines.postgres.session import Session

        try:
            handle = Session.connect(conninfo or self.location.conninfo, autocommit=True)
        except psycopg.Error as error:
            raise translated(error, self.url, sent=False) from error
        if self.options.pooled or not self.options.prepare:
            handle.prepare_threshold = None
        return handle

    def listen(self, channel: str) -> Session | None:
        """Open a session that hears what is announced on a channel; ``None`` if there is nowhere to listen.

        Raises ``OperationalError``.
        """
        import psycopg

        if self.location.listen is None:
            return None
        handle = self.open_handle(self.location.listen)
        handle.patience = self.patience
        try:
            handle.execute(f'LISTEN "{channel}"'.encode())
        except psycopg.Error as error:
            handle.close()
            raise translated(error, self.url, sent=False) from error
        return handle

    def told(self, error: Exception) -> Exception:
        """The driver's error in our words; any other as it is."""
        import psycopg

        return translated(error, self.url, sent=False) if isinstance(error, psycopg.Error) else error

    def close(self) -> None:
        """Close every idle connection."""
        while self._idle:
            self._idle.pop().close()

    def after_fork_in_child(self) -> None:
        """Start afresh: the parent's sessions are not ours."""
        self._lock = threading.Lock()
        self._idle = []
        for connection in list(self._all):
            connection.forget()

    def _prepare(self, handle: Session) -> None:
        import psycopg

        handle.patience = self.patience
        try:
            level = handle.execute("SHOW default_transaction_isolation").fetchall()[0][0]
            if level != "read committed":
                raise OperationalError(
                    f"PostgreSQL at {self.url}: this user's transactions are {level} by default, and the "
                    "store needs them read committed: ALTER ROLE ... SET default_transaction_isolation = "
                    "'read committed'"
                )
            if not schema.version(handle, self.schema):
                handle.patience = None  # others may be making the tables, and have us wait
            schema.check(handle, self.schema, self.url)
        except psycopg.Error as error:
            raise translated(error, self.url, sent=False) from error
        self._ready = True


_STORES: weakref.WeakSet[Store] = weakref.WeakSet()
_INHERITED: list[Any] = []
"""The parent's sessions: kept, for closing one here would end it there."""


def _after_fork_in_child() -> None:
    for store in list(_STORES):
        store.after_fork_in_child()


os.register_at_fork(after_in_child=_after_fork_in_child)
