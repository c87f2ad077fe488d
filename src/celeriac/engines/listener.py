"""Waiting for results that are read from a store: the subscriptions of a process, and their thread.

What tells the thread that there is something to read is each engine's own.
"""

from __future__ import annotations

import logging
import os
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence

logger = logging.getLogger(__name__)

Callback = Callable[[str, bytes], None]
Fetch = Callable[[Sequence[str]], dict[str, bytes]]


class Interest:
    """Interest in results (:class:`celeriac.engines.results.Subscription`)."""

    def __init__(self, ids: Sequence[str], callback: Callback, close: Callable[[Interest], None]) -> None:
        self.ids = ids
        self._told: dict[str, bytes] = {}
        self._callback = callback
        self._close = close

    def close(self) -> None:
        """Stop listening. Safe to call twice."""
        self._close(self)

    def tell(self, id: str, payload: bytes) -> None:
        """Report a state, unless it was the last one reported."""
        if self._told.get(id) != payload:
            self._told[id] = payload
            try:
                self._callback(id, payload)
            except Exception:
                logger.exception(
                    "A result subscriber's callback raised; it is called again for the next state"
                )


class Listener(ABC):
    """A process's subscriptions and its thread: made when first needed, gone after a fork."""

    _lock: threading.Lock
    _thread: threading.Thread | None
    _closing: bool
    _bell: int
    """The end for writing of the thread's own pipe; -1 if there is none."""
    _interested: dict[str, list[Interest]]
    _fresh: list[Interest]
    """Those to be told yet what is stored already."""

    def __init__(self, fetch: Fetch) -> None:
        self._fetch = fetch
        self._pid = os.getpid()
        self._reset()

    def subscribe(self, ids: Iterable[str], callback: Callback) -> Interest:
        """Register interest; the thread reports first what is stored already."""
        interest = Interest(list(dict.fromkeys(ids)), callback, self._remove)
        with self._guard():
            self._start()
            for id in interest.ids:
                self._interested.setdefault(id, []).append(interest)
            self._fresh.append(interest)
        self._nudge()
        return interest

    def close(self) -> None:
        """End the thread and what it listens with; the next subscription begins anew."""
        with self._guard():
            thread, self._thread = self._thread, None
            self._closing = True
        if thread is not None:
            self._nudge()
            if thread is not threading.current_thread():
                thread.join()
            self._shut()
        self._reset()

    # -- an engine's own -------------------------------------------------------------------------------

    @abstractmethod
    def _open(self) -> None:
        """Make ready what the thread listens with, and ``_bell``. Raises if the store cannot be opened."""

    @abstractmethod
    def _run(self) -> None:
        """The thread: :meth:`_report` what is heard of, until ``_closing``."""

    @abstractmethod
    def _shut(self) -> None:
        """Undo :meth:`_open`; the thread has ended."""

    @abstractmethod
    def _abandon(self) -> None:
        """In a forked child: let go of the parent's things without ending them there."""

    # -- shared ----------------------------------------------------------------------------------------

    def _reset(self) -> None:
        self._lock = threading.Lock()
        self._thread = None
        self._closing = False
        self._bell = -1
        self._interested = {}
        self._fresh = []

    def _guard(self) -> threading.Lock:
        if self._pid != os.getpid():
            self._abandon()
            self._pid = os.getpid()
            self._reset()
        return self._lock

    def _start(self) -> None:
        """Start the thread if there is none. The caller holds the lock."""
        if self._thread is None:
            self._open()
            self._thread = threading.Thread(target=self._run, name="celeriac-results", daemon=True)
            self._thread.start()

    def _nudge(self) -> None:
        try:
            os.write(self._bell, b"\n")
        except BlockingIOError:
            pass  # full: the thread has enough to wake it

    def _remove(self, interest: Interest) -> None:
        with self._guard():
            for id in interest.ids:
                others = [other for other in self._interested.get(id, ()) if other is not interest]
                if others:
                    self._interested[id] = others
                else:
                    self._interested.pop(id, None)
            interest.ids = ()

    def _report(self, told: set[str], look: bool) -> None:
        """Read the states of those in ``told``, or with ``look`` of all that are waited for; pass them on."""
        with self._lock:
            fresh, self._fresh = self._fresh, []
            wanted = set(self._interested) if look else told & self._interested.keys()
            for interest in fresh:
                wanted.update(interest.ids)
        if wanted:
            self._pass_on(self._fetch(list(wanted)))

    def _pass_on(self, found: Mapping[str, bytes]) -> None:
        """Tell those who wait of states."""
        for id, payload in found.items():
            with self._lock:
                interests = list(self._interested.get(id, ()))
            for interest in interests:
                interest.tell(id, payload)
