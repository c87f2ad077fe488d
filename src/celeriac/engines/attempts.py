"""Attempts as stores keep them: packed bytes, found by what can be looked for without unpacking.

What every engine's history has in common. An attempt is a msgpack array, so a text in it stands there as
:func:`needle` spells it. Stores that pack an exchange's attempts into one row keep *marks* beside the row, a
four-byte checksum of each text in it that may be asked for. Both only say that a row is worth unpacking:
:func:`collect` looks at the attempts themselves.

Attempts are numbered in the order in which they were settled; a page's cursor is the number of its last one.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from typing import Final, NamedTuple
from zlib import crc32

import msgspec

from celeriac.engines.history import Attempt, Wanted

LATE: Final = 3600.0
"""Seconds within which an attempt is settled after its end, for those who look for the time it ended."""
SKEW: Final = 60.0
"""Seconds by which a worker's clock may differ from the store's."""
FEW: Final = 3
"""Up to so many attempts of an exchange get a row each: then a single task's are found by an index."""
PACK: Final = 128
"""At most so many attempts are packed into one row."""

_ENCODER: Final = msgspec.msgpack.Encoder()
_ONE: Final = msgspec.msgpack.Decoder(Attempt)
_MANY: Final = msgspec.msgpack.Decoder(list[Attempt])


class Row(NamedTuple):
    """Attempts to be stored as one row."""

    size: int
    """How many they are."""
    key: int | None
    """The checksum of the task id of a row's only attempt; ``None`` for packed ones."""
    marks: bytes
    """The checksums of packed attempts."""
    body: bytes


def encode(attempt: Attempt) -> bytes:
    """The attempt as it is stored."""
    try:
        return _ENCODER.encode(attempt)
    except UnicodeEncodeError:  # a lone surrogate, in the text of an error, say
        texts = {
            name: value.encode(errors="replace").decode()
            for name, value in msgspec.structs.asdict(attempt).items()
            if isinstance(value, str)
        }
        return _ENCODER.encode(msgspec.structs.replace(attempt, **texts))


def decode(body: bytes) -> Attempt:
    """One attempt, as :func:`encode` wrote it."""
    return _ONE.decode(body)


def joined(bodies: Sequence[bytes]) -> bytes:
    """Encoded attempts as one body, for :func:`unpack`."""
    return b"\xdd" + len(bodies).to_bytes(4) + b"".join(bodies)


def rows(attempts: Sequence[Attempt], bodies: Sequence[bytes]) -> Iterator[Row]:
    """The rows in which to store attempts, encoded in ``bodies``, in their order."""
    if len(attempts) <= FEW:
        for attempt, body in zip(attempts, bodies, strict=True):
            yield Row(1, key(attempt.id), b"", body)
        return
    for start in range(0, len(attempts), PACK):
        pack = attempts[start : start + PACK]
        yield Row(len(pack), None, marks(pack), joined(bodies[start : start + PACK]))


def unpack(number: int, count: int, single: bool, body: bytes) -> Iterator[tuple[int, Attempt]]:
    """The attempts of a row with their numbers, newest first; ``number`` is that of its last one."""
    if single:
        yield number, decode(body)
        return
    pack = _MANY.decode(body)
    for index in range(count - 1, -1, -1):
        yield number - count + 1 + index, pack[index]


def key(text: str) -> int:
    """A text's checksum, as a signed number of 32 bits."""
    number = _sum(text)
    return number - (1 << 32) if number >> 31 else number


def marks(attempts: Sequence[Attempt]) -> bytes:
    """What can be looked for in packed attempts."""
    sums = [_sum(one.id) for one in attempts]
    common = {(one.task, one.state, one.worker, one.queue) for one in attempts}
    texts = {text for kind in common for text in kind}
    return struct.pack(f">{len(sums)}I", *sums) + b"".join(map(mark, texts))


@lru_cache(4096)
def mark(text: str) -> bytes:
    """The checksum of a task's name, a state, a worker or a queue as it stands in marks."""
    return _sum(text).to_bytes(4)


def _sum(text: str) -> int:
    return crc32(text.encode("utf-8", "replace"))


def needle(text: str) -> bytes:
    """How a text stands in an encoded attempt."""
    return _ENCODER.encode(text)


def texts(wanted: Wanted) -> list[Sequence[str]]:
    """The texts to look for: of each list, one must be there."""
    single = [(text,) for text in (wanted.id, wanted.task, wanted.worker, wanted.queue) if text]
    return [*single, wanted.states] if wanted.states else list(single)


def wants(wanted: Wanted, attempt: Attempt) -> bool:
    """Whether the attempt is one of those."""
    return (
        (not wanted.id or attempt.id == wanted.id)
        and (not wanted.task or attempt.task == wanted.task)
        and (not wanted.states or attempt.state in wanted.states)
        and (not wanted.worker or attempt.worker == wanted.worker)
        and (not wanted.queue or attempt.queue == wanted.queue)
        and (wanted.since is None or attempt.ended >= wanted.since)
        and (wanted.until is None or attempt.ended <= wanted.until)
    )


def collect(
    found: Iterable[tuple[int, Attempt]], wanted: Wanted, limit: int, before: str
) -> tuple[list[Attempt], str]:
    """Take a page from numbered attempts, newest first, and say where the next one begins."""
    top = number_of(before)
    page: list[Attempt] = []
    last = 0
    for number, attempt in found:
        if (top is not None and number >= top) or not wants(wanted, attempt):
            continue
        if len(page) >= limit:
            return page, str(last)
        page.append(attempt)
        last = number
    return page, ""


def number_of(cursor: str) -> int | None:
    """The number in a cursor; ``None`` for the first page. Raises ``ValueError`` for anything else."""
    if not cursor:
        return None
    try:
        return int(cursor)
    except ValueError:
        raise ValueError(f"{cursor!r} is not where a page of the history ends") from None
