"""The Redis engine when connections, the server or its memory fail."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator

import pytest

from celeriac.contrib.conformance.helpers import (
    claim,
    drain,
    ids_of,
    incarnation,
    node,
    outcome,
    pub,
    pubs,
    record,
    settle,
)
from celeriac.engines import create
from celeriac.engines.base import Consumer, Outcome, Verdict
from celeriac.engines.redis import RedisEngine
from celeriac.exceptions import OperationalError, StoreFull
from tests.proxy import Proxy
from tests.servers import RedisServer


def opened(url: str, **options: object) -> RedisEngine:
    engine = create(url, options)
    assert isinstance(engine, RedisEngine)
    return engine


@pytest.fixture
def proxy(redis_server: RedisServer) -> Iterator[Proxy]:
    redis_server.flush()
    with Proxy(redis_server.host, redis_server.port) as proxy:
        yield proxy


@pytest.fixture
def engine(proxy: Proxy) -> Iterator[RedisEngine]:
    engine = opened(proxy.url(), socket_timeout=0.5)
    yield engine
    engine.close()


@pytest.fixture
def consumer(engine: RedisEngine) -> Consumer:
    consumer = engine.attach(incarnation())
    consumer.exchange([], ["q"], 1)
    return consumer


# -- connections ---------------------------------------------------------------------------------------


def test_a_publish_whose_reply_is_lost_is_not_repeated(engine: RedisEngine, proxy: Proxy) -> None:
    engine.publish([pub("a")])
    proxy.drop_replies()
    with pytest.raises(OperationalError, match=r"redis://127\.0\.0\.1"):
        engine.publish([pub("b")])
    assert engine.depth(["q"])["q"].ready == 2


def test_an_exchange_whose_reply_is_lost_takes_effect_once(
    engine: RedisEngine, proxy: Proxy, consumer: Consumer
) -> None:
    engine.publish(pubs("abc"))
    (first,) = claim(consumer, 1)
    proxy.drop_replies()
    follow_up = Outcome(first.token, "q", result=record("a"), publications=pubs("d"))
    with pytest.raises(OperationalError):
        consumer.exchange([follow_up], ["q"], 1)
    answer = consumer.repeat()
    assert answer.refused == []
    assert ids_of(answer.deliveries) == ["b"]
    depth = engine.depth(["q"])["q"]
    assert (depth.ready, depth.leased) == (2, 1)


def test_a_black_hole_is_noticed(proxy: Proxy, consumer: Consumer) -> None:
    proxy.black_hole()
    begun = time.monotonic()
    with pytest.raises(OperationalError, match="in time"):
        claim(consumer)
    assert time.monotonic() - begun < 2
    proxy.black_hole(False)
    assert consumer.repeat().deliveries == []


def test_a_sleeper_in_a_black_hole_wakes(proxy: Proxy, consumer: Consumer) -> None:
    assert consumer.wait(["q"], 0.01) is False
    proxy.black_hole()
    with pytest.raises(OperationalError, match="half-open"):
        consumer.wait(["q"], 0.05)
    proxy.black_hole(False)
    assert consumer.wait(["q"], 0.01) is False


def test_cut_connections_are_made_anew(engine: RedisEngine, proxy: Proxy, consumer: Consumer) -> None:
    engine.publish([pub("a")])
    proxy.cut()
    for link in engine.links._idle:
        link.used -= 10  # as if idle for long: it is looked at before it is used
    engine.publish([pub("b")])
    with pytest.raises(OperationalError):
        claim(consumer)
    assert ids_of(consumer.repeat().deliveries) == ["a", "b"]


def test_nobody_listening_is_a_clear_error() -> None:
    engine = opened("redis://:secret@127.0.0.1:1/0", socket_connect_timeout=1)
    with pytest.raises(OperationalError, match="cannot connect to Redis at redis://:\\*\\*@127") as caught:
        engine.publish([pub("a")])
    assert "secret" not in str(caught.value)


def test_results_arrive_over_a_cut_connection(
    engine: RedisEngine, proxy: Proxy, redis_server: RedisServer
) -> None:
    told: list[str] = []
    engine.subscribe(["a"], lambda task_id, payload: told.append(task_id))
    engine.subscribe(["b"], lambda task_id, payload: told.append(task_id))
    direct = opened(redis_server.url())
    direct.store([record("a")])
    _until(lambda: "a" in told)
    proxy.cut()
    direct.store([record("b")])
    _until(lambda: "b" in told)
    direct.close()


def test_a_forked_child_connects_for_itself(engine: RedisEngine) -> None:
    engine.publish([pub("a")])
    child = os.fork()
    if child == 0:
        try:
            engine.publish([pub("b")])
            os._exit(0)
        finally:
            os._exit(1)
    engine.publish([pub("c")])
    assert os.waitpid(child, 0)[1] == 0
    assert engine.depth(["q"])["q"].ready == 3


# -- the server ----------------------------------------------------------------------------------------


def test_forgotten_scripts_are_sent_again(
    engine: RedisEngine, consumer: Consumer, redis_server: RedisServer
) -> None:
    redis_server.command("SCRIPT", "FLUSH")
    engine.publish(pubs("ab", delay=0.0))
    redis_server.command("SCRIPT", "FLUSH")
    assert ids_of(claim(consumer)) == ["a", "b"]


def test_a_restarted_server_has_everything_and_nobody_is_dead() -> None:
    with RedisServer("aof-always") as server:
        engine = opened(server.url())
        engine.beat(node(lease=0.4))
        consumer = engine.attach(incarnation())
        engine.publish(pubs("abc"))
        (first,) = claim(consumer, 1)
        engine.recover("other", lambda pid, started: True)
        server.kill()
        with pytest.raises(OperationalError):
            engine.publish([pub("x")])
        time.sleep(0.5)  # longer than the lease: by the clock alone the node would be dead
        server.start()
        assert engine.recover("other", lambda pid, started: True) == []
        with pytest.raises(OperationalError):
            consumer.exchange([outcome(first, result=record("a"))], ["q"], 1)
        answer = consumer.repeat()
        assert answer.refused == []
        assert ids_of(answer.deliveries) == ["b"]
        assert set(engine.fetch(["a"])) == {"a"}
        engine.close()


def test_tokens_grow_over_the_loss_of_everything(redis_server: RedisServer, engine: RedisEngine) -> None:
    """As after a failover that lost the last writes: they are made of the server's clock."""
    tokens = []
    for epoch in (1, 2):
        redis_server.flush()
        consumer = engine.attach(incarnation(epoch=epoch))
        engine.publish([pub("a")])
        tokens += [delivery.token for delivery in claim(consumer)]
    assert tokens == sorted(set(tokens))
    assert len(tokens) == 2


def test_at_maxmemory_publishing_fails_and_settling_goes_on() -> None:
    with RedisServer() as server:
        engine = opened(server.url())
        consumer = engine.attach(incarnation())
        engine.publish(pubs("kabc"))
        kept, first = claim(consumer, 2)
        server.command("CONFIG", "SET", "maxmemory", "1mb")
        for refused in ([pub("x")], pubs("xy"), pubs("xy", delay=5.0)):
            with pytest.raises(StoreFull, match="maxmemory"):
                engine.publish(refused)
        follow_up = Outcome(first.token, "q", result=record("a", ttl=60), publications=pubs("d"))
        answer = consumer.exchange([follow_up], ["q"], 2)
        assert ids_of(answer.deliveries) == ["b", "c"]
        assert settle(consumer, *[outcome(each, result=record("b")) for each in answer.deliveries]) == []
        assert engine.store([record("e", "STARTED")]) == []
        assert drain(consumer) == ["d"]
        assert claim(consumer) == []
        engine.beat(node(lease=0.1))
        assert consumer.mark_once(kept) is True
        assert engine.release(consumer.owner.name, {}) == 1
        assert engine.recover("host", lambda pid, started: False)[0].owner == "n"
        assert engine.revoke(["x"], 60) == 1
        assert set(engine.fetch(["a", "b", "e"])) == {"a", "b", "e"}
        engine.close()


def test_what_may_not_be_stored_is_not_acknowledged() -> None:
    with RedisServer() as server:
        server.command("ACL", "SETUSER", "worker", "on", ">pw", "+@all", "~*", "&*")
        engine = opened(f"redis://worker:pw@127.0.0.1:{server.port}/0")
        consumer = engine.attach(incarnation())
        engine.publish(pubs("ab"))
        first, second = claim(consumer)
        server.command("ACL", "SETUSER", "worker", "resetkeys", "~q*", "~celeriac:*", "~celery-task-meta-a")
        outcomes = [outcome(first, result=record("a")), outcome(second, result=record("b"))]
        with pytest.raises(OperationalError, match="queue q"):
            consumer.exchange(outcomes, ["q"], 1)
        assert engine.depth(["q"])["q"].leased == 1, "the second is still held"
        server.command("ACL", "SETUSER", "worker", "~*")
        assert consumer.repeat().refused == [], "the first was settled, once"
        assert set(engine.fetch(["a", "b"])) == {"a", "b"}
        assert engine.depth(["q"])["q"].leased == 0
        engine.close()


def test_a_key_of_a_foreign_type_stops_no_other_queue(
    engine: RedisEngine, consumer: Consumer, redis_server: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    redis_server.command("SET", "bad", "not a list")
    engine.publish(pubs("ab"))
    answer = consumer.exchange([], ["q", "bad"], 5)
    assert ids_of(answer.deliveries) == ["a", "b"]
    assert "WRONGTYPE" in caplog.text
    with pytest.raises(OperationalError, match="WRONGTYPE"):
        engine.publish([pub("x", "bad")])


def test_garbage_in_a_queue_is_delivered_as_it_is(
    engine: RedisEngine, consumer: Consumer, redis_server: RedisServer
) -> None:
    garbage = b"\x00\xff|not json\r\n"
    redis_server.command("LPUSH", "q", garbage)
    (delivery,) = claim(consumer)
    assert delivery.payload == garbage
    dead = outcome(delivery, Verdict.DEAD, reason="undecodable", detail="no JSON")
    assert settle(consumer, dead) == []
    (letter,) = engine.dead_letters()
    assert (letter.payload, letter.task_id) == (garbage, "")


def test_the_start_up_check_names_what_loses_messages() -> None:
    settings = {"maxmemory": "100mb", "maxmemory-policy": "allkeys-lru"}
    with RedisServer(config=settings) as server:
        engine = opened(server.url())
        warnings = " ".join(engine.check())
        assert "evict" in warnings
        assert "nothing on disk" in warnings
        engine.close()
    with RedisServer("aof") as server:
        engine = opened(server.url())
        assert engine.check() == []
        engine.close()


def _until(condition: object, timeout: float = 5.0) -> None:
    assert callable(condition)
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.002)
