"""How the conformance suite (``celeriac.contrib.conformance``) handles each of our engines."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from celeriac.contrib.conformance.plugin import consumer, engine
from celeriac.contrib.conformance.rig import Rig
from celeriac.engines.base import Engine
from celeriac.routing.queues import Queues


class MemoryRig(Rig):
    name = "memory"
    urgent = 9
    lax = 0
    unit = 10.0
    drives_clock = True
    shared = False

    def __init__(self, request: pytest.FixtureRequest) -> None:
        super().__init__(request)
        self._now = 1_800_000_000.0

    def url(self) -> str:
        return f"memory://{self.fresh_name}"

    def options(self) -> Mapping[str, Any]:
        return {"clock": lambda: self._now}

    def advance(self, seconds: float) -> None:
        self._now += seconds

    def set_back(self, seconds: float) -> None:
        self._now -= seconds


class SQLiteRig(Rig):
    name = "sqlite"
    urgent = 9
    lax = 0

    def __init__(self, request: pytest.FixtureRequest) -> None:
        super().__init__(request)
        self._path: Path = request.getfixturevalue("tmp_path") / f"{self.fresh_name}.db"

    def url(self) -> str:
        return f"sqlite:///{self._path}"

    def set_back(self, seconds: float) -> None:
        with sqlite3.connect(self._path) as connection:
            connection.execute("UPDATE term SET expires = expires + ?", (seconds,))
        connection.close()


class RedisRig(Rig):
    name = "redis"
    urgent = 0
    lax = 9
    marks_apart = True

    def __init__(self, request: pytest.FixtureRequest) -> None:
        super().__init__(request)
        import redis

        self._server = request.getfixturevalue("redis_server")
        with redis.Redis.from_url(self.url()) as client:
            client.flushall()

    def url(self) -> str:
        return str(self._server.url())

    def set_back(self, seconds: float) -> None:
        import redis

        with redis.Redis.from_url(self.url()) as client:
            client.hincrbyfloat("celeriac:schedule:leader", "expires", seconds)


class PostgresRig(Rig):
    name = "postgres"
    urgent = 9
    lax = 0

    def __init__(self, request: pytest.FixtureRequest) -> None:
        super().__init__(request)
        self._server = request.getfixturevalue("postgres_server")
        self._server.empty()

    def url(self) -> str:
        return str(self._server.url())

    def set_back(self, seconds: float) -> None:
        self._server.run(f"UPDATE celeriac.term SET expires = expires + {seconds}")


class RabbitRig(Rig):
    name = "rabbitmq"
    urgent = 9
    lax = 0
    unit = 1.0

    def __init__(self, request: pytest.FixtureRequest) -> None:
        super().__init__(request)
        self._url = request.getfixturevalue("rabbit_server").fresh_url()
        # No agent notes here what became of a lost delivery: there is no need to give it time.
        request.getfixturevalue("monkeypatch").setattr("celeriac.engines.rabbitmq.buffer.SUSPECT_WAIT", 0.0)

    def url(self) -> str:
        return str(self._url)

    def options(self) -> Mapping[str, Any]:
        # A consumer that holds no more than it was asked for, so that tests can say who gets what.
        return {
            "exact_prefetch": True,
            "queues": lambda: Queues(None, "q", max_priority=9),
            "nodes": lambda: self.living,
        }

    def advance(self, seconds: float) -> None:
        # Delays are rounded up to whole seconds, and the server takes a moment to move what is due.
        super().advance(seconds + 0.5)

    def die(self, consumer: Any) -> None:
        held = {entry.queue for entry in consumer._out.values()}
        before = {queue: self._ready(consumer, queue) for queue in held}
        consumer.close(detach=False)
        # The server takes back what was on the connection when it notices that it has ended.
        deadline = time.monotonic() + 10
        while any(self._ready(consumer, queue) == count for queue, count in before.items()):
            assert time.monotonic() < deadline
            time.sleep(0.005)

    def released(self, count: int) -> int:
        return 0  # the server has taken them back before

    def _ready(self, consumer: Any, queue: str) -> int:
        return int(consumer._broker.depth([queue])[queue].ready)

    def inject(self, engine: Engine, queue: str, payload: bytes) -> None:
        from celeriac.engines.rabbitmq.session import Parcel
        from celeriac.engines.rabbitmq.wire import Content

        broker: Any = engine
        content = Content(payload, delivery_mode=2)
        with broker.session("inject") as session:
            broker.declare(session, queue)
            session.publish([Parcel("", queue, content)], 5.0)


__all__ = ["RIGS", "RabbitRig", "Rig", "consumer", "engine"]

RIGS: dict[str, type[Rig]] = {
    rig.name: rig
    for rig in (MemoryRig, SQLiteRig, RedisRig, PostgresRig, RabbitRig)
    if find_spec(f"celeriac.engines.{rig.name}") is not None
}
"""The engines there are."""
