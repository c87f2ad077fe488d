"""The client's side of results: the channel that tells of them, and the thread that listens to it."""

from __future__ import annotations

import logging
import os
import secrets
import time
from base64 import b64decode
from typing import TYPE_CHECKING, Any

from celeriac.engines import listener
from celeriac.engines.postgres.store import Store
from celeriac.engines.readiness import drain, readable
from celeriac.exceptions import CeleriacError

if TYPE_CHECKING:
    import psycopg

logger = logging.getLogger(__name__)

REGISTER_AGAIN = 20.0
"""Seconds between two signs of life; storing sides forget a listener after three of them."""

LINGER = 5.0
"""Seconds without a subscriber after which nothing is announced here any more."""

_REGISTER = """INSERT INTO @listener (channel, seen) VALUES (%s, @now())
ON CONFLICT (channel) DO UPDATE SET seen = excluded.seen"""
_UNREGISTER = "DELETE FROM @listener WHERE channel = %s"


class Listener(listener.Listener):
    """A process's subscriptions, its channel and its thread."""

    _name: str
    _pipe: int
    _ear: psycopg.Connection[Any] | None
    _registered: float
    """When we last said that we listen, by the monotonic clock; 0: we do not."""

    def __init__(self, store: Store, fetch: listener.Fetch) -> None:
        self._store = store
        super().__init__(fetch)

    def address(self) -> str:
        """The name of the channel; results that name it are announced there while somebody waits here."""
        with self._guard():
            return self._name

    def _reset(self) -> None:
        super()._reset()
        self._name = f"{self._store.schema}_{secrets.token_hex(8)}"
        self._pipe = -1
        self._ear = None
        self._registered = 0.0

    def _open(self) -> None:
        self._register()  # says it here if the store cannot be opened
        self._pipe, self._bell = os.pipe()
        os.set_blocking(self._pipe, False)
        os.set_blocking(self._bell, False)

    def _shut(self) -> None:
        self._hang_up()
        os.close(self._pipe)
        os.close(self._bell)

    def _abandon(self) -> None:
        if self._bell >= 0:
            os.close(self._pipe)
            os.close(self._bell)
        _INHERITED.append(self._ear)

    def _run(self) -> None:
        poll = self._store.options.poll
        next_look = time.monotonic() + poll
        while not self._closing:
            with self._lock:
                idle = not self._interested
            descriptors = [self._pipe]
            if self._ear is not None:
                descriptors.append(self._ear.fileno())
            # Nobody waits: sleep until somebody does, at no cost.
            nap = (LINGER if self._registered else None) if idle else max(0.0, next_look - time.monotonic())
            moved = readable(descriptors, nap)
            drain(self._pipe)
            try:
                told, look = self._hear()
                if idle and not self._fresh:
                    if not moved:
                        self._unregister()
                    continue
                if time.monotonic() - self._registered > REGISTER_AGAIN:
                    look = True  # whatever was stored before went unannounced
                    self._register()
                if look or time.monotonic() >= next_look:
                    look, next_look = True, time.monotonic() + poll
                self._report(told, look)
            except CeleriacError:
                logger.warning("Results cannot be read now; looking again in %g s", poll, exc_info=True)
                next_look = time.monotonic() + poll

    def _hear(self) -> tuple[set[str], bool]:
        """The ids announced without their states, and whether something may have been missed."""
        import psycopg

        missed = False
        if self._ear is None or self._ear.closed:
            self._ear = None
            if not self._closing:
                self._ear = self._listen()
            if self._ear is None:
                return set(), False
            missed = True
        told: set[str] = set()
        try:
            for note in self._ear.notifies(timeout=0):
                if note.payload.startswith("p"):
                    payload, _, id = note.payload[1:].partition("\n")
                    self._pass_on({id: b64decode(payload)})
                else:
                    told.update(note.payload[1:].split("\n"))
                    missed = missed or note.payload == "r"
        except psycopg.Error:
            self._hang_up()
            missed = True
        return told, missed

    def _listen(self) -> psycopg.Connection[Any] | None:
        try:
            return self._store.listen(self._name)
        except CeleriacError:
            logger.warning(
                "Results are not announced here now; looking every %g s",
                self._store.options.poll,
                exc_info=True,
            )
            return None

    def _hang_up(self) -> None:
        ear, self._ear = self._ear, None
        if ear is not None:
            ear.close()
        try:
            self._unregister()
        except CeleriacError:
            pass  # it is forgotten in time

    def _register(self) -> None:
        if self._store.location.listen is not None:
            self._store.read(_REGISTER, (self._name,))
        self._registered = time.monotonic()

    def _unregister(self) -> None:
        """While nobody waits nothing needs to be announced here."""
        if self._registered:
            self._registered = 0.0
            if self._store.location.listen is not None:
                self._store.read(_UNREGISTER, (self._name,))


_INHERITED: list[Any] = []
"""Connections of a parent process: kept, for closing one here would end it there."""
