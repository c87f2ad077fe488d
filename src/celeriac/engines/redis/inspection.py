"""Redis as a broker, seen by people: depths, envelopes, purging, pausing, dead letters."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from typing import Any, Final

import msgspec

from celeriac.engines.base import DeadLetter, Depth
from celeriac.engines.envelopes import brought_forward, for_replay, priority_of
from celeriac.engines.redis.address import SEP, Address
from celeriac.engines.redis.broker import RedisBroker
from celeriac.engines.redis.connection import Link, Word, pack
from celeriac.exceptions import DecodeError
from celeriac.message import decode_envelope, notes

CANCEL_CHUNK: Final = 100
REPLAY_CHUNK: Final = 100
STATES: Final = ("ready", "delayed", "leased", "parked")


class RedisInspection(RedisBroker):
    """The part of :class:`celeriac.engines.base.Broker` that looks and puts in order."""

    address: Address
    dead_expires: float

    def cancel(self, ids: Sequence[str]) -> list[str]:
        """Remove delayed and parked messages of these task ids; return the ids found."""
        queues, found = self.queues(), set[str]()
        with self.links.borrow() as link:
            for start in range(0, len(ids), CANCEL_CHUNK):
                words: list[Word] = [len(queues), *queues, *ids[start : start + CANCEL_CHUNK]]
                found.update(task_id.decode() for task_id in self.scripts["cancel"].run(link, [], words))
        return [task_id for task_id in dict.fromkeys(ids) if task_id in found]

    def find(self, ids: Sequence[str]) -> dict[str, bytes]:
        """The envelopes of delayed and parked messages of these tasks."""
        hashes = [
            self.keys.of(queue, what) for queue in self.queues() for what in ("delayed:payload", "parked")
        ]
        found: dict[str, bytes] = {}
        with self.links.borrow() as link:
            for start in range(0, len(ids), CANCEL_CHUNK):
                chunk = ids[start : start + CANCEL_CHUNK]
                for values in _all(link, [("HMGET", name, *chunk) for name in hashes]):
                    pairs = zip(chunk, values, strict=True)
                    found.update((task_id, _envelope(value)) for task_id, value in pairs if value is not None)
        return found

    def bring_forward(self, queue: str, limit: int, ids: Sequence[str] | None = None) -> int:
        """Make delayed and parked messages ready before their time."""
        count = 0
        with self.links.borrow() as link:
            waiting = self._waiting(link, queue, limit if ids is None else None)
            if ids is not None:
                wanted = set(ids)
                waiting = [one for one in waiting if one[1].decode().partition("#")[0] in wanted]
            for start in range(0, min(len(waiting), limit), REPLAY_CHUNK):
                words: list[Word] = [queue]
                chunk = waiting[start : min(start + REPLAY_CHUNK, limit)]
                for what in ("parked", "delayed:payload"):
                    some = [one for one in chunk if bool(one[0]) == (what == "parked")]
                    members = [member for _, member, _ in some]
                    command: tuple[Word, ...] = ("HMGET", self.keys.of(queue, what), *members)
                    values = link.call(pack(command)) if some else []
                    for (bucket, member, due), value in zip(some, values, strict=True):
                        if value is not None:
                            words += (bucket, member, value, value if bucket else _forward(value, due))
                if len(words) > 1:
                    count += int(self.scripts["forward"].run(link, [], words))
        return count

    def _waiting(self, link: Link, queue: str, limit: int | None) -> list[tuple[bytes, bytes, float]]:
        """What waits in a queue: bucket ("" for delayed ones), member, due; parked ones first."""
        buckets = sorted(link.call(pack(("SMEMBERS", self.keys.of(queue, "buckets")))))
        of = self.keys.of
        commands: list[tuple[Word, ...]] = [
            ("LRANGE", of(queue, f"parked:{bucket.decode()}"), -limit if limit else 0, -1)
            for bucket in buckets
        ]
        last = limit + len(buckets) - 1 if limit else -1  # the buckets stand among the delayed, too
        commands.append(("ZRANGE", of(queue, "delayed"), 0, last, "WITHSCORES"))
        *lines, flat = _all(link, commands)
        found = [(b, member, 0.0) for b, line in zip(buckets, lines, strict=True) for member in line[::-1]]
        pairs = zip(flat[::2], flat[1::2], strict=True)
        return found + [(b"", member, float(due)) for member, due in pairs if not member.startswith(b"\0")]

    def queues(self) -> list[str]:
        """The queues the store knows of, sorted: ours, and those Celery bound to exchanges of their names."""
        with self.links.borrow() as link:
            own = {name.decode() for name in link.call(pack(("SMEMBERS", self.keys.own("queues"))))}
            exchanges = sorted({*own, "celery"})
            bindings = _all(link, [("SMEMBERS", self.keys.bindings(exchange)) for exchange in exchanges])
        bound = {member.decode().rpartition(SEP)[2] for members in bindings for member in members}
        return sorted(own | bound)

    def depth(self, queues: Sequence[str]) -> dict[str, Depth]:
        """How many messages of each queue are in which state."""
        with self.links.borrow() as link:
            owners = self._owners(link)
            return {queue: self._depth(link, queue, owners) for queue in queues}

    def _depth(self, link: Link, queue: str, owners: Sequence[str]) -> Depth:
        of, lines = self.keys.of, [*self.keys.lines(queue), self.keys.of(queue, "returned")]
        commands: list[tuple[Word, ...]] = [
            ("HLEN", of(queue, "delayed:payload")),
            ("HLEN", of(queue, "parked")),
            ("ZCOUNT", of(queue, "dead"), f"{time.time() - self.dead_expires:.6f}", "+inf"),
            *(("LLEN", line) for line in lines),
            *(("LINDEX", line, -1) for line in lines),
            *(("HLEN", of(queue, f"lease:{owner}")) for owner in owners),
        ]
        delayed, parked, dead, *rest = _all(link, commands)
        ready, oldest, leased = rest[: len(lines)], rest[len(lines) : 2 * len(lines)], rest[2 * len(lines) :]
        return Depth(sum(ready), delayed, sum(leased), parked, dead, _age(oldest))

    def _owners(self, link: Link) -> list[str]:
        own = self.keys.own
        nodes, orphans = _all(link, [("ZRANGE", own("beats"), 0, -1), ("SMEMBERS", own("orphans"))])
        sets = _all(link, [("SMEMBERS", own(f"owners:{node.decode()}")) for node in nodes])
        return sorted({owner.decode() for owners in (*sets, orphans) for owner in owners})

    def peek(self, queue: str, offset: int = 0, limit: int = 50, state: str = "ready") -> list[bytes]:
        """Envelopes in order, without claiming; ``state`` is ready, delayed, leased or parked."""
        if state not in STATES:
            raise ValueError(f"no state {state!r} to peek at: it is one of {', '.join(STATES)}")
        with self.links.borrow() as link:
            if state == "ready":
                return self._peek_ready(link, queue, offset, limit)
            if state == "delayed":
                return self._peek_delayed(link, queue, offset, limit)
            values = self._parked(link, queue) if state == "parked" else self._leased(link, queue)
        return [_envelope(value) for value in values[offset : offset + limit]]

    def _peek_ready(self, link: Link, queue: str, offset: int, limit: int) -> list[bytes]:
        found: list[bytes] = []
        returned = self.keys.of(queue, "returned")
        for line in (returned, *self.keys.lines(queue)):
            wanted = limit - len(found)
            if wanted <= 0:
                break
            page, length = _all(link, [("LRANGE", line, -(offset + wanted), -(offset + 1)), ("LLEN", line)])
            envelopes = page[::-1] if offset < length else []
            found += [_envelope(value) for value in envelopes] if line == returned else envelopes
            offset = max(0, offset - length)
        return found

    def _peek_delayed(self, link: Link, queue: str, offset: int, limit: int) -> list[bytes]:
        # Buckets of parked messages stand among the delayed, a few; they are read over.
        buckets = link.call(pack(("SCARD", self.keys.of(queue, "buckets"))))
        index = ("ZRANGE", self.keys.of(queue, "delayed"), 0, offset + limit + buckets - 1)
        members = [member for member in link.call(pack(index)) if not member.startswith(b"\0")]
        return [_envelope(value) for value in self._payloads(link, queue, "delayed:payload", members)][
            offset : offset + limit
        ]

    def _payloads(self, link: Link, queue: str, what: str, members: Sequence[bytes]) -> list[bytes]:
        if not members:
            return []
        values = link.call(pack(("HMGET", self.keys.of(queue, what), *members)))
        return [value for value in values if value is not None]

    def _parked(self, link: Link, queue: str) -> list[bytes]:
        buckets = sorted(link.call(pack(("SMEMBERS", self.keys.of(queue, "buckets")))))
        lists = _all(
            link, [("LRANGE", self.keys.of(queue, f"parked:{bucket.decode()}"), 0, -1) for bucket in buckets]
        )
        return self._payloads(link, queue, "parked", [member for line in lists for member in line[::-1]])

    def _leased(self, link: Link, queue: str) -> list[bytes]:
        owners = self._owners(link)
        hashes = _all(link, [("HGETALL", self.keys.of(queue, f"lease:{owner}")) for owner in owners])
        pairs = [pair for flat in hashes for pair in zip(flat[::2], flat[1::2], strict=True)]
        return [value for _, value in sorted((int(token), value) for token, value in pairs)]

    def unacknowledged(self) -> int:
        """How many messages Celery's workers hold: kombu keeps them in ``unacked``, out of our sight."""
        with self.links.borrow() as link:
            return int(link.call(pack(("HLEN", self.adoption.unacked))))

    def purge(self, queues: Sequence[str]) -> int:
        """Delete ready, delayed and parked messages, and free their unique keys; return how many."""
        with self.links.borrow() as link:
            return sum(self.scripts["purge"].run(link, [], [queue]) for queue in dict.fromkeys(queues))

    def pause(self, queue: str) -> None:
        """Let nothing be claimed from the queue until :meth:`resume`."""
        control = self.keys.own("control")
        self.control_changed(("HSET", control, f"p:{queue}", "1"), ("SADD", self.keys.own("queues"), queue))

    def resume(self, queue: str) -> None:
        """Let messages be claimed from the queue again."""
        control, wake = self.keys.own("control"), self.keys.of(queue, "wake")
        self.control_changed(("HDEL", control, f"p:{queue}"), ("ZADD", wake, 0, "1"))

    # -- dead letters --------------------------------------------------------------------------------

    def dead_letters(self, queue: str | None = None, offset: int = 0, limit: int = 50) -> list[DeadLetter]:
        """Dead letters, newest first; those past their age are not shown any more."""
        queues = self.queues() if queue is None else [queue]
        oldest = f"{time.time() - self.dead_expires:.6f}"
        page = ("LIMIT", 0, offset + limit)
        with self.links.borrow() as link:
            commands: list[tuple[Word, ...]] = [
                ("ZREVRANGEBYSCORE", self.keys.of(name, "dead"), "+inf", oldest, "WITHSCORES", *page)
                for name in queues
            ]
            pages = zip(queues, _all(link, commands), strict=True)
            rows = [
                (float(score), key, name)
                for name, flat in pages
                for key, score in zip(flat[::2], flat[1::2], strict=True)
            ]
            rows.sort(key=lambda row: (-row[0], -int(row[1].partition(b"@")[0])))
            wanted = rows[offset : offset + limit]
            letters = _all(
                link, [("HGET", self.keys.of(name, "dead:letters"), key) for _, key, name in wanted]
            )
        return [
            _letter(key.decode(), name, at, letter)
            for (at, key, name), letter in zip(wanted, letters, strict=True)
            if letter is not None
        ]

    def replay(self, keys: Sequence[str] | None = None, queue: str | None = None) -> int:
        """Put dead letters back in line, the oldest first, with count and mark cleared."""
        count = 0
        with self.links.borrow() as link:
            for name, chosen in self._dead_keys(link, keys, queue):
                for start in range(0, len(chosen), REPLAY_CHUNK):
                    count += self._replay(link, name, chosen[start : start + REPLAY_CHUNK])
        return count

    def _replay(self, link: Link, queue: str, keys: Sequence[str]) -> int:
        words: list[Word] = [queue]
        letters = link.call(pack(("HMGET", self.keys.of(queue, "dead:letters"), *keys)))
        for key, letter in zip(keys, letters, strict=True):
            if letter is not None:
                lane, _, envelope = _parts(letter)
                words += (key, lane, for_replay(envelope))
        return int(self.scripts["replay"].run(link, [], words)) if len(words) > 1 else 0

    def purge_dead(self, keys: Sequence[str] | None = None, queue: str | None = None) -> int:
        """Delete dead letters; return how many."""
        count = 0
        with self.links.borrow() as link:
            for name, chosen in self._dead_keys(link, keys, queue):
                for start in range(0, len(chosen), REPLAY_CHUNK):
                    some = chosen[start : start + REPLAY_CHUNK]
                    commands = [
                        ("HDEL", self.keys.of(name, "dead:letters"), *some),
                        ("ZREM", self.keys.of(name, "dead"), *some),
                    ]
                    count += _all(link, commands)[0]
        return count

    def bury(self, letters: Sequence[DeadLetter]) -> None:
        """Store dead letters of another store, the oldest first."""
        keys = [self.keys.own("queues"), self.keys.own("control")]
        with self.links.borrow() as link:
            for queue in dict.fromkeys(letter.queue for letter in letters):
                own = [letter for letter in letters if letter.queue == queue]
                for start in range(0, len(own), REPLAY_CHUNK):
                    words: list[Word] = [queue]
                    for letter in own[start : start + REPLAY_CHUNK]:
                        about = (letter.reason, letter.detail, letter.task, letter.task_id)
                        lane = self.keys.lane(priority_of(letter.payload))
                        words += (lane, msgspec.json.encode(about), f"{letter.at:.6f}", letter.payload)
                    self.scripts["bury"].run(link, keys, words)

    def _dead_keys(
        self, link: Link, keys: Sequence[str] | None, queue: str | None
    ) -> Iterable[tuple[str, list[str]]]:
        """The chosen dead letters' keys by queue, oldest first."""
        if keys is not None:
            chosen: dict[str, list[str]] = {}
            for key in dict.fromkeys(keys):
                chosen.setdefault(key.partition("@")[2], []).append(key)
            return [(name, some) for name, some in chosen.items() if queue in (None, name)]
        queues = self.queues() if queue is None else [queue]
        found = _all(link, [("ZRANGE", self.keys.of(name, "dead"), 0, -1) for name in queues])
        return [(name, [key.decode() for key in some]) for name, some in zip(queues, found, strict=True)]


def _all(link: Link, commands: Sequence[tuple[Word, ...]]) -> list[Any]:
    """The answers to many commands, in one round trip."""
    return link.calls(b"".join(pack(command) for command in commands), len(commands)) if commands else []


def _envelope(value: bytes) -> bytes:
    return value.split(b"|", 2)[2]


def _forward(value: bytes, due: float) -> bytes:
    lane, flags, envelope = value.split(b"|", 2)
    return b"|".join((lane, flags, brought_forward(envelope, due)))


def _age(heads: Iterable[bytes | None]) -> float | None:
    """Seconds since the oldest of these was published; a foreign message does not tell."""
    sent = []
    for head in heads:
        if head is None:
            continue
        try:
            sent.append(notes(decode_envelope(head[head.find(b"{") :])).sent)
        except DecodeError:
            continue
    known = [when for when in sent if when is not None]
    return max(0.0, time.time() - min(known)) if known else None


def _parts(letter: bytes) -> tuple[int, bytes, bytes]:
    """Lane, JSON and envelope of a dead letter."""
    head, _, envelope = letter.partition(b"\n")
    lane, _, about = head.partition(b"|")
    return int(lane), about, envelope


def _letter(key: str, queue: str, at: float, letter: bytes) -> DeadLetter:
    _, about, envelope = _parts(letter)
    reason, detail, task, task_id = msgspec.json.decode(about, type=tuple[str, str, str, str])
    return DeadLetter(key, queue, reason, detail, at, task, task_id, envelope)
