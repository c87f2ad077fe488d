"""A thread beside each child's connection: heartbeats, and giving back what waits behind a long task."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from celeriac.engines.rabbitmq.consumer import RabbitConsumer

OVERRUN: Final = 0.06
"""Seconds without an exchange after which what has been pushed to this child is given back."""
_LOOK_EVERY: Final = 0.03
_REST_AFTER: Final = 1.0
"""Seconds with nothing to look after, after which it sleeps until it is woken."""


class Keeper:
    """Keeps one connection while its child is busy. It needs the interpreter now and then: while a task's C
    code holds it, the node's agent beats instead (``heart.py``)."""

    def __init__(self, consumer: RabbitConsumer, heartbeat: float) -> None:
        self._consumer = consumer
        self._heartbeat = heartbeat
        self._stopping = False
        self.resting = False
        self._wake = threading.Event()
        self._thread = threading.Thread(target=self._run, name="celeriac-keeper", daemon=True)

    def start(self) -> None:
        """Begin to look."""
        self._thread.start()

    def stop(self) -> None:
        """End the thread; it is not waited for."""
        self._stopping = True
        self._wake.set()

    def wake(self) -> None:
        """The child has begun to work."""
        self._wake.set()

    def _run(self) -> None:
        consumer = self._consumer
        looked = time.monotonic()
        beaten = 0.0  # the first beat introduces the child to its agent
        while not self._stopping:
            now = time.monotonic()
            if self._heartbeat and now - beaten >= self._heartbeat / 3:
                beaten = now
                consumer.beat()
            if consumer.buffered or consumer.invites:
                looked = now
                if consumer.overrun:
                    consumer.return_buffered()
            if now - looked < _REST_AFTER:
                time.sleep(_LOOK_EVERY)
                continue
            self.resting = True
            if not (consumer.buffered or consumer.invites):  # it may have begun before it could see us rest
                self._wake.wait(max(0.1, self._heartbeat / 3 - (now - beaten)) if self._heartbeat else None)
            self.resting = False
            self._wake.clear()
            looked = time.monotonic()
