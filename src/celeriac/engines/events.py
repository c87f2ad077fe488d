"""What the engines that carry events have in common: their options, and the reading of messages."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any, NamedTuple

from celeriac.exceptions import DecodeError, ImproperlyConfigured, SecurityError
from celeriac.serialization import ensure_accept, loads

logger = logging.getLogger("celeriac.events")


class EventOptions(NamedTuple):
    """The settings ``event_*``. Times are seconds; ``None``: never."""

    exchange: str = "celeryev"
    prefix: str = "celeryev"
    """What the queues' names begin with."""
    ttl: float | None = 5.0
    expires: float | None = 60.0
    exclusive: bool = True
    durable: bool = False
    accept: frozenset[str] = frozenset({"application/json"})
    """The content types that are read."""

    @classmethod
    def of(cls, options: Mapping[str, Any]) -> EventOptions:
        """Those of an engine's options. Raises ``ImproperlyConfigured`` for a serializer that is unknown."""
        own = cls()
        return cls(
            exchange=options.get("event_exchange") or own.exchange,
            prefix=options.get("event_queue_prefix") or own.prefix,
            ttl=options.get("event_queue_ttl", own.ttl),
            expires=options.get("event_queue_expires", own.expires),
            exclusive=bool(options.get("event_queue_exclusive", own.exclusive)),
            durable=bool(options.get("event_queue_durable", own.durable)),
            accept=ensure_accept({options.get("event_serializer") or "json", "json"}),
        )

    def check_queue(self) -> None:
        """Raise ``ImproperlyConfigured`` if a queue cannot be what is asked for."""
        if self.exclusive and self.durable:
            raise ImproperlyConfigured(
                "an event queue cannot be both exclusive and durable: turn event_queue_exclusive or "
                "event_queue_durable off"
            )

    def read(self, body: bytes, content_type: str, encoding: str) -> list[dict[str, Any]]:
        """The events of a message; none, with a line in the log, if it cannot be read."""
        try:
            found = loads(body, content_type, encoding, self.accept)
        except (DecodeError, SecurityError) as error:
            logger.warning("Left out a message of events that cannot be read: %s", error)
            return []
        events = found if isinstance(found, list) else [found]
        return [event for event in events if isinstance(event, dict) and isinstance(event.get("type"), str)]
