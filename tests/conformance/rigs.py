"""How the conformance suite handles each engine: opening, the clock, broken answers, foreign payloads.

A test never asks which engine it runs on; what differs is here.
"""

from __future__ import annotations

import sqlite3
import sys
import time
import uuid
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from celeriac.engines import create
from celeriac.engines.base import Consumer, Engine, Publication
from celeriac.exceptions import OperationalError
from celeriac.message import Message
from celeriac.routing.queues import Queues


class Rig:
    """One fresh store of an engine."""

    name: str
    urgent: int
    """A priority that is served before ``lax``."""
    lax: int
    unit: float = 0.15
    """The shortest time the tests let pass, in seconds of the store's clock."""
    drives_clock: bool = False
    """Whether :meth:`advance` costs no time and nothing else moves the clock."""
    shared: bool = True
    """Whether other processes see the same store."""

    marks_apart = False
    """Messages that must not run again, only end, wait in a line of their own, which is served first."""

    def __init__(self, request: pytest.FixtureRequest) -> None:
        self._opened: list[Engine] = []

    def url(self) -> str:
        """The store's URL."""
        raise NotImplementedError

    def options(self) -> Mapping[str, Any]:
        """Options that every opening needs."""
        return {}

    def open(self, **options: Any) -> Engine:
        """Open the store (again): a further engine, as another process would have it."""
        engine = create(self.url(), {**self.options(), **options})
        self._opened.append(engine)
        return engine

    def advance(self, seconds: float) -> None:
        """Let so much of the store's time pass."""
        time.sleep(seconds)

    def set_back(self, seconds: float) -> None:
        """Set the store's clock back, as the term of who leads sees it (its end is so much further away)."""
        raise NotImplementedError

    def close(self) -> None:
        """Close what was opened."""
        for engine in self._opened:
            engine.close()

    def lose_next_reply(self, consumer: Consumer) -> None:
        """Let the consumer's next round trip reach the store, and its answer get lost."""
        self._break_next(consumer, lambda send, *args, **kwargs: send(*args, **kwargs))

    def lose_next_request(self, consumer: Consumer) -> None:
        """Let the consumer's next round trip not reach the store."""
        self._break_next(consumer, lambda send, *args, **kwargs: None)

    def _break_next(self, consumer: Any, before: Callable[..., object]) -> None:
        """Every engine's consumer has one method ``_roundtrip`` through which its exchanges go."""
        send = consumer._roundtrip

        def broken(*args: Any, **kwargs: Any) -> Any:
            consumer._roundtrip = send
            before(send, *args, **kwargs)
            raise OperationalError("the connection broke: this is a test")

        consumer._roundtrip = broken

    def die(self, consumer: Consumer) -> None:
        """End the consumer's process, as far as the store notices that by itself."""

    def released(self, count: int) -> int:
        """What ``release`` returns for a dead owner's ``count`` messages."""
        return count

    def shorten_owed(self, monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
        """Let an owed body that was taken be taken by another after so many seconds."""
        for name, module in list(sys.modules.items()):
            if name.startswith("celeriac.engines") and hasattr(module, "OWED_AGAIN"):
                monkeypatch.setattr(module, "OWED_AGAIN", seconds)

    def inject(self, engine: Engine, queue: str, payload: bytes) -> None:
        """Put bytes in a queue that no publisher of ours would have made."""
        modules = [
            module
            for name, module in list(sys.modules.items())
            if name == "celeriac.message" or name.startswith("celeriac.engines.")
        ]
        patches = [
            mock.patch.object(module, "encode_envelope", lambda message: message.body)
            for module in modules
            if hasattr(module, "encode_envelope")
        ]
        for patch in patches:
            patch.start()
        try:
            engine.publish([Publication(Message({}, {}, payload), queue)])
        finally:
            for patch in patches:
                patch.stop()


class MemoryRig(Rig):
    name = "memory"
    urgent = 9
    lax = 0
    unit = 10.0
    drives_clock = True
    shared = False

    def __init__(self, request: pytest.FixtureRequest) -> None:
        super().__init__(request)
        self._name = uuid.uuid4().hex
        self._now = 1_800_000_000.0

    def url(self) -> str:
        return f"memory://{self._name}"

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
        self._path: Path = request.getfixturevalue("tmp_path") / f"{uuid.uuid4().hex}.db"

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

    def advance(self, seconds: float) -> None:
        # Due messages go from queue to queue in the server, and are pushed: it need not be on the second.
        super().advance(seconds + 0.5)

    def options(self) -> Mapping[str, Any]:
        # A consumer that holds no more than it was asked for, so that tests can say who gets what.
        return {"exact_prefetch": True, "queues": lambda: Queues(None, "q", max_priority=9)}

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


RIGS: dict[str, type[Rig]] = {
    rig.name: rig
    for rig in (MemoryRig, SQLiteRig, RedisRig, PostgresRig, RabbitRig)
    if find_spec(f"celeriac.engines.{rig.name}") is not None
}
"""The engines there are."""
