"""The supervisor: it forks, reaps and watches, and does nothing else.

Responsibilities:

1. Start the agent, the children and (``-B``) the embedded beat, and replace those that end.
2. Tell the agent whose leases a dead child held and how its task ended, so that they are settled at once.
3. Keep time limits and the number of processes (``Sizing``), through the board and signals, and do what the
   agent passes on of remote control.
4. Shut down: warm, soft or cold.

It has no thread, no connection and runs no task (and of hooks only the signal
``worker_before_create_process``, which has no other place), so it is always there to do these, and fork is
safe. The application is imported before the first fork; memory is shared with the children (garbage frozen,
copy on write).
"""

from __future__ import annotations

import gc
import logging
import os
import select
import signal
import socket
import time
from typing import TYPE_CHECKING

import msgspec

from celeriac import signals
from celeriac.engines.base import Loss, NodeInfo
from celeriac.monitor.listening import listen
from celeriac.monitor.systemd import Systemd
from celeriac.worker import notice
from celeriac.worker.board import Board, ChildRecord, Life, Order, Running
from celeriac.worker.channel import (
    Autoscale,
    Channel,
    Death,
    Leave,
    Ready,
    Released,
    Replace,
    Resize,
    Stop,
    Stopping,
    Terminate,
    Wake,
)
from celeriac.worker.embedded import EmbeddedBeat
from celeriac.worker.history import lost
from celeriac.worker.node import new_node
from celeriac.worker.options import Options
from celeriac.worker.processes import EXIT_FENCED, EXIT_LEFT, Launcher, preload
from celeriac.worker.shutdown import Shutdown
from celeriac.worker.sizing import Sizing

if TYPE_CHECKING:
    from celeriac.app.base import Celeriac

logger = logging.getLogger("celeriac.worker")

TICK = 0.1
"""Seconds between looks at the limits: how exact they are kept."""
TERM_PATIENCE = 1.0
"""Seconds a terminated task has to follow its signal before it is killed."""


class Child:
    """One child process as its parent sees it."""

    def __init__(self, record: ChildRecord) -> None:
        self.record = record
        self.pid = 0
        self.epoch = 0
        self.born = 0.0
        self.verdicts: dict[int, Loss] = {}
        """How started messages are to be ended if the process dies: set before we kill it."""
        self.ours = False
        """We ended it ourselves: what it ran does not count as a death."""
        self.kill_at = 0.0
        self.idle_since = 0.0
        self.not_before = 0.0

    @property
    def alive(self) -> bool:
        return self.pid != 0


class Supervisor:
    """A node. ``run`` returns the exit code when everything has ended."""

    def __init__(self, app: Celeriac, options: Options, opened_early: bool = False) -> None:
        self.app = app
        self.options = options
        self.board = Board(options.room, options.slots)
        self.children = [Child(record) for record in self.board.records()]
        self.sizing = Sizing(self.board, options)
        self.shutdown = Shutdown(options.grace)
        self.launcher = Launcher(app, options, self.board, opened_early)
        self.beat = EmbeddedBeat(self.launcher.fork_beat) if options.beat else None
        self.life = 0
        self.listening = listen(options.health) if options.health else None
        self.systemd = Systemd()
        self.node = self._new_node()
        self.agent_pid = 0
        self.channel: Channel | None = None
        self.unreleased: dict[str, Death] = {}
        self._ready = False
        self._rested: dict[int, float] = {}

    def run(self) -> int:
        wake = self.shutdown.install()
        gc.disable()
        if not self.launcher.by_exec:
            preload(self.app)
        gc.freeze()
        gc.enable()
        self._start_agent()
        while True:
            self.board.note_pulse()
            self._fill()
            self._reap()
            self._listen()
            self._keep_limits()
            self._announce()
            if self.agent_pid:
                self.systemd.alive()
            if self.shutdown.stopping and self._stop():
                break
            ends = [wake] + ([self.channel.fileno()] if self.channel else [])
            readable, _, _ = select.select(ends, [], [], TICK)
            if wake in readable:
                self.shutdown.drain()
        self._end_agent()
        self.board.close()
        if self.listening is not None:
            self.listening.close()
        return self.shutdown.exit_code

    # -- starting ----------------------------------------------------------------------------------

    def _new_node(self) -> NodeInfo:
        """The node's identity; a fenced node begins a new life under a new id."""
        self.life += 1
        return new_node(self.app, self.options, str(self.life))

    def _start_agent(self) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.channel = Channel(ours)
        self.agent_pid = self.launcher.fork_agent(self.node, Channel(theirs), (ours,), self.listening)
        theirs.close()
        if self._ready:
            self.channel.send(Ready(again=True))
        for death in self.unreleased.values():
            self.channel.send(death)

    def _fill(self) -> None:
        """Start the children that are missing."""
        if self.shutdown.stopping:
            return
        if self.beat:
            self.beat.keep()
        now = time.monotonic()
        for child in self.children[: self.sizing.wanted]:
            if child.alive or now < child.not_before:
                continue
            child.epoch += 1
            child.record.reset(child.epoch)
            child.verdicts, child.ours, child.kill_at, child.idle_since = {}, False, 0.0, 0.0
            child.born = now
            if signals.worker_before_create_process.receivers:
                signals.worker_before_create_process.send(sender=self)
            child.pid = self.launcher.start_child(child.record, self.node.id)
            child.record.pid = child.pid

    def _announce(self) -> None:
        if not self._ready and all(c.record.life == Life.READY for c in self.children[: self.sizing.wanted]):
            self._ready = True
            self.systemd.ready(f"{self.options.name} takes from {', '.join(self.options.queues)}")
            if self.channel:
                self.channel.send(Ready())

    # -- deaths ------------------------------------------------------------------------------------

    def _reap(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            code = os.waitstatus_to_exitcode(status)
            if pid == self.agent_pid:
                self._agent_died(code)
                continue
            if self.beat and self.beat.reaped(pid, _how(code), code == EXIT_LEFT):
                continue
            for child in self.children:
                if child.pid == pid:
                    self._child_died(child, code)

    def _child_died(self, child: Child, code: int) -> None:
        record, child.pid = child.record, 0
        running = list(record.running())
        owner = f"{self.node.id}:{record.number}:{child.epoch}"
        left_in_order = code == EXIT_LEFT and not running
        if not left_in_order:
            started = {
                run.token: msgspec.structs.replace(self._loss(child, run), task_id=run.task_id)
                for run in running
            }
            queues = notice.read(self.board).queues(self.options.queues)
            where = (self.options.name, queues, record.pid)
            runs = [lost(run, started[run.token], f"its process {_how(code)}", *where) for run in running]
            self.unreleased[owner] = Death(owner, started, runs)
            if self.channel:
                self.channel.send(self.unreleased[owner])
        if code == EXIT_FENCED:
            # The agent learns of it with its next beat, and the node begins a new life: no use in hurrying.
            child.not_before = time.monotonic() + TICK
        if left_in_order or child.ours or code == EXIT_FENCED:
            return
        for run in running:
            logger.error(
                "Task %s[%s] lost its process: child %d (pid %d) %s",
                run.task, run.task_id, record.number, record.pid, _how(code),
            )  # fmt: skip
        if not running:
            logger.error("Child %d (pid %d) %s; replacing it", record.number, record.pid, _how(code))
        if record.life == Life.STARTING:
            # Do not spin on a child that cannot start: 0.5 s, then up to 10 s while it keeps failing.
            pause = min(2 * self._rested.get(record.number, 0.25), 10.0)
            self._rested[record.number] = pause
            child.not_before = time.monotonic() + pause
        else:
            self._rested.pop(record.number, None)

    def _loss(self, child: Child, run: Running) -> Loss:
        if run.token in child.verdicts:
            return child.verdicts[run.token]
        return Loss(counted=not child.ours, mark=None)

    def _agent_died(self, code: int) -> None:
        self.agent_pid = 0
        if self.channel:
            self.channel.close()
            self.channel = None
        if self.shutdown.signed_off:
            return
        if code == EXIT_FENCED:
            self._begin_new_life()
        else:
            logger.error("The agent %s; replacing it", _how(code))
        self._start_agent()

    # -- what the agent says -----------------------------------------------------------------------

    def _listen(self) -> None:
        if self.channel is None:
            return
        self.channel.flush()
        for message in self.channel.receive():
            if isinstance(message, Released):
                self.unreleased.pop(message.owner, None)
            elif isinstance(message, Terminate):
                self._terminate(message)
            elif isinstance(message, Wake):
                self._wake()
            elif isinstance(message, Resize):
                self.sizing.resize(message.by)
            elif isinstance(message, Autoscale):
                self.sizing.set_range(message.high, message.low)
            elif isinstance(message, Replace):
                self._replace()
            elif isinstance(message, Stop):
                self.shutdown.stop(message.why)

    def _wake(self) -> None:
        """Let children that sleep look at the notice; those that only start read it anyway."""
        for child in self.children:
            if child.alive and child.record.life == Life.READY:
                os.kill(child.pid, signal.SIGUSR2)

    def _replace(self) -> None:
        """Let every child finish what it runs and leave; new ones take their places."""
        logger.info("Replacing all processes of the pool: ordered")
        for child in self.children:
            if child.alive:
                self._order(child, Order.QUIT)

    def _terminate(self, order: Terminate) -> None:
        """End the process that runs a revoked task, if it still runs it."""
        child = self.children[order.child]
        run = next((r for r in child.record.running() if r.token == order.token), None)
        if run is None or not child.alive or order.token in child.verdicts:
            return
        if self.options.pool != "prefork":
            logger.warning(
                "Not terminating %s[%s]: in the %s pool other tasks share its process",
                run.task, run.task_id, self.options.pool,
            )  # fmt: skip
            return
        number = getattr(signal, order.signal, signal.SIGTERM)
        logger.warning("Terminating %s[%s] with %s: revoked", run.task, run.task_id, order.signal)
        child.verdicts[order.token] = Loss(counted=False, mark=f"terminated:{int(number)}")
        child.ours = True
        child.record.order = Order.DIE
        os.kill(child.pid, number)
        child.kill_at = time.monotonic() + TERM_PATIENCE

    def _begin_new_life(self) -> None:
        """Others took over what we held: whatever runs here is a duplicate. Stop it, start afresh."""
        logger.error(
            "This node was away longer than its lease (%g s), others took over its tasks: starting anew",
            self.options.lease,
        )
        self._kill_children()
        self.unreleased.clear()
        self.node = self._new_node()

    # -- limits ------------------------------------------------------------------------------------

    def _keep_limits(self) -> None:
        now = time.monotonic()
        if self.options.pool == "prefork":
            for child in self.children:
                if child.alive:
                    self._keep_time(child, now)
        if not self.shutdown.stopping:
            self.sizing.follow(self.children, now)
        for child in self.sizing.settle(self.children):
            self._order(child, Order.QUIT)

    def _keep_time(self, child: Child, now: float) -> None:
        if child.kill_at and now >= child.kill_at:
            child.kill_at = 0.0
            os.kill(child.pid, signal.SIGKILL)
        for run in child.record.running():
            if run.hard and now >= run.hard and run.token not in child.verdicts:
                limit = run.hard - run.since
                logger.error("Hard time limit (%gs) exceeded for %s[%s]", limit, run.task, run.task_id)
                child.verdicts[run.token] = Loss(counted=False, mark=f"timeout:{limit:g}")
                child.ours = True
                os.kill(child.pid, signal.SIGKILL)
            elif run.soft and now >= run.soft:
                limit = run.soft - run.since
                logger.warning("Soft time limit (%gs) exceeded for %s[%s]", limit, run.task, run.task_id)
                child.record.clear_soft(run.slot, run.token)
                os.kill(child.pid, signal.SIGUSR1)

    def _order(self, child: Child, order: Order) -> None:
        child.record.order = order
        os.kill(child.pid, signal.SIGUSR2)

    # -- shutting down -----------------------------------------------------------------------------

    def _stop(self) -> bool:
        """One step of the shutdown; returns whether everything has ended."""
        if self.shutdown.begin():
            self.systemd.stopping()
            if self.beat:
                self.beat.end()
            if self.channel:
                self.channel.send(Stopping(self.shutdown.sig, self.shutdown.how))
            for child in self.children:
                if child.alive:
                    self._order(child, Order.QUIT)
        if self.shutdown.cold:
            self._kill_children()
        elif self.shutdown.grace_over:
            for child in self.children:
                if child.alive and not child.ours and not any(r.once for r in child.record.running()):
                    for run in child.record.running():
                        logger.warning("Grace is over: giving back %s[%s]", run.task, run.task_id)
                    child.ours = True
                    os.kill(child.pid, signal.SIGKILL)
        return not any(child.alive for child in self.children) and (self.beat is None or self.beat.ended)

    def _kill_children(self) -> None:
        for child in self.children:
            if child.alive:
                child.ours = True
                os.kill(child.pid, signal.SIGKILL)
        for child in self.children:
            if child.alive:
                _, status = os.waitpid(child.pid, 0)
                self._child_died(child, os.waitstatus_to_exitcode(status))

    def _end_agent(self) -> None:
        """Let the agent settle what the dead held and sign off; give it a few seconds for it."""
        self.shutdown.signed_off = True
        if self.channel is None:
            return
        self.channel.send(Leave())
        deadline = time.monotonic() + 5.0
        while time.monotonic() < deadline:
            self.channel.flush()
            pid, _ = os.waitpid(self.agent_pid, os.WNOHANG)
            if pid:
                return
            select.select([], [], [], 0.005)
        logger.warning("The broker cannot be reached to sign off: others will take over after the lease")
        os.kill(self.agent_pid, signal.SIGKILL)
        os.waitpid(self.agent_pid, 0)


def _how(code: int) -> str:
    """How a process ended, in words."""
    if code < 0:
        try:
            name = signal.Signals(-code).name
        except ValueError:
            name = f"signal {-code}"
        hint = " (out of memory? see the kernel's log)" if -code == signal.SIGKILL else ""
        return f"was killed by {name}{hint}"
    return f"exited with code {code}"
