"""Events on Redis: kombu's fanout exchange, a channel for each routing key."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from redis import exceptions as errors

from celeriac.engines.events import EventOptions
from celeriac.engines.readiness import readable
from celeriac.engines.redis.address import Address
from celeriac.engines.redis.connection import Link, Links, pack, translated
from celeriac.engines.redis.keys import Keys
from celeriac.exceptions import DecodeError, OperationalError
from celeriac.message import Message, decode_envelope, encode_envelope

SILENCE: Final = 10.0
"""Seconds without a word after which the server is asked for one; as long again, and it is taken for gone."""


class RedisEvents:
    """The part of the engine that is an :class:`celeriac.engines.remote.EventCarrier`."""

    address: Address
    keys: Keys
    links: Links
    event_options: EventOptions

    def publish_events(self, routing_key: str, body: bytes, headers: Mapping[str, Any]) -> bool:
        """Publish one event or a batch to those who listen now; return whether there are any."""
        exchange = self.event_options.exchange
        properties = {
            "delivery_mode": 1,
            "delivery_info": {"exchange": exchange, "routing_key": routing_key},
            "priority": 0,
        }
        envelope = encode_envelope(Message(dict(headers), properties, body))
        with self.links.borrow() as link:
            return bool(link.call(pack(("PUBLISH", self.keys.channel(exchange, routing_key), envelope))))

    def receive_events(self, routing_keys: Sequence[str], stop: int) -> Iterator[list[dict[str, Any]]]:
        """Yield events as they come, an empty list each second in which none does.

        Raises ``OperationalError`` when the connection is lost: what was sent meanwhile is lost too.
        """
        exchange = self.event_options.exchange
        channels = [self.keys.channel(exchange, key.replace("#", "*")) for key in routing_keys]
        link = Link(self.address)
        try:
            link.connection.send_packed_command([pack(("PSUBSCRIBE", *channels))])
            for _ in channels:
                link.connection.read_response()
            yield from self._hear_events(link, stop)
        except (errors.RedisError, OSError) as error:
            raise translated(error, self.address.masked) from error
        finally:
            link.close()

    def _hear_events(self, link: Link, stop: int) -> Iterator[list[dict[str, Any]]]:
        heard, asked = time.monotonic(), False
        yield []
        while True:
            ready = readable((link.fileno, stop), 1.0)
            if stop in ready:
                return
            if link.fileno in ready:
                heard, asked = time.monotonic(), False
                yield self._take_events(link)
                continue
            if time.monotonic() - heard > SILENCE * (2 if asked else 1):
                if asked:
                    raise OperationalError(f"Redis at {self.address.masked} has fallen silent")
                asked = True
                link.connection.send_packed_command([pack(("PING",))])
            yield []

    def _take_events(self, link: Link) -> list[dict[str, Any]]:
        """All that has arrived."""
        events: list[dict[str, Any]] = []
        while True:
            told = link.connection.read_response()
            if told[0] == b"pmessage":
                events += self._events_in(told[3])
            if not link.connection.can_read(0):
                return events

    def _events_in(self, envelope: bytes) -> list[dict[str, Any]]:
        try:
            message = decode_envelope(envelope)
        except DecodeError:
            return []  # somebody else's: the channel is open to everybody
        return self.event_options.read(message.body, message.content_type, message.content_encoding)
