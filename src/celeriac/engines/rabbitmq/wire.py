"""Messages as they travel on AMQP, where Celery's parts have places of their own."""

from __future__ import annotations

import struct
from typing import Any, Final

from amqp.exceptions import FrameSyntaxError

from celeriac.engines.rabbitmq.tables import Known, write_properties
from celeriac.exceptions import EncodeError
from celeriac.message import Message, encode_envelope

_PROPERTIES: Final = (
    "delivery_mode", "priority", "correlation_id", "reply_to", "expiration", "message_id", "timestamp",
    "type", "user_id", "app_id", "cluster_id",
)  # fmt: skip

_DEATHS: Final = (
    "x-death", "x-first-death-exchange", "x-first-death-queue", "x-first-death-reason",
    "x-last-death-exchange", "x-last-death-queue", "x-last-death-reason",
)  # fmt: skip


class Content:
    """A message that goes out: its properties are written before anything of a batch is sent."""

    __slots__ = ("body", "properties")

    def __init__(self, body: bytes, known: Known | None = None, **properties: Any) -> None:
        """Raises py-amqp's and ``struct``'s errors for properties that cannot be written."""
        self.body = body
        self.properties = write_properties(properties, known)


def to_wire(message: Message, priority: int | None = None, known: Known | None = None) -> Content:
    """The message for the wire. Raises ``EncodeError`` for a header that AMQP cannot carry.

    ``known`` is shared by the messages of a batch.

    An ``expiration`` that only repeats the header ``expires`` is left out: the server would throw the message
    away without a word, and a worker records that it expired.
    """
    given = message.properties
    properties = {name: given[name] for name in _PROPERTIES if given.get(name) is not None}
    if message.headers.get("expires") is not None:
        properties.pop("expiration", None)
    properties.setdefault("delivery_mode", 2)
    urgent = int(properties.pop("priority", None) or priority or 0)
    if urgent > 0:  # Celery writes none where none was asked for
        properties["priority"] = min(255, urgent)
    try:
        return Content(
            message.body,
            known,
            content_type=message.content_type,
            content_encoding=message.content_encoding,
            application_headers=message.headers,
            **properties,
        )
    except (FrameSyntaxError, OverflowError, ValueError, TypeError, struct.error) as error:
        raise EncodeError(
            f"a header or property of {message.headers.get('task', 'a message')} cannot be written for "
            f"RabbitMQ: {error}. Use text, numbers, dates, lists and dictionaries there"
        ) from error


def envelope(content: Any, queue: str, redelivered: bool) -> bytes:
    """A message of ``queue`` from the wire as the envelope that workers read.

    Without headers and content type it is no message of Celery's: its bytes are returned as they are, for the
    worker to find that out.
    """
    properties = dict(content.properties)
    headers = properties.pop("application_headers", None)
    content_type = properties.pop("content_type", None)
    encoding = properties.pop("content_encoding", None)
    raw = body_of(content)
    if headers is None and content_type is None:
        return raw
    headers = headers or {}
    info = content.delivery_info
    place: dict[str, Any] = {"exchange": info["exchange"], "routing_key": info["routing_key"]}
    if _DEATHS[0] in headers:
        # It came by the levels of delay: what they wrote is of no use, and grows with each retry.
        headers = {name: value for name, value in headers.items() if name not in _DEATHS}
        if place["exchange"].startswith("celery_delayed_"):
            place = {"exchange": "", "routing_key": queue}
    if redelivered:
        headers["redelivered"] = True
        place["redelivered"] = True
    properties["delivery_info"] = place
    try:
        return encode_envelope(
            Message(headers, properties, raw, content_type or "application/json", encoding or "utf-8")
        )
    except EncodeError:
        return raw


def body_of(content: Any) -> bytes:
    """A message's body (py-amqp's empty ones are text)."""
    body: Any = content.body
    return body if isinstance(body, bytes) else str(body).encode()


def task_id_of(content: Any) -> str:
    """The id of a message's task; "" if it has none."""
    headers = content.properties.get("application_headers") or {}
    found = headers.get("id") or content.properties.get("correlation_id")
    return found if isinstance(found, str) else ""
