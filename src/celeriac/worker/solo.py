"""The solo worker: one process, one slot, for debugging and tests.

The agent is a thread of the same process and there is no supervisor, so time limits and memory limits
cannot be kept and a crash takes the worker with it (its messages are recovered by others, or when it starts
again).
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

from celeriac.engines.base import NodeInfo
from celeriac.exceptions import Fenced, WorkerTerminate
from celeriac.monitor.listening import listen
from celeriac.monitor.systemd import Systemd
from celeriac.worker.agent import Agent
from celeriac.worker.board import Board, Order
from celeriac.worker.channel import Channel, Leave, Message, Ready, Stop, Stopping, Wake
from celeriac.worker.child import Seat, run_child
from celeriac.worker.node import new_node
from celeriac.worker.options import Options
from celeriac.worker.processes import EXIT_FENCED, EXIT_LEFT
from celeriac.worker.shutdown import Shutdown

if TYPE_CHECKING:
    from celeriac.app.base import Celeriac
    from celeriac.beat import Beat

logger = logging.getLogger("celeriac.worker")


class Solo:
    """A node in one process. ``run`` returns the exit code."""

    _lives = 0

    def __init__(self, app: Celeriac, options: Options, handle_signals: bool = True) -> None:
        self.app = app
        self.options = options
        self.handle_signals = handle_signals
        self.board = Board(1, options.slots)
        self._beat: Beat | None = None
        self._beat_thread: threading.Thread
        self._seat: Seat | None = None
        self._seat_lock = threading.RLock()
        self.record = self.board.child(0)
        self.shutdown = Shutdown(options.grace)
        self.listening = listen(options.health) if options.health else None
        self.systemd = Systemd()

    def run(self) -> int:
        """Work until told to stop; begin a new life whenever others took over the one before."""
        if self.handle_signals:
            self.shutdown.install()
        self._start_beat()
        while (code := self._live()) == EXIT_FENCED and not self.shutdown.stopping:
            pass
        if self._beat is not None:
            self._beat.stop()
            self._beat_thread.join(3.0)
        self.board.close()
        if self.listening is not None:
            self.listening.close()
        if not self.handle_signals:
            self.shutdown.close()
        return self.shutdown.exit_code or (0 if self.shutdown.stopping else code)

    def _start_beat(self) -> None:
        """Start the embedded beat (``-B``): here it is a thread, as the agent is."""
        if self.options.beat:
            from celeriac.beat import Beat

            self._beat = Beat(
                self.app, scheduler=self.options.scheduler, hostname=self.options.name, embedded=True
            )
            self._beat_thread = threading.Thread(target=self._beat.run, name="celeriac-beat", daemon=True)
            self._beat_thread.start()

    def stop(self) -> None:
        """Ask for a warm shutdown from another thread."""
        self.shutdown.stop()

    def _live(self) -> int:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        channel = Channel(ours)
        node = self._new_node()
        agent = Agent(self.app, self.options, self.board, node, Within(theirs, self._obey), self.listening)
        agent.systemd = self.systemd
        thread = threading.Thread(target=_speak, args=(agent,), name="celeriac-agent", daemon=True)
        self.record.reset(1)
        self.record.pid = os.getpid()
        self.shutdown.on_stop = lambda: self._stop(channel)
        thread.start()
        channel.send(Ready())
        self.systemd.ready(f"{self.options.name} takes from {', '.join(self.options.queues)}")
        code = EXIT_LEFT
        try:
            code = run_child(self.app, self.options, self.record, node.id, 1, alone=self._take)
        except WorkerTerminate:
            logger.warning("Stopped in the middle of a task: it is given back")
        finally:
            channel.send(Leave())
            thread.join(5.0)
            channel.close()
            self._leave_seat()
        return code

    def _take(self, seat: Seat) -> None:
        self._seat = seat

    def _obey(self, message: Message) -> None:
        """What a supervisor would do at the agent's word (on the agent's threads)."""
        if isinstance(message, Wake):
            self._nudge()
        elif isinstance(message, Stop) and not self.shutdown.stopping:
            if self.handle_signals:
                os.kill(os.getpid(), signal.SIGINT)  # the shutdown is the main thread's business
            else:
                self.stop()

    def _nudge(self) -> None:
        with self._seat_lock:
            if self._seat is not None:
                self._seat.nudge()

    def _leave_seat(self) -> None:
        with self._seat_lock:  # nobody nudges it any more
            seat, self._seat = self._seat, None
            if seat is not None:
                seat.close()

    def _new_node(self) -> NodeInfo:
        Solo._lives += 1
        return new_node(self.app, self.options, f"solo{Solo._lives}")

    def _stop(self, channel: Channel) -> None:
        if self.shutdown.begin():
            self.systemd.stopping()
            if self._beat is not None:
                self._beat.stop()
            channel.send(Stopping(self.shutdown.sig, self.shutdown.how))
            if self.handle_signals and self.options.grace:
                signal.signal(signal.SIGALRM, self._terminate)
                signal.setitimer(signal.ITIMER_REAL, self.options.grace)
        self.record.order = Order.QUIT
        self._nudge()
        if self.shutdown.cold:
            self._terminate()

    def _terminate(self, *_: object) -> None:
        raise WorkerTerminate(1)


class Within(Channel):
    """The agent's end of the channel where there is no supervisor to read the other one."""

    def __init__(self, end: socket.socket, obey: Callable[[Message], None]) -> None:
        super().__init__(end)
        self._obey = obey

    def send(self, message: Message) -> None:
        self._obey(message)


def _speak(agent: Agent) -> None:
    """The agent's thread; that the node was fenced, the child finds out by itself."""
    try:
        agent.run()
    except Fenced:
        logger.error("This node was away longer than its lease, others took over its tasks: starting anew")
