"""The sender: a thread of the agent that sends the node's events.

It tells that the worker is there, every two seconds how it does, and that it leaves; and it takes the task
events from the children's tapes and sends them in batches (``task.multi``, as Celery's workers do). A broker
that is away holds up nobody: what cannot be sent waits in a bounded buffer, from which the oldest goes first.
"""

from __future__ import annotations

import ctypes
import logging
import math
import os
import re
import threading
import time
from collections import deque
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from celeriac.app.event import Event, routing_key, utcoffset
from celeriac.exceptions import OperationalError
from celeriac.extended_json import dumps
from celeriac.worker.events import completed
from celeriac.worker.state import SOFTWARE_INFO
from celeriac.worker.tape import TapeReader

if TYPE_CHECKING:
    from celeriac.app.base import Celeriac
    from celeriac.engines.base import NodeInfo
    from celeriac.engines.remote import EventCarrier
    from celeriac.worker.board import Board, ChildRecord
    from celeriac.worker.options import Options

logger = logging.getLogger("celeriac.worker")

PAUSE: Final = 0.1
"""Seconds between two looks at the tapes; a quarter of it while they fill quickly."""
BATCH: Final = 64 * 1024
"""Bytes of task events in one message. Sent as less a task takes more, and above 100 KiB twice the time: so
much memory is taken from the system, and given back, for each message."""
PROBE: Final = 4 * 1024
"""The same while nobody listens: the first message of a look tells whether somebody does by now."""
BUFFERED: Final = 8 * 1024 * 1024
"""Bytes of events that wait for a broker that is away."""
RETRY: Final = 1.0
_CLOCK: Final = re.compile(rb'"clock":(\d{1,18})')
COMPLAIN: Final = 60.0
"""Seconds between two lines in the log about events that were lost."""


class Sender(threading.Thread):
    """Sends the events of one node until :meth:`stop`."""

    def __init__(
        self, app: Celeriac, options: Options, board: Board, node: NodeInfo, carrier: EventCarrier
    ) -> None:
        super().__init__(name="celeriac-events", daemon=True)
        self.app = app
        self.interval = options.heartbeat_interval
        """Seconds between heartbeats; ``None``: the worker tells nothing of itself."""
        self._hostname, self._pid, self._carrier = options.name, node.pid, carrier
        self._board = board
        self._all = board.records()
        self._tapes = [TapeReader(board, record.number) for record in self._all]
        self._used = 0
        self._unsent: deque[tuple[str, bytes]] = deque()
        self._size = 0
        self._retry_at = self._beat_at = self._complain_at = 0.0
        self._away = False
        self._heard = True
        self._lost = 0
        self._counted: dict[int, tuple[int, int]] = {}
        self._earlier = 0
        self._wake = threading.Event()
        self._stopping = False

    def run(self) -> None:
        """Send until told to stop."""
        _keep_memory()
        if self.interval is not None:
            self._tell("worker-online")
            self._beat_at = time.monotonic() + self.interval
        while not self._stopping:
            self._wake.wait(PAUSE if not self._step() else PAUSE / 4)
            self._wake.clear()
        self._step()
        if self.interval is not None:
            self._tell("worker-offline")

    def stop(self) -> None:
        """Send what there is, tell that the worker leaves, and end; wait a moment for it."""
        self._stopping = True
        self._wake.set()
        self.join(2.0)

    def beat_now(self) -> None:
        """Send a heartbeat at once: somebody has begun to listen."""
        self._beat_at = 0.0 if self.interval is not None else math.inf
        self._wake.set()

    @property
    def _records(self) -> list[ChildRecord]:
        return self._all[: self._board.used]

    def _step(self) -> bool:
        """Send what is due; return whether the tapes fill quickly."""
        if self.interval is not None and time.monotonic() >= self._beat_at:
            self._beat_at = time.monotonic() + self.interval
            self._tell("worker-heartbeat")
        busy = False
        self._used = max(self._used, self._board.used)  # what a child that is gone has left is sent as well
        for tape in self._tapes[: self._used]:
            busy |= self._drain(tape)
        self._flush()
        self._complain()
        return busy

    def _drain(self, tape: TapeReader) -> bool:
        """Send what is on a tape; return whether that was much."""
        waiting = tape.waiting
        # Not for ever: other children's events want to be sent too.
        left = waiting
        while left > 0 and (records := tape.take(BATCH if self._heard else PROBE)):
            left -= sum(map(len, records))
            events = completed(b"[%b]" % b",".join(records), self._hostname, self._pid)
            self.app.clock.adjust(_clock_of(events))
            if not self._post("task.multi", events):
                # Nobody listens at this moment: nor would they to the others.
                tape.skip()
                break
        tape.note_clock(self.app.clock.value)
        self._lost += tape.newly_dropped()
        return waiting > 2 * BATCH

    def _tell(self, type: str) -> None:
        event = Event(
            type,
            SOFTWARE_INFO,
            hostname=self._hostname,
            utcoffset=utcoffset(),
            pid=self._pid,
            clock=self.app.clock.forward(),
            freq=self.interval,
            active=sum(1 for record in self._records for _ in record.running()),
            processed=self._processed(),
            loadavg=[math.ceil(load * 100) / 100 for load in os.getloadavg()],
        )
        self._post(routing_key(type), dumps(event))

    def _processed(self) -> int:
        """How many tasks the node has finished: each child counts its own life's."""
        total = self._earlier
        for record in self._records:
            epoch, count = record.epoch, record.processed
            before = self._counted.get(record.number, (epoch, 0))
            if before[0] != epoch:
                self._earlier += before[1]
                total += before[1]
            self._counted[record.number] = (epoch, count)
            total += count
        return total

    # -- sending -----------------------------------------------------------------------------------

    def _post(self, key: str, body: bytes) -> bool:
        """Send it, or keep it for later; ``False`` if nobody listens."""
        if not self._unsent and not self._away and self._send(key, body):
            return self._heard
        self._unsent.append((key, body))
        self._size += len(body)
        while self._size > BUFFERED:
            key, oldest = self._unsent.popleft()
            self._size -= len(oldest)
            self._lost += oldest.count(b'"type":"')
        return True

    def _flush(self) -> None:
        """Try again to send what waits."""
        if time.monotonic() < self._retry_at:
            return
        while self._unsent and self._send(*self._unsent[0]):
            _, body = self._unsent.popleft()
            self._size -= len(body)

    def _send(self, key: str, body: bytes) -> bool:
        try:
            self._heard = self._carrier.publish_events(key, body, {"hostname": self._hostname})
        except OperationalError as error:
            if not self._away:
                logger.warning("Cannot send events now, trying on (they wait, up to 8 MiB): %s", error)
            self._away = True
            self._retry_at = time.monotonic() + RETRY
            return False
        if self._away:
            self._away = False
            logger.info("Can send events again")
        return True

    def _complain(self) -> None:
        now = time.monotonic()
        if self._lost and now >= self._complain_at and not self._away:
            self._complain_at = now + COMPLAIN
            logger.warning(
                "%d events were dropped: there are more than can be sent, or the broker was away. The tasks "
                "are not touched by this",
                self._lost,
            )
            self._lost = 0


def _keep_memory() -> None:
    """Let glibc keep some MiB that are free: else it gives back what a message took, and takes it again, page
    by page, for the next one (a page fault for every third task)."""
    trim_threshold, mmap_threshold = -1, -3
    with suppress(OSError, AttributeError):  # another C library
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(trim_threshold, 8 * 1024 * 1024)
        mallopt(mmap_threshold, 4 * 1024 * 1024)


def _clock_of(events: bytes) -> int:
    """The logical clock of the last one of these events."""
    found = _CLOCK.match(events, max(0, events.rfind(b'"clock":')))
    return int(found[1]) if found else 0
