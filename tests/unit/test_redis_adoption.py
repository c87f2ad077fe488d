"""Adoption of what kombu's consumers took from Redis and did not acknowledge before they died."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from kombu import Connection, Consumer, Exchange, Queue

from celeriac.contrib.conformance.helpers import claim, ids_of, incarnation
from celeriac.engines import create
from celeriac.engines.redis import RedisEngine
from celeriac.exceptions import ImproperlyConfigured
from celeriac.message import decode_envelope
from tests.servers import RedisServer

AT_ONCE = {"visibility_timeout": 0, "unacked_restore_interval": 0}
DIRECT = Queue("q", Exchange("tasks"), routing_key="key")


@pytest.fixture
def server(redis_server: RedisServer) -> RedisServer:
    redis_server.flush()
    return redis_server


Opened = Callable[..., RedisEngine]


@pytest.fixture
def opened(server: RedisServer) -> Iterator[Opened]:
    engines: list[RedisEngine] = []

    def opened(**options: Any) -> RedisEngine:
        engine = create(server.url(), {**AT_ONCE, **options})
        assert isinstance(engine, RedisEngine)
        engines.append(engine)
        return engine

    yield opened
    for engine in engines:
        engine.close()


def recover(engine: RedisEngine) -> int:
    """How many messages of Celery's workers are put back."""
    found = engine.recover("elsewhere", lambda pid, started: True)
    return sum(lost.messages for lost in found if lost.owner == "Celery's workers")


def leave_behind(
    server: RedisServer, ids: list[str], queue: Queue = DIRECT, key: str = "key", **transport: Any
) -> None:
    """What a worker of Celery's leaves that takes these messages and is killed."""
    with Connection(server.url(), transport_options=transport) as connection:
        producer = connection.Producer()
        channel = connection.channel()
        with Consumer(channel, [queue], accept=["json"], callbacks=[lambda *_: None]):
            for number, task_id in enumerate(ids):
                producer.publish(
                    [[1.5e-7], {}, {}],
                    exchange=queue.exchange,
                    routing_key=key,
                    headers={"id": task_id, "task": "t.add", "eta": None},
                    priority=number % 10,
                    declare=[queue],
                )
                connection.drain_events(timeout=5)
        channel.qos._delivered.clear()  # a worker that stops in order would put them back


def held(server: RedisServer, key: str = "unacked") -> int:
    return int(server.command("HLEN", key).strip(b":\r\n"))


def test_what_was_left_behind_is_claimed_in_order(server: RedisServer, opened: Opened) -> None:
    leave_behind(server, ["a", "b"])
    leave_behind(server, ["c"])
    assert held(server) == 3
    engine = opened()
    assert recover(engine) == 3
    assert held(server) == 0
    assert server.command("ZCARD", "unacked_index") == b":0\r\n"
    consumer = engine.attach(incarnation())
    deliveries = claim(consumer)
    assert ids_of(deliveries) == ["a", "b", "c"]
    message = decode_envelope(deliveries[0].payload)
    assert message.headers["redelivered"]
    assert json.loads(message.body)[0] == [1.5e-7]
    consumer.close()


def test_it_is_left_alone_until_it_is_due(server: RedisServer, opened: Opened) -> None:
    leave_behind(server, ["a"])
    assert recover(opened(visibility_timeout=60)) == 0
    assert recover(opened(unacked_restore_interval=6)) == 0  # a living worker would do it within that time
    assert held(server) == 1


def test_it_is_left_alone_while_a_worker_of_celery_s_is_at_it(server: RedisServer, opened: Opened) -> None:
    leave_behind(server, ["a"])
    server.command("SET", "unacked_mutex", "theirs")
    engine = opened()
    assert recover(engine) == 0
    assert held(server) == 1
    server.command("DEL", "unacked_mutex")
    assert recover(engine) == 1


def test_what_was_acknowledged_meanwhile_is_not_put_back(
    server: RedisServer, opened: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    leave_behind(server, ["a", "b"])
    engine = opened()
    read = engine.adoption._overdue

    def acknowledged_after_the_look(link: Any) -> Any:
        found = read(link)
        if found:
            server.command("HDEL", "unacked", found[0].tag)
        return found

    monkeypatch.setattr(engine.adoption, "_overdue", acknowledged_after_the_look)
    assert recover(engine) == 1
    assert server.command("EXISTS", "unacked") == b":0\r\n"


def test_many_nodes_put_each_message_back_once(server: RedisServer, opened: Opened) -> None:
    leave_behind(server, [f"t{n}" for n in range(500)])
    engines = [opened() for _ in range(4)]
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(recover, engines))
    while recover(engines[0]):
        pass
    assert held(server) == 0
    consumer = engines[0].attach(incarnation())
    found: list[str] = []
    while some := ids_of(claim(consumer, 100)):
        found += some
    assert sorted(found) == sorted(f"t{n}" for n in range(500))
    consumer.close()


def test_a_topic_reaches_the_queues_that_are_tied_to_it(server: RedisServer, opened: Opened) -> None:
    exchange = Exchange("news", type="topic")
    queue = Queue("sports", exchange, routing_key="sport.#")
    leave_behind(server, ["a"], queue, "sport.chess.news")
    engine = opened()
    assert recover(engine) == 1
    consumer = engine.attach(incarnation())
    assert ids_of(claim(consumer, queues=["sports"])) == ["a"]
    consumer.close()


def test_keys_and_prefix_are_those_of_the_options(server: RedisServer, opened: Opened) -> None:
    names = {"global_keyprefix": "my:", "unacked_key": "held", "unacked_index_key": "since"}
    leave_behind(server, ["a"], **names)
    assert held(server, "my:held") == opened(**names).unacknowledged() == 1
    assert recover(opened()) == 0
    assert recover(opened(**names)) == 1


def test_what_cannot_be_read_stays_and_stops_nothing(
    server: RedisServer, opened: Opened, caplog: pytest.LogCaptureFixture
) -> None:
    server.command("HSET", "unacked", "odd", '["no envelope"]')
    server.command("ZADD", "unacked_index", "1", "odd")
    server.command("ZADD", "unacked_index", "2", "acknowledged")
    leave_behind(server, ["a"])
    engine = opened()
    assert recover(engine) == 1
    assert recover(engine) == 0
    assert server.command("HKEYS", "unacked") == b"*1\r\n$3\r\nodd\r\n"
    assert server.command("ZRANGE", "unacked_index", "0", "-1") == b"*1\r\n$3\r\nodd\r\n"
    assert [record.getMessage()[:15] for record in caplog.records] == ["The message odd"]


def test_a_time_that_is_none_is_named() -> None:
    with pytest.raises(ImproperlyConfigured, match="visibility_timeout"):
        create("redis://localhost", {"visibility_timeout": "soon"})
