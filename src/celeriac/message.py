"""A task message, protocol 2: headers, properties and a serialised body.

The format is Celery's, byte for byte (docs.celeryq.dev, "Message Protocol", version 2), because
queues are shared with its clients and workers. On the wire the stores (Redis, SQLite, ...) hold an
*envelope*: kombu's JSON object with the body in base64. RabbitMQ carries the same parts natively.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

OWN_HEADER: Final = "celeriac"
"""The one header of ours in a message; Celery's workers ignore it. See :class:`Notes`."""


class Notes(msgspec.Struct, omit_defaults=True):
    """What Celeriac writes about a message into the message (the header ``celeriac``).

    It is rewritten only by Python, when a lease is lost or a message is delayed again; the stores
    never look into an envelope.
    """

    reply: str | None = None
    """The client's reply address: results are announced there as well (``ResultBackend.reply_address``)."""
    sent: float | None = None
    """When the message was published, in epoch seconds of the client's clock."""
    held: bool = False
    """The store keeps the delay: a worker runs the message when it gets it and does not look at ``eta``."""
    deliveries: int = 0
    """How many deliveries were started and lost with their worker."""
    lost: str | None = None
    """Set when the last run was ended from outside and must not be repeated (see ``engines.base.Loss``):
    whoever claims the message records the end instead of running it."""


class Message(msgspec.Struct):
    """One task message, decoded as far as its envelope; the body is still serialised."""

    headers: dict[str, Any]
    """Protocol-2 headers (``id``, ``task``, ``eta``, ...) and the user's own, at top level."""
    properties: dict[str, Any]
    """AMQP-like properties: ``correlation_id``, ``reply_to``, ``priority``, ``delivery_info``, ..."""
    body: bytes
    """The serialised (perhaps compressed) ``[args, kwargs, embed]``."""
    content_type: str = "application/json"
    content_encoding: str = "utf-8"
