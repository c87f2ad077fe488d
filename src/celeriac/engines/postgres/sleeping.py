"""How a consumer sleeps until a message is ready: its entry among the sleepers, and notifications.

Who makes a message ready takes as many sleepers off the list as there are messages, and notifies just them:
so nobody is notified while all are busy (a notification takes a lock on the whole server at its commit), and
the first one after a quiet time is not delayed. All of it is a hint: sleepers look by themselves as well.
"""

from __future__ import annotations

import secrets
import time
from typing import TYPE_CHECKING, Any

from celeriac.engines.postgres.store import Connection, Store
from celeriac.engines.readiness import readable

if TYPE_CHECKING:
    import psycopg

RECHECK = 0.02
"""Seconds after lying down at which to look again: who published just then may not have seen the entry."""
CALLED = "w"
"""How a call begins whose caller has taken the sleeper off the list."""

_LIE_DOWN = """INSERT INTO @waiter (id, owner, channel, queues)
VALUES (nextval('@serial'), %s, %s, %s) RETURNING id"""
_GET_UP = (
    "DELETE FROM @waiter WHERE id = ANY (ARRAY(SELECT id FROM @waiter WHERE id = %s FOR UPDATE SKIP LOCKED))"
)
_LOOK = """WITH open AS MATERIALIZED (
    SELECT q FROM unnest(%s::text[]) q WHERE NOT EXISTS (SELECT 1 FROM @paused p WHERE p.queue = q))
SELECT EXISTS (SELECT 1 FROM open WHERE EXISTS (
        SELECT 1 FROM @message m WHERE m.state = 0 AND m.queue = q ORDER BY m.queue, m.rank, m.seq LIMIT 1)),
    @next_due(ARRAY(SELECT q FROM open), @now()) - @now(),
    EXISTS (SELECT 1 FROM @waiter WHERE id = %s)"""


class Sleeper:
    """One consumer's sleep; its notifications arrive on a connection of its own."""

    def __init__(self, store: Store, owner: int) -> None:
        self._store = store
        self._owner = owner
        self._channel = f"{store.schema}_{secrets.token_hex(8)}"
        self._ear: psycopg.Connection[Any] | None = None

    def wait(self, connection: Connection, queues: list[str], timeout: float, wakeup_fd: int | None) -> bool:
        """See :meth:`celeriac.engines.base.Consumer.wait`; ``connection`` is the consumer's."""
        deadline = time.monotonic() + timeout
        self._listen()
        entry = self._lie_down(connection, queues)
        recheck = time.monotonic() + RECHECK
        try:
            while True:
                ready, due, listed = connection.run(_LOOK, (queues, entry))[0]
                if ready or (due is not None and due <= 0):
                    return True
                if self._ear is not None and not listed:
                    entry = 0
                    if self._heard():
                        return True
                    entry = self._lie_down(connection, queues)  # the list was lost with the server
                clock = time.monotonic()
                nap = recheck - clock if clock < recheck else self._store.options.poll
                nap = min(nap, deadline - clock, nap if due is None else due)
                called = self._sleep(max(0.0, nap), wakeup_fd)
                if called:
                    if CALLED in called:
                        entry = 0  # who called has taken it off the list
                    return True
                if nap >= deadline - clock or (wakeup_fd is not None and readable([wakeup_fd], 0)):
                    return False
        finally:
            if entry:
                connection.run(_GET_UP, (entry,))

    def close(self) -> None:
        """Hear nothing any more."""
        ear, self._ear = self._ear, None
        if ear is not None:
            ear.close()

    def _lie_down(self, connection: Connection, queues: list[str]) -> int:
        if self._ear is None:
            return 0
        return int(connection.run(_LIE_DOWN, (self._owner, self._channel, queues))[0][0])

    def _listen(self) -> None:
        if self._ear is not None and self._ear.closed:
            self._ear = None
        if self._ear is None:
            self._ear = self._store.listen(self._channel)

    def _sleep(self, seconds: float, wakeup_fd: int | None) -> set[str]:
        """Return how we were called, if we were."""
        descriptors = [] if self._ear is None else [self._ear.fileno()]
        if wakeup_fd is not None:
            descriptors.append(wakeup_fd)
        if not descriptors:
            time.sleep(seconds)
            return set()
        ready = readable(descriptors, seconds)
        return self._heard() if self._ear is not None and self._ear.fileno() in ready else set()

    def _heard(self) -> set[str]:
        """Take in the calls that have arrived."""
        import psycopg

        assert self._ear is not None
        try:
            return {note.payload[:1] for note in self._ear.notifies(timeout=0)}
        except psycopg.Error:
            self.close()  # opened again by the next sleep; until then we look by ourselves
            return set()
