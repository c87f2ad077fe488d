"""One message on its way to another store: what identifies it, and what it becomes there."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final, NamedTuple

import msgspec

from celeriac.engines.base import Hold, Publication, Unique
from celeriac.message import OWN_HEADER, Message, decode_envelope, notes, task_id_of, with_notes

UNIQUE_AT_MOST: Final = 86400.0
"""Seconds for which a moved task holds its unique key: how long it had left is not told."""
TRACKED: Final = 86400.0
"""Seconds for which a moved task is remembered as queued."""
_LOWEST: Final = 9


class Parcel(NamedTuple):
    """A message that was claimed in one store, as it goes to the other."""

    publication: Publication
    identity: str
    task: str
    task_id: str
    delayed: bool


def parcel(
    payload: bytes, queue: str, renamed: bool, now: float, translate: Mapping[int, int] | None
) -> Parcel:
    """What an envelope becomes at the other end, in ``queue``. Raises ``DecodeError`` if it cannot be read.

    ``now`` is the store's clock; ``translate`` gives other priorities where the two ends count differently.
    """
    message = decode_envelope(payload)
    noted = notes(message)
    headers, properties = message.headers, dict(message.properties)
    identity = identify(message)
    priority = properties.get("priority")
    if translate is not None and isinstance(priority, int):
        priority = properties["priority"] = translate.get(priority, priority)
    if renamed:
        properties["delivery_info"] = {"exchange": "", "routing_key": queue}
    due = _due(headers.get("eta")) if noted.held or noted.forward else None
    if noted.forward:
        noted = msgspec.structs.replace(noted, held=True, forward=False)
    made = Message(headers, properties, message.body, message.content_type, message.content_encoding)
    delayed = due is not None and due > now
    publication = Publication(
        with_notes(made, noted) if OWN_HEADER in headers else made,
        queue,
        priority if isinstance(priority, int) else 0,
        due=due if delayed else None,
        unique=Unique(noted.unique, UNIQUE_AT_MOST, Hold.ENDED) if noted.unique else None,
    )
    return Parcel(publication, identity, str(headers.get("task", "")), task_id_of(message), delayed)


def identify(message: Message) -> str:
    """What tells a message from all others, whatever losing a lease or moving writes into it."""
    passing = {OWN_HEADER, "redelivered", "eta"}
    headers = {name: value for name, value in message.headers.items() if name not in passing}
    left = {"delivery_info", "delivery_tag", "priority"}  # the way it came, and numbers of its way
    properties = {name: value for name, value in message.properties.items() if name not in left}
    digest = hashlib.blake2b(digest_size=16)
    for part in (repr(sorted(headers.items())), repr(sorted(properties.items()))):
        digest.update(part.encode("utf-8", "surrogatepass"))
        digest.update(b"\0")
    digest.update(message.body)
    return digest.hexdigest()


def priorities(source: Mapping[str, int], destination: Mapping[str, int]) -> Mapping[int, int] | None:
    """How priorities are to be translated so that urgent messages stay urgent; ``None`` if both count alike.

    Where higher numbers go first, 0 is what a message has that nobody gave a priority. It stays 0: on a store
    where lower numbers go first, that is what such messages have as well.
    """
    if source == destination:
        return None
    turned = {number: _LOWEST - number for number in range(_LOWEST + 1)}
    if source["high"] > source["low"]:
        turned[0] = 0
    return turned


def _due(eta: Any) -> float | None:
    try:
        moment = datetime.fromisoformat(eta)
    except (TypeError, ValueError):
        return None
    return moment.timestamp() if moment.tzinfo is not None else None
