"""What clients send, counted by the events in which they tell of it (``task_send_sent_event``).

One node counts for all, so that the figures of several can be added up. It begins when somebody first asks
for its metrics. What a worker's own tasks send it counts itself (``Counters``): their events travel with its
others, which nobody here takes apart.
"""

from __future__ import annotations

import logging
import select
import threading
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, Final

from celeriac.exceptions import OperationalError
from celeriac.worker.helpers import Helper

if TYPE_CHECKING:
    from celeriac.engines.remote import EventCarrier

logger = logging.getLogger("celeriac.worker")

MOST: Final = 1000
"""Combinations of task, machine and queue that are counted apart; others count as :data:`OTHER`."""
OTHER: Final = "(other)"
PAUSE: Final = 1.0
"""Seconds after which it listens again to a broker that was away."""

Key = tuple[str, str, str]
"""Task, sending machine and queue."""


class SentTasks:
    """Counts the tasks that clients send while it listens."""

    def __init__(self, carrier: EventCarrier) -> None:
        self._carrier = carrier
        self._counts: Counter[Key] = Counter()
        self._mutex = threading.Lock()
        self._helper: Helper | None = None

    def listen(self, wanted: bool) -> None:
        """Begin to listen, or end it; nothing to do if it is so already."""
        with self._mutex:
            if wanted and self._helper is None:
                self._helper = Helper("celeriac-sent", self._listen)
            ended, self._helper = (None, self._helper) if wanted else (self._helper, None)
        if ended is not None:
            ended.tell()
            ended.end()

    def counts(self) -> dict[Key, int]:
        """How many it has heard of."""
        with self._mutex:
            return dict(self._counts)

    def note(self, events: Iterable[Mapping[str, Any]]) -> None:
        """Count these events. What they say is shown to no one but in labels, so it may be anything."""
        with self._mutex:
            for event in events:
                machine = str(event.get("hostname")).rpartition("@")[2]
                key = (str(event.get("name")), machine, str(event.get("queue")))
                if key not in self._counts and len(self._counts) >= MOST:
                    key = (OTHER, OTHER, OTHER)
                self._counts[key] += 1

    def _listen(self, stop: int) -> None:
        while True:
            try:
                for events in self._carrier.receive_events(["task.sent"], stop):
                    self.note(event for event in events if event.get("type") == "task-sent")
            except OperationalError as error:
                logger.debug("Cannot hear what clients send, trying on: %s", error)
            except Exception:
                logger.exception("Counting what clients send has failed, trying on")
            if select.select([stop], [], [], PAUSE)[0]:
                return
