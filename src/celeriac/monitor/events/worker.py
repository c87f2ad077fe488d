"""A worker, as its events tell of it."""

from __future__ import annotations

import bisect
import logging
import time
from collections.abc import Mapping
from typing import Any, Final

logger = logging.getLogger("celeriac.events")

HEARTBEAT_EXPIRE_WINDOW: Final = 200
"""A worker counts as alive for so many per cent of the time between its heartbeats."""
HEARTBEAT_DRIFT_MAX: Final = 16
"""Seconds that an event's time may differ from ours before the log says so."""


def heartbeat_expires(
    timestamp: float, freq: float = 60, expire_window: float = HEARTBEAT_EXPIRE_WINDOW
) -> float:
    """Until when (epoch seconds) a worker counts as alive that gave a sign of life at ``timestamp``."""
    return float(timestamp) + float(freq) * expire_window / 100


class Worker:
    """A worker. Every field of its last event is an attribute."""

    heartbeat_max = 4
    """How many heartbeats are kept."""
    expire_window = HEARTBEAT_EXPIRE_WINDOW
    _fields = (
        "hostname", "pid", "freq", "heartbeats", "clock", "active", "processed", "loadavg", "sw_ident",
        "sw_ver", "sw_sys",
    )  # fmt: skip

    def __init__(
        self,
        hostname: str | None = None,
        pid: int | None = None,
        freq: float = 60,
        heartbeats: list[float] | None = None,
        clock: int = 0,
        active: int | None = None,
        processed: int | None = None,
        loadavg: Any = None,
        sw_ident: str | None = None,
        sw_ver: str | None = None,
        sw_sys: str | None = None,
    ) -> None:
        self.hostname = hostname
        self.pid = pid
        self.freq = freq
        """Seconds between heartbeats."""
        self.heartbeats = [] if heartbeats is None else heartbeats
        """When the last ones came (epoch seconds, by our clock), oldest first."""
        self.clock = clock or 0
        self.active = active
        """How many tasks it runs."""
        self.processed = processed
        self.loadavg = loadavg
        self.sw_ident = sw_ident
        self.sw_ver = sw_ver
        self.sw_sys = sw_sys

    def event(
        self,
        type_: str | None,
        timestamp: float | None = None,
        local_received: float | None = None,
        fields: Mapping[str, Any] | None = None,
    ) -> None:
        """Take note of an event ``worker-<type_>``; ``None`` is a sign of life of another kind."""
        self.update(fields or {})
        if type_ == "offline":
            self.heartbeats.clear()
        elif local_received and timestamp:
            if abs(int(local_received) - int(timestamp)) > HEARTBEAT_DRIFT_MAX:
                _warn_of_drift(str(self.hostname), local_received - timestamp)
            bisect.insort(self.heartbeats, local_received)
            del self.heartbeats[: -self.heartbeat_max]

    def update(self, f: Mapping[str, Any], **kw: Any) -> None:
        """Set attributes."""
        for name, value in {**f, **kw}.items():
            # A foreign event may call a field as one of the properties.
            if not hasattr(type(self), name) or name in self._fields:
                setattr(self, name, value)

    @property
    def alive(self) -> bool:
        """Whether its last sign of life is recent enough."""
        return bool(self.heartbeats) and time.time() < self.heartbeat_expires

    @property
    def heartbeat_expires(self) -> float:
        """Until when it counts as alive, epoch seconds."""
        return heartbeat_expires(self.heartbeats[-1], self.freq, self.expire_window)

    @property
    def status_string(self) -> str:
        """``ONLINE`` or ``OFFLINE``."""
        return "ONLINE" if self.alive else "OFFLINE"

    @property
    def id(self) -> str:
        """Name and process id."""
        return f"{self.hostname}.{self.pid}"

    def __eq__(self, other: object) -> bool:
        return self.hostname == other.hostname if isinstance(other, Worker) else NotImplemented

    def __hash__(self) -> int:
        return hash(self.hostname)

    def __repr__(self) -> str:
        return f"<Worker: {self.hostname} ({self.status_string} clock:{self.clock})>"

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), tuple(getattr(self, name) for name in self._fields)


_drifting: set[str] = set()


def _warn_of_drift(hostname: str, seconds: float) -> None:
    """Once for each worker."""
    if hostname not in _drifting:
        _drifting.add(hostname)
        logger.warning(
            "The clock of %s and ours differ by %.0f seconds (or its events take as long): set both by NTP",
            hostname,
            abs(seconds),
        )
