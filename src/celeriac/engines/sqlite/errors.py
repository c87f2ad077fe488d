"""SQLite's errors in our words: what happened to which file, and what to do."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from celeriac.exceptions import CeleriacError, OperationalError, SchemaError, StoreFull

T = TypeVar("T")

_REMEDIES: dict[int, tuple[type[CeleriacError], str]] = {
    sqlite3.SQLITE_BUSY: (
        OperationalError,
        "is locked by another program. Close what has it open (an sqlite3 shell, a backup), "
        "or raise ?lock_timeout=<seconds> in the URL",
    ),
    sqlite3.SQLITE_LOCKED: (OperationalError, "is locked within this process. Report this as a bug"),
    sqlite3.SQLITE_READONLY: (
        OperationalError,
        "is read-only for this user. Make the file and its directory writable",
    ),
    sqlite3.SQLITE_PERM: (OperationalError, "may not be opened by this user. Change its permissions"),
    sqlite3.SQLITE_FULL: (
        StoreFull,
        "has no room left on its disk. Free some space: nothing is lost, and workers go on by themselves",
    ),
    sqlite3.SQLITE_CANTOPEN: (
        OperationalError,
        "cannot be opened. Check that its directory exists and is writable for this user",
    ),
    sqlite3.SQLITE_NOTADB: (SchemaError, "is not an SQLite database. Name another file in the URL"),
    sqlite3.SQLITE_CORRUPT: (
        SchemaError,
        "is damaged. Stop the workers, then rescue it with `sqlite3 FILE .recover` or restore a backup",
    ),
    sqlite3.SQLITE_IOERR: (
        OperationalError,
        "cannot be read or written. Look for disk errors in the system's log",
    ),
}


def translated(error: sqlite3.Error, path: Path) -> CeleriacError:
    """Return the error to raise for ``error``, naming the file and the remedy."""
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    kind, remedy = _REMEDIES.get(code, (OperationalError, "failed"))
    return kind(f"the SQLite store {path} {remedy} (SQLite says: {error})")


def patiently(work: Callable[[], T], timeout: float) -> T:
    """Do ``work`` again while a foreign program (a shell, a backup) is in its way, up to ``timeout`` seconds.

    Our own processes never are: they take turns at the gate. SQLite's own waiting sleeps longer and longer.
    """
    deadline = None
    while True:
        try:
            return work()
        except sqlite3.OperationalError as error:
            clock = time.monotonic()
            deadline = clock + timeout if deadline is None else deadline
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or clock >= deadline:
                raise
        time.sleep(0.002)
