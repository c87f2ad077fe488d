"""What is not a message of ours, and how it gets into a store all the same."""

from __future__ import annotations

import contextlib
import sqlite3
import time
from pathlib import Path

from celeriac.message import encode_envelope
from tests.faults.places import Place
from tests.faults.project import job
from tests.servers import PostgresServer, RabbitServer, RedisServer

QUEUE = "celery"


def strew(here: Place, payload: bytes) -> None:
    """Put bytes into the queue as no client of ours would."""
    match here.server:
        case RedisServer():
            here.server.command("LPUSH", QUEUE, payload)
        case PostgresServer():
            here.server.run(_ROW.format(body=payload.hex(), queue=QUEUE), here.room or "postgres")
        case RabbitServer():
            _send(here.url(), payload)
        case None:
            _insert(here.folder / "store.db", payload)


def garbage() -> list[bytes]:
    """What is not a message of ours."""
    whole = encode_envelope(job.app.publisher.build(job.name, ("cut", 0.0), task=job).message)
    return [
        b"plain text",
        b"",
        b"\xff\xfe\x00\x01",
        b"{}",
        b"[1, 2, 3]",
        b"null",
        whole[: len(whole) // 2],
        whole[:-1],
        whole.replace(b"application/json", b"application/x-unheard-of"),
        b'{"body": "!!!not base64", "headers": {}, "properties": {}}',
    ]


def _send(url: str, payload: bytes) -> None:
    """Send to RabbitMQ without a property."""
    import amqp

    from celeriac.engines.rabbitmq.address import parse

    (host,) = parse(url, {}).hosts
    with amqp.Connection(
        f"{host.host}:{host.port}", host.user, host.password, virtual_host=host.vhost
    ) as link:
        channel = link.channel()
        channel.confirm_select()
        channel.basic_publish_confirm(amqp.Message(payload), "", QUEUE)


_ROW = """WITH new AS (SELECT nextval('celeriac.serial') AS id),
body AS (INSERT INTO celeriac.payload SELECT id, '\\x{body}' FROM new)
INSERT INTO celeriac.message (id, seq, since, rank, state, queue)
SELECT id, id, extract(epoch FROM clock_timestamp()), 0, 0, '{queue}' FROM new"""


def _insert(path: Path, payload: bytes) -> None:
    """Put a message into an SQLite file by hand, as no client of ours would."""
    with contextlib.closing(sqlite3.connect(path, timeout=30, isolation_level=None)) as handle:
        handle.execute("BEGIN IMMEDIATE")
        (serial,) = handle.execute("UPDATE state SET serial = serial + 2 RETURNING serial").fetchone()
        handle.execute("INSERT INTO payload (id, body) VALUES (?, ?)", (serial, payload))
        handle.execute(
            "INSERT INTO ready (queue, rank, seq, id, since, admitted) VALUES (?, 0, ?, ?, ?, 0)",
            (QUEUE, serial - 1, serial, time.time()),
        )
        handle.execute("COMMIT")
