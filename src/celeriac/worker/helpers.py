"""Helpers: the agent's threads. Each runs until a file descriptor that it is given is readable."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

from celeriac.routing.queues import Binding

if TYPE_CHECKING:
    from celeriac.app.base import Celeriac

PATIENCE = 1.0
"""Seconds that a thread has to end."""


class Helpers:
    """The threads of one agent, which starts and ends them."""

    def __init__(self, app: Celeriac) -> None:
        self.app = app
        self._lasting: list[Helper] = []
        self._listening: list[Helper] = []
        self._heard: tuple[list[str], list[Binding]] = ([], [])

    def start(self, name: str, target: Callable[[int], None]) -> None:
        """Start a thread that lasts as long as the agent."""
        self._lasting.append(Helper(name, target))

    def listen(self, queues: list[str], own_bindings: list[Binding]) -> None:
        """Let the engine do what it offers to: wake our idle children for messages that other programs put
        into these queues, and bring in their broadcasts. Nothing to do unless the queues have changed."""
        if (queues, own_bindings) == self._heard:
            return
        self._heard = queues, own_bindings
        self._end(self._listening)
        watch, relay = (getattr(self.app.broker, f"{what}_foreign", None) for what in ("watch", "relay"))
        if watch is not None and queues:
            self._listening.append(Helper("celeriac-watch", lambda stop: watch(queues, stop)))
        if relay is not None and own_bindings:
            self._listening.append(Helper("celeriac-relay", lambda stop: relay(own_bindings, stop)))

    def end(self) -> None:
        """End all: the process may live on (solo)."""
        self._end(self._listening + self._lasting)

    @staticmethod
    def _end(helpers: list[Helper]) -> None:
        for helper in helpers:
            helper.tell()
        for helper in helpers:
            helper.end()
        helpers.clear()


class Helper:
    """One thread."""

    def __init__(self, name: str, target: Callable[[int], None]) -> None:
        self._near, self._far = socket.socketpair()
        self._thread = threading.Thread(target=target, args=(self._near.fileno(),), name=name, daemon=True)
        self._thread.start()

    def tell(self) -> None:
        """Tell it to end."""
        self._far.close()

    def end(self) -> None:
        """Wait for it a while."""
        self._thread.join(PATIENCE)
        self._near.close()
