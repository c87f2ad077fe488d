"""The wall clock by which delays, due times and expiry are counted, and which tests may drive.

``celeriac.contrib.testing.clock`` puts a clock of its own in place of ``source`` for the length of a test.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime

source: Callable[[], float] = time.time
"""Returns epoch seconds."""


def now() -> float:
    """The time, epoch seconds."""
    return source()


def utcnow() -> datetime:
    """The time as an aware ``datetime``, in UTC."""
    return datetime.fromtimestamp(source(), UTC)


def epoch(moment: str | float | int) -> float:
    """Epoch seconds of an ISO 8601 time as Celery writes it; without an offset it is UTC."""
    if isinstance(moment, int | float):
        return float(moment)
    parsed = datetime.fromisoformat(moment)
    if parsed.tzinfo is None:
        parsed = parsed.replace(tzinfo=UTC)
    return parsed.timestamp()
