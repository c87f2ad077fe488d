"""The memory engine's groups and chords (:mod:`celeriac.engines.groups`)."""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass, field

from celeriac.engines import groups
from celeriac.engines.base import Publication
from celeriac.engines.groups import ChordPart, Owed
from celeriac.engines.memory.parcels import pack, post_all
from celeriac.engines.memory.results import keep
from celeriac.engines.memory.state import Store
from celeriac.engines.results import ResultRecord

DONE_FOR = 86400.0
"""How long a chord that is done is remembered, seconds."""

OWED_MAX = 100
"""How many owed bodies are told at a time."""


@dataclass
class Chord:
    """A chord, from its first sign of life until it is forgotten."""

    size: int | None = None
    """How many parts it needs; ``None`` until it is opened."""
    body: bytes | None = None
    grown: int = 0
    parts: dict[str, ChordPart] = field(default_factory=dict)
    """By task id, in the order of their recording."""
    owed_since: float | None = None
    taken_by: str = ""
    taken_at: float = float("-inf")
    done: bool = False
    expires: float | None = None

    @property
    def complete(self) -> bool:
        """Whether its last part has been recorded and it has not been found out yet."""
        return (
            self.size is not None
            and self.owed_since is None
            and not self.done
            and len(self.parts) >= self.size + self.grown
        )

    def taken(self, now: float) -> bool:
        """Whether somebody has its body in hand."""
        return now - self.taken_at < groups.OWED_AGAIN


def find_chord(store: Store, group: str, now: float) -> Chord | None:
    """The chord, unless it has expired."""
    chord: Chord | None = store.chords.get(group)
    if chord and chord.expires is not None and chord.expires <= now:
        del store.chords[group]
        return None
    return chord


def record(store: Store, parts: Sequence[ChordPart], by: str, now: float) -> list[str]:
    """Record parts; return the groups completed by them, taken by ``by``. The caller holds the lock."""
    completed = []
    for part in parts:
        chord = find_chord(store, part.group, now)
        if chord is None:
            chord = store.chords[part.group] = Chord()
        if chord.done or part.task_id in chord.parts:
            continue
        chord.parts[part.task_id] = part
        chord.grown += part.grow
        chord.body = part.body if chord.body is None else chord.body
        chord.expires = None if part.ttl is None else max(chord.expires or 0.0, now + part.ttl)
        if chord.complete:
            chord.owed_since, chord.taken_by, chord.taken_at = now, by, now
            completed.append(part.group)
    return completed


def in_header_order(parts: Sequence[ChordPart]) -> list[bytes]:
    """The payloads by index; those without one come last, in the order of their recording."""
    ordered = sorted(parts, key=lambda part: (part.index is None, part.index or 0))
    return [part.payload for part in ordered]


class MemoryGroups:
    """The part of the engine that is a :class:`celeriac.engines.groups.GroupStore`."""

    state: Store

    def store_group(self, group: str, payload: bytes, ttl: float | None) -> None:
        """Keep a group's list of results."""
        with self.state.lock:
            until = None if ttl is None else self.state.clock() + ttl
            self.state.groups[group] = (payload, until)

    def fetch_group(self, group: str) -> bytes | None:
        """What was kept, unless it has expired."""
        with self.state.lock:
            payload, until = self.state.groups.get(group, (None, None))
            return payload if until is None or until > self.state.clock() else None

    def forget_group(self, group: str) -> None:
        """Delete what was kept."""
        with self.state.lock:
            self.state.groups.pop(group, None)

    def open_chord(self, group: str, size: int, body: bytes, ttl: float | None) -> None:
        """Begin a chord; one that has been opened is left as it is."""
        with self.state.lock:
            now = self.state.clock()
            chord = find_chord(self.state, group, now)
            if chord is None:
                chord = self.state.chords[group] = Chord()
            if chord.done or chord.size is not None:
                return
            chord.size = size
            chord.body = body if chord.body is None else chord.body
            chord.expires = None if ttl is None else now + ttl
            if chord.complete:
                chord.owed_since = now

    def record_parts(self, parts: Sequence[ChordPart], by: str) -> list[str]:
        """Record parts outside of a settling step."""
        with self.state.lock:
            return record(self.state, parts, by, self.state.clock())

    def owed(self) -> list[str]:
        """Groups whose body is owed and in nobody's hands, oldest first."""
        with self.state.lock:
            now = self.state.clock()
            found = [(group, find_chord(self.state, group, now)) for group in list(self.state.chords)]
            waiting = [
                (chord.owed_since, group)
                for group, chord in found
                if chord and chord.owed_since is not None and not chord.done and not chord.taken(now)
            ]
            return [group for _, group in heapq.nsmallest(OWED_MAX, waiting, key=lambda item: item[0])]

    def take_owed(self, group: str, by: str) -> Owed | None:
        """Take an owed body, unless another has it."""
        with self.state.lock:
            now = self.state.clock()
            chord = find_chord(self.state, group, now)
            if chord is None or chord.owed_since is None or chord.done:
                return None
            if chord.taken(now) and chord.taken_by != by:
                return None
            chord.taken_by, chord.taken_at = by, now
            return Owed(group, chord.body, in_header_order(list(chord.parts.values())))

    def settle_owed(
        self,
        group: str,
        by: str,
        publications: Sequence[Publication] = (),
        records: Sequence[ResultRecord] = (),
        parts: Sequence[ChordPart] = (),
    ) -> list[str] | None:
        """End an owed body, with what follows from it."""
        parcels = [pack(publication) for publication in publications]
        with self.state.lock:
            now = self.state.clock()
            chord = find_chord(self.state, group, now)
            if chord is None or chord.owed_since is None or chord.done or chord.taken_by != by:
                return None
            self.state.chords[group] = Chord(done=True, expires=now + DONE_FOR)
            post_all(self.state, parcels, now)
            for result in records:
                keep(self.state, result)
            return record(self.state, parts, by, now)
