"""Adoption: what Celery's workers held when the last of them ended.

Kombu notes each message that it hands out in ``unacked``, with the time in ``unacked_index``. A worker of
Celery's that lives puts back what has been there for longer than ``visibility_timeout``, its own messages and
those of dead workers alike. Without such a worker nobody would: then a recovering node of ours does.

It gives Celery's workers the time they may need first: they look every ``unacked_restore_interval`` (10 s),
and only each ``unacked_restore_throttle``-th time (10). While one of them holds ``unacked_mutex``, it waits.
"""

from __future__ import annotations

import json
import logging
import random
import time
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from celeriac.engines.redis.address import SEP
from celeriac.engines.redis.connection import Link, Word, pack
from celeriac.engines.redis.keys import Keys
from celeriac.engines.redis.scripts import Scripts
from celeriac.exceptions import ImproperlyConfigured
from celeriac.routing.topics import reaches

logger = logging.getLogger(__name__)

INTERVAL: Final = 10.0
"""Seconds between two looks of a node, a fifth more or less; less where Celery's workers look more often."""
MOST: Final = 200
"""Messages that are put back in one step."""


class Held(NamedTuple):
    """A message as kombu notes it."""

    tag: bytes
    value: bytes
    """As it was read: JSON of the envelope, the exchange and the routing key."""


class Adoption:
    """Puts back what is overdue in one database."""

    def __init__(self, keys: Keys, scripts: Scripts, options: Mapping[str, Any]) -> None:
        self.keys = keys
        self.scripts = scripts
        self.unacked, self.index, self.mutex = (
            keys.prefix + str(options.get(f"{name}_key", name))
            for name in ("unacked", "unacked_index", "unacked_mutex")
        )
        looks = _number(options, "unacked_restore_interval", 10)
        self.patience = _number(options, "visibility_timeout", 3600) + looks * _number(
            options, "unacked_restore_throttle", 10
        )
        """Seconds after which a message is taken for left behind."""
        self._interval = min(INTERVAL, looks)
        self._next = 0.0
        self._skipped: set[bytes] = set()

    def run(self, link: Link) -> int:
        """Put back what is overdue, if it is time to look again; return how many messages that were."""
        now = time.monotonic()
        if now < self._next:
            return 0
        self._next = now + self._interval * random.uniform(0.8, 1.2)
        adopted = 0
        while held := self._overdue(link):
            done = self._put_back(link, held)
            adopted += max(done, 0)
            if done < len(held):  # somebody else is at it: the rest is for the next look
                break
        return adopted

    def _overdue(self, link: Link) -> list[Held]:
        # Kombu writes times of its own machines: it is their clocks that this is compared with.
        until = time.time() - self.patience
        # The youngest first: each is put in front of those before it.
        wanted = ("ZREVRANGEBYSCORE", self.index, until, "-inf", "LIMIT", 0, MOST + len(self._skipped))
        tags: list[bytes] = [tag for tag in link.call(pack(wanted)) if tag not in self._skipped]
        if not tags:
            return []
        values = link.call(pack(("HMGET", self.unacked, *tags)))
        acked = [tag for tag, value in zip(tags, values, strict=True) if value is None]
        if acked:
            link.call(pack(("ZREM", self.index, *acked)))
        return [Held(tag, value) for tag, value in zip(tags, values, strict=True) if value is not None]

    def _put_back(self, link: Link, held: list[Held]) -> int:
        tables: dict[str, list[tuple[str, str, str]]] = {}
        words: list[Word] = []
        for each in held:
            try:
                words += self._words(link, each, tables)
            except (ValueError, TypeError, KeyError, AttributeError) as error:
                self._skipped.add(each.tag)
                logger.error(
                    "The message %s in %s cannot be read and is left there: %s",
                    each.tag.decode(errors="replace"),
                    self.unacked,
                    error,
                )
        if not words:
            return 0
        return int(self.scripts["adopt"].run(link, [self.unacked, self.index, self.mutex], words))

    def _words(self, link: Link, held: Held, tables: dict[str, list[tuple[str, str, str]]]) -> list[Word]:
        envelope, exchange, routing_key = json.loads(held.value)
        properties = envelope["properties"]
        envelope["headers"]["redelivered"] = True
        if isinstance(properties.get("delivery_info"), dict):
            properties["delivery_info"]["redelivered"] = True
        if exchange not in tables:
            tables[exchange] = self._table(link, exchange)
        queues = _queues(tables[exchange], exchange, routing_key)
        lane = self.keys.lane(properties.get("priority"))
        words: list[Word] = [held.tag, held.value, len(queues)]
        for queue in queues:
            words += (queue, lane)
        return [*words, json.dumps(envelope)]

    def _table(self, link: Link, exchange: str) -> list[tuple[str, str, str]]:
        """What kombu notes of an exchange: (key, pattern, queue) for each queue tied to it."""
        if not exchange:
            return []
        members = link.call(pack(("SMEMBERS", self.keys.bindings(exchange))))
        return [(key, pattern, queue) for key, pattern, queue in (m.decode().split(SEP) for m in members)]


def _queues(table: list[tuple[str, str, str]], exchange: str, routing_key: str) -> list[str]:
    lasting = [tie for tie in table if not tie[2].startswith("bcast.")]
    if table and not lasting:
        return []  # a broadcast: what one worker was to do is not for another
    found = {
        queue
        for key, pattern, queue in lasting
        if reaches("topic" if pattern else "direct", key, routing_key)
    }
    # Kombu's tables come and go with its workers; a queue without one has the name of its key.
    return sorted(found) or [routing_key or exchange]


def _number(options: Mapping[str, Any], name: str, default: float) -> float:
    value = options.get(name)
    try:
        return default if value is None else float(value)
    except (TypeError, ValueError):
        raise ImproperlyConfigured(
            f"broker_transport_options[{name!r}] must be a number, not {value!r}"
        ) from None
