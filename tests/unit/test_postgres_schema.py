"""The PostgreSQL engine's tables: made once, upgraded under a lock, newer ones refused."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing
from typing import Any
from unittest import mock

import pytest

from celeriac import Celeriac
from celeriac.cli.root import run
from celeriac.contrib.conformance.helpers import drain, incarnation, pub, pubs
from celeriac.engines import create
from celeriac.engines.base import Engine
from celeriac.engines.postgres import schema
from celeriac.exceptions import SchemaError
from tests.servers import PostgresServer


@pytest.fixture
def url(postgres_server: PostgresServer) -> Iterator[str]:
    yield postgres_server.url(schema="other")
    postgres_server.run("DROP SCHEMA IF EXISTS other CASCADE")


def version(server: PostgresServer) -> object:
    return server.run("SELECT value FROM other.meta WHERE key = 'schema'")[0][0]


def test_many_processes_at_once_make_the_tables_once(postgres_server: PostgresServer, url: str) -> None:
    patient = {"publish_timeout": 60.0, "socket_timeout": 60.0}  # six at once on a busy machine take long
    engines: list[Engine] = [create(f"{url}&connect_timeout=60", patient) for _ in range(6)]
    errors: list[BaseException] = []

    def publish(engine: Engine) -> None:
        try:
            engine.publish([pub("a")])
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=publish, args=(engine,)) for engine in engines]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert engines[0].depth(["q"])["q"].ready == 6
    assert version(postgres_server) == str(len(schema.MIGRATIONS))
    for engine in engines:
        engine.close()


def test_an_older_schema_is_used_only_after_its_upgrade(
    postgres_server: PostgresServer,
    url: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(schema, "MIGRATIONS", schema.MIGRATIONS[:1])
    with pytest.raises(Exception, match="function is missing"):
        create(url).publish([pub("a")])  # makes version 1, which has no functions
    monkeypatch.undo()
    with pytest.raises(SchemaError, match=r":\*\*@127.*has version 1.*Run `celeriac schema upgrade`"):
        create(url).publish([pub("a")])
    with mock.patch.dict(os.environ):  # the command line hands its options on by it
        assert run(["-b", url, "schema", "show"], Celeriac("fresh", set_as_current=False)) == 0
        # Its processes would fail one after the other.
        worker = [sys.executable, "-m", "celeriac", "-b", url, "worker", "-c", "1"]
        refused = subprocess.run(worker, capture_output=True, text=True, timeout=60)
        assert refused.returncode == 1
        assert "Run `celeriac schema upgrade`" in refused.stderr
        assert run(["-b", url, "schema", "upgrade"], Celeriac("fresh", set_as_current=False)) == 0
    told = capsys.readouterr().out
    needed = len(schema.MIGRATIONS)
    assert f"version 1, needed {needed}" in told
    assert f"version 1 -> {needed}" in told
    assert "secret" not in told
    engine = create(url)
    engine.publish([pub("a")])
    engine.close()


def test_an_upgrade_keeps_what_waits(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        schema, "MIGRATIONS", schema.MIGRATIONS[:5]
    )  # the oldest that today's code can write to
    with closing(create(url)) as engine:
        engine.publish([*pubs("abc"), pub("later", delay=0.1), pub("much later", delay=1000)])
    monkeypatch.undo()
    with mock.patch.dict(os.environ):
        assert run(["-b", url, "schema", "upgrade"], Celeriac("upgrade", set_as_current=False)) == 0
    with closing(create(url)) as engine:
        consumer = engine.attach(incarnation())
        found: list[str] = []
        while len(found) < 4:
            found += drain(consumer)
            consumer.wait(["q"], 1.0)
        assert found == ["a", "b", "c", "later"]
        assert engine.depth(["q"])["q"].delayed == 1
        consumer.close()


def test_queue_tables_leave_room_for_updates_and_are_vacuumed_early(
    postgres_server: PostgresServer, url: str
) -> None:
    with closing(create(url)) as engine:
        engine.queues()
    rows = postgres_server.run(
        "SELECT c.relname, o.option_name, o.option_value::float8 FROM pg_class c"
        " JOIN pg_namespace n ON n.oid = c.relnamespace, pg_options_to_table(c.reloptions) o"
        " WHERE n.nspname = 'other' AND c.relkind = 'r'"
    )
    options: dict[tuple[object, object], Any] = {(table, name): value for table, name, value in rows}
    assert options["message", "fillfactor"] < 100
    for table in ("message", "payload", "answer", "waiter", "attempt"):
        assert options[table, "autovacuum_vacuum_scale_factor"] < 0.2, table  # which is the server's own


def test_a_newer_schema_is_refused(postgres_server: PostgresServer, url: str) -> None:
    engine = create(url)
    engine.publish([pub("a")])
    engine.close()
    postgres_server.run("UPDATE other.meta SET value = '99' WHERE key = 'schema'")
    with pytest.raises(SchemaError, match=r":\*\*@127.*has version 99, written by a newer Celeriac"):
        create(url).publish([pub("a")])


def test_two_schemas_are_two_stores(postgres_server: PostgresServer, url: str) -> None:
    postgres_server.empty()
    other, usual = create(url), create(postgres_server.url())
    other.publish([pub("a")])
    assert usual.depth(["q"])["q"].ready == 0
    assert other.depth(["q"])["q"].ready == 1
    for engine in (other, usual):
        engine.close()
