"""How a node is told to stop, and how far it has come.

============================  =========================================================================
SIGTERM, first SIGINT         soft: finish what runs within the grace, then kill and give back the rest
                              (``worker_shutdown_grace=None``: warm, wait without limit, as Celery does)
second SIGINT, SIGQUIT        cold: kill and give back at once
SIGHUP                        as SIGTERM, then start the same command line again
============================  =========================================================================

``REMAP_SIGTERM=SIGQUIT`` makes SIGTERM cold, as in Celery. Tasks with ``acks_late=False`` cannot be given
back; they are waited for in every shutdown but a cold one.
"""

from __future__ import annotations

import logging
import os
import signal
import time
from collections.abc import Callable

logger = logging.getLogger("celeriac.worker")


class Shutdown:
    """The wish to stop. ``grace`` is in seconds; ``None`` waits without limit."""

    def __init__(self, grace: float | None) -> None:
        self.grace = grace
        self.stopping = False
        self.cold = False
        self.restart = False
        self.signed_off = False
        self.exit_code = 0
        self.sig = ""
        self.on_stop: Callable[[], None] | None = None
        """Called from the signal handler, for a worker that has no supervisor (solo)."""
        self._begun = False
        self._deadline: float | None = None
        self._wake_read, self._wake_write = os.pipe()
        os.set_blocking(self._wake_read, False)
        os.set_blocking(self._wake_write, False)

    def install(self) -> int:
        """Take over the process's signals; return a descriptor that is readable after each of them."""
        signal.set_wakeup_fd(self._wake_write, warn_on_full_buffer=False)
        term = self._quit if os.environ.get("REMAP_SIGTERM") == "SIGQUIT" else self._term
        signal.signal(signal.SIGTERM, term)
        signal.signal(signal.SIGINT, self._interrupt)
        signal.signal(signal.SIGQUIT, self._quit)
        signal.signal(signal.SIGHUP, self._hang_up)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        return self._wake_read

    def close(self) -> None:
        """Free the wake-up pipe: for a worker whose process lives on."""
        os.close(self._wake_read)
        os.close(self._wake_write)

    def drain(self) -> None:
        """Empty the wake-up pipe."""
        try:
            os.read(self._wake_read, 4096)
        except BlockingIOError:
            pass

    def begin(self) -> bool:
        """Whether this is the first step of the shutdown; starts the grace."""
        if self._begun:
            return False
        self._begun = True
        if self.grace is not None:
            self._deadline = time.monotonic() + self.grace
        return True

    @property
    def how(self) -> str:
        """``"Cold"``, ``"Warm"`` or, with a grace, ``"Soft"``: what ``worker_shutting_down`` tells."""
        return "Cold" if self.cold else "Warm" if self.grace is None else "Soft"

    @property
    def grace_over(self) -> bool:
        return self._deadline is not None and time.monotonic() >= self._deadline

    def stop(self, sig: str = "", cold: bool = False) -> None:
        """Ask for a shutdown, or turn one under way into a cold one."""
        self.sig = self.sig or sig
        self.stopping = True
        if cold and not self.cold:
            self.cold = True
            logger.warning("Cold shutdown: stopping at once, what runs is given back")
        elif not cold and not self._begun:
            wait = "as long as they take" if self.grace is None else f"up to {self.grace:g} s"
            logger.warning("Shutting down: running tasks may end (%s); once more to stop at once", wait)
        if self.on_stop is not None:
            self.on_stop()

    def _term(self, *_: object) -> None:
        self.stop("SIGTERM")

    def _interrupt(self, *_: object) -> None:
        self.stop("SIGINT", cold=self.stopping)

    def _quit(self, *_: object) -> None:
        self.stop("SIGQUIT", cold=True)

    def _hang_up(self, *_: object) -> None:
        self.restart = True
        self.stop("SIGHUP")
