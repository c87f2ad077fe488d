"""Publications on their way into a memory store: encoded, conditional on their unique keys, put in line."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import msgspec

from celeriac.engines.base import Hold, Publication, Unique
from celeriac.engines.memory.bindings import fanned
from celeriac.engines.memory.state import Entry, Held, Store
from celeriac.message import encode_envelope, task_id_of


class Parcel(NamedTuple):
    """A publication, encoded."""

    publication: Publication
    payload: bytes
    task_id: str


def pack(publication: Publication) -> Parcel:
    """Encode a publication; whatever is wrong with its message shows here, before anything is stored."""
    message = publication.message
    return Parcel(publication, encode_envelope(message), task_id_of(message))


def post_all(store: Store, parcels: Sequence[Parcel], now: float) -> dict[int, str]:
    """Put parcels in line; return index -> holder of those left out, as ``Broker.publish`` does."""
    left_out = {}
    for index, parcel in enumerate(parcels):
        unique = parcel.publication.unique
        holder = _claim_key(store, unique, parcel, now) if unique else None
        if holder is None:
            _post(store, parcel, now)
        else:
            left_out[index] = holder
    return left_out


def _claim_key(store: Store, unique: Unique, parcel: Parcel, now: float) -> str | None:
    """Take the key for the parcel; return who holds it if that cannot be, "" for a vanished predecessor."""
    holder = store.holder(unique.key, now)
    if unique.instead_of:
        if holder != unique.instead_of or not store.pull_delayed({holder}):
            return holder or ""
    elif holder is not None:
        return holder
    if unique.until is not Hold.DELAYED or _waits(parcel.publication):
        store.hold(unique.key, Held(parcel.task_id, now + unique.ttl, unique.until))
    else:
        store.free(unique.key)
    return None


def _waits(publication: Publication) -> bool:
    return publication.due is not None or publication.delay is not None


def _post(store: Store, parcel: Parcel, now: float) -> None:
    """Put it in line, or among the delayed; a fanout's into each queue bound to it."""
    publication = parcel.publication
    if not publication.queue:
        for queue in fanned(store, publication.exchange):
            _post(store, parcel._replace(publication=msgspec.structs.replace(publication, queue=queue)), now)
        return
    entry = Entry(parcel.payload, publication.queue, publication.priority, parcel.task_id, now)
    if _waits(publication):
        store.put_off(
            entry, publication.due if publication.due is not None else now + (publication.delay or 0.0)
        )
    else:
        store.append(entry)
    if publication.track is not None:
        store.queued[parcel.task_id] = now + publication.track
