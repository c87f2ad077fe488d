"""The memory engine's schedules (:mod:`celeriac.engines.schedule`)."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec.structs import replace

from celeriac.engines import schedule
from celeriac.engines.memory.parcels import pack, post_all
from celeriac.engines.memory.state import Store, Timetable
from celeriac.engines.schedule import CLOCK_STEP, Entry, Schedule, Term, Tick
from celeriac.exceptions import Fenced


class MemorySchedules:
    """The part of the engine that is a :class:`celeriac.engines.schedule.ScheduleStore`."""

    state: Store
    scope: str

    def lead(self, holder: str, ttl: float) -> Term | None:
        """Take the term, or put off the end of one's own."""
        with self.state.lock:
            now = self.state.clock()
            table = self._table
            runs = _term_runs(table, now)
            if runs and table.holder != holder:
                return None
            if not runs:
                table.token += 1
            table.holder, table.ttl, table.expires = holder, ttl, now + ttl
            return _term(table, now)

    def leader(self) -> Term | None:
        """The term that runs now."""
        with self.state.lock:
            now = self.state.clock()
            table = self._table
            return _term(table, now) if _term_runs(table, now) else None

    def resign(self, holder: str) -> None:
        """End one's own term."""
        with self.state.lock:
            if self._table.holder == holder:
                self._table.expires = 0.0

    def schedule(self, since: int = 0) -> Schedule:
        """What has changed after a version."""
        with self.state.lock:
            table = self._table
            complete = since == 0 or not table.forgotten <= since <= table.version
            after = 0 if complete else since
            return Schedule(
                table.version,
                [replace(entry) for entry in table.entries.values() if entry.version > after],
                [] if complete else [name for name, version in table.removed.items() if version > since],
                complete,
            )

    def find_entries(self, names: Sequence[str]) -> list[Entry]:
        """The entries of these names, as far as there are any."""
        with self.state.lock:
            entries = self._table.entries
            return [replace(entries[name]) for name in dict.fromkeys(names) if name in entries]

    def schedule_version(self) -> int:
        """The version alone."""
        with self.state.lock:
            return self._table.version

    def put_entries(self, entries: Sequence[Entry], term: Term | None = None) -> None:
        """Add entries or replace what they are; how far they have come stays."""
        with self.state.lock:
            now = self.state.clock()
            table = self._table
            _check(table, term, now)
            version = table.version + 1
            for given in entries:
                kept = table.entries.get(given.name)
                if kept is None:
                    kept = Entry(given.name, b"", enabled=False)
                elif _what_it_is(kept) == _what_it_is(given):
                    continue
                if (given.enabled and not kept.enabled) or kept.version == 0:
                    kept.since = now
                kept.definition, kept.source, kept.enabled = _what_it_is(given)
                kept.version = table.version = version
                table.entries[given.name] = kept
                table.removed.pop(given.name, None)

    def remove_entries(self, names: Sequence[str], term: Term | None = None) -> int:
        """Remove entries; return how many there were."""
        with self.state.lock:
            table = self._table
            _check(table, term, self.state.clock())
            found = [name for name in dict.fromkeys(names) if table.entries.pop(name, None)]
            if found:
                table.version += 1
                table.removed.update(dict.fromkeys(found, table.version))
                for name in list(table.removed)[: -schedule.REMOVED_MAX]:
                    table.forgotten = table.removed.pop(name)
            return len(found)

    def fire(self, term: Term, ticks: Sequence[Tick]) -> dict[str, str]:
        """Fire those ticks that are due later than their entries' last ones."""
        parcels = [None if tick.publication is None else pack(tick.publication) for tick in ticks]
        with self.state.lock:
            now = self.state.clock()
            _check(self._table, term, now)
            left_out = {}
            for tick, parcel in zip(ticks, parcels, strict=True):
                entry = self._table.entries.get(tick.name)
                if entry is None or not entry.enabled:
                    left_out[tick.name] = "gone"
                    continue
                if entry.last_due is not None and tick.due <= entry.last_due:
                    left_out[tick.name] = "done"
                    continue
                entry.last_due, entry.last_run = tick.due, now
                if tick.held if parcel is None else post_all(self.state, [parcel], now):
                    left_out[tick.name] = "held"
                    entry.skipped += 1
                elif parcel is not None or tick.task_id:
                    entry.last_id = tick.task_id
                    entry.runs += 1
            return left_out

    @property
    def _table(self) -> Timetable:
        return self.state.timetables[self.scope]


def _term(table: Timetable, now: float) -> Term:
    return Term(table.holder, table.token, table.expires, now)


def _term_runs(table: Timetable, now: float) -> bool:
    return now < table.expires <= now + table.ttl + CLOCK_STEP


def _check(table: Timetable, term: Term | None, now: float) -> None:
    if term is None:
        return
    if not _term_runs(table, now) or (term.holder, term.token) != (table.holder, table.token):
        raise Fenced(schedule.over(term))


def _what_it_is(entry: Entry) -> tuple[bytes, str, bool]:
    return entry.definition, entry.source, entry.enabled
