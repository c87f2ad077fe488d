"""One connection to the file, opened when first used, with its turn at the gate for writing."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from celeriac.engines.sqlite.errors import patiently, translated
from celeriac.engines.sqlite.gate import Gate


class Connection:
    """A handle and a place at the gate; one thread at a time (``lock`` sees to it).

    ``opener`` returns a fresh handle and gate, or raises. Between two uses the handle may be closed by the
    fork hook (:mod:`celeriac.engines.sqlite.store`); the next use opens another.
    """

    def __init__(
        self, path: Path, opener: Callable[[], tuple[sqlite3.Connection, Gate]], lock_timeout: float
    ) -> None:
        self.lock = threading.Lock()
        self.handle: sqlite3.Connection | None = None
        self._gate: Gate | None = None
        self._path = path
        self._opener = opener
        self._lock_timeout = lock_timeout
        self._synchronous = ""

    @contextmanager
    def read(self) -> Iterator[sqlite3.Connection]:
        """Give the handle for reading; no gate: readers and the writer do not disturb one another."""
        with self.lock:
            handle, _ = self._open()
            try:
                yield handle
            except sqlite3.Error as error:
                raise translated(error, self._path) from error

    @contextmanager
    def write(self, synchronous: str) -> Iterator[sqlite3.Connection]:
        """Give the handle within one transaction, committed at the end, rolled back on an error."""
        with self.lock:
            handle, gate = self._open()
            try:
                if synchronous != self._synchronous:
                    handle.execute(f"PRAGMA synchronous={synchronous}")
                    self._synchronous = synchronous
                # Within try: an exception from a signal handler must not leave the gate shut.
                gate.enter()
                patiently(lambda: handle.execute("BEGIN IMMEDIATE"), self._lock_timeout)
                yield handle
                handle.execute("COMMIT")
            except sqlite3.Error as error:
                raise translated(error, self._path) from error
            finally:
                try:
                    if handle.in_transaction:
                        handle.execute("ROLLBACK")
                finally:
                    gate.leave()

    def close(self) -> None:
        """Close the handle and the gate; the next use opens them again. The lock must be held or free."""
        if self.handle is None or self._gate is None:
            return
        # The last one to close writes the log back into the file: that is a writer's work as well.
        self._gate.enter()
        self.handle.close()
        self._gate.leave()
        self._gate.close()
        self.forget()

    def forget(self) -> None:
        """Drop handle and gate without touching them."""
        self.handle = self._gate = None
        self._synchronous = ""

    def _open(self) -> tuple[sqlite3.Connection, Gate]:
        if self.handle is None or self._gate is None:
            self.handle, self._gate = self._opener()
        return self.handle, self._gate
