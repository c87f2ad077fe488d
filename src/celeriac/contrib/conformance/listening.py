"""Workers of the tests that listen to remote control, each on a thread."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable
from typing import Any

from celeriac.engines.remote import NO_REPLY, Order

Handle = Callable[[Order], Any]


class Node:
    """One that answers ``{"ok": <the arguments>}``, or what ``handle`` returns; ``taken`` has its orders."""

    def __init__(self, engine: Any, name: str, handle: Handle | None = None) -> None:
        self.name = name
        self.taken: list[Order] = []
        self._handle = handle
        self._near, self._far = socket.socketpair()
        self._thread = threading.Thread(
            target=engine.serve_orders, args=(name, self._serve, self._near.fileno()), daemon=True
        )
        self._thread.start()

    def _serve(self, order: Order) -> Any:
        if not order.concerns(self.name):
            return NO_REPLY
        self.taken.append(order)
        return {"ok": order.arguments} if self._handle is None else self._handle(order)

    @property
    def methods(self) -> list[str]:
        """The names of the commands that it has taken."""
        return [order.method for order in self.taken]

    def stop(self) -> None:
        """End it. Safe to call twice."""
        self._far.close()
        self._thread.join(5.0)
        assert not self._thread.is_alive()
        self._near.close()
