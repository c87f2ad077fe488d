"""A beat's health: what its endpoint answers (``celeriac beat --health``)."""

from __future__ import annotations

import logging
import socket
import time
from typing import TYPE_CHECKING, Final

from celeriac.monitor.endpoint import Endpoint, Page, verdict
from celeriac.monitor.metrics import CONTENT_TYPE, Metrics

if TYPE_CHECKING:
    from celeriac.beat.service import Beat

logger = logging.getLogger("celeriac.beat")

HUNG: Final = 30.0
"""Seconds without a sign from the loop, over what it sleeps, after which the beat counts as hung."""


class Health:
    """Answers for one beat, from threads of its process. A beat that stands by is ready, too."""

    def __init__(self, beat: Beat, listening: socket.socket) -> None:
        self._beat = beat
        pages = {"/livez": self.live, "/readyz": self.prepared, "/metrics": self.metrics}
        self._endpoint = Endpoint(listening, pages)

    def start(self) -> None:
        self._endpoint.start()
        logger.info("Health checks and metrics at %s", self._endpoint.url)

    def live(self) -> Page:
        """Whether the loop goes round; the store may be away."""
        silent = time.monotonic() - self._beat.counted.wakes
        return verdict([f"the loop should have gone round {silent:.0f} s ago"] if silent > HUNG else [])

    def prepared(self) -> Page:
        """Whether it leads, or could take over: it reaches the store."""
        return verdict([] if self._beat.reaches_store else ["the store cannot be reached"])

    def metrics(self) -> Page:
        """Who leads, how much it has sent, and how late it is."""
        beat, metrics = self._beat, Metrics()
        leads, counted = beat.leads, beat.counted
        lag = 0.0
        if leads and (due := beat.agenda.next) is not None:
            lag = max(0.0, beat.leadership.now - due)
        samples = (
            ("celeriac_beat_leader", "gauge", "Whether this beat leads.", leads),
            ("celeriac_store_up", "gauge", "Whether the store can be reached.", beat.reaches_store),
            ("celeriac_schedule_entries", "gauge", "Entries at work; 0 on standby.", len(beat.agenda)),
            ("celeriac_schedule_lag_seconds", "gauge", "By how much the next tick is overdue.", lag),
            ("celeriac_schedule_late_seconds", "gauge", "How late the last tick was sent.", counted.late),
            ("celeriac_schedule_sent_total", "counter", "Ticks sent by this beat.", counted.sent),
            ("celeriac_schedule_held_total", "counter", "Ticks left out: the last still ran.", counted.held),
        )
        for name, kind, text, value in samples:
            metrics.add(name, kind, text, value, {"hostname": beat.hostname})
        return Page(200, metrics.text(), CONTENT_TYPE)
