"""Publications as commands: plain pushes, or a script for delayed, tracked and unique ones."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from celeriac.engines.base import Hold, Publication
from celeriac.engines.redis.connection import Word, pack
from celeriac.engines.redis.keys import Keys
from celeriac.message import OWN_HEADER, Message, encode_envelope, task_id_of

PUSH_CHUNK: Final = 1000
"""Messages in one LPUSH: longer commands hold the server for no gain."""


def envelope_of(publication: Publication) -> bytes:
    """The publication's message as it is pushed, complete with where it went (Celery's workers read that)."""
    message = publication.message
    properties = message.properties
    if "delivery_info" not in properties:
        properties["delivery_info"] = {
            "exchange": publication.exchange,
            "routing_key": publication.routing_key or publication.queue,
        }
    if "priority" not in properties:
        properties["priority"] = publication.priority
    return encode_envelope(message)


def words_of(publication: Publication, keys: Keys, held: bool) -> tuple[Word, ...]:
    """``queue, lane, how, when, id, envelope``; without ``held`` a delay is left to the worker."""
    if held and publication.due is not None:
        how, when = "d", repr(float(publication.due))
    elif held and publication.delay is not None:
        how, when = "s", repr(float(publication.delay))
    else:
        how, when = "n", ""
    lane = keys.lane(publication.priority)
    queue = publication.queue or keys.fanout(publication.exchange, publication.routing_key)
    return (queue, lane, how, when, task_id_of(publication.message), envelope_of(publication))


def all_words_of(publication: Publication, keys: Keys, held: bool) -> tuple[Word, ...]:
    """The words of :func:`words_of`, and how it is tracked and unique (publications.lua)."""
    track: Word = "" if publication.track is None else max(1, int(publication.track * 1000))
    unique = publication.unique
    if unique is None:
        return (*words_of(publication, keys, held), track, "", "", "", "")
    # A key that is held while the message is delayed needs a store that delays it.
    words = words_of(publication, keys, held or unique.until == Hold.DELAYED)
    ttl = max(1, int(unique.ttl * 1000))
    return (*words, track, unique.key, ttl, unique.until.value, unique.instead_of)


def needs_all_words(publication: Publication) -> bool:
    """Whether an outcome's publication is one of those in publications.lua."""
    return publication.unique is not None or publication.track is not None


def is_plain(publication: Publication, held: bool) -> bool:
    """Whether a push is all it takes."""
    if publication.track is not None or publication.unique is not None or not publication.queue:
        return False
    return not held or (publication.delay is None and publication.due is None)


def one_push(publication: Publication, keys: Keys) -> bytes:
    """The commands for one message: the push and the marker that wakes an idle worker."""
    queue = publication.queue
    push = pack(("LPUSH", keys.line(queue, keys.lane(publication.priority)), envelope_of(publication)))
    return push + pack(("ZADD", keys.of(queue, "wake"), 0, "1"))


def many_pushes(batch: Sequence[Publication], keys: Keys) -> tuple[bytes, int]:
    """The commands for many messages as one transaction, and how many they are."""
    lines: dict[str, list[bytes]] = {}
    for publication in batch:
        line = keys.line(publication.queue, keys.lane(publication.priority))
        lines.setdefault(line, []).append(envelope_of(publication))
    commands = [pack(("MULTI",))]
    for line, envelopes in lines.items():
        for start in range(0, len(envelopes), PUSH_CHUNK):
            commands.append(pack(("LPUSH", line, *envelopes[start : start + PUSH_CHUNK])))
    for queue in dict.fromkeys(publication.queue for publication in batch):
        commands.append(pack(("ZADD", keys.of(queue, "wake"), 0, "1")))
    commands.append(pack(("EXEC",)))
    return b"".join(commands), len(commands)


def reply_of(message: Message) -> str | None:
    """The client's reply address in the message, if there is one."""
    own = message.headers.get(OWN_HEADER)
    return own.get("reply") if own else None
