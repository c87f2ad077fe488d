"""The part of the engine contract that carries orders to running workers, their answers, and events.

Redis and RabbitMQ carry them as Celery does (kombu's pidbox and event exchange), so that its workers, clients
and monitors take part; other stores keep orders and answers for the moment that they are worth. Nothing here
is durable: what must outlive a restart (revokes, pauses, limits) is the ``Coordinator``'s.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final, Protocol, runtime_checkable

import msgspec


class Order(msgspec.Struct):
    """A message to workers; the fields are those of Celery's remote control."""

    method: str
    arguments: dict[str, Any] = msgspec.field(default_factory=dict)
    destination: list[str] | None = None
    """The nodes that are meant; ``None``: all."""
    pattern: str | None = None
    """Or: those whose names match."""
    matcher: str | None = None
    """How: ``"glob"`` (the default) or ``"pcre"``."""
    ticket: str | None = None
    """Names the question that an answer belongs to; ``None``: no answer is wanted."""
    reply_to: dict[str, str] | None = None
    """Where Celery's answers go: ``{"exchange", "routing_key"}``. Filled in by the engine that sends it."""
    clock: int = 0
    """The sender's logical clock."""
    expires: float | None = None
    """Epoch second after which nobody waits for an answer any more: the order is not carried out."""


NO_REPLY: Final = object()
"""What a handler of orders returns when it has nothing to say: it was not meant."""


@runtime_checkable
class RemoteControl(Protocol):
    """Orders to workers."""

    def tell(self, order: Order) -> None:
        """Send an order; nobody answers."""
        ...

    def ask(self, order: Order, timeout: float, limit: int | None = None) -> Iterator[dict[str, Any]]:
        """Send an order and yield answers, ``{node name: answer}`` each, as they come.

        It ends after ``timeout`` seconds, ``limit`` answers, or as soon as as many have answered as the order
        has reached, where that is known.
        """
        ...

    def serve_orders(self, node: str, handle: Callable[[Order], Any], stop: int) -> None:
        """Take orders for the worker named ``node`` until the file descriptor ``stop`` is readable.

        ``handle`` returns the answer, as JSON has it, or ``NO_REPLY``. It does not raise. Connections that
        break are made again, with backoff; an order that has expired or cannot be read is left out.
        """
        ...


@runtime_checkable
class EventCarrier(Protocol):
    """Events, as Celery's monitors read them."""

    def publish_events(self, routing_key: str, body: bytes, headers: Mapping[str, Any]) -> None:
        """Send one event (a JSON object) or a batch (a JSON list, routing key ``task.multi``).

        Nobody need listen. Raises ``OperationalError``.
        """
        ...

    def receive_events(self, routing_keys: Sequence[str], stop: int) -> Iterator[list[dict[str, Any]]]:
        """Yield batches of events as they come, until the file descriptor ``stop`` is readable.

        ``routing_keys`` are patterns of a topic exchange (``"#"``, ``"worker.#"``). At least once a second it
        yields, an empty list if nothing has come.
        """
        ...
