"""The file as a whole: its connections, its schema, its host, its fate when the process forks."""

from __future__ import annotations

import atexit
import os
import sqlite3
import threading
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import resources

from celeriac.engines.sqlite import clock
from celeriac.engines.sqlite.connection import Connection
from celeriac.engines.sqlite.errors import patiently, translated
from celeriac.engines.sqlite.gate import Gate
from celeriac.engines.sqlite.location import Location
from celeriac.engines.sqlite.news import News
from celeriac.engines.sqlite.wake import Bell
from celeriac.exceptions import OperationalError, SchemaError, StoreFull

MIGRATIONS = (
    "schema.sql",
    "schema_2.sql",
    "bindings.sql",
    "schedules.sql",
    "scopes.sql",
    "remote.sql",
    "history.sql",
)
"""What brings a file from version i to i + 1; append, never change."""

APPLICATION_ID = 0x43454C52
CACHE_KIB = 16_000
LOG_BYTES = 8 << 20
HOST_SILENCE = 30.0
"""Seconds after which a file used by another machine may be taken over."""
BOOT_SHIFT = 40
"""``state.serial`` above this bit counts boots: see schema.sql."""


class Store:
    """Connections to one file, lent to one thread at a time and closed around forks."""

    def __init__(self, location: Location) -> None:
        self.location = location
        self.path = location.path
        self.options = location.options
        self.durable = self.options.synchronous.upper() or "FULL"
        """The commit level of what a client was promised: publishes and operators' orders."""
        self.relaxed = self.options.synchronous.upper() or "NORMAL"
        """The level of what merely repeats if a power cut takes it back: claims, settles, beats."""
        self.sign = 1 if self.options.priority_order == "lower" else -1
        """What turns a priority into a rank."""
        self.bell = Bell(location.folder)
        self.news = News(location.folder)
        self.known_queues: set[str] = set()
        """Queues that are in the file for sure."""
        self.lost: str | None = None
        """Why this process must not open the file any more, if so."""
        self._reserve = str(location.folder / "reserve")
        self._lock = threading.Lock()
        self._ready = False
        self._idle: list[Connection] = []
        self._all: weakref.WeakSet[Connection] = weakref.WeakSet()
        self._held: list[Connection] = []
        """Those whose locks a fork holds."""
        _STORES.add(self)

    # -- connections -----------------------------------------------------------------------------------

    def connect(self) -> Connection:
        """Return a connection of the caller's own, not open yet."""
        connection = Connection(self.path, self._open, self.options.lock_timeout)
        with self._lock:
            self._all.add(connection)
        return connection

    @contextmanager
    def read(self) -> Iterator[sqlite3.Connection]:
        """Borrow a connection for reading."""
        with self._borrowed() as connection, connection.read() as handle:
            yield handle

    @contextmanager
    def write(self, durable: bool = False) -> Iterator[sqlite3.Connection]:
        """Borrow a connection for one transaction, committed at the end."""
        with self._borrowed() as connection:
            try:
                with connection.write(self.durable if durable else self.relaxed) as handle:
                    yield handle
            except StoreFull:
                if not durable:  # a beat, say: the next one must get through
                    self.release_reserve()
                raise

    def close(self) -> None:
        """Close every idle connection."""
        with self._lock:
            idle, self._idle = self._idle, []
        for connection in idle:
            connection.close()

    @contextmanager
    def _borrowed(self) -> Iterator[Connection]:
        try:
            connection = self._idle.pop()
        except IndexError:
            connection = self.connect()
        try:
            yield connection
        finally:
            self._idle.append(connection)

    def _open(self) -> tuple[sqlite3.Connection, Gate]:
        if self.lost:
            raise OperationalError(f"cannot open {self.path}: {self.lost}")
        if not self._ready:
            self.location.check()
        folder = self.location.folder
        try:
            folder.mkdir(exist_ok=True)
            gate = Gate(folder, self.options.lock_timeout)
        except OSError as error:
            raise OperationalError(
                f"cannot open {self.path}: {error.strerror} for {error.filename}. "
                "The store needs to write beside its file: check the directory's permissions"
            ) from error
        try:
            # Opening is done in turn, too: the first one recovers the log, the last one to close removes it.
            gate.enter()
            handle = patiently(self._open_handle, self.options.lock_timeout)
            gate.leave()
            return handle, gate
        except sqlite3.Error as error:
            gate.close()
            raise translated(error, self.path) from error
        except BaseException:
            gate.close()
            raise

    # -- the file --------------------------------------------------------------------------------------

    def _open_handle(self) -> sqlite3.Connection:
        """Open the file and bring it, if need be, into order. The gate is ours."""
        handle = sqlite3.connect(
            self.path, timeout=0, isolation_level=None, check_same_thread=False, cached_statements=256
        )
        try:
            # Distributions build SQLite so that it overwrites what is deleted: 5 % more pages to write.
            handle.execute("PRAGMA secure_delete=OFF")
            handle.execute(f"PRAGMA cache_size=-{CACHE_KIB}")
            handle.execute(
                f"PRAGMA journal_size_limit={LOG_BYTES}"
            )  # a bulk publish makes it longer for once
            (version,) = handle.execute("PRAGMA user_version").fetchone()
            if not self._ready or version != len(MIGRATIONS):  # somebody may have deleted the file meanwhile
                self.known_queues = set()
                _migrate(handle, self.path.name)
                self._register_host(handle)
                self.restore_reserve()
                self._ready = True
        except BaseException:
            handle.close()
            raise
        return handle

    def _register_host(self, handle: sqlite3.Connection) -> None:
        """Claim the file for this machine's boot; a new boot starts a new range of numbers."""
        handle.execute("PRAGMA synchronous=FULL")
        handle.execute("BEGIN IMMEDIATE")
        try:
            boot = self.check_host(handle)
            if boot != clock.boot_id():
                (serial,) = handle.execute("SELECT serial FROM state").fetchone()
                handle.execute("UPDATE state SET serial = ?", (((serial >> BOOT_SHIFT) + 1) << BOOT_SHIFT,))
            self.touch_host(handle)
            handle.execute("COMMIT")
        finally:
            if handle.in_transaction:
                handle.execute("ROLLBACK")

    def check_host(self, handle: sqlite3.Connection) -> str:
        """Return the boot that uses the file; raise ``OperationalError`` if that is another machine."""
        known = dict(handle.execute("SELECT key, value FROM meta"))
        boot = str(known.get("boot", ""))
        quiet = clock.now() - float(known.get("seen", 0))
        if (
            boot not in ("", clock.boot_id())
            and known.get("machine") != clock.machine_id()
            and (abs(quiet) < HOST_SILENCE)
        ):
            raise OperationalError(
                f"{self.path} is in use by another machine ({known.get('machine')}): an SQLite store serves "
                f"one. Use a server (redis://...), or stop it there and wait {HOST_SILENCE:g} s"
            )
        return boot

    def touch_host(self, handle: sqlite3.Connection) -> None:
        """Note that this machine uses the file now."""
        handle.executemany(
            "INSERT OR REPLACE INTO meta (key, value) VALUES (?, ?)",
            [("boot", clock.boot_id()), ("machine", clock.machine_id()), ("seen", clock.now())],
        )

    # -- the reserve -----------------------------------------------------------------------------------

    def restore_reserve(self) -> bool:
        """Set space aside, if it is not; return whether it is. SQLite cannot even settle on a full disk:
        giving the reserve back to the disk is what lets workers go on."""
        if not self.options.reserve or os.path.exists(self._reserve):
            return True
        descriptor = os.open(self._reserve, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(descriptor, 0, self.options.reserve)
            else:
                os.pwrite(descriptor, bytes(self.options.reserve), 0)
        except OSError:
            os.unlink(self._reserve)
            return False
        finally:
            os.close(descriptor)
        return True

    def require_reserve(self) -> None:
        """Raise ``StoreFull`` while workers live on the reserve: it is not for new messages."""
        if not self.restore_reserve():
            raise StoreFull(
                f"the disk of {self.path} is full: nothing is published until there is room "
                "again, so that workers can finish what is stored. Free some space"
            )

    def release_reserve(self) -> bool:
        """Give the reserve to the full disk; return whether there was one."""
        try:
            os.unlink(self._reserve)
        except OSError:
            return False
        return True

    # -- forks -----------------------------------------------------------------------------------------

    def before_fork(self) -> None:
        """Close every handle, and let nobody open one until the fork is done.

        SQLite's locks belong to a process, yet a child inherits the memory that says they are held: a
        handle in a child, even one opened there, would trust locks it does not have.
        """
        self._lock.acquire()
        for connection in list(self._all):
            if connection.lock.acquire(timeout=self.options.lock_timeout):
                self._held.append(connection)
                try:
                    connection.close()
                except (OperationalError, sqlite3.Error):
                    pass  # it counts as open in the child, which will say so

    def after_fork_in_parent(self) -> None:
        """Go on; handles are opened again when they are needed."""
        for connection in self._held:
            connection.lock.release()
        self._held = []
        self._lock.release()

    def after_fork_in_child(self) -> None:
        """Start afresh; a handle that could not be closed before the fork shuts the file for this process."""
        self._lock = threading.Lock()
        self._idle = []
        self._held = []
        for connection in list(self._all):
            if connection.handle is not None:
                _immortalise(connection.handle)
                self.lost = (
                    "this process was forked while its parent had the file open, and SQLite must not use "
                    "it now. Fork when no thread is publishing, or start by exec (spawn)"
                )
            connection.lock = threading.Lock()
            connection.forget()


def _migrate(handle: sqlite3.Connection, name: str) -> None:
    (version,) = handle.execute("PRAGMA user_version").fetchone()
    (application,) = handle.execute("PRAGMA application_id").fetchone()
    (tables,) = handle.execute("SELECT count(*) FROM sqlite_master").fetchone()
    if tables and application != APPLICATION_ID:
        raise SchemaError(f"{name} is another program's SQLite database. Name another file in the URL")
    if version > len(MIGRATIONS):
        raise SchemaError(
            f"{name} has schema version {version}, written by a newer Celeriac; this one knows "
            f"{len(MIGRATIONS)}. Upgrade Celeriac here too"
        )
    if not tables:
        handle.execute("PRAGMA auto_vacuum=INCREMENTAL")  # has an effect only before the first table
    handle.execute("PRAGMA journal_mode=WAL")
    for number, script in enumerate(MIGRATIONS[version:], version + 1):
        sql = resources.files(__package__).joinpath(script).read_text("utf-8")
        handle.executescript(
            f"BEGIN IMMEDIATE; {sql} PRAGMA application_id={APPLICATION_ID}; "
            f"PRAGMA user_version={number}; COMMIT;"
        )


def _immortalise(handle: sqlite3.Connection) -> None:
    """Keep a parent's handle from ever being closed here, even by the interpreter's end."""
    import ctypes

    ctypes.pythonapi.Py_IncRef(ctypes.py_object(handle))


_STORES: weakref.WeakSet[Store] = weakref.WeakSet()


_FORKING: list[Store] = []
"""The stores that wait for the end of a fork."""


def _before_fork() -> None:
    _FORKING[:] = _STORES
    for store in _FORKING:
        store.before_fork()


def _after_fork_in_parent() -> None:
    for store in _FORKING:
        store.after_fork_in_parent()
    _FORKING.clear()


def _after_fork_in_child() -> None:
    for store in list(_STORES):  # not only those of before: C code may fork without saying so first
        store.after_fork_in_child()
    _FORKING.clear()


def _at_exit() -> None:
    # The interpreter would close the handles too, but out of turn.
    _before_fork()
    _after_fork_in_parent()


os.register_at_fork(
    before=_before_fork, after_in_parent=_after_fork_in_parent, after_in_child=_after_fork_in_child
)
atexit.register(_at_exit)
