"""A real worker for tests, in a thread of the test's process (or, with the prefork pool, beside it)."""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
import time
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import TYPE_CHECKING, Any

from celeriac import signals
from celeriac.app.state import allow_join_result, restored_apps
from celeriac.contrib.testing.tasks import answer
from celeriac.exceptions import ImproperlyConfigured
from celeriac.signals import Signal
from celeriac.worker.options import Options, resolve
from celeriac.worker.solo import Solo

if TYPE_CHECKING:
    from celeriac.app.base import Celeriac

WORKER_LOGLEVEL = os.environ.get("WORKER_LOGLEVEL", "error")

IN_A_THREAD = frozenset({"solo", "threads", "asyncio"})
"""Pools that run in a thread of the test's process."""

OPTIONS = frozenset(
    {
        "disable_prefetch",
        "exclude_queues",
        "hostname",
        "include",
        "max_memory_per_child",
        "max_tasks_per_child",
        "prefetch_multiplier",
        "purge",
        "queues",
        "shutdown_grace",
        "soft_time_limit",
        "time_limit",
    }
)
SETTLED = frozenset(
    {"heartbeat_interval", "optimization", "statedb", "task_events", "without_gossip", "without_heartbeat"}
) | {"without_mingle"}
"""Options of Celery's worker that ours has no use for: it always works as if they were set."""

test_worker_starting = Signal("test_worker_starting")
test_worker_started = Signal("test_worker_started", {"worker", "consumer"})
test_worker_stopped = Signal("test_worker_stopped", {"worker"})


class TestWorker:
    """A worker under test. ``start_worker`` makes one."""

    __test__ = False

    def __init__(self, app: Celeriac, options: Options) -> None:
        self.app = app
        self.options = options
        self.hostname = options.name
        self.concurrency = options.concurrency
        self.pid = os.getpid()

    def ensure_started(self, timeout: float = 10.0) -> None:
        """Wait until it has said that it is ready; raises what it failed with, or ``RuntimeError``."""
        raise NotImplementedError

    def stop(self, timeout: float) -> None:
        """Stop it after the task that runs; raises ``RuntimeError`` if that takes more than ``timeout``."""
        raise NotImplementedError

    def reload(self, modules: Iterable[str] | None = None, reload: bool = False) -> None:
        """Import ``modules``, or anew with ``reload``. Tasks made meanwhile need nothing: they are known."""
        for name in modules or ():
            module = import_module(name)
            if reload:
                import importlib

                importlib.reload(module)


TestWorkController = TestWorker
"""Celery's name for it."""


class ThreadWorker(TestWorker):
    """A node that lives in a thread."""

    def __init__(self, app: Celeriac, options: Options) -> None:
        super().__init__(app, options)
        self._solo = Solo(app, options, handle_signals=False)
        self._started = threading.Event()
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="celeriac-test-worker", daemon=True)
        signals.worker_ready.connect(self._note_ready, weak=False)
        signals.worker_init.send(sender=self)
        self._thread.start()

    def ensure_started(self, timeout: float = 10.0) -> None:
        """See :class:`TestWorker`."""
        started = self._started.wait(timeout)
        signals.worker_ready.disconnect(self._note_ready)
        if self._error is not None:
            raise self._error
        if not started:
            raise RuntimeError(f"the worker was not ready after {timeout:g} s")

    def stop(self, timeout: float) -> None:
        """See :class:`TestWorker`."""
        if self._thread.is_alive():
            self._solo.stop()
        self._thread.join(timeout)
        if self._thread.is_alive():
            raise RuntimeError(
                f"the worker's thread was still busy {timeout:g} s after it was told to stop: give "
                "start_worker a longer shutdown_timeout if tasks may take that long"
            )

    def _run(self) -> None:
        self.app.set_current()
        try:
            self._solo.run()
        except BaseException as error:
            self._error = error
        finally:
            self._started.set()

    def _note_ready(self, sender: Any = None, **_: Any) -> None:
        if getattr(sender, "options", None) is self.options:
            self._started.set()


class ProcessWorker(TestWorker):
    """A node of its own processes, forked from the test's: for the prefork pool."""

    def __init__(self, app: Celeriac, options: Options, flags: dict[str, Any]) -> None:
        super().__init__(app, options)
        if app.broker_url.startswith("memory:"):
            raise ImproperlyConfigured(
                f"the {options.pool} pool runs in processes of its own, which cannot see a memory:// broker: "
                "use sqlite:/// or redis:// in this test, or pool='solo'"
            )
        app.disconnect()
        self.pid = os.fork()
        if self.pid == 0:
            self._live(flags)

    def ensure_started(self, timeout: float = 10.0) -> None:
        """See :class:`TestWorker`."""
        deadline = time.monotonic() + timeout
        coordinator = self.app.coordinator
        while coordinator is not None and self.hostname not in {node.name for node in coordinator.nodes()}:
            if os.waitpid(self.pid, os.WNOHANG)[0]:
                self.pid = 0
                raise RuntimeError("the worker's process has ended while it started: see its messages")
            if time.monotonic() > deadline:
                raise RuntimeError(f"the worker was not ready after {timeout:g} s")
            time.sleep(0.02)

    def stop(self, timeout: float) -> None:
        """See :class:`TestWorker`."""
        if not self.pid:
            return
        os.kill(self.pid, signal.SIGTERM)
        deadline = time.monotonic() + timeout
        while not os.waitpid(self.pid, os.WNOHANG)[0]:
            if time.monotonic() > deadline:
                os.kill(self.pid, signal.SIGKILL)
                os.waitpid(self.pid, 0)
                raise RuntimeError(f"the worker was still busy {timeout:g} s after SIGTERM, and was killed")
            time.sleep(0.02)

    def _live(self, flags: dict[str, Any]) -> None:
        code = 1
        try:
            code = self.app.Worker(**flags, quiet=True).start()
        except BaseException:
            logging.getLogger("celeriac.worker").exception("The worker could not start")
        finally:
            sys.stderr.flush()
            os._exit(code)


@contextmanager
def start_worker(
    app: Celeriac,
    concurrency: int = 1,
    pool: str = "solo",
    loglevel: str | int = WORKER_LOGLEVEL,
    logfile: str | None = None,
    perform_ping_check: bool = True,
    ping_task_timeout: float = 10.0,
    shutdown_timeout: float = 10.0,
    **options: Any,
) -> Iterator[TestWorker]:
    """Run a worker of ``app`` while the block lasts.

    With the pools ``solo``, ``threads`` and ``asyncio`` it is a thread of this process, so that ``memory://``
    works and tasks can be looked into; signals, time limits and revokes with ``terminate`` need a real
    process. With ``prefork`` a worker is forked from this process (``sqlite:///``, ``redis://``).
    Messages of ``loglevel`` and above go where this process logs to, and to ``logfile``.

    With ``perform_ping_check`` the task ``celery.ping`` is sent through the worker's first queue and must
    answer within ``ping_task_timeout`` seconds (not if results are turned off). ``app`` is the current
    application inside of the block. Further ``options`` are the worker's: ``hostname``, ``queues``,
    ``exclude_queues``, ``include``, ``prefetch_multiplier``, ``purge``, ``time_limit``, ...

    Raises ``RuntimeError`` if the worker does not start, or does not stop within ``shutdown_timeout``
    seconds, ``TimeoutError`` if it does not answer, and ``TypeError`` for an unknown option.
    """
    flags = _flags(options, concurrency, pool, loglevel, logfile)
    test_worker_starting.send(sender=app)
    worker = None
    with restored_apps(), _logging(loglevel, logfile):
        try:
            worker = _start(app, flags)
            try:
                worker.ensure_started()
                test_worker_started.send(sender=app, worker=worker, consumer=None)
                if perform_ping_check and app.backend is not None:
                    _ping(app, worker.options.queues[0], ping_task_timeout)
                yield worker
            finally:
                worker.stop(shutdown_timeout)
        finally:
            test_worker_stopped.send(sender=app, worker=worker)


def _flags(
    options: dict[str, Any], concurrency: int, pool: str, loglevel: Any, logfile: Any
) -> dict[str, Any]:
    unknown = set(options) - OPTIONS - SETTLED
    if unknown:
        raise TypeError(
            f"start_worker knows no option {', '.join(sorted(unknown))}: "
            f"there are {', '.join(sorted(OPTIONS))}"
        )
    flags = {name: value for name, value in options.items() if name in OPTIONS}
    flags.setdefault("hostname", f"test-{uuid.uuid4().hex[:8]}@%h")
    return {**flags, "concurrency": concurrency, "pool": pool, "loglevel": loglevel, "logfile": logfile}


def _start(app: Celeriac, flags: dict[str, Any]) -> TestWorker:
    include = flags.get("include") or ()
    for module in include.split(",") if isinstance(include, str) else include:
        import_module(module)
    app.finalize()
    app.set_current()
    app.set_default()
    if "celery.ping" not in app.tasks:
        app.add_task(answer, name="celery.ping")
    options = resolve(app, flags)
    if options.pool == "prefork":
        return ProcessWorker(app, options, flags)
    if options.pool not in IN_A_THREAD:
        raise ImproperlyConfigured(
            f"the {options.pool} pool needs a process that is patched from its start: run "
            f"`celeriac -A ... worker -P {options.pool}` beside the test, or use pool='threads' or 'asyncio'"
        )
    if flags.get("purge"):
        app.broker.purge(options.queues)
    # Nobody would replace the thread.
    options.max_tasks_per_child = options.max_memory_per_child = 0
    return ThreadWorker(app, options)


def _ping(app: Celeriac, queue: str, timeout: float) -> None:
    result = app.call("celery.ping", (), {}, app.tasks["celery.ping"], queue=queue, ignore_result=False)
    with allow_join_result():
        answered = result.get(timeout=timeout)
    if answered != "pong":
        raise RuntimeError(f"the worker answered celery.ping with {answered!r}: another worker's task?")
    result.forget()


@contextmanager
def _logging(loglevel: str | int, logfile: str | None) -> Iterator[None]:
    """Set the level of our loggers for the block, and write to a file; other handlers stay as they are."""
    from celeriac.utils.log import base_logger, mlevel

    before = base_logger.level
    base_logger.setLevel(mlevel(loglevel))
    handler = logging.FileHandler(logfile) if logfile else None
    if handler is not None:
        base_logger.addHandler(handler)
    try:
        yield
    finally:
        base_logger.setLevel(before)
        if handler is not None:
            base_logger.removeHandler(handler)
            handler.close()
