"""Publications on their way into the store: encoded beforehand, as arrays for one statement."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import Any, NamedTuple

from celeriac.engines.base import Publication
from celeriac.message import Message, encode_envelope

ADD = "SELECT @add(%s::text[], %s::smallint[], %s::float8[], %s::float8[], %b::bytea[], %s::text[], \
%s::float8[], %s::text[], %s)"


class Parcel(NamedTuple):
    """A publication, encoded."""

    publication: Publication
    body: bytes
    task_id: str


def pack(publications: Iterable[Publication]) -> list[Parcel]:
    """Encode publications; whatever is wrong with a message shows here, before anything is stored."""
    return [Parcel(item, encode_envelope(item.message), task_id_of(item.message)) for item in publications]


def task_id_of(message: Message) -> str:
    """The task's id, by which delayed and parked messages can be cancelled."""
    return clean(str(message.headers.get("id") or message.properties.get("correlation_id") or ""))


def clean(text: str) -> str:
    """The text as PostgreSQL can hold it: without NUL and half surrogates."""
    if text.isascii() and "\0" not in text:
        return text
    return text.replace("\0", "").encode("utf-8", "replace").decode()


def plain(parcels: Iterable[Parcel]) -> bool:
    """Whether one statement can store them: no unique key, no fanout."""
    return all(parcel.publication.unique is None and parcel.publication.queue for parcel in parcels)


def columns(parcels: Sequence[Parcel], sign: int, known: Collection[str]) -> tuple[list[Any], ...]:
    """The arguments of ``add`` but the last one: one list a column."""
    publications = [parcel.publication for parcel in parcels]
    queues = [item.queue for item in publications]
    return (
        queues,
        [max(-32768, min(32767, sign * item.priority)) for item in publications],
        _sparse([item.delay for item in publications]),
        _sparse([item.due if item.delay is None else None for item in publications]),
        [parcel.body for parcel in parcels],
        [parcel.task_id for parcel in parcels],
        _sparse([item.track for item in publications]),
        list(set(queues).difference(known)),
    )


def _sparse(values: list[float | None]) -> list[float | None]:
    """The values, or none at all: what is missing counts as NULL, and costs nothing to send and to read."""
    if all(value is None for value in values):
        return []
    return [None if value is None else float(value) for value in values]  # psycopg sends no mixture with int
