"""Exchanges, queues and their ties, declared as Celery declares them.

Delayed messages take Celery's native way: 28 queues ``celery_delayed_27`` to ``_0``, each of which holds a
message for two to the power of its number seconds or lets it pass, as the bits at the head of the routing key
say. What comes out at ``celery_delayed_delivery`` goes to the queue that the rest of the key names.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from amqp.exceptions import NotFound

from celeriac.engines.rabbitmq.errors import mismatch
from celeriac.engines.rabbitmq.session import Session
from celeriac.exceptions import ImproperlyConfigured, QueueNotFound
from celeriac.routing.queues import Binding, Exchange, Queue

LEVELS: Final = 28
DELIVERY: Final = "celery_delayed_delivery"
TOP: Final = f"celery_delayed_{LEVELS - 1}"
LONGEST_DELAY: Final = (1 << LEVELS) - 1
"""Seconds: eight and a half years."""
_LONGEST_KEY: Final = 255

_MILLISECONDS: Final = {"expires": "x-expires", "message_ttl": "x-message-ttl"}
_NUMBERS: Final = {"max_length": "x-max-length", "max_length_bytes": "x-max-length-bytes"}
_OWN_EXPIRES: Final = 600_000
"""Milliseconds after which a worker's own copy of a broadcast queue goes, if nobody takes from it."""

Lookup = Callable[[], Mapping[str, Queue]]


class Topology:
    """What there is to be declared. ``queues`` gives the application's queues; ``delay_type`` is
    ``broker_native_delayed_delivery_queue_type``."""

    def __init__(self, queues: Lookup | None, delay_type: str = "quorum") -> None:
        self._queues = queues
        self._delay_type = delay_type
        self._own: dict[str, Binding] = {}

    def queue(self, name: str) -> Queue:
        """The queue of this name, as the application declares it or as Celery would make it."""
        own = self._own.get(name)
        if own is not None:
            return Queue(name, Exchange(own.exchange, own.type), own.routing_key)
        if self._queues is not None:
            try:
                return self._queues()[name]
            except QueueNotFound:
                pass
        return Queue(name, Exchange(name), name)

    def kind(self, exchange: str) -> str | None:
        """The type of an exchange of the application's; ``None`` if none of its queues is tied to it."""
        for queue in self._queues().values() if self._queues is not None else ():
            for tie in queue.bindings():
                if tie.exchange == exchange:
                    return tie.type
        return next((tie.type for tie in self._own.values() if tie.exchange == exchange), None)

    def adopt(self, binding: Binding) -> None:
        """Take note of a worker's own queue on a fanout exchange."""
        self._own[binding.queue] = binding

    def declare(self, session: Session, name: str) -> None:
        """Make sure that the queue is there, tied to its exchanges.

        Raises ``ImproperlyConfigured`` if it is there with other properties.
        """
        if name in session.declared:
            return
        queue = self.queue(name)
        # Who consumes from a worker's own queue need not know what it is tied to: the worker's agent ties it.
        own = name.startswith("bcast.")
        for exchange, _ in () if own else ((queue.exchange, ""), *queue.more):
            self.declare_exchange(session, exchange)
        options = queue.options
        arguments = {"x-expires": _OWN_EXPIRES} if own else _arguments(queue)
        difference = session.differs(
            lambda: session.desk.queue_declare(
                name,
                durable=bool(options.get("durable", True)) and not own,
                exclusive=bool(options.get("exclusive", False)),
                auto_delete=bool(options.get("auto_delete", False)) or name.endswith(".dq2"),
                arguments=arguments,
            )
        )
        if difference:
            raise mismatch(difference, session.shown)
        for tie in () if own else queue.bindings(name):
            session.desk.queue_bind(
                name, tie.exchange, tie.routing_key, arguments=options.get("binding_arguments")
            )
        session.declared.add(name)

    def declare_exchange(self, session: Session, exchange: Exchange) -> None:
        """Make sure that an exchange is there; those of the server's own always are."""
        name = exchange.name
        if not name or name.startswith("amq.") or f"exchange {name}" in session.declared:
            return
        difference = session.differs(
            lambda: session.desk.exchange_declare(
                name,
                exchange.type,
                durable=exchange.durable,
                auto_delete=exchange.auto_delete,
                arguments=exchange.arguments or None,
            )
        )
        if difference:
            raise mismatch(difference, session.shown)
        session.declared.add(f"exchange {name}")

    # -- delays ------------------------------------------------------------------------------------

    def delay_key(self, session: Session, queue: str, seconds: int) -> str:
        """The routing key to ``TOP`` for a message that is to reach ``queue`` after so many seconds.

        Declares what is needed for it. Raises ``ImproperlyConfigured`` for a queue that cannot be written
        into such a key.
        """
        self.tie_to_delays(session, queue)
        if "levels" not in session.declared:
            declare_levels(session, self._delay_type)
            session.declared.add("levels")
        return delayed_key(seconds, queue)

    def tie_to_delays(self, session: Session, name: str) -> None:
        """Let delayed messages reach a queue: ours by its name, Celery's by its exchange and key."""
        mark = f"delays {name}"
        if mark in session.declared:
            return
        _check_delayable(name)
        self.declare(session, name)
        desk = session.desk
        desk.exchange_declare(DELIVERY, "topic", durable=True, auto_delete=False)
        # Exactly 28 words and the name: "#.name" would also catch what is meant for "other.name".
        desk.queue_bind(name, DELIVERY, "*." * LEVELS + name)
        for tie in self.queue(name).bindings(name):
            if tie.type not in ("direct", "headers") and not tie.exchange.startswith("amq."):
                key = tie.routing_key if tie.routing_key.startswith("#") else f"#.{tie.routing_key}"
                desk.exchange_bind(tie.exchange, DELIVERY, key)
                desk.queue_bind(name, tie.exchange, key)
        session.declared.add(mark)


def whole_seconds(delay: float | None, due: float | None) -> int:
    """The delay in whole seconds, rounded up: never early. 0 for none."""
    wait = delay if delay is not None else (due - time.time() if due is not None else 0.0)
    if wait <= 0.001:
        return 0
    if wait > LONGEST_DELAY:
        raise ImproperlyConfigured(
            f"RabbitMQ delays messages by {LONGEST_DELAY} seconds at most ({LONGEST_DELAY / 86400 / 365:.1f} "
            f"years), not by {wait:.0f}"
        )
    return math.ceil(wait - 0.001)


def delayed_key(seconds: int, queue: str) -> str:
    """Celery's routing key of a delayed message: 28 bits, the highest first, and where it goes then."""
    return ".".join(f"{seconds:0{LEVELS}b}") + f".{queue}"


def declare_levels(session: Session, kind: str) -> None:
    """Declare Celery's 28 levels of delay. Those that are there with another queue type stay as they are."""
    desk = session.desk
    desk.exchange_declare(DELIVERY, "topic", durable=True, auto_delete=False)
    for level in range(LEVELS - 1, -1, -1):
        name = f"celery_delayed_{level}"
        desk.exchange_declare(name, "topic", durable=True, auto_delete=False)
        if exists(session, name) is None:
            session.desk.queue_declare(
                name, durable=True, auto_delete=False, arguments=_level_arguments(level, kind)
            )
        desk = session.desk
        desk.queue_bind(name, name, "*." * (LEVELS - 1 - level) + "1.#")
    for level in range(LEVELS - 1, -1, -1):
        following = f"celery_delayed_{level - 1}" if level else DELIVERY
        desk.exchange_bind(following, f"celery_delayed_{level}", "*." * (LEVELS - 1 - level) + "0.#")


def _level_arguments(level: int, kind: str) -> dict[str, Any]:
    arguments: dict[str, Any] = {
        "x-queue-type": kind,
        "x-overflow": "reject-publish",
        "x-message-ttl": (1 << level) * 1000,
        "x-dead-letter-exchange": f"celery_delayed_{level - 1}" if level else DELIVERY,
    }
    if kind == "quorum":
        arguments["x-dead-letter-strategy"] = "at-least-once"
    return arguments


def _check_delayable(queue: str) -> None:
    if 2 * LEVELS + len(queue.encode()) > _LONGEST_KEY:
        raise ImproperlyConfigured(
            f"the queue name {queue!r} is too long for delayed messages on RabbitMQ: "
            f"{_LONGEST_KEY - 2 * LEVELS} bytes are the most"
        )
    if not {"*", "#"}.isdisjoint(queue.split(".")):
        raise ImproperlyConfigured(
            f"the queue {queue!r} cannot get delayed messages on RabbitMQ: '*' and '#' between dots stand "
            "for any word there. Give it another name"
        )


def _arguments(queue: Queue) -> dict[str, Any]:
    """The arguments of a queue, named as RabbitMQ wants them."""
    arguments = dict(queue.queue_arguments)
    for option, name in _MILLISECONDS.items():
        if queue.options.get(option) is not None:
            arguments[name] = int(queue.options[option] * 1000)
    for option, name in _NUMBERS.items():
        if queue.options.get(option) is not None:
            arguments[name] = int(queue.options[option])
    if queue.max_priority is not None:
        arguments["x-max-priority"] = int(queue.max_priority)
    return arguments


def exists(session: Session, queue: str) -> tuple[int, int] | None:
    """How many messages are ready in a queue, and how many consumers it has; ``None`` if it is not there."""
    try:
        told = session.desk.queue_declare(queue, passive=True)
    except NotFound:
        return None
    return int(told.message_count), int(told.consumer_count)


def named(queues: Sequence[str]) -> list[str]:
    """The queues without repetition, in order."""
    return list(dict.fromkeys(queues))
