"""Remote control on its way: Celery's form of orders and answers (kombu's pidbox), and what engines share."""

from __future__ import annotations

import logging
import math
import random
import time
from collections.abc import Callable, Container, Iterable, Iterator, Mapping
from typing import Any, Final

import msgspec

from celeriac import serialization
from celeriac.engines.readiness import readable
from celeriac.engines.remote import NO_REPLY, Order
from celeriac.exceptions import CeleriacError, EncodeError, ImproperlyConfigured
from celeriac.message import Message, new_id

logger = logging.getLogger("celeriac.remote")

SKEW: Final = 10.0
"""Seconds by which the clocks of two machines may differ before an order counts as expired: Celery's clients
give their orders one second by their own clock."""
_FIRST_PAUSE: Final = 0.1
_LONGEST_PAUSE: Final = 5.0
_JSON: Final = frozenset({"application/json"})


class Mailbox(msgspec.Struct, frozen=True):
    """Where orders and answers go, as the settings ``control_*`` say. Times are seconds."""

    namespace: str = "celery"
    """``control_exchange``: what the names of the exchanges begin with."""
    ttl: float | None = 300.0
    """``control_queue_ttl``: how long an order or answer is kept for who does not fetch it."""
    expires: float | None = 10.0
    """``control_queue_expires``: how long a queue is kept that nobody takes from."""
    durable: bool = False
    exclusive: bool = True
    serializer: str = "json"
    """``task_serializer``: as Celery, which writes orders as it writes tasks."""
    accept: Container[str] = _JSON
    """The content types that are read."""

    def __post_init__(self) -> None:
        if self.durable and self.exclusive:
            raise ImproperlyConfigured(
                "control_queue_durable and control_queue_exclusive cannot both be true: an exclusive queue "
                "goes with its connection. Set control_queue_exclusive to False"
            )

    @property
    def orders(self) -> str:
        """The exchange of orders, a fanout."""
        return f"{self.namespace}.pidbox"

    @property
    def answers(self) -> str:
        """The exchange of answers, a direct one."""
        return f"reply.{self.namespace}.pidbox"

    def queue(self, node: str) -> str:
        """The queue in which a node's orders come."""
        return f"{node}.{self.orders}"

    def reply_queue(self, asker: str) -> str:
        """The queue in which the answers to who asks under this id come."""
        return f"{asker}.{self.answers}"

    def order_message(self, order: Order) -> Message:
        """The order as Celery's clients send it. Raises ``EncodeError`` for arguments that cannot be sent."""
        headers = {"clock": order.clock, "expires": order.expires or 0}
        return self._message(_form(order), headers, self.orders, "")

    def answer_message(self, node: str, answer: Any, order: Order) -> Message:
        """The answer as Celery's workers send it; one that cannot be written becomes an error saying so."""
        to = order.reply_to or {}
        headers = {"ticket": order.ticket, "clock": order.clock}
        address = to.get("exchange", self.answers), to.get("routing_key", "")
        try:
            return self._message({node: answer}, headers, *address)
        except EncodeError as error:
            return self._message({node: {"error": str(error)}}, headers, *address)

    def read_order(self, message: Message) -> Order | None:
        """The order in a message; ``None``, with a word in the log, if it has expired or is none."""
        try:
            order = _order(self._read(message), message.headers)
        except (CeleriacError, msgspec.ValidationError) as error:
            logger.error("A remote control command that cannot be read was dropped: %s", error)
            return None
        if expired(order, SKEW):
            return None
        order.expires = None  # by our clock it may have passed
        return order

    def read_answer(self, message: Message, order: Order) -> dict[str, Any] | None:
        """The answer in a message; ``None`` if it is none, or one to another question."""
        if message.headers.get("ticket", order.ticket) != order.ticket:
            return None
        try:
            answer = self._read(message)
        except CeleriacError as error:
            logger.error("An answer to the remote control command %s was dropped: %s", order.method, error)
            return None
        return note_answer(order, answer, message.headers.get("clock"))

    def _message(self, value: Any, headers: dict[str, Any], exchange: str, routing_key: str) -> Message:
        content_type, encoding, body = serialization.dumps(value, self.serializer)
        properties = {
            "delivery_mode": 2,
            "delivery_info": {"exchange": exchange, "routing_key": routing_key},
            "priority": 0,
        }
        return Message(headers, properties, body, content_type, encoding)

    def _read(self, message: Message) -> Any:
        return serialization.loads(message.body, message.content_type, message.content_encoding, self.accept)


Handler = Callable[[Order], Any]


def expired(order: Order, skew: float = 0.0) -> bool:
    """Whether nobody waits for the answer any more, which the log is told; ``skew`` is in seconds.

    An order that wants no answer does not expire.
    """
    if not order.ticket or not order.expires or time.time() <= order.expires + skew:
        return False
    logger.info("Dropped the remote control command %s: nobody waits for its answer any more", order.method)
    return True


def note_answer(order: Order, answer: Any, clock: Any) -> dict[str, Any] | None:
    """Take in what came as an answer, and the clock of who sent it; ``None`` if it is no answer."""
    if not isinstance(answer, dict):
        return None
    if isinstance(clock, int):
        order.clock = max(order.clock, clock)
    return answer


def addressed(order: Order, timeout: float) -> None:
    """Give an order that wants answers its ticket and its end."""
    order.ticket = order.ticket or new_id()
    if order.expires is None:
        order.expires = time.time() + timeout


def gather(
    receive: Callable[[float], Iterable[dict[str, Any]]],
    timeout: float,
    limit: int | None,
    reached: int | None,
) -> Iterator[dict[str, Any]]:
    """Yield what ``receive`` brings, which waits so many seconds at most, until there will be no more."""
    most = min(math.inf if limit is None else limit, math.inf if reached is None else reached)
    until = time.monotonic() + timeout
    taken = 0
    while taken < most and (left := until - time.monotonic()) > 0:
        for answer in receive(left):
            yield answer
            taken += 1
            if taken >= most:
                return


def keep_listening(
    listen: Callable[[Callable[[], None]], None], failures: tuple[type[Exception], ...], stop: int
) -> None:
    """Run ``listen`` until it returns, or ``stop`` is readable; after a failure again, with backoff.

    ``listen`` is given a function that it calls once it hears what comes.
    """
    said, pause = False, _FIRST_PAUSE

    def hearing() -> None:
        nonlocal said, pause
        if said:
            logger.info("Remote control commands are heard again")
        said, pause = False, _FIRST_PAUSE

    while not readable((stop,), 0):
        try:
            return listen(hearing)
        except Exception as error:
            if not isinstance(error, (CeleriacError, *failures)):
                raise
            level = logging.DEBUG if said else logging.WARNING
            logger.log(level, "Remote control commands are not heard now, trying on: %s", error)
            said = True
        readable((stop,), pause * random.uniform(0.5, 1.0))
        pause = min(2 * pause, _LONGEST_PAUSE)


# -- where orders and answers are kept in tables -----------------------------------------------------------


def order_text(order: Order) -> bytes:
    """The order as one text, for stores of rows. Raises ``EncodeError``."""
    headers = {"clock": order.clock, "expires": order.expires}
    return serialization.json_dumps([_form(order), headers], {"arguments": order.arguments})


def read_order_text(text: bytes) -> Order:
    """What :func:`order_text` wrote."""
    body, headers = serialization.loads(text, "application/json", "utf-8", _JSON)
    return _order(body, headers)


def answer_text(node: str, answer: Any, order: Order) -> bytes:
    """An answer, with its sender's clock, as one text; one that cannot be written becomes an error."""
    try:
        return serialization.json_dumps([{node: answer}, order.clock], {"answer": answer})
    except EncodeError as error:
        return serialization.json_dumps([{node: {"error": str(error)}}, order.clock])


def read_answer_text(text: bytes, order: Order) -> dict[str, Any]:
    """What :func:`answer_text` wrote; the order's clock is set."""
    answer, clock = serialization.loads(text, "application/json", "utf-8", _JSON)
    return note_answer(order, answer, clock) or {}


def wants_answer(order: Order, answer: Any) -> bool:
    """Whether what a handler returned goes back."""
    return answer is not NO_REPLY and bool(order.ticket)


def _form(order: Order) -> dict[str, Any]:
    form: dict[str, Any] = {
        "method": order.method,
        "arguments": order.arguments,
        "destination": order.destination,
        "pattern": order.pattern,
        "matcher": order.matcher or ("glob" if order.pattern else None),
    }
    if order.ticket:
        form |= {"ticket": order.ticket, "reply_to": order.reply_to}
    return form


def _order(body: Any, headers: Mapping[str, Any]) -> Order:
    if not isinstance(body, dict):
        raise msgspec.ValidationError("it is no object")
    given = {name: value for name, value in body.items() if value is not None}
    if isinstance(given.get("destination"), str):
        given["destination"] = [given["destination"]]
    order = msgspec.convert(given, Order, strict=False)
    clock, expires = headers.get("clock"), headers.get("expires")
    order.clock = clock if isinstance(clock, int) else 0
    order.expires = float(expires) if isinstance(expires, int | float) and expires else None
    return order
