"""The client's side of results: subscriptions, and the thread that serves them."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Iterable, Sequence

from celeriac.engines.readiness import drain, readable
from celeriac.engines.sqlite.news import FULL
from celeriac.engines.sqlite.store import Store
from celeriac.exceptions import CeleriacError

logger = logging.getLogger(__name__)

POLL = 1.0
"""Seconds between two looks at everything that is waited for; the pipe makes it fast, this makes it sure."""

Callback = Callable[[str, bytes], None]
Fetch = Callable[[Store, Sequence[str]], dict[str, bytes]]


class SQLiteSubscription:
    """Interest in results, until it is closed."""

    def __init__(
        self, ids: Sequence[str], callback: Callback, close: Callable[[SQLiteSubscription], None]
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
    """A process's subscriptions, its pipe and its thread: made when first needed, gone after a fork."""

    _lock: threading.Lock
    _thread: threading.Thread | None
    _closing: bool
    _name: str
    _pipe: int
    _interested: dict[str, list[SQLiteSubscription]]
    _fresh: list[SQLiteSubscription]

    def __init__(self, store: Store, fetch: Fetch) -> None:
        self._store = store
        self._fetch = fetch
        self._pid = os.getpid()
        self._reset()

    def address(self) -> str:
        """The name of the pipe; results that name it are announced there."""
        with self._guard():
            self._start()
            return self._name

    def subscribe(self, ids: Iterable[str], callback: Callback) -> SQLiteSubscription:
        """Register interest; the thread reports first what is stored already."""
        subscription = SQLiteSubscription(list(dict.fromkeys(ids)), callback, self._remove)
        with self._guard():
            self._start()
            for id in subscription.ids:
                self._interested.setdefault(id, []).append(subscription)
            self._fresh.append(subscription)
        self._nudge()
        return subscription

    def close(self) -> None:
        """End the thread and remove the pipe."""
        with self._guard():
            thread, self._thread = self._thread, None
            self._closing = True
        if thread is not None:
            self._nudge()
            if thread is not threading.current_thread():
                thread.join()
            self._store.news.unlisten(self._name, self._pipe)
        self._reset()

    # -- the subscribers' side -------------------------------------------------------------------------

    def _reset(self) -> None:
        self._lock = threading.Lock()
        self._thread = None
        self._closing = False
        self._name = ""
        self._pipe = -1
        self._interested = {}
        self._fresh = []

    def _guard(self) -> threading.Lock:
        if self._pid != os.getpid():
            # Forked: the parent's thread is not here, and its pipe is not ours.
            if self._pipe >= 0:
                os.close(self._pipe)
            self._pid = os.getpid()
            self._reset()
        return self._lock

    def _start(self) -> None:
        if self._thread is None:
            with self._store.read():  # makes the folder, and says it here if the store cannot be opened
                pass
            self._name, self._pipe = self._store.news.listen()
            self._thread = threading.Thread(target=self._run, name="celeriac-sqlite-results", daemon=True)
            self._thread.start()

    def _nudge(self) -> None:
        try:
            os.write(self._pipe, b"\n")
        except BlockingIOError:
            pass  # full: the thread has enough to wake it

    def _remove(self, subscription: SQLiteSubscription) -> None:
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
        next_look = time.monotonic() + POLL
        rest = b""
        while not self._closing:
            with self._lock:
                idle = not self._interested
            # Nobody waits: sleep until somebody does, at no cost.
            readable([self._pipe], None if idle else max(0.0, next_look - time.monotonic()))
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
            more = drain(self._pipe, FULL)
            if not more:
                break
            data += more
        return data

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
