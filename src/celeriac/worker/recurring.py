"""Recurring: a thread of the agent that does something now and then, whether or not the stores are there."""

from __future__ import annotations

import logging
import random
import threading
from collections.abc import Callable

from celeriac.exceptions import OperationalError

logger = logging.getLogger("celeriac.worker")


class Recurring(threading.Thread):
    """Does :meth:`step` every ``interval`` seconds, a fifth more or less.

    A thread of its own, because it may take long, and the agent's beats must go on. ``aim`` tells in the log
    what it is there to do.
    """

    def __init__(self, name: str, interval: float, aim: str) -> None:
        super().__init__(name=name, daemon=True)
        self._interval = interval
        self._aim = aim
        self._stop_event = threading.Event()
        self._warned = False

    def step(self) -> None:
        """What is done each time. May raise."""
        raise NotImplementedError

    def attempt(self, step: Callable[[], None]) -> None:
        """Do ``step``; a store that is away is said once."""
        try:
            step()
        except OperationalError as error:
            if not self._warned:
                logger.warning("Cannot %s now, trying on: %s", self._aim, error)
            self._warned = True
        except Exception:
            logger.exception("Failed to %s, trying on", self._aim)
        else:
            self._warned = False

    def run(self) -> None:
        while not self._stop_event.wait(self._interval * random.uniform(0.8, 1.2)):
            self.attempt(self.step)

    def stop(self) -> None:
        """End the thread after what it is at, and wait a moment for that."""
        self._stop_event.set()
        if self.is_alive():
            self.join(1.0)
