"""Redis as a coordinator: rate limits, places, unique keys, checkpoints, orders to workers, who lives."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from celeriac.engines.base import NodeInfo
from celeriac.engines.coordinator import Control
from celeriac.engines.redis.connection import Links, Word, pack
from celeriac.engines.redis.keys import Keys
from celeriac.engines.redis.scripts import Scripts

_PER: dict[str, float] = {"s": 1, "m": 60, "h": 3600}


class RedisCoordinator:
    """The part of the engine that is a :class:`celeriac.engines.coordinator.Coordinator`.

    A rate limit's bucket is named as its task, so that :meth:`limit_rate` reaches what is parked for it.
    """

    keys: Keys
    links: Links
    scripts: Scripts

    def admit(self, queue: str, bucket: str, interval: float) -> bool:
        """Take a token of a rate limit with one token every ``interval`` seconds, globally."""
        keys = [self.keys.own(f"rate:{bucket}"), self.keys.own(f"rate:{bucket}:queues")]
        with self.links.borrow() as link:
            return bool(self.scripts["admit"].run(link, keys, [repr(float(interval))]))

    def enter(self, place: str, limit: int, lease: tuple[str, str, int]) -> bool:
        """Take one of ``limit`` places under the name ``place``, globally, for ``(owner, queue, token)``."""
        owner, queue, token = lease
        keys = [
            self.keys.own(f"owner:{owner}"),
            self.keys.of(queue, f"lease:{owner}"),
            self.keys.own(f"place:{place}"),
        ]
        with self.links.borrow() as link:
            return bool(self.scripts["enter"].run(link, keys, [place, limit, token]))

    def holder(self, key: str) -> str | None:
        """The task id that holds a unique key now."""
        with self.links.borrow() as link:
            task_id = link.call(pack(("HGET", self.keys.own(f"unique:{key}"), "id")))
        return None if task_id is None else task_id.decode()

    def keep_checkpoint(
        self, task_id: str, payload: bytes, ttl: float, lease: tuple[str, str, int] | None
    ) -> bool:
        """Keep a running task's checkpoint for its next delivery; whether the lease is still held."""
        kept, milliseconds = self.keys.own(f"checkpoint:{task_id}"), max(1, int(ttl * 1000))
        if lease is None:
            with self.links.borrow() as link:
                link.call(pack(("SET", kept, payload, "PX", milliseconds)))
            return True
        owner, queue, token = lease
        keys = [self.keys.own(f"owner:{owner}"), self.keys.of(queue, f"lease:{owner}"), kept]
        words: list[Word] = [token, payload, milliseconds]
        with self.links.borrow() as link:
            return bool(self.scripts["checkpoint"].run(link, keys, words))

    def checkpoint(self, task_id: str) -> bytes | None:
        """What was kept last for this task."""
        with self.links.borrow() as link:
            payload: bytes | None = link.call(pack(("GET", self.keys.own(f"checkpoint:{task_id}"))))
        return payload

    def revoke(self, ids: Sequence[str], expires: float, signal: str = "") -> int:
        """Remember revoked ids for ``expires`` seconds; return the new control version."""
        own = self.keys.own
        keys = [own("control"), own("revoked"), own("revoked:until"), own("revoked:signal")]
        version = 0
        with self.links.borrow() as link:
            for start in range(0, len(ids), 1000):
                words = [repr(float(expires)), signal, *ids[start : start + 1000]]
                version = int(self.scripts["revoke"].run(link, keys, words))
            if not ids:
                version = int(link.call(pack(("HGET", own("control"), "version"))) or 0)
        return version

    def control(self, since: int = 0) -> Control:
        """What operators have ordered; revoked ids only from after version ``since``."""
        own = self.keys.own
        commands = [
            ("HGETALL", own("control")),
            ("ZRANGEBYSCORE", own("revoked"), f"({since}", "+inf"),
            ("TIME",),
        ]
        with self.links.borrow() as link:
            flat, ids, time = link.calls(b"".join(pack(command) for command in commands), len(commands))
            untils: list[bytes | None] = []
            signals: list[bytes | None] = []
            if ids:
                details = [("ZMSCORE", own("revoked:until"), *ids), ("HMGET", own("revoked:signal"), *ids)]
                untils, signals = link.calls(b"".join(pack(command) for command in details), 2)
        now = int(time[0]) + int(time[1]) / 1e6
        alive = [
            (task_id.decode(), signal)
            for task_id, until, signal in zip(ids, untils, signals, strict=True)
            if until is not None and float(until) > now
        ]
        orders = {key.decode(): value for key, value in zip(flat[::2], flat[1::2], strict=True)}
        return Control(
            version=int(orders.get("version", 0)),
            revoked=[task_id for task_id, _ in alive],
            paused=sorted(key[2:] for key in orders if key.startswith("p:")),
            rate_limits={key[2:]: value.decode() for key, value in orders.items() if key.startswith("l:")},
            terminate={task_id: signal.decode() for task_id, signal in alive if signal},
        )

    def limit_rate(self, task: str, rate: str | None) -> int:
        """Override a task's rate limit everywhere (``None`` removes the override); return the version."""
        own = self.keys.own
        keys = [own("control"), own(f"rate:{task}"), own(f"rate:{task}:queues")]
        words = [task, rate or "", "" if rate is None else repr(interval_of(rate))]
        with self.links.borrow() as link:
            version, left = self.scripts["limit"].run(link, keys, words)
            while left:
                version, left = self.scripts["limit"].run(link, keys, words)
        return int(version)

    def nodes(self) -> list[NodeInfo]:
        """The living workers, the latest beat first."""
        own = self.keys.own
        commands = [("HGETALL", own("nodes")), ("ZRANGE", own("beats"), 0, -1, "WITHSCORES"), ("TIME",)]
        with self.links.borrow() as link:
            infos, beats, time = link.calls(b"".join(pack(command) for command in commands), len(commands))
        now = int(time[0]) + int(time[1]) / 1e6
        seen = dict(zip(beats[::2], beats[1::2], strict=True))
        living = []
        for node, info in zip(infos[::2], infos[1::2], strict=True):
            told = msgspec.json.decode(info, type=NodeInfo)
            told.seen = float(seen.get(node, 0))
            if now - told.seen <= told.lease:
                living.append(told)
        return sorted(living, key=lambda node: -(node.seen or 0))


def interval_of(rate: str) -> float:
    """Seconds between two tokens of a rate ("10/m", "2.5", ""); 0 is no limit. Raises ``ValueError``."""
    amount, _, unit = rate.strip().partition("/")
    if not amount:
        return 0.0
    number = float(amount)
    return _PER[unit or "s"] / number if number else 0.0
