"""A lease owner's connection: exchanges, and sleeping until there may be a message."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import msgspec
from redis import exceptions as errors

from celeriac.engines.attempts import encode
from celeriac.engines.base import Answer, Delivery, Incarnation, Outcome, Verdict
from celeriac.engines.groups import ChordPart
from celeriac.engines.readiness import readable
from celeriac.engines.redis.connection import Link, Word, pack
from celeriac.engines.redis.publishing import all_words_of, needs_all_words, words_of
from celeriac.engines.results import ResultRecord
from celeriac.exceptions import CeleriacError, DecodeError, OperationalError
from celeriac.message import decode_envelope, encode_envelope, task_id_of
from celeriac.states import SUCCESS

if TYPE_CHECKING:
    from celeriac.engines.redis.broker import RedisBroker

logger = logging.getLogger(__name__)

POLL: Final = 1.0
"""Seconds after which a sleeper looks by itself: for producers that set no marker, and for lost markers."""
GRACE: Final = 2.0
"""Seconds a blocking command may overstay before its connection is taken for dead."""


class Request(NamedTuple):
    """An exchange as it is sent, and sent again."""

    words: list[Word]
    queues: list[str]


class RedisConsumer:
    """See :class:`celeriac.engines.base.Consumer`."""

    def __init__(self, broker: RedisBroker, owner: Incarnation) -> None:
        self.owner = owner
        self._broker = broker
        self._keys = broker.keys
        self._script_keys = [broker.keys.own(f"owner:{owner.name}"), broker.keys.own("control")]
        self._number = 0
        self._request: Request | None = None
        self._link: Link | None = None
        self._waiter: Link | None = None
        self._waiter_id = 0
        self._registered: set[str] = set()
        self._due: float | None = None
        self._broken = b""

    def exchange(self, outcomes: Sequence[Outcome], queues: Sequence[str], limit: int) -> Answer:
        """Settle ``outcomes`` and claim up to ``limit`` messages, in one atomic round trip."""
        self._number += 1
        claims = list(dict.fromkeys(queues))
        names = claims if not outcomes else list(dict.fromkeys([*claims, *(item.queue for item in outcomes)]))
        words: list[Word] = [
            self._number,
            max(limit, 0),
            self.owner.name,
            len(claims),
            len(names),
            *names,
        ]
        words.append(len(outcomes))
        if outcomes:
            index = {name: number for number, name in enumerate(names, 1)}
            ids = self._ids_in_store(outcomes)
            outcomes = _in_settling_order(outcomes)
            for item in outcomes:
                self._add_words(words, item, index[item.queue], ids)
            attempts = [item.attempt for item in outcomes]
            if any(attempts):
                words.append("1" if all(attempts) else "0")
                words += [encode(attempt) if attempt else b"" for attempt in attempts]
        self._request = Request(words, names)
        return self.repeat()

    def repeat(self) -> Answer:
        """Send the unanswered exchange again, after reconnecting; it takes effect once."""
        if self._request is None:
            raise RuntimeError("there is no unanswered exchange to repeat: every answer has arrived")
        answer = self._roundtrip(self._request)
        self._request = None
        return answer

    def wait(self, queues: Sequence[str], timeout: float, wakeup_fd: int | None = None) -> bool:
        """Sleep until a message may be ready, ``timeout`` seconds have passed or ``wakeup_fd`` is readable.

        Wakes at the latest after a second, for producers that set no marker (then it answers True), and when
        the next delayed message is due.
        """
        block = min(timeout, POLL)
        if self._due is not None:
            block = min(block, self._due - time.monotonic())
        if block <= 0:
            return block < timeout
        link = self._waiting_link()
        keys = [self._keys.of(queue, "wake") for queue in queues]
        try:
            link.connection.send_packed_command([pack(("BZPOPMIN", *keys, f"{block:.3f}"))])
            ready = _readable(link.fileno, wakeup_fd, block + GRACE)
            if link.fileno in ready:
                return link.connection.read_response() is not None or block < timeout
            if wakeup_fd is not None and wakeup_fd in ready:
                return self._stop_waiting(link)
        except errors.RedisError as error:
            link.close()
            link.fail(error)
        link.close()
        raise OperationalError(
            f"Redis at {link.address.masked} does not answer (half-open connection?); connecting again"
        )

    def mark_once(self, delivery: Delivery) -> bool:
        """Note on the lease that the message must not run a second time; whether the lease is still held."""
        keys = [self._script_keys[0], self._keys.of(delivery.queue, f"lease:{self.owner.name}")]
        return bool(self._broker.scripts["once"].run(self._main(), keys, [delivery.token]))

    def close(self, detach: bool = True) -> None:
        """Disconnect; with ``detach`` also give back every lease still held and forget the incarnation."""
        for link in (self._link, self._waiter):
            if link is not None:
                link.close()
        self._link = self._waiter = None
        if detach:
            self._broker.release(self.owner.name, {})

    # -- the exchange ----------------------------------------------------------------------------------

    def _roundtrip(self, request: Request) -> Answer:
        link = self._main()
        new = [queue for queue in request.queues if queue not in self._registered]
        if new:
            keys = [self._script_keys[0], self._keys.own("queues")]
            self._broker.scripts["register"].run(link, keys, [self.owner.name, *new])
            self._registered.update(new)
        reply = self._broker.scripts["exchange"].run(link, self._script_keys, request.words)
        return self._answer(reply, request.queues)

    def _answer(self, reply: list[Any], queues: list[str]) -> Answer:
        now, version, due, broken, count = reply[:5]
        start = 5 + count
        owed = reply.pop() if isinstance(reply[-1], list) else ()
        deliveries = []
        for i in range(start, len(reply), 5):
            flags = reply[i + 3]
            queue = queues[reply[i] - 1]
            deliveries.append(
                Delivery(reply[i + 1], queue, reply[i + 4], reply[i + 2], b"a" in flags, b"p" in flags)
            )
        self._due = None if due < 0 else time.monotonic() + (due - now) / 1e6
        if broken != self._broken:
            self._broken = broken
            if broken:
                logger.error("A queue on %s cannot be read: %s", self._broker.address.masked, broken.decode())
        next_due = None if due < 0 else due / 1e6
        refused = [int(token) for token in reply[5:start]]
        return Answer(deliveries, refused, now / 1e6, next_due, version, [group.decode() for group in owed])

    def _add_words(self, words: list[Word], item: Outcome, index: int, ids: dict[int, str]) -> None:
        """Append the arguments of one outcome (see exchange.lua)."""
        words += (int(item.verdict), index, item.token, 0)
        head = len(words)
        publications = item.publications
        if (
            item.parts
            or item.unique
            or item.forget_checkpoint
            or item.records
            or (publications and any(map(needs_all_words, publications)))
        ):
            words[head - 4] = f"{int(item.verdict)}+"
            self._add_more(words, item)
            publications = ()
        words += result_words(item.result)
        words.append(len(publications))
        for publication in publications:
            words += words_of(publication, self._keys, self._broker.hold_delays)
        if item.verdict != Verdict.ACK:
            envelope = b"" if item.message is None else encode_envelope(item.message)
            words += self._verdict_words(item, envelope, ids.get(item.token, item.task_id))
        words[head - 1] = len(words) - head

    def _add_more(self, words: list[Word], item: Outcome) -> None:
        """Append what few outcomes have, and all publications: their order counts."""
        words.append(len(item.parts))
        for part in item.parts:
            words += part_words(part)
        ended = item.verdict in (Verdict.ACK, Verdict.DEAD)
        words += (item.unique if ended else "", item.task_id, len(item.publications))
        for publication in item.publications:
            words += all_words_of(publication, self._keys, self._broker.hold_delays)
        forget = item.forget_checkpoint and item.task_id
        words += ("1" if forget else "", len(item.records))
        for record in item.records:
            words += record_words(record)

    def _verdict_words(self, item: Outcome, envelope: bytes, task_id: str) -> tuple[Word, ...]:
        match item.verdict:
            case Verdict.DELAY:
                how = "s" if item.due is None else "d"
                when = repr(float((item.delay or 0.0) if item.due is None else item.due))
                if item.message is not None:
                    task_id = task_id_of(item.message)
                return (how, when, task_id, envelope)
            case Verdict.PARK:
                return (item.bucket or f"\1{item.place}", task_id)
            case Verdict.DEAD:
                return (dead_letter_head(item), envelope)
            case Verdict.REQUEUE:
                return (envelope,)
        return ()

    def _ids_in_store(self, outcomes: Sequence[Outcome]) -> dict[int, str]:
        """The task ids of messages to be delayed or parked whose outcome does not tell them."""
        unnamed = [
            item
            for item in outcomes
            if item.verdict in (Verdict.DELAY, Verdict.PARK) and item.message is None and not item.task_id
        ]
        if not unnamed:
            return {}
        lease = f"lease:{self.owner.name}"
        commands = b"".join(pack(("HGET", self._keys.of(item.queue, lease), item.token)) for item in unnamed)
        values = self._main().calls(commands, len(unnamed))
        return {item.token: _id_in(value) for item, value in zip(unnamed, values, strict=True)}

    # -- links -----------------------------------------------------------------------------------------

    def _main(self) -> Link:
        link = self._link
        if link is None or link.connection._sock is None:
            link = self._link = Link(self._broker.address)
        return link

    def _waiting_link(self) -> Link:
        link = self._waiter
        if link is None or link.connection._sock is None:
            link = self._waiter = Link(self._broker.address)
            self._waiter_id = link.call(pack(("CLIENT", "ID")))
        return link

    def _stop_waiting(self, link: Link) -> bool:
        """End a pending BZPOPMIN; whether it had found a marker."""
        try:
            with self._broker.links.borrow() as other:
                other.call(pack(("CLIENT", "UNBLOCK", self._waiter_id)))
        except CeleriacError:
            link.close()  # not permitted, say; a marker in the socket is lost, and the poll makes up for it
            return False
        found = link.connection.read_response()
        if found is None:
            return False
        # Whoever woke us may not want messages now: leave the marker to others, too.
        with self._broker.links.borrow() as other:
            other.call(pack(("ZADD", found[0], 0, "1")))
        return True


def part_words(part: ChordPart) -> tuple[Word, ...]:
    """The arguments of a chord's part in a script (chords.lua)."""
    index = "+inf" if part.index is None else part.index
    ttl: Word = "" if part.ttl is None else max(1, int(part.ttl * 1000))
    return (part.group, part.task_id, index, part.payload, ttl, part.body or b"", part.grow)


def result_words(record: ResultRecord | None) -> tuple[Word, ...]:
    """The arguments of a result in a script."""
    if record is None:
        return ("0",)
    return ("1", record.id, record.payload, ttl_ms(record), record.reply or "", success_mark(record))


def record_words(record: ResultRecord) -> tuple[Word, ...]:
    """The same for a result that is there."""
    return result_words(record)[1:]


def ttl_ms(record: ResultRecord) -> Word:
    """Milliseconds until the record expires, or an empty word."""
    return "" if record.ttl is None else max(1, int(record.ttl * 1000))


def success_mark(record: ResultRecord) -> Word:
    """``1`` if the payload is a SUCCESS that its first bytes do not show (pickled or compressed, say)."""
    if record.state != SUCCESS or record.payload.startswith((b'{"status": "S', b'{"status":"S')):
        return ""
    return "1"


def dead_letter_head(item: Outcome) -> bytes:
    """What is kept of an outcome before the dead letter's envelope."""
    return msgspec.json.encode([item.reason, item.detail, item.task, item.task_id])


def _in_settling_order(outcomes: Sequence[Outcome]) -> Sequence[Outcome]:
    """Messages to be given back last and the youngest first, so that the oldest ends up in front."""
    if not any(item.verdict == Verdict.GIVE_BACK for item in outcomes):
        return outcomes
    first: dict[tuple[str, int], Outcome] = {}
    for item in outcomes:
        first.setdefault((item.queue, item.token), item)
    ordered = sorted(
        first.values(), key=lambda item: (0, 0) if item.verdict != Verdict.GIVE_BACK else (1, -item.token)
    )
    # What says something else about the same message comes too late: it finds the lease gone.
    return [*ordered, *(item for item in outcomes if first[item.queue, item.token] is not item)]


def _id_in(value: bytes | None) -> str:
    if value is None:
        return ""
    try:
        return task_id_of(decode_envelope(value.split(b"|", 2)[2]))
    except DecodeError:
        return ""


def _readable(fd: int, other: int | None, timeout: float) -> set[int]:
    """Which of the descriptors became readable."""
    return set(readable([fd] if other is None else [fd, other], timeout))
