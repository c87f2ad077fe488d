"""Beat's answer to pings, by which it can be checked from anywhere (``beat_enable_remote_control``).

It keeps silent on everything else, as Celery's does: questions to workers are not its.
"""

from __future__ import annotations

import logging
import socket
import threading
import time
from typing import TYPE_CHECKING, Any, Final

from celeriac.engines.remote import NO_REPLY, Order

if TYPE_CHECKING:
    from celeriac.beat.service import Beat

logger = logging.getLogger("celeriac.beat")

LEAST: Final = 60.0
"""Seconds that a round of the loop may take, unless it is set: a slow one is no reason for a restart."""


class Answering:
    """Answers for one beat, on a thread, while it is entered."""

    def __init__(self, beat: Beat) -> None:
        self._beat = beat
        self._near, self._far = socket.socketpair()
        broker: Any = beat.app.broker
        self._thread = threading.Thread(
            target=broker.serve_orders,
            args=(beat.hostname, self.handle, self._near.fileno()),
            name="celeriac-control",
            daemon=True,
        )

    def __enter__(self) -> Answering:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._far.close()
        self._thread.join(3.0)
        self._near.close()

    def handle(self, order: Order) -> Any:
        """``pong``, or nothing: not meant, not a ping, or the loop hangs."""
        if order.method != "ping" or not order.concerns(self._beat.hostname):
            return NO_REPLY
        silent, most = time.monotonic() - self._beat.ticked, self._patience()
        if most and silent > most:
            logger.warning(
                "beat: a ping is not answered: the loop has not gone round for %.1f s (over "
                "beat_remote_control_max_tick_age, %g s)",
                silent,
                most,
            )
            return NO_REPLY
        order.clock = self._beat.app.clock.adjust(order.clock)
        return {"ok": "pong"}

    def _patience(self) -> float:
        configured = self._beat.app.conf.beat_remote_control_max_tick_age
        return max(LEAST, 2 * (self._beat.max_interval or 0.0)) if configured is None else float(configured)
