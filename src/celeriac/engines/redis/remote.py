"""Remote control on Redis, as kombu carries it: orders are published, answers pushed onto the asker's list.

What is published while a worker is not connected is lost to it. How many hear an order is PUBLISH's reply:
Celery's workers and ours.
"""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any, Final

from redis import exceptions as errors

from celeriac.engines.mailbox import Handler, Mailbox, addressed, gather, keep_listening, wants_answer
from celeriac.engines.readiness import readable
from celeriac.engines.redis.address import SEP, Address
from celeriac.engines.redis.connection import Link, Links, Word, pack
from celeriac.engines.redis.keys import Keys
from celeriac.engines.remote import Order
from celeriac.exceptions import DecodeError, OperationalError
from celeriac.message import Message, decode_envelope, encode_envelope, new_id

SILENCE: Final = 10.0
"""Seconds without a word after which the server is asked for one; as long again, and we connect anew."""
_LOOK: Final = 1.0
"""Seconds that one command waits for answers at most: a connection has its own time for an answer."""
_LATE: Final = 3600.0
"""Seconds after its end at which others clear away what a client that died while it asked has left."""
_LOST_MOST: Final = 100


class RedisRemote:
    """The part of the engine that is :class:`celeriac.engines.remote.RemoteControl`."""

    foreign_workers = True
    """Celery's workers may be among those who answer."""
    address: Address
    keys: Keys
    links: Links
    mailbox: Callable[[], Mailbox]

    def tell(self, order: Order) -> None:
        """Send an order; nobody answers."""
        with self.links.borrow() as link:
            link.call(self._publish(self.mailbox(), order))

    def ask(self, order: Order, timeout: float, limit: int | None = None) -> Iterator[dict[str, Any]]:
        """Send an order and yield answers; it ends when as many have answered as the order has reached.

        Of a pattern it is not known how many it reaches: unless all have answered, the time is waited out.
        """
        mailbox, asker = self.mailbox(), new_id()
        addressed(order, timeout)
        order.reply_to = {"exchange": mailbox.answers, "routing_key": asker}
        names = list(set(order.destination or ()))
        with self.links.borrow() as link:
            publish = self._publish(mailbox, order)
            heard, lost = self._open(link, mailbox, asker, timeout, publish)
            reached = min(heard, len(names)) if order.destination else heard
            inbox = self.keys.line(mailbox.reply_queue(asker), 0)

            def receive(seconds: float) -> list[dict[str, Any]]:
                taken = link.call(pack(("BRPOP", inbox, f"{min(seconds, _LOOK):.3f}")))
                answer = None if taken is None else self._answer(mailbox, order, taken[1])
                return [] if answer is None else [answer]

            try:
                yield from gather(receive, timeout, limit, reached)
            finally:
                with suppress(OperationalError):  # others clear up, in time
                    self._close(link, mailbox, [asker, *lost])

    def serve_orders(self, node: str, handle: Handler, stop: int) -> None:
        """Take orders for the worker named ``node`` until ``stop`` is readable. Blocks."""

        def listen(hearing: Callable[[], None]) -> None:
            self._listen(node, handle, stop, hearing)

        keep_listening(listen, (errors.RedisError, OSError), stop)

    def consumers(self, queues: Sequence[str]) -> dict[str, int]:
        """How many workers, Celery's too, say within a second that they take from each queue."""
        counts: Counter[str] = Counter()
        for answer in self.ask(Order("active_queues"), 1.0):
            for told in answer.values():
                if isinstance(told, list):
                    counts.update({str(queue.get("name")) for queue in told if isinstance(queue, Mapping)})
        return {queue: counts[queue] for queue in queues if counts[queue]}

    # -- asking ----------------------------------------------------------------------------------------

    def _publish(self, mailbox: Mailbox, order: Order) -> bytes:
        envelope = encode_envelope(mailbox.order_message(order))
        return pack(("PUBLISH", self.keys.channel(mailbox.orders), envelope))

    def _open(
        self, link: Link, mailbox: Mailbox, asker: str, timeout: float, publish: bytes
    ) -> tuple[int, list[str]]:
        """Publish the question; return how many heard it, and the askers that have died over theirs.

        Workers find the asker's list where kombu notes bindings, which nobody else would clear away.
        """
        now, askers = time.time(), self.keys.own("askers")
        before: list[tuple[Word, ...]] = [
            ("ZRANGEBYSCORE", askers, "-inf", repr(now), "LIMIT", 0, _LOST_MOST),
            ("ZADD", askers, repr(now + timeout + _LATE), asker),
            ("SADD", self.keys.bindings(mailbox.answers), self._tie(mailbox, asker)),
        ]
        lost, _, _, heard = link.calls(b"".join(map(pack, before)) + publish, 4)
        return int(heard), [other.decode() for other in lost]

    def _close(self, link: Link, mailbox: Mailbox, askers: Sequence[str]) -> None:
        after: list[tuple[Word, ...]] = [
            ("SREM", self.keys.bindings(mailbox.answers), *(self._tie(mailbox, one) for one in askers)),
            ("UNLINK", *(self.keys.line(mailbox.reply_queue(one), 0) for one in askers)),
            ("ZREM", self.keys.own("askers"), *askers),
        ]
        link.calls(b"".join(map(pack, after)), len(after))

    def _tie(self, mailbox: Mailbox, asker: str) -> str:
        return SEP.join((asker, "", mailbox.reply_queue(asker)))

    def _answer(self, mailbox: Mailbox, order: Order, envelope: bytes) -> dict[str, Any] | None:
        message = _message(envelope)
        return None if message is None else mailbox.read_answer(message, order)

    # -- answering ---------------------------------------------------------------------------------------

    def _listen(self, node: str, handle: Handler, stop: int, hearing: Callable[[], None]) -> None:
        mailbox, link = self.mailbox(), Link(self.address)
        try:
            link.connection.send_packed_command([pack(("SUBSCRIBE", self.keys.channel(mailbox.orders)))])
            asked = False
            while True:
                ready = readable((link.fileno, stop), SILENCE)
                if stop in ready:
                    return
                if link.fileno in ready:
                    asked = False
                    while True:
                        told = link.connection.read_response()
                        if told[0] == b"subscribe":
                            hearing()
                        elif told[0] == b"message":
                            self._take(mailbox, node, handle, told[2])
                        if not link.connection.can_read(0):
                            break
                elif asked:
                    raise errors.ConnectionError("the server has fallen silent")
                else:
                    asked = True
                    link.connection.send_packed_command([pack(("PING",))])
        finally:
            link.close()

    def _take(self, mailbox: Mailbox, node: str, handle: Handler, envelope: bytes) -> None:
        message = _message(envelope)
        order = None if message is None else mailbox.read_order(message)
        if order is None:
            return
        answer = handle(order)
        if order.reply_to and wants_answer(order, answer):
            self._send(mailbox, order.reply_to, mailbox.answer_message(node, answer, order))

    def _send(self, mailbox: Mailbox, to: Mapping[str, str], answer: Message) -> None:
        """Push an answer to the queues bound to its address; there is none when nobody waits any more."""
        exchange, asker = to.get("exchange", mailbox.answers), to.get("routing_key", "")
        key = self.keys.bindings(exchange)
        queue = f"{asker}.{exchange}"
        with self.links.borrow() as link:
            # Not the whole set, if it can be helped: what Celery's clients leave in it grows for ever.
            if link.call(pack(("SISMEMBER", key, SEP.join((asker, "", queue))))):
                queues = [queue]
            else:
                ties = [member.decode().split(SEP) for member in link.call(pack(("SMEMBERS", key)))]
                queues = [tie[-1] for tie in ties if tie[0] == asker]
            if not queues:
                return
            envelope = encode_envelope(answer)
            life = max(1, math.ceil(1000 * (mailbox.expires or mailbox.ttl or _LATE)))
            for queue in queues:
                line = self.keys.line(queue, 0)
                link.calls(pack(("LPUSH", line, envelope)) + pack(("PEXPIRE", line, life)), 2)


def _message(envelope: bytes) -> Message | None:
    try:
        return decode_envelope(envelope)
    except DecodeError:
        return None
