"""Delays, due times and expiry: from what a caller writes to what a message and a store take."""

from __future__ import annotations

from datetime import datetime, timedelta, tzinfo
from typing import NamedTuple

from celeriac import clock


class When(NamedTuple):
    """When a message is to be run."""

    eta: str | None = None
    """ISO 8601 with offset, for the message's header."""
    delay: float | None = None
    due: float | None = None


NOW = When()


def when(countdown: float | None, eta: datetime | str | None, zone: tzinfo) -> When:
    """Read ``countdown`` (seconds from now; 0 means at once) or ``eta``; ``countdown`` goes first.

    An ``eta`` without an offset is UTC if ``zone`` is, else local time of ``zone``.
    """
    if countdown:
        moment = clock.utcnow() + timedelta(seconds=countdown)
        return When(moment.astimezone(zone).isoformat(), float(countdown) if countdown > 0 else None)
    if eta is None:
        return NOW
    moment = aware(eta, zone)
    return When(moment.isoformat(), None, moment.timestamp())


def expiry(expires: float | datetime | str | None, zone: tzinfo) -> tuple[str | None, float | None]:
    """Return an expiry as ``(ISO 8601 with offset, seconds from now, at least 0)``."""
    if expires is None:
        return None, None
    if isinstance(expires, int | float):
        moment = clock.utcnow() + timedelta(seconds=expires)
        return moment.astimezone(zone).isoformat(), max(0.0, float(expires))
    moment = aware(expires, zone)
    return moment.isoformat(), max(0.0, moment.timestamp() - clock.now())


def aware(moment: datetime | str, zone: tzinfo) -> datetime:
    """``moment`` with an offset; raises ``TypeError`` or ``ValueError`` for what is no time."""
    if isinstance(moment, str):
        moment = datetime.fromisoformat(moment)
    if not isinstance(moment, datetime):
        raise TypeError(f"eta and expires take a datetime or its ISO 8601 text, not {moment!r}")
    return moment if moment.tzinfo is not None else moment.replace(tzinfo=zone)
