"""The client's side of results: the pipe that tells of them, and the thread that reads it."""

from __future__ import annotations

import logging
import os
import time

from celeriac.engines import listener
from celeriac.engines.readiness import drain, readable
from celeriac.engines.sqlite.news import FULL
from celeriac.engines.sqlite.store import Store
from celeriac.exceptions import CeleriacError

logger = logging.getLogger(__name__)

POLL = 1.0
"""Seconds between two looks at everything that is waited for; the pipe makes it fast, this makes it sure."""


class Listener(listener.Listener):
    """A process's subscriptions, its pipe and its thread."""

    _name: str

    def __init__(self, store: Store, fetch: listener.Fetch) -> None:
        self._store = store
        super().__init__(fetch)

    def address(self) -> str:
        """The name of the pipe; results that name it are announced there."""
        with self._guard():
            self._start()
            return self._name

    def _open(self) -> None:
        with self._store.read():  # makes the folder, and says it here if the store cannot be opened
            pass
        self._name, self._bell = self._store.news.listen()

    def _shut(self) -> None:
        self._store.news.unlisten(self._name, self._bell)

    def _abandon(self) -> None:
        if self._bell >= 0:
            os.close(self._bell)

    def _run(self) -> None:
        next_look = time.monotonic() + POLL
        rest = b""
        while not self._closing:
            with self._lock:
                idle = not self._interested
            # Nobody waits: sleep until somebody does, at no cost.
            readable([self._bell], None if idle else max(0.0, next_look - time.monotonic()))
            data = self._drain()
            *lines, rest = (rest + data).split(b"\n")
            look = len(data) >= FULL or time.monotonic() >= next_look
            if look:
                next_look = time.monotonic() + POLL
            try:
                self._report({line.decode("utf-8", "replace") for line in lines if line}, look)
            except CeleriacError:
                logger.warning("Results cannot be read now; looking again in %g s", POLL, exc_info=True)

    def _drain(self) -> bytes:
        data = b""
        while len(data) < FULL:
            more = drain(self._bell, FULL)
            if not more:
                break
            data += more
        return data
