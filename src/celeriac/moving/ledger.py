"""What the destination has received and the source has not forgotten yet.

Taking a message out of one server and putting it into another are two steps. The ledger makes a repeat of the
first harmless: together with each batch a note of what is in it goes to the destination, into a queue that
nobody serves, in the same step. Whoever comes after a process that was killed reads the notes first, and what
stands in them is not sent again, only taken out of the source.

RabbitMQ stores a batch message by message. There each message is followed by its own note, in order on one
channel, so that a break leaves at most one message whose note is missing.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from typing import Any, Final

from celeriac.engines.base import Consumer, Outcome, Publication
from celeriac.exceptions import ImproperlyConfigured
from celeriac.message import Message, decode_envelope, new_id

QUEUE: Final = "celeriac.migrating"
"""Where the notes are kept at the destination."""
_PAGE: Final = 200
_NOTES_AT_MOST: Final = 16
"""Notes of settled batches that may lie there before they are deleted."""
_HIDDEN_AT_MOST: Final = 600.0
"""Seconds after which RabbitMQ has surely noticed of a lost connection, and offers its messages again."""


class Ledger:
    """The notes at one destination about messages from one source."""

    def __init__(self, destination: Any, consumer: Consumer, source: str) -> None:
        """``consumer`` is attached to the destination: it takes the notes where queues cannot be read."""
        self._destination = destination
        self._consumer = consumer
        self._source = source
        self._whole = getattr(destination, "all_or_none", True)
        self._taken: list[Outcome] = []
        self._notes = 0
        found = [note for note in self._read() if note["source"] == source]
        self._pending = Counter(identity for note in found for identity in note["messages"])
        self._queues = {note["queue"] for note in found}
        self._newest = max((note["at"] for note in found), default=0.0)

    def known(self, identity: str) -> bool:
        """Whether an earlier run brought this message here already; it is counted once."""
        if not self._pending[identity]:
            del self._pending[identity]
            return False
        self._pending[identity] -= 1
        return True

    def remember(self, identity: str) -> None:
        """It is here, but the source may offer it again."""
        self._pending[identity] += 1

    def publish(self, publications: Sequence[Publication], identities: Sequence[str], queue: str) -> None:
        """Store messages with their notes at the destination. None of them may be conditional.

        ``queue`` is where they lie in the source.

        Raises as ``Broker.publish``; what was stored then stands in the notes.
        """
        if not publications:
            return
        if self._whole:
            self._destination.publish([*publications, self._note(identities, queue)])
        else:
            each = zip(publications, identities, strict=True)
            self._destination.publish([one for p, name in each for one in (p, self._note([name], queue))])
        self._notes += 1

    def settled(self) -> None:
        """The source has forgotten what was published last."""
        if self._notes >= _NOTES_AT_MOST and not +self._pending:
            self._destination.purge([QUEUE])
            self._notes = 0

    def close(self, complete: bool, certain: bool, queues: Collection[str] = ()) -> None:
        """End; with ``complete`` all was moved that could be seen in these queues of the source (or in all).

        ``certain`` says that nothing could be hidden from us; otherwise what an earlier run held is given
        some minutes to come back, before its notes are deleted.
        """
        over = certain or time.time() - self._newest > _HIDDEN_AT_MOST
        if (complete and over and (not queues or self._queues <= set(queues))) or not +self._pending:
            self._consumer.exchange(self._taken, [], 0)
            self._destination.purge([QUEUE])

    def _note(self, identities: Sequence[str], queue: str) -> Publication:
        task_id = new_id()
        headers = {"id": task_id, "task": "celeriac.migrating", "lang": "py"}
        body = json.dumps(
            {"source": self._source, "queue": queue, "messages": list(identities), "at": time.time()}
        )
        return Publication(
            Message(headers, {"correlation_id": task_id, "delivery_mode": 2}, body.encode()), QUEUE
        )

    def _read(self) -> Iterator[dict[str, Any]]:
        for payload in self._payloads():
            yield json.loads(decode_envelope(payload).body)

    def _payloads(self) -> Iterator[bytes]:
        try:
            offset = 0
            while page := self._destination.peek(QUEUE, offset, _PAGE):
                yield from page
                offset += len(page)
        except ImproperlyConfigured:
            # RabbitMQ: held by us until the end, they are back as soon as our connection ends.
            while deliveries := self._consumer.exchange([], [QUEUE], _PAGE).deliveries:
                self._taken += [Outcome(one.token, one.queue) for one in deliveries]
                yield from (one.payload for one in deliveries)
