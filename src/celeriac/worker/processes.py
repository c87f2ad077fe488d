"""How a node's processes come to be: by fork, or by a fresh exec where fork is not safe.

Fork is fast and shares memory, but copies only the calling thread: locks that other threads hold stay
locked for ever, and a monkey-patched hub must not be inherited. So children are started by exec

* for the gevent and eventlet pools, which patch before anything else is imported;
* with ``worker_pool_start_method = "spawn"``;
* when importing the application has started threads or opened our stores: start-up names them.

Every process dies with its parent: by the kernel's parent-death signal on Linux, elsewhere by the end of a
pipe.
"""

from __future__ import annotations

import gc
import logging
import os
import signal
import socket
import sys
import threading
from typing import TYPE_CHECKING, Any, NoReturn

import msgspec

from celeriac.engines.base import NodeInfo
from celeriac.exceptions import Fenced, ImproperlyConfigured
from celeriac.message import new_id
from celeriac.worker.board import Board, ChildRecord
from celeriac.worker.options import Options

if TYPE_CHECKING:
    from celeriac.app.base import Celeriac
    from celeriac.worker.channel import Channel

logger = logging.getLogger("celeriac.worker")

EXIT_LEFT = 0
"""A child that left in order: nothing leased, nothing running."""
EXIT_FENCED = 75
"""A child (or agent) that learnt that others hold its leases now."""
GREEN = ("gevent", "eventlet")


class Birth(msgspec.Struct):
    """What an exec'ed child is told, as JSON on its standard input."""

    app_spec: str
    options: Options
    child: int
    epoch: int
    node: str
    parent: int
    board_fd: int
    board_children: int
    board_slots: int


class Launcher:
    """Starts the agent, the children and the embedded beat of one node."""

    def __init__(self, app: Celeriac, options: Options, board: Board, opened_early: bool = False) -> None:
        self.app = app
        self.opened_early = opened_early
        self.options = options
        self.board = board
        self.beat_life = f"{os.getpid()}.{new_id()}"
        """The embedded beat's, also of one that replaces it: it need not wait for the end of the term."""
        self._prctl = load_prctl()
        self.by_exec = self._needs_exec()

    def fork_agent(
        self,
        node: NodeInfo,
        channel: Channel,
        close: tuple[socket.socket, ...],
        listening: socket.socket | None = None,
    ) -> int:
        """Start the agent; return its pid. On ``listening`` it answers for the node's health."""
        parent = os.getpid()
        pid = os.fork()
        if pid:
            return pid
        for end in close:
            end.close()
        guarded(lambda: self._agent(node, channel, parent, listening))

    def fork_beat(self) -> int:
        """Start the embedded beat; return its pid."""
        parent = os.getpid()
        pid = os.fork()
        if pid:
            return pid
        guarded(lambda: self._beat(parent))

    def start_child(self, record: ChildRecord, node: str) -> int:
        """Start a child process; return its pid."""
        if self.by_exec:
            return self._exec_child(record, node)
        parent, epoch = os.getpid(), record.epoch
        pid = os.fork()
        if pid:
            return pid
        guarded(lambda: self._child(record.number, epoch, node, parent))

    def _agent(self, node: NodeInfo, channel: Channel, parent: int, listening: socket.socket | None) -> int:
        from celeriac.worker.agent import Agent

        self._settle_in(parent, "agent")
        self.app.log.enter_child(0, f"{self.options.name}:agent")
        for number in (signal.SIGTERM, signal.SIGQUIT, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        try:
            Agent(self.app, self.options, self.board, node, channel, listening).run()
        except Fenced:
            return EXIT_FENCED
        return EXIT_LEFT

    def _beat(self, parent: int) -> int:
        from celeriac.beat import Beat

        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        self._settle_in(parent, "beat")
        self.app.log.enter_child(0, f"{self.options.name}:beat")
        beat = Beat(
            self.app,
            scheduler=self.options.scheduler,
            hostname=self.options.name,
            embedded=True,
            life=self.beat_life,
        )
        signal.signal(signal.SIGTERM, lambda *_: beat.stop())
        for number in (signal.SIGQUIT, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        beat.run()
        return EXIT_LEFT

    def _child(self, number: int, epoch: int, node: str, parent: int) -> int:
        self._settle_in(parent, str(number))
        self.app.log.enter_child(number + 1, f"{self.options.name}:{number}")
        from celeriac.worker.child import run_child

        return run_child(self.app, self.options, self.board.child(number), node, epoch)

    def _settle_in(self, parent: int, role: str) -> None:
        """What every forked process does first."""
        die_with_parent(parent, self._prctl)
        signal.set_wakeup_fd(-1)
        for number in (signal.SIGCHLD, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2):
            signal.signal(number, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        gc.enable()
        name_process(role)

    def _exec_child(self, record: ChildRecord, node: str) -> int:
        assert self.options.app_spec is not None
        birth = Birth(
            app_spec=self.options.app_spec,
            options=msgspec.structs.replace(self.options, given={}),  # values of any type, of use to no child
            child=record.number,
            epoch=record.epoch,
            node=node,
            parent=os.getpid(),
            board_fd=self.board.fd,
            board_children=self.board.children,
            board_slots=self.board.slots,
        )
        read, write = os.pipe()
        os.write(write, msgspec.json.encode(birth))
        os.close(write)
        os.set_inheritable(read, True)
        pid = os.posix_spawn(
            sys.executable,
            [sys.executable, "-m", "celeriac.worker.born", str(read), self.options.pool],
            dict(os.environ, PYTHONPATH=os.pathsep.join(path or os.getcwd() for path in sys.path)),
            file_actions=[],
            setsigmask=[],
            setsigdef=[signal.SIGTERM, signal.SIGQUIT, signal.SIGHUP],
        )
        os.close(read)
        return pid

    def _needs_exec(self) -> bool:
        reasons = []
        if self.options.pool in GREEN:
            reasons.append(f"the {self.options.pool} pool patches before anything is imported")
        elif self.options.start_method != "fork":
            reasons.append(f"worker_pool_start_method is {self.options.start_method!r}")
        names = [t.name for t in threading.enumerate() if t is not threading.main_thread()]
        if names:
            reasons.append(f"importing the application started threads ({', '.join(names)})")
        if self.opened_early:
            reasons.append("importing the application opened its broker or results")
        if not reasons:
            return False
        if self.options.app_spec is None:
            raise ImproperlyConfigured(
                f"children must be started by exec ({'; '.join(reasons)}), and that needs the application's "
                "name: start the worker with `celeriac -A module worker`"
            )
        logger.info("Children are started by exec: %s", "; ".join(reasons))
        return True


def preload(app: Celeriac) -> None:
    """Import and prepare, before the first fork, what every process will need: then they share its memory.

    Two children and the agent use 17 MiB less between them, and the first task starts sooner.
    """
    import multiprocessing.process  # noqa: F401

    import celeriac.canvas
    import celeriac.worker.child
    import celeriac.worker.pools.serial  # noqa: F401

    # Made when they are first asked for.
    app.fused, app.coordinator, app.results, app.publisher, app.events, app.redact, app.history_store  # noqa: B018
    for store in app.stores:
        prepare = getattr(store, "preload", None)
        if prepare is not None:
            prepare()


def die_with_parent(parent: int, prctl: Any) -> None:
    """Arrange for SIGKILL when the parent dies; exit at once if it already has."""
    if prctl is not None:
        prctl(1, signal.SIGKILL, 0, 0, 0)  # PR_SET_PDEATHSIG
    else:
        threading.Thread(target=_watch_parent, args=(parent,), daemon=True).start()
    if os.getppid() != parent:
        os._exit(EXIT_FENCED)


def _watch_parent(parent: int) -> None:
    """Where the kernel has no parent-death signal: look every second."""
    import time

    while os.getppid() == parent:
        time.sleep(1.0)
    os._exit(EXIT_FENCED)


def load_prctl() -> Any:
    """The C library's ``prctl`` where the system has one, loaded before a fork needs it."""
    if sys.platform != "linux":
        return None
    import ctypes

    return ctypes.CDLL(None, use_errno=True).prctl


def guarded(body: Any) -> NoReturn:
    """Run a child process's body and end the process: what follows in the parent's code is not its own."""
    code = 1
    try:
        code = body()
    except SystemExit as leave:
        code = leave.code if isinstance(leave.code, int) else 1
    except BaseException:
        logger.critical("A worker process failed", exc_info=True)
    finally:
        try:
            sys.stdout.flush()
            sys.stderr.flush()
            logging.shutdown()
        finally:
            os._exit(code)


def name_process(role: str) -> None:
    """Show the role (``agent``, or a child's number) in ``ps``, as far as the system lets us."""
    if sys.platform == "linux":
        try:
            with open("/proc/self/comm", "w") as file:
                file.write(f"celeriac:{role}")
        except OSError:
            pass
