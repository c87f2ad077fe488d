"""How a consumer sleeps until a message is ready: its entry among the sleepers, and notifications.

An exchange that brings nothing puts its consumer on the list of sleepers in its own step: whoever publishes
after having seen what it stored finds the sleeper there. Who makes a message ready takes as many sleepers
off the list as there are messages, and notifies just them: so nobody is notified while all are busy (a
notification takes a lock on the whole server at its commit), and the first one after a quiet time is not
delayed. All of it is a hint: sleepers look by themselves as well.
"""

from __future__ import annotations

import logging
import secrets
import time
from typing import TYPE_CHECKING, Any

from celeriac.engines.postgres.marks import Marks
from celeriac.engines.postgres.store import Connection, Store
from celeriac.engines.readiness import readable
from celeriac.exceptions import OperationalError

if TYPE_CHECKING:
    import psycopg

logger = logging.getLogger(__name__)

FIRST_LOOK = 0.003
"""Seconds after an exchange that brought nothing at which to look: who published during it may not have seen
the entry that it made. Later than a busy client's next call, which needs no look."""
RECHECK = 0.02
"""Seconds after lying down at which to look again: the same, for one whose commit took longer."""
LISTEN_AGAIN = 10.0
"""Seconds after which to try again to listen where that failed; for a try of more than a second as many
times what it took."""

_LOOK = "SELECT * FROM @look(%s, %s, %s, %s::text[], %s::text[], %s::int[], %s::bigint[], %s)"


class Sleeper:
    """One consumer's sleep; its notifications arrive on a connection of its own."""

    def __init__(self, store: Store, owner: int, marks: Marks) -> None:
        self.entry: int | None = None
        """On the list of sleepers; the next exchange takes it off."""
        self._store = store
        self._owner = owner
        self._marks = marks
        self._name = f"{store.schema}_{secrets.token_hex(8)}"
        self._ear: psycopg.Connection[Any] | None = None
        self._listen_at = 0.0

    @property
    def channel(self) -> str | None:
        """Where we are called; ``None`` while we do not listen."""
        return None if self._ear is None or self._ear.closed else self._name

    def wait(self, connection: Connection, queues: list[str], timeout: float, wakeup_fd: int | None) -> bool:
        """See :meth:`celeriac.engines.base.Consumer.wait`; ``connection`` is the consumer's."""
        deadline = time.monotonic() + timeout
        self._listen()
        next_look = time.monotonic() + (FIRST_LOOK if self.entry and timeout > FIRST_LOOK else 0.0)
        interval = RECHECK
        while True:
            if time.monotonic() >= next_look:
                due = self._look(connection, queues)
                if due is not None and due <= 0:
                    return True
                next_look = time.monotonic() + (interval if due is None else min(interval, due))
                interval = self._store.options.poll
            nap = max(0.0, min(next_look, deadline) - time.monotonic())
            if self._sleep(nap, wakeup_fd):
                return True
            if time.monotonic() >= deadline or (wakeup_fd is not None and readable([wakeup_fd], 0)):
                return False

    def close(self) -> None:
        """Hear nothing any more."""
        ear, self._ear = self._ear, None
        if ear is not None:
            ear.close()

    def _look(self, connection: Connection, queues: list[str]) -> float | None:
        """In how many seconds a message will be ready, if one is known of; we are on the list afterwards."""
        while True:
            asked = self.entry or 0
            arguments = (self._owner, asked, self.channel, queues, *self._marks.columns(queues))
            ready, due, self.entry = connection.run(_LOOK, arguments)[0]
            if ready or (asked and not self.entry and self._heard()):
                return 0.0
            if self.entry or self.channel is None:
                return None if due is None else float(due)
            # Taken off the list, and nobody called: it was lost with the server.

    def _listen(self) -> None:
        if self._ear is not None and self._ear.closed:
            self._ear = None
        began = time.monotonic()
        if self._ear is not None or began < self._listen_at:
            return
        try:
            self._ear = self._store.listen(self._name)
        except OperationalError as error:  # the look that follows says whether the store itself is away
            now = time.monotonic()
            self._listen_at = now + LISTEN_AGAIN * max(1.0, now - began)
            poll = self._store.options.poll
            logger.warning("Nothing tells here of new messages now; looking every %g s: %s", poll, error)

    def _sleep(self, seconds: float, wakeup_fd: int | None) -> bool:
        """Return whether we were called."""
        descriptors = [] if self._ear is None else [self._ear.fileno()]
        if wakeup_fd is not None:
            descriptors.append(wakeup_fd)
        if not descriptors:
            time.sleep(seconds)
            return False
        ready = readable(descriptors, seconds)
        return self._ear is not None and self._ear.fileno() in ready and self._heard()

    def _heard(self) -> bool:
        """Take in the calls that have arrived; return whether there were any."""
        import psycopg

        assert self._ear is not None
        try:
            calls = {note.payload for note in self._ear.notifies(timeout=0)}
        except psycopg.Error:
            self.close()  # opened again by the next sleep; until then we look by ourselves
            return False
        if f"w{self.entry}" in calls:
            self.entry = 0  # who called has taken it off the list
        return bool(calls)
