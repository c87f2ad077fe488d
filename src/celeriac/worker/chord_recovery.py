"""Chord recovery: bodies that are owed and that nobody has sent, because the worker that was to died."""

from __future__ import annotations

import logging
import random
import threading
from typing import TYPE_CHECKING

from celeriac.exceptions import OperationalError
from celeriac.message import new_id

if TYPE_CHECKING:
    from celeriac.app.base import Celeriac

logger = logging.getLogger("celeriac.worker")

INTERVAL = 3.0
"""Seconds between looks, a fifth more or less."""


class ChordRecovery(threading.Thread):
    """Looks for owed bodies and sends them. A thread of its own: a chord's error callbacks may run in it, and
    the agent's beats must go on."""

    def __init__(self, app: Celeriac, node: str) -> None:
        super().__init__(name="celeriac-chords", daemon=True)
        self.app = app
        # An agent that is replaced is another taker: what its forerunner took, it must not hold as its own.
        self.taker = f"{node}:agent:{new_id()}"
        self._stop_event = threading.Event()
        self._warned = False

    def run(self) -> None:
        while not self._stop_event.wait(INTERVAL * random.uniform(0.8, 1.2)):
            try:
                count = self.app.chords.recover(self.taker)
            except OperationalError as error:
                if not self._warned:
                    logger.warning("Cannot look for chords to be finished, trying on: %s", error)
                self._warned = True
            except Exception:
                logger.exception("Looking for chords to be finished failed, trying on")
            else:
                self._warned = False
                if count:
                    logger.warning("Finished %d chord(s) whose worker had died", count)

    def stop(self) -> None:
        """End the thread after what it is at; do not wait for it."""
        self._stop_event.set()
