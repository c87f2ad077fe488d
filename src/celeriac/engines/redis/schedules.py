"""Redis as a schedule store: who leads, periodic tasks, and the script that fires their ticks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from celeriac.engines import schedule
from celeriac.engines.redis.connection import Link, Links, Word, pack
from celeriac.engines.redis.keys import Keys
from celeriac.engines.redis.publishing import all_words_of
from celeriac.engines.redis.scripts import Scripts
from celeriac.engines.schedule import Entry, Schedule, Term, Tick

READ_CHUNK: Final = 1000
"""Entries read in one command."""


class RedisSchedules:
    """The part of the engine that is a :class:`celeriac.engines.schedule.ScheduleStore`."""

    keys: Keys
    links: Links
    scripts: Scripts
    hold_delays: bool
    scope: str

    def lead(self, holder: str, ttl: float) -> Term | None:
        """Take the term, or put off the end of one's own."""
        with self.links.borrow() as link:
            answer = self.scripts["lead"].run(link, [], [holder, repr(float(ttl))])
        return None if answer is None else Term(holder, int(answer[0]), float(answer[1]), float(answer[2]))

    def leader(self) -> Term | None:
        """The term that runs now, if one does."""
        with self.links.borrow() as link:
            answer = self.scripts["leader"].run(link, [], [])
        if answer is None:
            return None
        holder, token, expires, now = answer
        return Term(holder.decode(), int(token), float(expires), float(now))

    def resign(self, holder: str) -> None:
        """End one's own term."""
        with self.links.borrow() as link:
            self.scripts["leader"].run(link, [], [holder])

    def schedule(self, since: int = 0) -> Schedule:
        """What has changed after a version.

        What an entry is may be read a moment later than the version, many in several commands: what others
        change meanwhile comes again with the next call.
        """
        with self.links.borrow() as link:
            version, complete, removed, rows = self.scripts["schedule"].run(link, [], [since])
            entries = list(self._entries(link, rows))
        return Schedule(version, entries, [name.decode() for name in removed], bool(complete))

    def find_entries(self, names: Sequence[str]) -> list[Entry]:
        """The entries of these names, as far as there are any."""
        wanted = list(dict.fromkeys(names))
        commands = [pack(("ZSCORE", self._key("versions"), name)) for name in wanted]
        with self.links.borrow() as link:
            versions = link.calls(b"".join(commands), len(commands)) if commands else []
            rows: list[bytes] = []
            for name, version in zip(wanted, versions, strict=True):
                if version is not None:
                    rows += (name.encode(), version)
            return list(self._entries(link, rows))

    def schedule_version(self) -> int:
        """The version alone: one command."""
        with self.links.borrow() as link:
            return int(link.call(pack(("HGET", self._key("version"), "version"))) or 0)

    def put_entries(self, entries: Sequence[Entry], term: Term | None = None) -> None:
        """Add entries or replace what they are; how far they have come stays."""
        words = _term_words(term)
        for entry in entries:
            words += (entry.name, b"%d|%s|%s" % (entry.enabled, entry.source.encode(), entry.definition))
        with self.links.borrow() as link:
            self.scripts["put_entries"].run(link, [], words)

    def remove_entries(self, names: Sequence[str], term: Term | None = None) -> int:
        """Remove entries; return how many there were."""
        words = [*_term_words(term), schedule.REMOVED_MAX, *names]
        with self.links.borrow() as link:
            return int(self.scripts["remove_entries"].run(link, [], words))

    def fire(self, term: Term, ticks: Sequence[Tick]) -> dict[str, str]:
        """Fire those ticks that are due later than their entries' last ones, in one run of a script.

        The server serves nobody else meanwhile, some 15 us a tick. Messages go to this engine's queues.
        """
        words = _term_words(term)
        for tick in ticks:
            words += (tick.name, repr(float(tick.due)), tick.task_id)
            if tick.publication is None:
                words.append("h" if tick.held else "n")
            else:
                words.append("p")
                words += all_words_of(tick.publication, self.keys, self.hold_delays)
        with self.links.borrow() as link:
            left = self.scripts["fire"].run(link, [self.keys.own("queues")], words)
        return {name.decode(): reason.decode() for name, reason in zip(left[::2], left[1::2], strict=True)}

    def _key(self, what: str) -> str:
        return self.keys.own(f"schedule:{what}:{self.scope}" if self.scope else f"schedule:{what}")

    def _entries(self, link: Link, rows: Sequence[bytes]) -> Iterator[Entry]:
        for start in range(0, len(rows), 2 * READ_CHUNK):
            chunk = rows[start : start + 2 * READ_CHUNK]
            names = chunk[::2]
            both = pack(("HMGET", self._key("entries"), *names))
            both += pack(("HMGET", self._key("ticks"), *names))
            values, ticks = link.calls(both, 2)
            for name, version, value, tick in zip(names, chunk[1::2], values, ticks, strict=True):
                if value is not None and tick is not None:  # else removed a moment ago
                    yield _entry(name, int(version), value, tick)


def _term_words(term: Term | None) -> list[Word]:
    return ["", ""] if term is None else [term.holder, term.token]


def _entry(name: bytes, version: int, value: bytes, tick: bytes) -> Entry:
    enabled, source, definition = value.split(b"|", 2)
    since, last_due, last_run, runs, skipped, last_id = tick.split(b"|", 5)
    return Entry(
        name=name.decode(),
        definition=definition,
        source=source.decode(),
        enabled=enabled == b"1",
        version=version,
        since=float(since),
        last_due=float(last_due) if last_due else None,
        last_run=float(last_run) if last_run else None,
        last_id=last_id.decode(),
        runs=int(runs),
        skipped=int(skipped),
    )
