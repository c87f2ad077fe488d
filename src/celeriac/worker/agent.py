"""The agent: it speaks for the node.

Responsibilities:

1. Beat: renew the node's leases every fifth of their time, and note on the board until when they hold. Where
   the broker cannot tell who is there, also beat in the store of results (``Presence``).
2. Recover: take over the leases of nodes that died.
3. Release what dead children of this node held, as the supervisor reports them.
4. Give back what a child claimed and cannot start because a task overruns: also where that task's C code
   holds the interpreter, so that the child itself could not.
5. Watch for orders: revoked tasks that run here are named to the supervisor, who alone kills.
6. Send the worker's signals (``worker_ready``, ``worker_shutting_down``, ``worker_shutdown``): handlers may
   open connections, which the supervisor must not have.
7. Tie the node's queues to their exchanges, and bring in what foreign clients broadcast where the engine
   offers to (``relay_foreign``).
8. Measure the backlog, for autoscaling, and wake children for messages of foreign producers where the engine
   offers to (``watch_foreign``).
8. Send the bodies of chords whose worker died before it could (``ChordRecovery``).

If it dies the supervisor starts another one; nothing it knows is lost with it.
"""

from __future__ import annotations

import logging
import random
import select
import socket
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from celeriac import signals
from celeriac.engines.base import Loss, NodeInfo
from celeriac.exceptions import OperationalError
from celeriac.worker.board import Board
from celeriac.worker.chord_recovery import ChordRecovery
from celeriac.worker.node import process_lives
from celeriac.worker.options import SINGLE_SLOT, Options
from celeriac.worker.presence import presence_of

if TYPE_CHECKING:
    from celeriac.app.base import Celeriac
    from celeriac.worker.steps import Steps

logger = logging.getLogger("celeriac.worker")

OVERRUN = 0.05
"""Seconds a task may run before what waits behind it in its child is given back (the child itself does so
after 20 ms, where it can run Python)."""
TICK = 0.05
CONTROL_INTERVAL = 0.5
BACKLOG_INTERVAL = 1.0
BIND_INTERVAL = 30.0
"""Seconds after which the queues are tied to their exchanges again: the store may have been emptied."""


class Death(msgspec.Struct, tag=True):
    """Supervisor to agent: an owner is dead; settle its leases."""

    owner: str
    started: dict[int, Loss]


class Ready(msgspec.Struct, tag=True):
    """Supervisor to agent: all children are up."""

    again: bool = False
    """The agent is a new one of a node that was ready before."""


class Stopping(msgspec.Struct, tag=True):
    """Supervisor to agent: the shutdown has begun."""

    sig: str
    how: str


class Leave(msgspec.Struct, tag=True):
    """Supervisor to agent: all children are gone; sign off and exit."""


class Released(msgspec.Struct, tag=True):
    """Agent to supervisor: the dead owner's leases are settled."""

    owner: str


class Terminate(msgspec.Struct, tag=True):
    """Agent to supervisor: kill what runs under this token, with this signal."""

    child: int
    token: int
    signal: str


Message = Death | Ready | Stopping | Leave | Released | Terminate


class Channel:
    """One end of the socket pair between supervisor and agent; never blocks."""

    def __init__(self, end: socket.socket) -> None:
        end.setblocking(False)
        self.end = end
        self._unsent: list[bytes] = []

    def fileno(self) -> int:
        return self.end.fileno()

    def send(self, message: Message) -> None:
        self._unsent.append(msgspec.json.encode(message))
        self.flush()

    def flush(self) -> None:
        while self._unsent:
            try:
                self.end.send(self._unsent[0])
            except (BlockingIOError, ConnectionError, OSError):
                return
            del self._unsent[0]

    def receive(self) -> list[Message]:
        """All messages that have arrived."""
        messages: list[Message] = []
        while True:
            try:
                data = self.end.recv(1 << 20)
            except (BlockingIOError, ConnectionError):
                return messages
            if not data:
                return messages
            messages.append(msgspec.json.decode(data, type=Message))

    def close(self) -> None:
        self.end.close()


class Agent:
    """The node's voice. ``run`` returns when told to leave; ``Fenced`` when others took over the node."""

    def __init__(
        self, app: Celeriac, options: Options, board: Board, node: NodeInfo, channel: Channel
    ) -> None:
        self.app = app
        self.options = options
        self.board = board
        self.node = node
        self.channel = channel
        self.records = board.records()
        self.version = 0
        self.unreturned: list[tuple[str, list[tuple[str, int]]]] = []
        self.deaths: list[Death] = []
        self.leaving = False
        self._helpers: list[threading.Thread] = []
        self._due: dict[Callable[[], None], float] = {}
        self._warned: set[str] = set()
        self.hostname = options.name
        """The node's name, for the receivers of signals."""
        self._presence = presence_of(app, node)
        self._steps: Steps | None = None
        if any(app.steps.values()):
            from celeriac.worker.steps import Steps

            self._steps = Steps(app, options, node.pid)

    def run(self) -> None:
        interval = self.options.lease / 5
        self._try("check the stores", self._check)
        self._start_helpers()
        if self._steps is not None:
            self._steps.begin()
        chords = ChordRecovery(self.app, self.node.id)
        if self.app.backend is not None:
            chords.start()
        try:
            while not self.leaving:
                self._work(interval)
        finally:
            if self._steps is not None:
                self._steps.end()
            chords.stop()
        signals.worker_shutdown.send(sender=self)
        self._try("sign off", lambda: self.app.broker.leave(self.node.id))
        if self._presence is not None:
            self._try("sign off where results are", self._presence.leave)
        self._end_helpers()
        self.channel.close()

    def _work(self, interval: float) -> None:
        self._every(self.beat, interval)
        self._every(self.bind, BIND_INTERVAL)
        self._every(self.recover, interval * random.uniform(0.8, 1.2))
        if self._presence is not None:
            self._every(self.show_presence, interval)
        self._every(self.follow_orders, CONTROL_INTERVAL)
        if self.options.autoscale:
            self._every(self.measure, BACKLOG_INTERVAL)
        self.give_back_overrun()
        self.release_dead()
        self._listen(TICK)

    # -- what is due now and then ------------------------------------------------------------------

    def beat(self) -> None:
        """Renew the leases. A store that cannot be reached is tried again at the next tick."""
        asked = time.monotonic()
        self.node.details["processed"] = sum(record.processed for record in self.records)
        self.node.details["active"] = sum(1 for record in self.records for _ in record.running())
        if self._try("renew the leases", lambda: self.app.broker.beat(self.node)):
            # Counted from before the question: a slow answer must not stretch the trust in it.
            self.board.note_beat(self.options.lease - (time.monotonic() - asked))
            if signals.heartbeat_sent.receivers:
                signals.heartbeat_sent.send(sender=self)
            if self.options.heartbeat_file:
                Path(self.options.heartbeat_file).touch()
        else:
            self._due[self.beat] = time.monotonic() + TICK

    def bind(self) -> None:
        """Tie the queues to their exchanges; after a beat, for a node's own queues are a living node's."""

        def step() -> None:
            if self.options.bindings:
                self.app.broker.bind(self.options.bindings)
            if self.options.own_bindings:
                self.app.broker.bind(self.options.own_bindings, self.node.id)

        if not self._try("tie the queues to their exchanges", step):
            self._due[self.bind] = time.monotonic() + TICK

    def recover(self) -> None:
        def step() -> None:
            for lost in self.app.broker.recover(self.node.host, process_lives):
                logger.warning(
                    "Recovered %d message(s) of %s, which stopped (%d had been started)",
                    lost.messages,
                    lost.owner,
                    lost.started,
                )

        self._try("look for dead workers", step)

    def show_presence(self) -> None:
        """Tell where results are kept that this worker is there."""
        presence = self._presence
        assert presence is not None
        if self._try("tell where results are that this worker is there", presence.beat):
            self._try("forget workers that have gone", lambda: presence.forget_dead(process_lives))

    def follow_orders(self) -> None:
        coordinator = self.app.coordinator
        if coordinator is None:
            return

        def step() -> None:
            control = coordinator.control(self.version)
            self.version = control.version
            if control.terminate:
                self._order_kills(control.terminate)

        self._try("read the orders", step)

    def measure(self) -> None:
        def step() -> None:
            depths = self.app.broker.depth(self.options.queues)
            self.board.note_backlog(sum(depth.ready for depth in depths.values()))

        self._try("measure the queues", step)

    # -- children ----------------------------------------------------------------------------------

    def give_back_overrun(self) -> None:
        """Return what waits behind a task that takes longer than a moment."""
        if self.options.pool in SINGLE_SLOT and getattr(self.app.broker, "reaches_leases", True):
            now = time.monotonic()
            for record in self.records:
                if record.unstarted and any(now - running.since > OVERRUN for running in record.running()):
                    leases = [(self.options.queues[queue], token) for token, queue in record.withdraw()]
                    if leases:
                        self.unreturned.append((self._owner(record.number, record.epoch), leases))
        for owner, leases in list(self.unreturned):
            if self._try("give back", partial(self.app.broker.give_back, owner, leases)):
                self.unreturned.remove((owner, leases))

    def release_dead(self) -> None:
        for death in list(self.deaths):
            release = partial(self.app.broker.release, death.owner, death.started)
            if self._try("release a dead child's messages", release):
                self.deaths.remove(death)
                self.channel.send(Released(death.owner))

    def _owner(self, child: int, epoch: int) -> str:
        return f"{self.node.id}:{child}:{epoch}"

    def _order_kills(self, orders: dict[str, str]) -> None:
        for record in self.records:
            for running in record.running():
                if running.task_id in orders:
                    self.channel.send(Terminate(record.number, running.token, orders[running.task_id]))

    # -- waiting -----------------------------------------------------------------------------------

    def _listen(self, timeout: float) -> None:
        self.channel.flush()
        select.select([self.channel], [], [], timeout)
        for message in self.channel.receive():
            if isinstance(message, Death):
                self.deaths.append(message)
            elif isinstance(message, Ready):
                self._begin_work(message.again)
            elif isinstance(message, Stopping):
                if self._steps is not None:
                    self._steps.close(message.how == "Cold")
                signals.worker_shutting_down.send(
                    sender=self.options.name, sig=message.sig, how=message.how, exitcode=0
                )
            elif isinstance(message, Leave):
                self.leaving = True
        if self.leaving:
            self.release_dead()

    def _begin_work(self, again: bool) -> None:
        if not again:
            logger.info("%s ready.", self.options.name)
            signals.worker_ready.send(sender=self)
        if self._steps is not None:
            self._steps.ready()

    def _every(self, step: Callable[[], None], interval: float) -> None:
        now = time.monotonic()
        if now >= self._due.get(step, 0.0):
            self._due[step] = now + interval
            step()

    def _try(self, what: str, step: Callable[[], Any]) -> bool:
        """Do ``step``; a store that is away is said once and tried again later."""
        try:
            step()
        except OperationalError as error:
            if what not in self._warned:
                self._warned.add(what)
                logger.warning("Cannot %s now, trying on: %s", what, error)
            return False
        if what in self._warned:
            self._warned.discard(what)
            logger.info("Can %s again", what)
        return True

    def _check(self) -> None:
        """Say what about the stores' set-up endangers messages, if the engine can tell."""
        for store in {id(s): s for s in (self.app.broker, self.app.backend) if s is not None}.values():
            for warning in getattr(store, "check", list)():
                logger.warning("%s", warning)

    def _start_helpers(self) -> None:
        """Let the engine do in threads what it offers to: wake our idle children for messages of other
        programs, and bring in their broadcasts."""
        near, self._far = socket.socketpair()
        self._near = near
        broker, options = self.app.broker, self.options
        watch, relay = getattr(broker, "watch_foreign", None), getattr(broker, "relay_foreign", None)
        if watch is not None:
            self._help("celeriac-watch", watch, options.queues, near.fileno())
        if relay is not None and options.own_bindings:
            self._help("celeriac-relay", relay, options.own_bindings, near.fileno())

    def _help(self, name: str, target: Callable[..., None], *args: Any) -> None:
        thread = threading.Thread(target=target, args=args, name=name, daemon=True)
        self._helpers.append(thread)
        thread.start()

    def _end_helpers(self) -> None:
        """End these threads: the process may live on (solo)."""
        self._far.close()
        for thread in self._helpers:
            thread.join(1.0)
        self._near.close()
