"""The watch over the queues that this process sends to: is there anybody who takes from them?

Publishing looks a queue up in a set, nothing more. The first message to a queue starts a thread, which looks
at the workers' presence now and then; it never keeps the process alive.
"""

from __future__ import annotations

import atexit
import logging
import os
import threading
import time
import weakref
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from celeriac.exceptions import CeleriacError

if TYPE_CHECKING:
    from celeriac.app.base import Celeriac

logger = logging.getLogger("celeriac.routing")

PATIENCE = 60.0
"""Seconds without a consumer after which a queue is warned about."""
INTERVAL = 30.0
"""Seconds between two looks."""


class QueueWatch:
    """Warns, once a process and queue, when nobody has taken from a queue for a minute."""

    patience = PATIENCE
    interval = INTERVAL

    def __init__(self, app: Celeriac, clock: Callable[[], float] = time.monotonic) -> None:
        self.queues: set[str] = set()
        """The queues that are watched, or were."""
        self._app = app
        self._clock = clock
        self._since: dict[str, float] = {}
        self._warned: set[str] = set()
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        _WATCHES.add(self)

    def begin(self, queue: str) -> None:
        """Watch a queue from now on. Of a fanout ("") nothing waits, so there is nothing to warn of."""
        with self._lock:
            self.queues.add(queue)
            if not queue or queue in self._warned:
                return
            self._since[queue] = self._clock()
            if self._thread is None:
                run, stop = self._run, self._stop
                self._thread = threading.Thread(target=run, args=(stop,), name="celeriac-queues", daemon=True)
                self._thread.start()

    def look(self) -> list[str]:
        """Look once; return the queues that were warned about now."""
        with self._lock:
            watched = dict(self._since)
        now = self._clock()
        unserved = unserved_queues(self._app, watched)
        late = [queue for queue in unserved if now - watched[queue] >= self.patience]
        depths = self._app.write_broker.depth(late) if late else {}
        late = [queue for queue in late if any(depths[queue][:4])]
        with self._lock:
            for queue in (watched.keys() & self._since.keys()) - set(unserved):
                self._since[queue] = now
            for queue in late:
                self._since.pop(queue, None)
                self._warned.add(queue)
        for queue in late:
            logger.warning(
                "No worker has taken from queue %r for %d s, and tasks wait in it: start one with "
                "-Q %s, or correct the route that leads there (task_routes, queue=)",
                queue, now - watched[queue], queue,
            )  # fmt: skip
        return late

    def close(self) -> None:
        """End the thread, without waiting for it; the next message starts another one."""
        self._stop.set()
        self.forget()

    def forget(self) -> None:
        """Begin anew: in a forked process the thread is not there."""
        self.queues.clear()
        self._since.clear()
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._thread = None

    def _run(self, stop: threading.Event) -> None:
        while not stop.wait(self.interval):
            try:
                self.look()
            except CeleriacError as error:
                logger.debug("Cannot see now who takes from the queues: %s", error)
            except Exception:
                if not stop.is_set():  # else the process is ending under us
                    logger.debug("Cannot see who takes from the queues", exc_info=True)


def unserved_queues(app: Celeriac, queues: Iterable[str]) -> list[str]:
    """Those of the queues that no living worker takes from: ours by their beat, Celery's if they answer."""
    coordinator = app.coordinator
    served = {queue for node in coordinator.nodes() for queue in node.queues} if coordinator else set()
    left = [queue for queue in queues if queue not in served]
    if not left:
        return []
    counts = app.write_broker.consumers(left)
    return [queue for queue in left if not counts.get(queue)]


_WATCHES: weakref.WeakSet[QueueWatch] = weakref.WeakSet()


def _after_fork() -> None:
    for watch in list(_WATCHES):
        watch.forget()


def _at_exit() -> None:
    for watch in list(_WATCHES):
        watch.close()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
atexit.register(_at_exit)
