"""The client's side of results: subscriptions, and the thread that serves them."""

from __future__ import annotations

import logging
import os
import secrets
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

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

Callback = Callable[[str, bytes], None]
Fetch = Callable[[Store, Sequence[str]], dict[str, bytes]]


class PostgresSubscription:
    """Interest in results, until it is closed."""

    def __init__(
        self, ids: Sequence[str], callback: Callback, close: Callable[[PostgresSubscription], None]
    ) -> None:
        self.ids = ids
        self.told: dict[str, bytes] = {}
        """The state last reported of each id."""
        self._callback = callback
        self._close = close

    def close(self) -> None:
        """Stop listening. Safe to call twice."""
        self._close(self)

    def tell(self, id: str, payload: bytes) -> None:
        """Report a state that was not reported yet."""
        if self.told.get(id) != payload:
            self.told[id] = payload
            try:
                self._callback(id, payload)
            except Exception:
                logger.exception(
                    "A result subscriber's callback raised; it is called again for the next state"
                )


class Listener:
    """A process's subscriptions, its channel and its thread: made when first needed, gone after a fork."""

    _lock: threading.Lock
    _thread: threading.Thread | None
    _closing: bool
    _name: str
    _pipe: tuple[int, int]
    _interested: dict[str, list[PostgresSubscription]]
    _fresh: list[PostgresSubscription]
    _ear: psycopg.Connection[Any] | None

    def __init__(self, store: Store, fetch: Fetch) -> None:
        self._store = store
        self._fetch = fetch
        self._pid = os.getpid()
        self._reset()

    def address(self) -> str:
        """The name of the channel; results that name it are announced there."""
        with self._guard():
            return self._name

    def subscribe(self, ids: Iterable[str], callback: Callback) -> PostgresSubscription:
        """Register interest; the thread reports first what is stored already."""
        subscription = PostgresSubscription(list(dict.fromkeys(ids)), callback, self._remove)
        with self._guard():
            self._start()
            for id in subscription.ids:
                self._interested.setdefault(id, []).append(subscription)
            self._fresh.append(subscription)
        self._nudge()
        return subscription

    def close(self) -> None:
        """End the thread and its connection."""
        with self._guard():
            thread, self._thread = self._thread, None
            self._closing = True
        if thread is not None:
            self._nudge()
            if thread is not threading.current_thread():
                thread.join()
            self._hang_up()
            for descriptor in self._pipe:
                os.close(descriptor)
        self._reset()

    # -- the subscribers' side -------------------------------------------------------------------------

    def _reset(self) -> None:
        self._lock = threading.Lock()
        self._thread = None
        self._closing = False
        self._name = f"{self._store.schema}_{secrets.token_hex(8)}"
        self._pipe = (-1, -1)
        self._interested = {}
        self._fresh = []
        self._ear = None
        self._registered = 0.0

    def _guard(self) -> threading.Lock:
        if self._pid != os.getpid():
            # Forked: the parent's thread is not here, and its connection is not ours.
            if self._pipe[0] >= 0:
                for descriptor in self._pipe:
                    os.close(descriptor)
            _INHERITED.append(self._ear)
            self._pid = os.getpid()
            self._reset()
        return self._lock

    def _start(self) -> None:
        if self._thread is None:
            self._register()  # says it here if the store cannot be opened
            read, write = os.pipe()
            os.set_blocking(read, False)
            os.set_blocking(write, False)
            self._pipe = (read, write)
            self._thread = threading.Thread(target=self._run, name="celeriac-postgres-results", daemon=True)
            self._thread.start()

    def _nudge(self) -> None:
        try:
            os.write(self._pipe[1], b"\n")
        except BlockingIOError:
            pass  # full: the thread has enough to wake it

    def _remove(self, subscription: PostgresSubscription) -> None:
        with self._guard():
            for id in subscription.ids:
                others = [other for other in self._interested.get(id, ()) if other is not subscription]
                if others:
                    self._interested[id] = others
                else:
                    self._interested.pop(id, None)
            subscription.ids = ()

    # -- the thread ------------------------------------------------------------------------------------

    def _run(self) -> None:
        poll = self._store.options.poll
        next_look = time.monotonic() + poll
        while not self._closing:
            with self._lock:
                idle = not self._interested
            descriptors = [self._pipe[0]]
            if self._ear is not None:
                descriptors.append(self._ear.fileno())
            # Nobody waits: sleep until somebody does, at no cost.
            nap = (LINGER if self._registered else None) if idle else max(0.0, next_look - time.monotonic())
            moved = readable(descriptors, nap)
            drain(self._pipe[0])
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
        """The ids announced, and whether something may have been missed."""
        import psycopg

        missed = False
        if self._ear is None or self._ear.closed:
            self._ear = None
            if self._store.location.listen is None or self._closing:
                return set(), False
            ear = self._store.open_handle(self._store.location.listen)
            ear.execute(f'LISTEN "{self._name}"'.encode())
            self._ear, missed = ear, True
        told: set[str] = set()
        try:
            for note in self._ear.notifies(timeout=0):
                told.update(note.payload[1:].split("\n"))
                missed = missed or note.payload == "r"
        except psycopg.Error:
            self._hang_up()
            missed = True
        return told, missed

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

    def _report(self, told: set[str], look: bool) -> None:
        with self._lock:
            fresh, self._fresh = self._fresh, []
            wanted = set(self._interested) if look else told & self._interested.keys()
            for subscription in fresh:
                wanted.update(subscription.ids)
        if not wanted:
            return
        for id, payload in self._fetch(self._store, list(wanted)).items():
            with self._lock:
                subscriptions = list(self._interested.get(id, ()))
            for subscription in subscriptions:
                subscription.tell(id, payload)


_INHERITED: list[Any] = []
"""Connections of a parent process: kept, for closing one here would end it there."""
