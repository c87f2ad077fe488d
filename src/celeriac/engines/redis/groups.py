"""Redis as a store of groups and chords, in Celery's keys: its workers and ours may share a header."""

from __future__ import annotations

from collections.abc import Sequence

from celeriac.engines.base import Publication
from celeriac.engines.groups import ChordPart, Owed
from celeriac.engines.redis.connection import Word, pack
from celeriac.engines.redis.consumer import part_words, record_words
from celeriac.engines.redis.publishing import all_words_of
from celeriac.engines.redis.results import RedisResults
from celeriac.engines.results import ResultRecord


class RedisGroups(RedisResults):
    """The part of the engine that is a :class:`celeriac.engines.groups.GroupStore`."""

    def store_group(self, group: str, payload: bytes, ttl: float | None) -> None:
        """Keep a group's list of results; ``ttl`` in seconds, ``None`` for ever."""
        kept: tuple[Word, ...] = () if ttl is None else ("PX", max(1, int(ttl * 1000)))
        with self.links.borrow() as link:
            link.call(pack(("SET", self.keys.group(group), payload, *kept)))

    def fetch_group(self, group: str) -> bytes | None:
        """What :meth:`store_group` or Celery's ``GroupResult.save`` kept."""
        with self.links.borrow() as link:
            payload: bytes | None = link.call(pack(("GET", self.keys.group(group))))
        return payload

    def forget_group(self, group: str) -> None:
        """Delete it, if anything was kept."""
        with self.links.borrow() as link:
            link.call(pack(("DEL", self.keys.group(group))))

    def open_chord(self, group: str, size: int, body: bytes, ttl: float | None) -> None:
        """Begin a chord whose header has ``size`` tasks, before they are published."""
        kept: Word = "" if ttl is None else max(1, int(ttl * 1000))
        with self.links.borrow() as link:
            self.scripts["open_chord"].run(link, [], [group, size, body, kept])

    def record_parts(self, parts: Sequence[ChordPart], by: str) -> list[str]:
        """Record parts; return the groups whose last part was among them, taken by ``by``."""
        if not parts:
            return []
        words: list[Word] = [by]
        for part in parts:
            words += part_words(part)
        with self.links.borrow() as link:
            return [group.decode() for group in self.scripts["record_parts"].run(link, [], words)]

    def owed(self) -> list[str]:
        """Groups whose body is owed and that nobody has taken lately, oldest first, at most 100."""
        with self.links.borrow() as link:
            return [group.decode() for group in self.scripts["owed"].run(link, [], [])]

    def take_owed(self, group: str, by: str) -> Owed | None:
        """Take an owed body to send it, under the name ``by``; ``None`` if it is not there to be taken."""
        with self.links.borrow() as link:
            taken = self.scripts["owed"].run(link, [], [group, by])
        return None if taken is None else Owed(group, taken[0], taken[1:])

    def settle_owed(
        self,
        group: str,
        by: str,
        publications: Sequence[Publication] = (),
        records: Sequence[ResultRecord] = (),
        parts: Sequence[ChordPart] = (),
    ) -> list[str] | None:
        """End an owed body that ``by`` holds, and store with it what follows; ``None`` if it does not.

        ``publications`` go to the broker that shares this store (``shares_store``), else to this one.
        """
        broker = self.lease_store or self
        words: list[Word] = [group, by, len(publications)]
        for publication in publications:
            words += all_words_of(publication, broker.keys, broker.hold_delays)
        words.append(len(parts))
        for part in parts:
            words += part_words(part)
        words.append(len(records))
        for record in records:
            words += record_words(record)
        with broker.links.borrow() as link:
            owed = broker.scripts["settle_owed"].run(link, [broker.keys.own("queues")], words)
        return None if owed is None else [each.decode() for each in owed]
