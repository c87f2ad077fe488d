"""The relay: what Celery's clients publish to fanout exchanges, into the queues of a node of ours.

What ours publish is in these queues already, for their scripts store a copy in each (scripts/common.lua);
it is known by our header and left out here.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from redis import exceptions as errors

from celeriac.engines.readiness import readable
from celeriac.engines.redis.connection import Link, pack
from celeriac.exceptions import CeleriacError, DecodeError
from celeriac.message import OWN_HEADER, decode_envelope
from celeriac.routing.queues import Binding

if TYPE_CHECKING:
    from celeriac.engines.redis.bindings import Server

logger = logging.getLogger(__name__)

RETRY: Final = 1.0
"""Seconds before a lost connection is made again."""
SILENCE: Final = 10.0
"""Seconds without a word after which the server is asked for one; as long again, and we connect anew."""


class Relay:
    """Listens on the channels of ``bindings`` and pushes what it hears into their queues."""

    def __init__(self, server: Server, bindings: Sequence[Binding]) -> None:
        self._server = server
        self._queues: dict[str, list[str]] = {}
        for tie in bindings:
            # As Celery does: a queue's key is a pattern of the messages' keys.
            channel = server.keys.channel(tie.exchange, tie.routing_key.replace("#", "*"))
            self._queues.setdefault(channel, []).append(tie.queue)

    def run(self, stop_fd: int) -> None:
        """Relay until ``stop_fd`` is readable; a lost connection is made again."""
        said = False
        while not readable((stop_fd,), 0):
            try:
                self._listen(stop_fd)
                return
            except (CeleriacError, errors.RedisError, OSError) as error:
                level = logging.DEBUG if said else logging.WARNING
                said = True
                logger.log(level, "Broadcasts of Celery's clients are not heard now, trying on: %s", error)
            readable((stop_fd,), RETRY)

    def _listen(self, stop_fd: int) -> None:
        link = Link(self._server.links.address)
        try:
            link.connection.send_packed_command([pack(("PSUBSCRIBE", *self._queues))])
            heard, asked = time.monotonic(), False
            while True:
                ready = readable((link.fileno, stop_fd), max(0.0, heard + SILENCE - time.monotonic()))
                if stop_fd in ready:
                    return
                if link.fileno in ready:
                    heard, asked = time.monotonic(), False
                    self._take_all(link)
                elif asked:
                    raise errors.ConnectionError("the server has fallen silent")
                else:
                    heard, asked = time.monotonic(), True
                    link.connection.send_packed_command([pack(("PING",))])
        finally:
            link.close()

    def _take_all(self, link: Link) -> None:
        while True:
            told = link.connection.read_response()
            if told[0] == b"pmessage":
                self._push(told[1].decode(), told[3])
            if not link.connection.can_read(0):
                return

    def _push(self, pattern: str, envelope: bytes) -> None:
        try:
            message = decode_envelope(envelope)
        except DecodeError as error:
            logger.error("A broadcast that cannot be read was dropped: %s", error)
            return
        if OWN_HEADER in message.headers:
            return
        keys = self._server.keys
        for queue in self._queues.get(pattern, ()):
            line = keys.line(queue, keys.lane(message.properties.get("priority")))
            commands = pack(("LPUSH", line, envelope)) + pack(("ZADD", keys.of(queue, "wake"), 0, "1"))
            with self._server.links.borrow() as link:
                link.calls(commands, 2)
