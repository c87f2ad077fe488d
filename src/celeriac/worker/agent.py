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
7. Tie the node's queues to their exchanges.
8. Measure the backlog, for autoscaling.
9. Send the bodies of chords whose worker died before it could (``ChordRecovery``).
10. Send events: the worker's own, and its tasks' (``Sender``).
11. Take orders by remote control and answer them (``control.Service``): what concerns the pool goes to the
    supervisor, what children must know is posted on the board (``Notice``).
12. Keep the threads that listen to other programs (``Helpers``).
13. Note in the history what dead children ran, and delete what is too old there (``History``).
14. Answer for the node's health (``Health``).

If it dies the supervisor starts another one; nothing it knows is lost with it.
"""

from __future__ import annotations

import logging
import random
import select
import socket
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from celeriac import signals
from celeriac.engines.base import NodeInfo
from celeriac.exceptions import ImproperlyConfigured, OperationalError
from celeriac.routing.queues import Binding
from celeriac.worker.board import Board, ChildRecord, noted
from celeriac.worker.channel import (
    Channel,
    Death,
    Leave,
    Ready,
    Released,
    Stopping,
    Terminate,
    Wake,
)
from celeriac.worker.chord_recovery import ChordRecovery
from celeriac.worker.control.service import Service
from celeriac.worker.helpers import Helpers
from celeriac.worker.history import History
from celeriac.worker.node import is_outdated, process_lives, refresh
from celeriac.worker.notice import Posting
from celeriac.worker.options import SINGLE_SLOT, Options
from celeriac.worker.presence import Presence
from celeriac.worker.sender import Sender

if TYPE_CHECKING:
    from celeriac.app.base import Celeriac
    from celeriac.monitor.systemd import Systemd
    from celeriac.worker.health import Health
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


class Agent:
    """The node's voice. ``run`` returns when told to leave; ``Fenced`` when others took over the node."""

    def __init__(
        self,
        app: Celeriac,
        options: Options,
        board: Board,
        node: NodeInfo,
        channel: Channel,
        listening: socket.socket | None = None,
    ) -> None:
        self.app = app
        self.options = options
        self.board = board
        self.node = node
        self.channel = channel
        self._records = board.records()
        self.posting = Posting(board)
        self.version = 0
        self.unreturned: list[tuple[str, list[tuple[str, int]]]] = []
        self.deaths: list[Death] = []
        self.leaving = False
        self.helpers = Helpers(app)
        self.history = History(app)
        self._due: dict[Callable[[], None], float] = {}
        self._warned: set[str] = set()
        self.hostname = options.name
        """The node's name, for the receivers of signals."""
        self.systemd: Systemd | None = None
        """What to tell systemd of, where there is no supervisor to do it."""
        self._health: Health | None = None
        if listening is not None:
            from celeriac.worker.health import Health

            self._health = Health(app, board, node, lambda: self.consumed, listening)
        self.events: Sender | None = None
        """Sends the node's events, if the broker carries them."""
        carrier = app.events.carrier
        if carrier is not None:
            self.events = Sender(app, options, board, node, carrier)
        self._steps: Steps | None = None
        self.presence = Presence(app, node)
        if any(app.steps.values()):
            from celeriac.worker.steps import Steps

            self._steps = Steps(app, options, node.pid)

    # -- what it speaks for ------------------------------------------------------------------------

    @property
    def records(self) -> list[ChildRecord]:
        """The records of the children that there may be."""
        return self._records[: self.board.used]

    @property
    def queues(self) -> list[str]:
        """All queues the node has ever taken from; the board knows them by their place here."""
        return self.posting.last.queues(self.options.queues)

    @property
    def consumed(self) -> list[str]:
        """Those it takes from now."""
        return self.posting.last.consumed(self.options.queues)

    @property
    def sends_events(self) -> bool:
        """Whether events are sent about its tasks now."""
        return self.posting.last.sends_events(self.options.task_events)

    @property
    def bindings(self) -> list[Binding]:
        """The ties of its queues to exchanges."""
        return [*self.options.bindings, *self.posting.last.bindings]

    @property
    def own_bindings(self) -> list[Binding]:
        """Those of the queues that are its own."""
        return [*self.options.own_bindings, *self.posting.last.own_bindings]

    def tell_children(self, **changes: Any) -> None:
        """Change the notice (fields of :class:`~celeriac.worker.notice.Notice`) and wake those who sleep.

        Safe for use by threads. Raises ``ImproperlyConfigured`` if the notice gets too long.
        """
        self.posting.change(**changes)
        self.channel.send(Wake())

    def announce_orders(self) -> None:
        """Let children ask for new orders (revokes, rate limits) before they run what they claim next.

        Answers of a broker that keeps the orders itself tell of them; where another store does, children ask
        it only now and then. Safe for use by threads.
        """
        coordinator: object = self.app.coordinator
        if coordinator is not self.app.broker:
            self.tell_children()

    def hasten(self, *steps: Callable[[], None]) -> None:
        """Let what is done now and then (:meth:`beat`, :meth:`bind`, :meth:`follow_orders`) be done at the
        next tick. Safe for use by threads."""
        for step in steps:
            self._due[step] = 0.0

    def run(self) -> None:
        interval = self.options.lease / 5
        if self._health is not None:
            self._health.start()
        self._try("check the stores", self._check)
        self._start_helpers()
        if self._steps is not None:
            self._steps.begin()
        chords = ChordRecovery(self.app, self.node.id)
        if self.app.backend is not None:
            chords.start()
        self.history.start()
        if self.events is not None:
            self.events.start()
        try:
            while not self.leaving:
                self._work(interval)
        finally:
            if self._steps is not None:
                self._steps.end()
            chords.stop()
            if self._health is not None:
                self._health.close()
            if self.events is not None:
                self.events.stop()
            self.history.stop()
        signals.worker_shutdown.send(sender=self)
        self._try("sign off", lambda: self.app.broker.leave(self.node.id))
        self._try("sign off", self.presence.leave)
        self.helpers.end()
        self.channel.close()

    def _work(self, interval: float) -> None:
        if is_outdated(self.node, self.board):
            self.hasten(self.beat)
        self._every(self.beat, interval)
        if self.options.heartbeat_file:
            self._every(self.touch, interval)
        if self.systemd is not None:
            self.systemd.alive()
        self._every(self.bind, BIND_INTERVAL)
        self._every(self.recover, interval * random.uniform(0.8, 1.2))
        self._every(self.follow_orders, CONTROL_INTERVAL)
        if self.board.autoscale:
            self._every(self.measure, BACKLOG_INTERVAL)
        self.give_back_overrun()
        self.release_dead()
        self.helpers.listen(self.consumed, self.own_bindings)
        self._listen(TICK)

    # -- what is due now and then ------------------------------------------------------------------

    def beat(self) -> None:
        """Renew the leases. A store that cannot be reached is tried again at the next tick."""
        asked = time.monotonic()
        refresh(self.node, self.board, self.records, self.consumed)
        if self._try("renew the leases", lambda: self.app.broker.beat(self.node)):
            # Counted from before the question: a slow answer must not stretch the trust in it.
            self.board.note_beat(self.options.lease - (time.monotonic() - asked))
            self._try("say that the node lives", self.presence.beat)
            if signals.heartbeat_sent.receivers:
                signals.heartbeat_sent.send(sender=self)
        else:
            self._due[self.beat] = time.monotonic() + TICK

    def touch(self) -> None:
        """Touch the heartbeat file: the processes work, whether or not the store can be reached."""
        assert self.options.heartbeat_file is not None
        pulse = self.board.pulse_age
        if pulse is None or pulse < self.options.lease:
            Path(self.options.heartbeat_file).touch()

    def bind(self) -> None:
        """Tie the queues to their exchanges; after a beat, for a node's own queues are a living node's."""

        def step() -> None:
            if self.bindings:
                self.app.broker.bind(self.bindings)
            if self.own_bindings:
                self.app.broker.bind(self.own_bindings, self.node.id)

        if not self._try("tie the queues to their exchanges", step):
            self._due[self.bind] = time.monotonic() + CONTROL_INTERVAL

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
            depths = self.app.broker.depth(self.consumed)
            self.board.note_backlog(sum(depth.ready for depth in depths.values()))

        self._try("measure the queues", step)

    # -- children ----------------------------------------------------------------------------------

    def give_back_overrun(self) -> None:
        """Return what waits behind a task that takes longer than a moment."""
        if self.options.pool in SINGLE_SLOT and getattr(self.app.broker, "reaches_leases", True):
            now = time.monotonic()
            for record in self.records:
                if record.unstarted and any(now - running.since > OVERRUN for running in record.running()):
                    leases = [(self.queues[queue], token) for token, queue in record.withdraw()]
                    if leases:
                        self.unreturned.append((self._owner(record.number, record.epoch), leases))
        for owner, leases in list(self.unreturned):
            if self._try("give back", partial(self.app.broker.give_back, owner, leases)):
                self.unreturned.remove((owner, leases))

    def release_dead(self) -> None:
        for death in list(self.deaths):
            if death.lost:  # before it can run again, so that the history has them in order
                self.history.note(death.lost)
                death.lost = []
            release = partial(self.app.broker.release, death.owner, death.started)
            if self._try("release a dead child's messages", release):
                self.deaths.remove(death)
                self.channel.send(Released(death.owner))

    def _owner(self, child: int, epoch: int) -> str:
        return f"{self.node.id}:{child}:{epoch}"

    def _order_kills(self, orders: dict[str, str]) -> None:
        orders = {noted(task_id): signal for task_id, signal in orders.items()}
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
                if self._health is not None:
                    self._health.stopping = True
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
        if self._health is not None:
            self._health.ready = True
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
        """Do ``step``; a store that is away, or whose queues are others than configured, is said once and
        tried again later."""
        try:
            step()
        except (OperationalError, ImproperlyConfigured) as error:
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
        for store in self.app.stores:
            for warning in getattr(store, "check", list)():
                logger.warning("%s", warning)

    def _start_helpers(self) -> None:
        self.helpers.listen(self.consumed, self.own_bindings)
        if self.app.conf.worker_enable_remote_control:
            self.helpers.start("celeriac-control", Service(self).serve)
