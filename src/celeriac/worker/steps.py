"""Steps at work: ``app.steps`` made, started and stopped in the agent, on a thread of their own."""

from __future__ import annotations

import heapq
import itertools
import logging
import queue
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from celeriac.bootsteps import CONSUMERS, ConsumerStep, Step
from celeriac.exceptions import ImproperlyConfigured
from celeriac.worker.options import Options

if TYPE_CHECKING:
    from celeriac.app.base import Celeriac

logger = logging.getLogger("celeriac.worker")

KINDS = ("worker", "consumer")
PATIENCE = 3.0
"""Seconds that steps have to stop; the node does not wait longer for them."""


def check(app: Celeriac) -> None:
    """Raise ``ImproperlyConfigured`` for steps that cannot be kept, before anything is started."""
    for kind, classes in app.steps.items():
        if kind not in KINDS and classes:
            raise ImproperlyConfigured(f"app.steps[{kind!r}]: there are steps of {' and '.join(KINDS)} only")
        for cls in classes:
            if not (isinstance(cls, type) and issubclass(cls, Step)):
                raise ImproperlyConfigured(
                    f"app.steps[{kind!r}]: {cls!r} is not a subclass of celeriac.bootsteps.Step"
                )
            if issubclass(cls, ConsumerStep) and (
                cls.start is ConsumerStep.start or cls.get_consumers is not ConsumerStep.get_consumers
            ):
                raise ImproperlyConfigured(CONSUMERS.format(step=cls.__name__))


class Node:
    """The worker as steps see it."""

    def __init__(self, app: Celeriac, options: Options, pid: int) -> None:
        self.app = app
        self.hostname = options.name
        """The node name."""
        self.pid = pid
        """The process id of the worker's main process."""
        self.concurrency = options.concurrency
        self.queues = list(options.queues)
        self.pool = options.pool
        """The pool's name."""
        self.options: Mapping[str, Any] = options.given
        """The options of the command line, the user's own among them."""
        self.timer = Timer()

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(
            f"the worker that Celeriac gives to steps has no {name!r}: it has app, hostname, pid, "
            "concurrency, queues, pool, options and timer"
        )


class Steps:
    """The steps of one node. The methods are called by the agent and return at once, but :meth:`end`."""

    def __init__(self, app: Celeriac, options: Options, pid: int) -> None:
        self.app = app
        self.options = options
        self.node = Node(app, options, pid)
        self._orders: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._made: dict[str, list[Step]] = {kind: [] for kind in KINDS}
        self._started: list[Step] = []
        self._cold = False
        self._thread = threading.Thread(target=self._work, name="celeriac-steps", daemon=True)

    def begin(self) -> None:
        """Make all steps, and start those of the worker."""
        self._thread.start()
        self._orders.put(self._make)
        self._orders.put(lambda: self._start("worker"))

    def ready(self) -> None:
        """The node takes messages: start the steps of the consumer."""
        self._orders.put(lambda: self._start("consumer"))

    def close(self, cold: bool) -> None:
        """The shutdown has begun."""
        self._cold = self._cold or cold
        self._orders.put(lambda: self._all("close"))

    def end(self) -> None:
        """Stop all steps, and wait for it a while."""
        self._orders.put(lambda: self._all("terminate" if self._cold else "stop"))
        self._orders.put(lambda: self._all("shutdown"))
        self._orders.put(None)
        self._thread.join(PATIENCE)
        if self._thread.is_alive():
            logger.warning("A step did not stop within %g s: it is left behind", PATIENCE)

    # -- on the thread of the steps ------------------------------------------------------------------------

    def _work(self) -> None:
        timer = self.node.timer
        while True:
            try:
                order = self._orders.get(timeout=timer.wait())
            except queue.Empty:
                timer.fire()
                continue
            if order is None:
                return
            order()
            timer.fire()

    def _make(self) -> None:
        for kind in KINDS:
            for cls in ordered(self.app.steps[kind]):
                try:
                    step = cls(self.node, **self.options.given)
                    if step.include(self.node):
                        self._made[kind].append(step)
                except Exception:
                    logger.exception(
                        "The step %s cannot be made: the worker goes on without it", cls.__name__
                    )

    def _start(self, kind: str) -> None:
        for step in self._made[kind]:
            if step not in self._started and self._call(step, "start"):
                self._started.append(step)

    def _all(self, method: str) -> None:
        for step in reversed(self._started):
            self._call(step, method)

    def _call(self, step: Step, method: str) -> bool:
        hook = getattr(step, method, None)
        if hook is None:
            return method == "start"  # a plain Step counts as started: it may have a stop
        try:
            hook(self.node)
        except Exception:
            logger.exception("%r: %s failed; the worker goes on", step, method)
            return False
        return True


def ordered(classes: Iterable[type[Step]]) -> list[type[Step]]:
    """Steps in the order of what they require; by name where that leaves it open.

    Raises ``ImproperlyConfigured`` for a circle.
    """
    waiting = sorted(classes, key=lambda cls: (cls.last, _path(cls)))
    found: list[type[Step]] = []
    while waiting:
        left = {_path(cls) for cls in waiting}
        for cls in waiting:
            needs = {_path(one) for one in cls.requires} - {_path(cls)}
            if not needs & left:
                break
        else:
            raise ImproperlyConfigured(f"app.steps: {', '.join(sorted(left))} require each other")
        waiting.remove(cls)
        found.append(cls)
    return found


def _path(step: Any) -> str:
    if isinstance(step, str):
        return step.replace(":", ".")
    return f"{step.__module__}.{step.__qualname__}"


# -- the timer ---------------------------------------------------------------------------------------------


class Entry:
    """Something to be done later; ``cancel()`` takes it back."""

    def __init__(self, due: float, every: float | None, call: Callable[[], Any]) -> None:
        self.due, self.every, self.call = due, every, call
        self.cancelled = False

    def cancel(self) -> None:
        """Do not do it (again)."""
        self.cancelled = True


class Timer:
    """Celery's ``worker.timer``: calls functions later, on the thread of the steps. Times are in seconds."""

    def __init__(self) -> None:
        self._entries: list[tuple[float, int, Entry]] = []
        self._numbers = itertools.count()
        self._lock = threading.Lock()

    def call_after(
        self, secs: float, fun: Callable[..., Any], args: Any = (), kwargs: Any = None, priority: int = 0
    ) -> Entry:
        """Call ``fun`` once, ``secs`` from now."""
        return self._add(secs, None, fun, args, kwargs)

    def call_repeatedly(
        self, secs: float, fun: Callable[..., Any], args: Any = (), kwargs: Any = None, priority: int = 0
    ) -> Entry:
        """Call ``fun`` every ``secs``, for the first time after that."""
        return self._add(secs, secs, fun, args, kwargs)

    def cancel(self, entry: Entry) -> None:
        """The same as ``entry.cancel()``."""
        entry.cancel()

    def wait(self) -> float:
        """Seconds until something is due, at most one."""
        with self._lock:
            return min(1.0, max(0.0, self._entries[0][0] - time.monotonic())) if self._entries else 1.0

    def fire(self) -> None:
        """Do what is due."""
        while True:
            with self._lock:
                if not self._entries or self._entries[0][0] > time.monotonic():
                    return
                entry = heapq.heappop(self._entries)[2]
            if entry.cancelled:
                continue
            try:
                entry.call()
            except Exception:
                logger.exception("A timer of a step failed; it goes on")
            if entry.every is not None and not entry.cancelled:
                entry.due = max(entry.due + entry.every, time.monotonic())
                self._push(entry)

    def _add(
        self, secs: float, every: float | None, fun: Callable[..., Any], args: Any, kwargs: Any
    ) -> Entry:
        given = dict(kwargs or {})
        entry = Entry(time.monotonic() + secs, every, lambda: fun(*args, **given))
        self._push(entry)
        return entry

    def _push(self, entry: Entry) -> None:
        with self._lock:
            heapq.heappush(self._entries, (entry.due, next(self._numbers), entry))
