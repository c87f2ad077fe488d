"""The field on RabbitMQ. There is no lease: a message belongs to a connection, and comes back with its end.

The server does not refuse what a worker writes whose connection it has lost (results are elsewhere). So a
lost connection is a cause for repeating what ran on it until its worker had noticed.
"""

from __future__ import annotations

import contextlib
import math
import signal
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from tests.faults.field import Field
from tests.faults.ledger import Run, runs_once
from tests.faults.node import Node, await_true, is_stopped, send_signal
from tests.proxy import Proxy

HEARTBEAT = 2
"""Seconds; the server gives up a connection after two to three without a byte."""
READ_TIMEOUT = 2.0
"""Seconds after which a server that does not answer is given up, where that is one of the faults.

Elsewhere it is as by default: a busy machine may answer late, and who gives up repeats its tasks."""
NOTICED = 20.0
"""Seconds within which a worker has certainly noticed that its connection is gone."""


class RabbitField(Field):
    """Two nodes and the producers."""

    fenced = False

    def __init__(
        self,
        urls: Sequence[str],
        folder: Path,
        seed: int,
        scenario: str,
        backend: str | None = None,
        **conf: Any,
    ) -> None:
        if "broker_transport_options" in conf:
            conf["broker_transport_options"] = {"read_timeout": READ_TIMEOUT, "connect_timeout": 1.0}
        conf = {"broker_heartbeat": HEARTBEAT, **conf}
        super().__init__(urls, folder, seed, scenario, backend, **conf)
        self._stored: dict[str, int] = {}

    @contextlib.contextmanager
    def cutting(self, kind: str, nodes: Sequence[Node]) -> Iterator[None]:
        """Enter a fault, done in this block, after which these nodes' messages are others'.

        How long the block takes depends on how busy the machine is: their connections are gone at its end.
        """
        fault = self.note(kind, [child for node in nodes for child in node.children()])
        fault.until = math.inf
        try:
            yield
        finally:
            fault.until = time.monotonic() + NOTICED

    def hole_past_lease(self, node: Node, other: Node, way: Proxy) -> None:
        """Let nothing pass on a node's way until the server has given its messages to the other one."""
        with self.cutting("black hole past the heartbeats", [node]):
            way.black_hole()
            time.sleep(3 * HEARTBEAT + 0.5)
            way.black_hole(False)
            way.cut()

    def kill_agent(self) -> None:
        """SIGKILL a node's agent, and give its children the time to find its successor.

        They look for it every third of a heartbeat. A child that is frozen in that moment has nobody who
        beats for it: that would be two faults at once, and the next ones look at one each.
        """
        super().kill_agent()
        time.sleep(HEARTBEAT)

    def freeze_node(self) -> bool:
        """SIGSTOP a node that runs a task until the server has given its messages to others."""
        node = self._busy_node()
        if node is None:
            return False
        pids, children = [node.process.pid, *node.members()], node.children()
        at = time.monotonic()
        for pid in pids:
            send_signal(pid, signal.SIGSTOP)
        try:
            await_true(lambda: all(is_stopped(pid) for pid in pids), "the node is stopped")
            self.journal.read()
            cut = [run for run in self.journal.open_runs(children) if not runs_once(run.key)]
            if not cut:
                return False
            fault = self.note("node frozen", children, at)
            await_true(lambda: self._restarted(cut), "a frozen node's task starts elsewhere")
        finally:
            for pid in pids:
                send_signal(pid, signal.SIGCONT)
        fault.until = time.monotonic() + NOTICED
        return True

    def freeze_child(self) -> bool:
        """SIGSTOP one child in the middle of a task, past its heartbeats, while its agent beats for it.

        Nobody may take over what it runs.
        """
        node = self._busy_node()
        if node is None:
            return False
        child = self.rng.choice(node.children())
        send_signal(child, signal.SIGSTOP)
        try:
            await_true(lambda: is_stopped(child), "the child is stopped")
            self.journal.read()
            if not self.journal.open_runs([child]):
                return False
            self.note("child frozen")
            time.sleep(3 * HEARTBEAT + 1)
        finally:
            send_signal(child, signal.SIGCONT)
        return True

    def freeze_agent(self) -> bool:
        """SIGSTOP an agent past its heartbeats: its children keep what they have."""
        node = self._busy_node()
        agent = node.agent() if node is not None else None
        if agent is None:
            return False
        self.note("agent frozen")
        send_signal(agent, signal.SIGSTOP)
        time.sleep(3 * HEARTBEAT)
        send_signal(agent, signal.SIGCONT)
        return True

    def _restarted(self, cut: list[Run]) -> bool:
        """Whether others have these tasks: an earlier run of one that came back may have ended meanwhile, and
        it is not started again then."""
        self.journal.read()
        left = [run.key for run in cut if self.journal.newest[run.key] <= run.token]
        return not left or len(self._results([key.rstrip("~") for key in left])) == len(left)

    def _waiting(self) -> int:
        """How many acknowledged tasks have no result yet: RabbitMQ does not count what is delayed or unacked.

        What has been seen to have one is not asked for again.
        """
        missing = [key for key in self.acknowledged() if key not in self._stored]
        self._stored.update(self._results(missing))
        assert self.app.backend is not None
        buried = self.app.backend.fetch(sorted(self._deadly))
        return sum(1 for key in missing if key not in self._stored) + len(self._deadly) - len(buried)

    def _unexpected_letters(self, expected: dict[str, int]) -> None:
        """A task that must run only once and whose connection was lost while it ran may have been given up,
        and have come to its end all the same: there is no knowing whether it would."""
        letters = self.app.broker.dead_letters(limit=10_000)
        given_up = [letter.task_id for letter in letters if letter.reason == "lost"]
        excused = len({key for key in given_up if key.endswith("!")})
        super()._unexpected_letters({**expected, "lost": excused})
