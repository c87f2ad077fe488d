"""A child: a process that claims, runs and settles by itself, straight with the stores.

:func:`run_child` is its life. How its slots run is its pool's business (``serial``: one slot in the main
thread; ``slots``: threads, coroutines or greenlets); claiming and settling is the same ``Line`` for all.
"""

from __future__ import annotations

import importlib
import logging
import os
import resource
import signal
import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from celeriac import signals
from celeriac.engines.base import Incarnation
from celeriac.engines.readiness import drain
from celeriac.exceptions import Fenced, OperationalError
from celeriac.worker import notice
from celeriac.worker.board import Board, ChildRecord, Life, Order
from celeriac.worker.counters import Counted, Counters
from celeriac.worker.events import Recorder
from celeriac.worker.holdings import Holdings
from celeriac.worker.line import Line
from celeriac.worker.options import SINGLE_SLOT, Options
from celeriac.worker.processes import EXIT_FENCED, EXIT_LEFT, Birth, die_with_parent, load_prctl, name_process
from celeriac.worker.runner import Runner
from celeriac.worker.tape import Tape

if TYPE_CHECKING:
    from celeriac.app.base import Celeriac

logger = logging.getLogger("celeriac.worker")


class Seat:
    """What a child works with: its line, its runner, its place on the board."""

    def __init__(self, app: Celeriac, options: Options, record: ChildRecord, node: str, epoch: int) -> None:
        self.app = app
        self.options = options
        self.record = record
        self.owner = Incarnation(node, record.number, epoch, options.slots)
        self.wake_read, self.wake_write = os.pipe()
        os.set_blocking(self.wake_read, False)
        os.set_blocking(self.wake_write, False)
        self.runner = Runner(
            app,
            options.name,
            self.owner.name,
            max_deliveries=options.max_deliveries,
            limits=(options.soft_time_limit or 0.0, options.time_limit or 0.0),
        )
        if options.health:
            self.runner.counters = Counters(record.board, record.number)
        self.queues = options.queues
        """All queues that the node has ever taken from; the board knows them by their place here."""
        self.queue_index: dict[str, int] = {}
        self.holdings = Holdings(record.board, record.number)
        self._heeded = -1
        self.recorder: Recorder | None = None
        """Writes events, if the broker carries them."""
        if app.events.carrier is not None:
            self.recorder = Recorder(Tape(record.board, record.number))
            app.events.sink = self._take_event
        told = notice.read(record.board)
        import_modules(told)
        self.line = Line(app, self.owner, told.consumed(options.queues), self.wake_read)
        self.heed()
        self.margin = options.lease / 5
        self._said_too_large = False
        self.on_terminate: Callable[[str], None] | None = None
        """How the pool ends one running task without its process, if it can."""

    def _take_event(self, event: dict[str, Any]) -> bool:
        """Where what a task tells goes: to the tape; ``False`` if it cannot."""
        assert self.recorder is not None
        if self.runner.counters is not None and event["type"] == "task-sent":
            self.runner.counters.count(Counted.SENT, str(event["name"]), str(event["queue"]))
        return self.recorder.put(event)

    @property
    def leaving(self) -> bool:
        """Whether the child is to stop: ordered to, its tasks are used up, or its memory is."""
        if self.record.quitting:
            return True
        options = self.options
        if options.pool == "solo":
            return False  # there is nobody to replace it
        limit = options.max_tasks_per_child
        if limit and self.record.processed >= limit:
            return True
        return bool(options.max_memory_per_child) and self._too_large()

    def heed(self) -> None:
        """Do what the agent has told all children since the last look, if anything.

        For the thread that claims, between two exchanges.
        """
        version = self.record.board.notice_version
        if version == self._heeded:
            return
        self._heeded = version
        told = notice.read(self.record.board)
        self.queues = told.queues(self.options.queues)
        self.queue_index = {name: index for index, name in enumerate(self.queues)}
        self.line.take_from(told.consumed(self.options.queues))
        self.line.ask_orders()  # one may be why there is a notice
        self.runner.record(self.recorder if told.sends_events(self.options.task_events) else None)
        for name, (soft, hard) in told.limits.items():
            task = self.app.registry.get(name)
            if task is not None and (task.soft_time_limit, task.time_limit) != (soft, hard):
                task.soft_time_limit, task.time_limit = soft, hard
                self.runner.plans.pop(name, None)

    def _too_large(self) -> bool:
        """Whether the process has ever used more memory than it may (its peak, as Celery counts)."""
        used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        if sys.platform == "darwin":
            used //= 1024  # bytes there, KiB elsewhere
        if used <= self.options.max_memory_per_child:
            return False
        if not self._said_too_large:
            self._said_too_large = True
            logger.info(
                "This process has used %d KiB, more than --max-memory-per-child (%d KiB): it is replaced",
                used,
                self.options.max_memory_per_child,
            )
        return True

    @property
    def trusted(self) -> bool:
        """Whether the node's leases are known to hold for a while: without that nothing new is claimed."""
        return self.record.board.leased_until - self.margin > time.monotonic()

    def await_trust(self) -> None:
        """Sleep until the agent has reached the store, a signal comes, or a moment has passed."""
        import select

        select.select([self.wake_read], [], [], 0.005 if not self.record.processed else 0.1)

    def drain_wake(self) -> None:
        """Empty the wake-up pipe."""
        drain(self.wake_read)

    def nudge(self) -> None:
        """Wake the claiming thread."""
        try:
            os.write(self.wake_write, b"!")
        except BlockingIOError:
            pass

    def follow(self, version: int) -> None:
        """Fetch new orders when an answer says that there are some."""
        coordinator = self.app.coordinator
        if version != self.runner.version and coordinator is not None:
            try:
                control = coordinator.control(self.runner.version)
            except OperationalError as error:
                logger.warning("Could not read the orders, trying again with the next answer: %s", error)
                return
            self.runner.obey(control)
            if self.on_terminate is not None:
                for task_id in control.terminate:
                    self.on_terminate(task_id)

    def close(self) -> None:
        """Free what is the seat's: for a child whose process lives on."""
        self.app.events.sink = None
        os.close(self.wake_read)
        os.close(self.wake_write)

    def report_refused(self, tokens: list[int]) -> None:
        for token in tokens:
            logger.warning(
                "The outcome of delivery %d was refused: its lease was taken over, another worker runs it",
                token,
            )


def import_modules(told: notice.Notice) -> None:
    """Import what ``pool_restart`` has named; what cannot be imported now is said and left out."""
    for name in told.modules:
        try:
            known = sys.modules.get(name)
            if known is None:
                importlib.import_module(name)
            elif told.reload:
                importlib.reload(known)
        except Exception:
            logger.exception("Could not import %s, as pool_restart had asked for", name)


def run_child(
    app: Celeriac,
    options: Options,
    record: ChildRecord,
    node: str,
    epoch: int,
    *,
    alone: Callable[[Seat], None] | None = None,
) -> int:
    """Live as a child of ``node`` until told to leave; return the exit code.

    ``alone``: there is no supervisor, the caller has installed the signals (solo) and is given the seat.
    """
    if alone is None:
        # Until it is attached, which a broker that is away can delay, it holds nothing and leaves at a word.
        signal.signal(signal.SIGUSR2, lambda *_: os._exit(EXIT_LEFT))
    try:
        seat = Seat(app, options, record, node, epoch)
    except Fenced:
        logger.error("Others hold this node's leases now (it was out of touch): starting anew")
        return EXIT_FENCED
    if alone is None:
        install_signals(seat)
    else:
        alone(seat)
    if signals.worker_process_init.receivers:
        signals.worker_process_init.send(sender=None)
    code = EXIT_LEFT
    try:
        if options.pool in SINGLE_SLOT:
            from celeriac.worker.pools.serial import Serial

            record.life = Life.READY
            Serial(seat).work()
        else:
            from celeriac.worker.pools import slots

            record.life = Life.READY
            slots.work(seat)
        record.life = Life.LEAVING
        seat.line.close()
    except Fenced:
        logger.error("Others hold this child's leases now (it was out of touch): starting anew")
        code = EXIT_FENCED
    finally:
        if signals.worker_process_shutdown.receivers:
            signals.worker_process_shutdown.send(sender=None, pid=os.getpid(), exitcode=code)
    return code


def install_signals(seat: Seat) -> None:
    """Take over the child's signals.

    SIGUSR2: look at the board. SIGUSR1: the soft limit. The others are the supervisor's business, though a
    terminal, a service manager or ``timeout`` may send them to the whole group of processes: SIGTERM is
    followed only when the supervisor ordered it (a revoke with ``terminate``).
    """

    def terminate(*_: object) -> None:
        if seat.record.order == Order.DIE:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            os.kill(os.getpid(), signal.SIGTERM)

    signal.set_wakeup_fd(seat.wake_write, warn_on_full_buffer=False)
    for number in (signal.SIGINT, signal.SIGQUIT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGUSR2, lambda *_: None)
    signal.signal(signal.SIGUSR1, lambda *_: None)
    signal.signal(signal.SIGTERM, terminate)


def born(fd: int) -> int:
    """Live as a child that was started by exec; ``fd`` is a pipe with its :class:`Birth`."""
    import msgspec

    with os.fdopen(fd, "rb") as pipe:
        birth = msgspec.json.decode(pipe.read(), type=Birth)
    die_with_parent(birth.parent, load_prctl())
    options = birth.options
    if options.workdir:
        os.chdir(options.workdir)
    from celeriac.app.find import find_app

    app = find_app(birth.app_spec)
    app.conf.override(options.overrides)
    app.log.setup(
        options.loglevel,
        options.logfile,
        redirect_stdouts=app.conf.worker_redirect_stdouts,
        redirect_level=app.conf.worker_redirect_stdouts_level,
        hostname=options.name,
    )
    app.log.enter_child(birth.child + 1, f"{options.name}:{birth.child}")
    name_process(str(birth.child))
    app.import_tasks()
    app.finalize()
    board = Board(birth.board_children, birth.board_slots, birth.board_fd)
    return run_child(app, options, board.child(birth.child), birth.node, birth.epoch)
