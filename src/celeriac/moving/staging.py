"""Messages that hold a unique key: they are brought over first, and take their key there in a second step.

A message that is stored only if its key is free cannot be noted in the same step, for the note would be there
without it. So it comes into a queue that nobody serves, unconditionally and with its note; from there it goes
into its own queue, on condition of its key, in the step that removes it there.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from celeriac.engines.base import Consumer, Hold, Outcome, Publication, Unique, Verdict
from celeriac.message import Message, decode_envelope, task_id_of
from celeriac.moving.parcels import UNIQUE_AT_MOST

QUEUE: Final = "celeriac.migrating.unique"
"""Where they wait at the destination."""
_HEADER: Final = "celeriac_to"
_AT_ONCE: Final = 100


def staged(publication: Publication) -> Publication:
    """The publication as one to the queue of those who have no key yet."""
    message, unique = publication.message, publication.unique
    assert unique is not None
    goal = [publication.queue, publication.priority, publication.due, unique.key]
    headers = {**message.headers, _HEADER: goal}
    return Publication(
        Message(headers, message.properties, message.body, message.content_type, message.content_encoding),
        QUEUE,
    )


def release(destination: Any, consumer: Consumer) -> Iterator[tuple[str, str, str]]:
    """Send on what waits here, each with its key; yield queue, key and holder of those whose key is held.

    These stay here, until their key is free and somebody calls this again. ``consumer`` is the destination's.
    """
    kept: list[Outcome] = []
    while deliveries := consumer.exchange([], [QUEUE], _AT_ONCE).deliveries:
        outcomes = []
        for delivery in deliveries:
            publication, task_id = _released(decode_envelope(delivery.payload))
            unique = publication.unique
            assert unique is not None
            outcome = Outcome(delivery.token, QUEUE)
            if getattr(destination, "all_or_none", True):
                holder = destination.holder(unique.key)
                outcome.publications = [publication]
            else:
                # Key and message are two steps there; only sending tells whether the key is free.
                holder = destination.publish([publication]).get(0)
            if holder is not None and holder != task_id:
                kept.append(Outcome(delivery.token, QUEUE, Verdict.GIVE_BACK))
                yield publication.queue, unique.key, holder
            else:
                outcomes.append(outcome)
        consumer.exchange(outcomes, [], 0)
    consumer.exchange(kept, [], 0)


def _released(message: Message) -> tuple[Publication, str]:
    queue, priority, due, key = message.headers.pop(_HEADER)
    unique = Unique(key, UNIQUE_AT_MOST, Hold.ENDED)
    return Publication(message, queue, priority, due=due, unique=unique), task_id_of(message)
