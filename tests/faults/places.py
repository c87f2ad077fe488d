"""Where the faults happen: a fresh store of each engine, and the field on it."""

from __future__ import annotations

import contextlib
import os
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from tests.faults.field import Field
from tests.faults.node import Stuck
from tests.faults.rabbit_field import RabbitField
from tests.proxy import Proxy
from tests.servers import PostgresServer, RabbitServer, RedisServer

Server = RedisServer | PostgresServer | RabbitServer


class Place(NamedTuple):
    """A store, and the folder for whatever else a scenario writes."""

    folder: Path
    server: Server | None
    """``None`` for SQLite, which has none."""
    backend: str | None
    """Where results are kept, if not there."""
    disk: Path | None = None
    """Where the SQLite file is, if not in the folder."""
    room: str = ""
    """The database or virtual host, on a server that is used for several stores."""

    def url(self, way: Proxy | None = None) -> str:
        """The store's URL, straight or by a way."""
        port = way.port if way is not None else None
        match self.server:
            case None:
                return f"sqlite:///{self.disk or self.folder}/store.db"
            case RedisServer():
                return way.url() if way is not None else self.server.url()
            case PostgresServer():
                return self.server.url(self.room or "postgres", port=port)
            case RabbitServer():
                return self.server.url(self.room or "/", port=port)


_kept: dict[str, Server] | None = None


@contextlib.contextmanager
def kept_servers() -> Iterator[None]:
    """In this block PostgreSQL and RabbitMQ are started once, and each place is another room of theirs."""
    global _kept
    _kept = {}
    try:
        yield
    finally:
        servers, _kept = _kept, None
        for server in servers.values():
            server.stop()


@contextlib.contextmanager
def place(engine: str) -> Iterator[Place]:
    """A fresh store: an SQLite file, or a private server that writes to disk what it acknowledges.

    RabbitMQ's results are in a Redis of the same kind.
    """
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="celeriac-faults-")))
        server: Server | None = None
        backend, room = None, ""
        if engine in ("postgres", "rabbitmq"):
            server, room = _room(engine, stack)
        if engine in ("redis", "rabbitmq"):
            redis = stack.enter_context(RedisServer("aof-always"))
            backend = redis.url() if server is not None else None
            server = server or redis
        yield Place(folder, server, backend, room=room)


def _room(engine: str, stack: contextlib.ExitStack) -> tuple[Server, str]:
    """A server, and where on it; it ends with ``stack`` unless servers are kept."""
    made = PostgresServer(durable=True) if engine == "postgres" else RabbitServer()
    if _kept is None:
        return stack.enter_context(made), ""
    server = _kept.get(engine)
    if server is None:
        made.start()
        server = _kept[engine] = made
    if isinstance(server, RabbitServer):
        return server, server.fresh_url().rpartition("/")[2]
    room = f"faults{time.monotonic_ns()}"
    assert isinstance(server, PostgresServer)
    server.run(f"CREATE DATABASE {room}")
    return server, room


@contextlib.contextmanager
def opened(
    here: Place,
    scenario: str,
    seed: int,
    dead: dict[str, int] | None = None,
    ways: list[Proxy] | None = None,
    **conf: Any,
) -> Iterator[Field]:
    """The field; at the end of the block everything is drained, stopped and judged.

    ``ways``: that of the producers, then those of the nodes. ``dead``: how many dead letters of a reason
    there must be.
    """
    kind = RabbitField if isinstance(here.server, RabbitServer) else Field
    urls = [here.url(), *(here.url(way) for way in ways or ())]
    field = kind(urls, here.folder, seed, scenario, here.backend, **conf)
    try:
        field.start()
        yield field
        field.drain()
    except Stuck as stuck:
        field.entry.notes.append(f"stuck: {stuck}")
        field.entry.stuck = True
    finally:
        field.close(dead)
        if keep := os.environ.get("FAULTS_KEEP"):
            goal = f"{keep}/{scenario}-{seed}-{time.monotonic_ns()}"
            subprocess.run(["cp", "-r", here.folder, goal], check=True)


@contextlib.contextmanager
def field_on(
    engine: str, scenario: str, seed: int, dead: dict[str, int] | None = None, **conf: Any
) -> Iterator[tuple[Field, Place]]:
    """Two nodes on a fresh store."""
    with place(engine) as here, opened(here, scenario, seed, dead, **conf) as field:
        yield field, here
