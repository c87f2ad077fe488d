"""Snapshots: taking pictures of the state of a cluster at intervals, to store them somewhere."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import Any, Self

from celeriac.app import app_or_default
from celeriac.app.names import given_or_default
from celeriac.signals import Signal

logger = logging.getLogger("celeriac.events")


class Polaroid:
    """A camera: override :meth:`on_shutter`, which gets the state as often as ``freq`` says.

    Used with ``with``, or :meth:`install` and :meth:`cancel`; the picture is taken in a thread, while the
    state takes no event.
    """

    shutter_signal = Signal("shutter_signal", {"state"})
    cleanup_signal = Signal("cleanup_signal")
    clear_after = False
    """Forget workers, ended tasks and counters after each picture."""

    def __init__(
        self,
        state: Any,
        freq: float = 1.0,
        maxrate: str | float | None = None,
        cleanup_freq: float = 3600.0,
        timer: Any = None,
        app: Any = None,
    ) -> None:
        """``freq`` and ``cleanup_freq`` are seconds between pictures and between calls of :meth:`on_cleanup`,
        ``maxrate`` the most pictures (``"10/m"``); ``timer`` has no meaning here."""
        self.app = app_or_default(app)
        self.state = state
        self.freq = freq
        self.cleanup_freq = cleanup_freq
        self.logger = logger
        self.maxrate = seconds_between(maxrate)
        """Seconds that must lie between two pictures."""
        self._last = 0.0
        self._stop = threading.Event()
        self._threads: list[threading.Thread] = []

    def on_shutter(self, state: Any) -> None:
        """A picture is taken: to be overridden."""

    def on_cleanup(self) -> None:
        """It is time to delete what is old: to be overridden."""

    def install(self) -> None:
        """Begin to take pictures."""
        self._stop.clear()
        for step, interval in ((self.capture, self.freq), (self.cleanup, self.cleanup_freq)):
            thread = threading.Thread(target=self._repeat, args=(step, interval), daemon=True)
            self._threads.append(thread)
            thread.start()

    def cancel(self) -> None:
        """Take a last picture of what has come, and no more."""
        if self._threads:
            self._stop.set()
            for thread in self._threads:
                thread.join(self.freq + 1.0)
            self._threads = []
            self.capture()

    def capture(self) -> None:
        """Take a picture."""
        self.state.freeze_while(self.shutter, clear_after=self.clear_after)

    def shutter(self) -> None:
        """Call :meth:`on_shutter` and the receivers of ``shutter_signal``, if ``maxrate`` allows it."""
        now = time.monotonic()
        if not self._last or now - self._last >= self.maxrate:
            self._last = now
            self.shutter_signal.send(sender=self.state)
            self.on_shutter(self.state)

    def cleanup(self) -> None:
        """Call :meth:`on_cleanup` and the receivers of ``cleanup_signal``."""
        self.cleanup_signal.send(sender=self.state)
        self.on_cleanup()

    def __enter__(self) -> Self:
        self.install()
        return self

    def __exit__(self, *_: object) -> None:
        self.cancel()

    def _repeat(self, step: Callable[[], None], interval: float) -> None:
        while not self._stop.wait(interval):
            try:
                step()
            except Exception:
                logger.exception("The camera %s failed; it goes on", type(self).__qualname__)


def evcam(
    camera: Any,
    freq: float = 1.0,
    maxrate: str | float | None = None,
    loglevel: str | int | None = None,
    logfile: str | None = None,
    pidfile: str | None = None,
    app: Any = None,
    **kwargs: Any,
) -> None:
    """Run a camera (a class or ``"module.Class"``) until interrupted; the connection is made again if lost.

    ``pidfile`` is held as long as it runs.
    """
    from celeriac.monitor.events.dumper import listen
    from celeriac.platforms import Pidfile

    app = app_or_default(app)
    app.log.setup(loglevel, logfile, redirect_stdouts=False)
    held = Pidfile(pidfile) if pidfile else None
    if held is not None:
        held.acquire()
    print(f"-> evcam: Taking snapshots with {camera} (every {freq} secs.)", flush=True)
    state = app.events.State()
    try:
        with given_or_default(camera, None)(state, app=app, freq=freq, maxrate=maxrate):
            listen(app, {"*": state.event}, logger.warning)
    except (KeyboardInterrupt, SystemExit):
        return
    finally:
        if held is not None:
            held.release()


def seconds_between(rate: str | float | None) -> float:
    """Seconds between two of ``"10/s"``, ``"10/m"``, ``"10/h"``, or of a number a second.

    Raises ``ValueError`` for anything else.
    """
    if not rate:
        return 0.0
    number, _, unit = str(rate).partition("/")
    seconds = {"": 1.0, "s": 1.0, "m": 60.0, "h": 3600.0}.get(unit)
    try:
        if seconds is not None and float(number) > 0:
            return seconds / float(number)
    except ValueError:
        pass
    raise ValueError(f"a rate is a number a second, or text such as '10/m', not {rate!r}")
