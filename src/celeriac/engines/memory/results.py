"""The memory engine as a result backend: states, their announcement, and what is known of an id."""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable, Iterable, Sequence

from celeriac.engines.history import Attempt
from celeriac.engines.memory.history import note
from celeriac.engines.memory.state import Kept, Store
from celeriac.engines.results import Presence, ResultRecord
from celeriac.states import SUCCESS

logger = logging.getLogger(__name__)

Callback = Callable[[str, bytes], None]


def keep(store: Store, record: ResultRecord) -> bool:
    """Store and announce a state; return whether it was (``ResultBackend.store`` says what is refused)."""
    if record.lease and not store.held(*record.lease):
        return False
    now = store.clock()
    old = store.results.get(record.id)
    if old and old.record.state == SUCCESS and not _expired(old, now):
        return False
    store.results[record.id] = Kept(record, None if record.ttl is None else now + record.ttl)
    store.queued.pop(record.id, None)
    for subscription in store.listeners.get(record.id, []):
        subscription.announce(record.id, record.payload)
    return True


def _expired(kept: Kept, now: float) -> bool:
    return kept.expires is not None and kept.expires <= now


class MemorySubscription:
    """Interest in results, until it is closed."""

    def __init__(self, store: Store, ids: Sequence[str], callback: Callback, caller: Caller) -> None:
        self._store = store
        self._ids = ids
        self._callback = callback
        self._caller = caller
        self._open = True

    def start(self) -> None:
        """Listen, beginning with what is stored already. The caller holds the store's lock."""
        for task_id in self._ids:
            self._store.listeners.setdefault(task_id, []).append(self)
            kept = self._store.results.get(task_id)
            if kept and not _expired(kept, self._store.clock()):
                self.announce(task_id, kept.record.payload)

    def announce(self, task_id: str, payload: bytes) -> None:
        """Have the callback called with a state, from the engine's thread."""
        self._caller.call(lambda: self._callback(task_id, payload) if self._open else None)

    def close(self) -> None:
        """Stop listening."""
        self._open = False
        with self._store.lock:
            for task_id in self._ids:
                listeners = self._store.listeners.get(task_id, [])
                if self in listeners:
                    listeners.remove(self)
                if not listeners:
                    self._store.listeners.pop(task_id, None)


class Caller:
    """The thread from which an engine calls its subscribers; it starts with the first call."""

    def __init__(self) -> None:
        self._calls: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._open = True

    def call(self, function: Callable[[], None]) -> None:
        """Call ``function`` from the thread, in order; a closed engine calls nobody any more."""
        if not self._open:
            return
        # A forked child has the object but not the thread: it starts one of its own.
        if self._thread is None or not self._thread.is_alive():
            self._thread = threading.Thread(target=self._run, name="celeriac-memory-results", daemon=True)
            self._thread.start()
        self._calls.put(function)

    def close(self) -> None:
        """End the thread after the calls that wait already."""
        self._open = False
        self._calls.put(None)
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join()

    def _run(self) -> None:
        while function := self._calls.get():
            try:
                function()
            except Exception:
                logger.exception(
                    "A result subscriber's callback raised; it is called again for the next state"
                )


class MemoryResults:
    """The part of the engine that is a :class:`celeriac.engines.results.ResultBackend`."""

    state: Store
    tombstone_expires: float
    history_max: int
    _caller: Caller

    def store(self, records: Sequence[ResultRecord], attempts: Sequence[Attempt] = ()) -> list[str]:
        """Store and announce states, and note attempts; return the ids that were refused."""
        with self.state.lock:
            note(self.state, attempts, self.history_max)
            self._expire(record.id for record in records)
            return [record.id for record in records if not keep(self.state, record)]

    def fetch(self, ids: Sequence[str]) -> dict[str, bytes]:
        """The stored payloads."""
        with self.state.lock:
            self._expire(ids)
            results = self.state.results
            return {task_id: results[task_id].record.payload for task_id in ids if task_id in results}

    def subscribe(self, ids: Iterable[str], callback: Callback) -> MemorySubscription:
        """Call ``callback`` for every state stored already and to come."""
        with self.state.lock:
            subscription = MemorySubscription(self.state, list(dict.fromkeys(ids)), callback, self._caller)
            subscription.start()
            return subscription

    def forget(self, ids: Sequence[str]) -> None:
        """Delete results, and that there ever were any."""
        with self.state.lock:
            for task_id in ids:
                for known in (self.state.results, self.state.queued, self.state.tombstones):
                    known.pop(task_id, None)

    def presence(self, ids: Sequence[str]) -> dict[str, Presence]:
        """What is known of each id."""
        with self.state.lock:
            self._expire(ids)
            return {task_id: self._presence(task_id) for task_id in ids}

    def _presence(self, task_id: str) -> Presence:
        now = self.state.clock()
        if task_id in self.state.results:
            return Presence.KNOWN
        if self.state.queued.get(task_id, now) > now:
            return Presence.QUEUED
        if self.state.tombstones.get(task_id, now) > now:
            return Presence.EXPIRED
        return Presence.UNKNOWN

    def reply_address(self) -> str | None:
        """None is needed: everybody who listens is in this process."""
        return None

    def cleanup(self) -> int:
        """Delete expired results, and what has been remembered of them for long enough."""
        with self.state.lock:
            now = self.state.clock()
            for known in (self.state.queued, self.state.tombstones):
                for task_id in [task_id for task_id, until in known.items() if until <= now]:
                    del known[task_id]
            return self._expire(list(self.state.results))

    def _expire(self, ids: Iterable[str]) -> int:
        """Delete those of ``ids`` that have expired, leaving their tombstones; return how many."""
        now = self.state.clock()
        count = 0
        for task_id in ids:
            kept = self.state.results.get(task_id)
            if kept and kept.expires is not None and kept.expires <= now:
                del self.state.results[task_id]
                self.state.tombstones[task_id] = kept.expires + self.tombstone_expires
                count += 1
        return count
