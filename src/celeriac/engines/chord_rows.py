"""Chords in tables of SQL: how their parts are counted. The statements are each engine's own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple, Protocol

from celeriac.engines.groups import ChordPart

COUNTING, OWED, DONE = range(3)
"""The states of a chord."""
REMEMBERED: Final = 86400.0
"""Seconds for which a chord is known to be done."""
PARTS_AT_ONCE: Final = 1000
"""Parts deleted in one transaction."""
MOST_OWED: Final = 100
"""Groups that are told of at a time."""


class Chord(NamedTuple):
    """A chord's row."""

    id: int
    state: int
    opened: bool
    missing: int
    """The header's size less the parts recorded; it means something once opened."""
    expires: float | None


class ChordRows(Protocol):
    """A store's chords within one transaction."""

    now: float
    """The store's clock."""

    def find(self, group: str) -> Chord:
        """The chord, begun if there is none or none any more. Nobody else counts its parts meanwhile."""
        ...

    def open(self, chord: Chord, missing: int, expires: float | None) -> None: ...

    def keep_body(self, chord: Chord, body: bytes) -> None:
        """Keep the body, unless there is one."""
        ...

    def add_part(self, chord: Chord, part: ChordPart) -> bool:
        """Add a part; return ``False`` if its task has one."""
        ...

    def count(self, chord: Chord, missing: int, expires: float | None) -> None: ...

    def owe(self, chord: Chord, by: str | None) -> None:
        """Note that the body is owed, taken by ``by``. It does not expire: somebody waits for it."""
        ...


def open_chord(rows: ChordRows, group: str, size: int, body: bytes, ttl: float | None) -> None:
    """Begin a chord whose header has ``size`` tasks, unless it has been opened."""
    chord = rows.find(group)
    if chord.state != COUNTING or chord.opened:
        return
    missing = chord.missing + size
    rows.open(chord, missing, _until(rows, ttl))
    rows.keep_body(chord, body)
    if missing <= 0:
        rows.owe(chord, None)


def record(rows: ChordRows, parts: Sequence[ChordPart], by: str) -> list[str]:
    """Record parts; return the groups whose last part was among them, taken by ``by``."""
    groups: dict[str, list[ChordPart]] = {}
    for part in parts:
        groups.setdefault(part.group, []).append(part)
    # In one order everywhere: two who record parts of the same chords do not lock one another out.
    owed = {group for group in sorted(groups) if _record(rows, group, groups[group], by)}
    return [group for group in groups if group in owed]


def _record(rows: ChordRows, group: str, parts: Sequence[ChordPart], by: str) -> bool:
    """Record parts of one chord, at a cost that does not grow with it; return whether it is owed now."""
    chord = rows.find(group)
    if chord.state != COUNTING:
        return False
    missing, ttl = chord.missing, None
    for part in parts:
        if part.body is not None:
            rows.keep_body(chord, part.body)
        if rows.add_part(chord, part):
            missing += part.grow - 1
        ttl = part.ttl
        if chord.opened and missing <= 0:
            rows.owe(chord, by)
            return True
    expires = _until(rows, ttl)
    if expires is not None and chord.expires is not None:
        expires = max(expires, chord.expires)
    rows.count(chord, missing, expires)
    return False


def _until(rows: ChordRows, ttl: float | None) -> float | None:
    return None if ttl is None else rows.now + ttl
