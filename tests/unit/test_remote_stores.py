"""Remote control where something breaks: connections, servers, and clients that die while they ask."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from celeriac.contrib.conformance.helpers import eventually
from celeriac.contrib.conformance.listening import Node
from celeriac.engines import create
from celeriac.engines.postgres.remote import _listening
from celeriac.engines.redis import remote
from celeriac.engines.remote import Order
from celeriac.exceptions import OperationalError
from tests.processes import wait_until
from tests.proxy import Proxy
from tests.servers import PostgresServer, RabbitServer, RedisServer

LONG = 20.0


def answers(engine: Any, method: str = "look", timeout: float = LONG, **fields: Any) -> list[str]:
    """Ask; return the names of those who have answered."""
    return [name for answer in engine.ask(Order(method, **fields), timeout) for name in answer]


def heard(engine: Any) -> bool:
    """Whether the node answers, over whatever connection there is now."""
    try:
        return answers(engine, timeout=0.5, destination=["w@h"]) == ["w@h"]
    except OperationalError:
        return False


def listening(engine: Any) -> Node:
    """A node that has been heard of."""
    node = Node(engine, "w@h")
    wait_until(lambda: heard(engine))
    return node


# -- Redis -------------------------------------------------------------------------------------------------


@pytest.fixture
def server() -> Iterator[RedisServer]:
    with RedisServer() as server:
        yield server


def keys_of(server: RedisServer) -> set[str]:
    with redis.Redis.from_url(server.url()) as client:
        return {key.decode() for key in client.scan_iter()}


def test_a_redis_that_was_restarted_is_listened_to_again(server: RedisServer) -> None:
    engine = create(server.url())
    node = listening(engine)
    server.kill()
    server.restart()
    wait_until(lambda: heard(engine))
    node.stop()
    engine.close()


def test_nothing_stays_in_redis(server: RedisServer) -> None:
    engine = create(server.url())
    node = listening(engine)
    assert answers(engine) == ["w@h"]
    assert answers(engine, destination=["nobody"], timeout=0.1) == []
    node.stop()
    assert keys_of(server) == set()
    engine.close()


def test_what_nobody_fetches_from_redis_expires(server: RedisServer) -> None:
    """The answer comes when the asker has died: it and its address are gone after a while."""
    engine = create(server.url())
    node = listening(engine)
    asking = engine.ask(Order("look", destination=["w@h", "nobody"]), LONG)  # type: ignore[attr-defined]
    assert list(next(asking)) == ["w@h"]
    with redis.Redis.from_url(server.url()) as client:
        (tie,) = client.smembers("_kombu.binding.reply.celery.pidbox")
        inbox = tie.decode().rpartition("\x16")[2]
        # What the next asker finds if this one has died an hour ago.
        client.zincrby("celeriac:askers", -2 * remote._LATE, inbox.partition(".")[0])
        engine.tell(  # type: ignore[attr-defined]
            Order("late", ticket="t", reply_to={"exchange": "reply.celery.pidbox", "routing_key": inbox[:36]})
        )
        wait_until(lambda: client.llen(inbox) == 1)
        assert 0 < client.pttl(inbox) <= 10_000
    assert answers(engine) == ["w@h"]
    assert keys_of(server) == set()
    node.stop()
    engine.close()


def test_old_orders_of_a_machine_whose_clock_is_slow_are_carried_out(server: RedisServer) -> None:
    """Celery's clients give an order one second by their own clock; one without a ticket never expires."""
    import time

    engine: Any = create(server.url())
    node = listening(engine)
    assert answers(engine, expires=time.time() - 5) == ["w@h"]
    engine.tell(Order("told", expires=time.time() - 100))
    eventually(lambda: node.methods[-1] == "told")
    assert node.taken[-1].expires is None
    node.stop()
    engine.close()


# -- the others --------------------------------------------------------------------------------------------


def test_sqlite_forgets_the_dead_and_what_nobody_fetched(tmp_path: Path) -> None:
    engine = create(f"sqlite:///{tmp_path / 'x.db'}")
    node = listening(engine)
    with sqlite3.connect(tmp_path / "x.db") as handle:
        handle.execute("INSERT INTO remote_listener VALUES ('orders-1-dead', 'dead@h')")
        handle.execute("INSERT INTO remote_answer (reply, body, expires) VALUES ('answers-1-dead', 'x', 1)")
        handle.execute("INSERT INTO remote_order (body, reply, expires) VALUES ('x', 'answers-1-dead', 1)")
    handle.close()
    assert answers(engine) == ["w@h"]
    node.stop()
    with sqlite3.connect(tmp_path / "x.db") as handle:
        counts = [
            handle.execute(f"SELECT count(*) FROM remote_{table} WHERE expires < 2").fetchone()[0]
            for table in ("order", "answer")
        ]
        assert counts == [0, 0]
        assert handle.execute("SELECT count(*) FROM remote_answer").fetchone() == (0,)
        assert handle.execute("SELECT count(*) FROM remote_listener").fetchone() == (0,)
    handle.close()
    assert [path.name for path in (tmp_path / "x.db.d").iterdir() if "-" in path.name] == []
    engine.close()


def test_sqlite_s_file_may_be_made_anew(tmp_path: Path) -> None:
    engine = create(f"sqlite:///{tmp_path / 'x.db'}")
    node = listening(engine)
    with sqlite3.connect(tmp_path / "x.db") as handle:
        handle.execute("DELETE FROM remote_listener")
    handle.close()
    wait_until(lambda: heard(engine))
    node.stop()
    engine.close()


def test_postgres_sessions_may_end(postgres_server: PostgresServer) -> None:
    postgres_server.empty()
    engine = create(postgres_server.url())
    node = listening(engine)
    postgres_server.run(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid()"
    )
    wait_until(lambda: heard(engine))
    postgres_server.run(
        "INSERT INTO celeriac.remote_listener VALUES ('x', 'dead@h', 999999, extract(epoch FROM now()))"
    )
    assert answers(engine) == ["w@h"]
    node.stop()
    assert answers(engine) == []
    assert postgres_server.run("SELECT count(*) FROM celeriac.remote_listener") == [(0,)]
    assert postgres_server.run("SELECT count(*) FROM celeriac.remote_answer") == [(0,)]
    engine.close()


def test_postgres_is_asked_on_the_session_that_is_there(
    postgres_server: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To open one takes longer than the workers need to answer; and it listens no more afterwards."""
    postgres_server.empty()
    engine: Any = create(postgres_server.url())
    node = listening(engine)
    with monkeypatch.context() as patch:
        patch.setattr(engine._store, "open_handle", lambda *_: pytest.fail("it opens another session"))
        assert answers(engine) == ["w@h"]
        assert engine._store.read("SELECT * FROM pg_listening_channels()") == []
    node.stop()
    engine.close()


def test_postgres_hears_a_call_that_comes_with_another_answer(postgres_server: PostgresServer) -> None:
    postgres_server.empty()
    store = create(postgres_server.url())._store  # type: ignore[attr-defined]
    with store.borrowed() as connection, _listening(store, connection, "here") as ear:
        postgres_server.run("NOTIFY here")
        wait_until(lambda: connection.run("SELECT 1") and connection.handle._notifies_backlog)
        started = time.monotonic()
        ear.sleep(LONG)
        assert time.monotonic() - started < LONG / 2
    store.close()


def test_postgres_without_notifications(postgres_server: PostgresServer) -> None:
    """Behind a pool both sides look by themselves."""
    postgres_server.empty()
    engine = create(postgres_server.url(pooled="true", poll="0.05"))
    node = listening(engine)
    assert answers(engine) == ["w@h"]
    node.stop()
    engine.close()


def test_a_rabbitmq_connection_may_break(rabbit_server: RabbitServer) -> None:
    url = rabbit_server.fresh_url()
    with Proxy(rabbit_server.host, rabbit_server.port) as proxy:
        engine = create(url)
        node = Node(create(url.replace(f":{rabbit_server.port}/", f":{proxy.port}/")), "w@h")
        wait_until(lambda: heard(engine))
        proxy.cut()
        wait_until(lambda: heard(engine))
        node.stop()
        engine.close()
