"""Remote control within one process: orders go straight to those who listen, answers to who waits."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from celeriac.engines.mailbox import (
    Handler,
    addressed,
    answer_text,
    expired,
    gather,
    order_text,
    read_answer_text,
    read_order_text,
    wants_answer,
)
from celeriac.engines.memory.state import Store, Waiter
from celeriac.engines.readiness import drain, readable
from celeriac.engines.remote import Order


@dataclass
class Box:
    """Texts on their way to one listener: a node, or who asks."""

    node: str = ""
    texts: deque[tuple[bytes, Box | None]] = field(default_factory=deque)
    """Each with where the answer goes."""
    bell: Waiter = field(default_factory=lambda: Waiter(()))
    closed: bool = False

    def put(self, text: bytes, reply: Box | None = None) -> None:
        """Add a text, unless nobody takes it any more."""
        if not self.closed:
            self.texts.append((text, reply))
            self.bell.wake()

    def close(self) -> None:
        """Take nothing any more."""
        self.closed = True
        self.bell.close()


class MemoryRemote:
    """The part of the engine that is :class:`celeriac.engines.remote.RemoteControl`."""

    state: Store

    def tell(self, order: Order) -> None:
        """Send an order; nobody answers."""
        self._post(order, None)

    def ask(self, order: Order, timeout: float, limit: int | None = None) -> Iterator[dict[str, Any]]:
        """Send an order and yield answers; it ends when all who are meant have answered."""
        addressed(order, timeout)
        inbox = Box()
        inbox.bell.ear.setblocking(False)

        def receive(seconds: float) -> list[dict[str, Any]]:
            if not inbox.texts and readable([inbox.bell.ear.fileno()], seconds):
                drain(inbox.bell.ear.fileno())
            return [read_answer_text(inbox.texts.popleft()[0], order)] if inbox.texts else []

        try:
            yield from gather(receive, timeout, limit, self._post(order, inbox))
        finally:
            with self.state.lock:
                inbox.close()

    def serve_orders(self, node: str, handle: Handler, stop: int) -> None:
        """Take orders for the worker named ``node`` until ``stop`` is readable. Blocks."""
        box = Box(node)
        box.bell.ear.setblocking(False)
        with self.state.lock:
            self.state.boxes.append(box)
        try:
            while stop not in readable([box.bell.ear.fileno(), stop], None):
                drain(box.bell.ear.fileno())
                while box.texts:
                    self._take(node, handle, *box.texts.popleft())
        finally:
            with self.state.lock:
                if box in self.state.boxes:
                    self.state.boxes.remove(box)
                box.close()

    def _post(self, order: Order, reply: Box | None) -> int:
        """Give the order to those who are meant; return how many."""
        text = order_text(order)
        with self.state.lock:
            meant = [box for box in self.state.boxes if order.concerns(box.node)]
            for box in meant:
                box.put(text, reply)
        return len(meant)

    def _take(self, node: str, handle: Handler, text: bytes, reply: Box | None) -> None:
        order = read_order_text(text)
        if expired(order):
            return
        answer = handle(order)
        if reply is not None and wants_answer(order, answer):
            with self.state.lock:
                reply.put(answer_text(node, answer, order))
