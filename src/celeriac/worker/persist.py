"""Patience with a store that is away."""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable
from typing import TypeVar

from celeriac.exceptions import OperationalError

T = TypeVar("T")

logger = logging.getLogger("celeriac.worker")

FIRST_PAUSE = 0.05
LONGEST_PAUSE = 5.0
"""Seconds between attempts to reach a store: doubling, each drawn from half to whole (full fleets must not
come back in step)."""


def persist(what: str, step: Callable[[], T]) -> T:
    """Do ``step`` until the store answers, and return the answer.

    The outage is logged when it begins and when it ends, with ``what`` could not be done.
    """
    pause = FIRST_PAUSE
    away: float | None = None
    while True:
        try:
            value = step()
        except OperationalError as error:
            if away is None:
                away = time.monotonic()
                logger.warning("Cannot %s yet, trying on: %s", what, error)
            time.sleep(pause * random.uniform(0.5, 1.0))
            pause = min(pause * 2, LONGEST_PAUSE)
        else:
            if away is not None:
                logger.info("The store is back after %.1f s", time.monotonic() - away)
            return value
