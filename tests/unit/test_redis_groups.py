"""What only Redis has of groups, keys and places: Celery's keys, two databases, a full server."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from typing import Any

import pytest
from redis import Redis

from celeriac.contrib.conformance.helpers import (
    claim,
    ids_of,
    incarnation,
    outcome,
    pub,
    pubs,
    record,
    settle,
)
from celeriac.engines import create
from celeriac.engines.base import Consumer, Hold, Unique, Verdict
from celeriac.engines.groups import ChordPart
from celeriac.engines.redis import RedisEngine
from celeriac.engines.results import Presence
from celeriac.exceptions import OperationalError, StoreFull
from tests.proxy import Proxy
from tests.servers import RedisServer
from tests.unit.conftest import CeleryPeer

BODY = b'{"body": {"task": "t.sum"}}'
CHORD = "celery-taskset-meta-g"
A_MONTH = 28 * 86400


def opened(url: str, **options: object) -> RedisEngine:
    engine = create(url, options)
    assert isinstance(engine, RedisEngine)
    return engine


@pytest.fixture
def server(redis_server: RedisServer) -> RedisServer:
    redis_server.flush()
    return redis_server


@pytest.fixture
def client(server: RedisServer) -> Iterator[Redis]:
    with Redis.from_url(server.url(), decode_responses=True) as client:
        yield client


@pytest.fixture
def engine(server: RedisServer) -> Iterator[RedisEngine]:
    engine = opened(server.url())
    yield engine
    engine.close()


@pytest.fixture
def consumer(engine: RedisEngine) -> Iterator[Consumer]:
    consumer = engine.attach(incarnation())
    consumer.exchange([], ["q"], 1)
    yield consumer
    consumer.close()


def payload(task_id: str, value: Any) -> bytes:
    return json.dumps([1, task_id, "SUCCESS", value]).encode()


def part(task_id: str, index: int | None, value: Any = 0, **fields: Any) -> ChordPart:
    return ChordPart("g", task_id, index, payload(task_id, value), **fields)


def body_of_celery(client: Redis) -> Any:
    """The arguments of the only message that Celery's workers have sent."""
    (pushed,) = client.lrange("celery", 0, -1)
    return json.loads(base64.b64decode(json.loads(pushed)["body"]))[0]


# -- chords whose header runs on both sides ----------------------------------------------------------------


def test_parts_of_both_sides_add_up_and_we_owe_the_body(
    server: RedisServer, engine: RedisEngine, consumer: Consumer, client: Redis, celery_peer: CeleryPeer
) -> None:
    engine.open_chord("g", 3, BODY, 3600.0)
    engine.publish(pubs("b"))
    (delivery,) = claim(consumer)
    celery_peer.ask("chord_part", server.url(), "g", "c", 2, 30)
    celery_peer.ask("chord_part", server.url(), "g", "a", 0, 10)
    answer = consumer.exchange([outcome(delivery, parts=[part("b", 1, 20, ttl=3600.0)])], ["q"], 1)
    assert answer.owed == ["g"]
    celery_peer.ask("chord_part", server.url(), "g", "a", 0, 10)  # its message came a second time
    assert client.llen("celery") == 0, "Celery's worker sees that the chord is taken"
    assert client.ttl(f"{CHORD}.c") > A_MONTH, "and for as long as the body is owed"
    owed = engine.take_owed("g", consumer.owner.name)
    assert owed is not None
    assert [json.loads(each) for each in owed.parts] == [
        [1, task_id, "SUCCESS", value] for task_id, value in (("a", 10), ("b", 20), ("c", 30))
    ]
    assert engine.settle_owed("g", consumer.owner.name, pubs("z")) == []
    celery_peer.ask("chord_part", server.url(), "g", "c", 2, 30)
    assert client.keys(f"{CHORD}*") == [f"{CHORD}.c"]
    assert client.get(f"{CHORD}.c") == "done"
    assert ids_of(claim(consumer)) == ["z"]


def test_celery_s_worker_records_the_last_part_and_we_owe_nothing(
    server: RedisServer, engine: RedisEngine, client: Redis, celery_peer: CeleryPeer
) -> None:
    celery_peer.ask("chord_size", server.url(), "g", 2)
    assert engine.record_parts([part("b", 1, 20, ttl=3600.0, body=BODY)], "w") == []
    celery_peer.ask("chord_part", server.url(), "g", "a", 0, 10)
    assert body_of_celery(client) == [[10, 20]]
    assert engine.record_parts([part("b", 1, 20, ttl=3600.0, body=BODY)], "w") == []
    assert engine.owed() == []
    assert client.llen("celery") == 1
    assert 0 < client.ttl("celeriac:chord:g") <= 86400


def test_a_task_counts_once_whichever_side_runs_it(
    server: RedisServer, engine: RedisEngine, celery_peer: CeleryPeer
) -> None:
    engine.open_chord("g", 2, BODY, None)
    celery_peer.ask("chord_part", server.url(), "g", "a", 0, 1)
    celery_peer.ask("chord_part", server.url(), "g", "n", None, 2)
    assert engine.owed() == [], "Celery's worker has claimed it, and had its body to send"
    engine.open_chord("h", 2, BODY, None)
    celery_peer.ask("chord_part", server.url(), "h", "a", None, 1)
    again = ChordPart("h", "a", None, payload("a", "other"))
    assert engine.record_parts([again], "w") == []
    assert engine.record_parts([ChordPart("h", "b", 0, payload("b", 2))], "w") == ["h"]
    owed = engine.take_owed("h", "w")
    assert owed is not None
    assert [json.loads(each)[1] for each in owed.parts] == ["b", "a"], "without an index it comes last"


def test_tasks_may_join_a_header_on_both_sides(
    server: RedisServer, engine: RedisEngine, celery_peer: CeleryPeer
) -> None:
    celery_peer.ask("chord_size", server.url(), "g", 2)
    celery_peer.ask("chord_joined", server.url(), "g")
    assert engine.record_parts([part("a", 0, grow=1, body=BODY)], "w") == []
    celery_peer.ask("chord_part", server.url(), "g", "b", 1, 1)
    assert engine.record_parts([part("c", None)], "w") == []
    assert engine.record_parts([part("d", None)], "w") == ["g"]


def test_a_chord_that_celery_s_worker_has_claimed_is_not_ours(engine: RedisEngine, client: Redis) -> None:
    engine.open_chord("g", 1, BODY, None)
    client.set(f"{CHORD}.c", "0123456789abcdef", px=100_000)
    assert engine.record_parts([part("a", 0)], "w") == []
    assert engine.owed() == []
    assert engine.take_owed("g", "w") is None
    client.delete(f"{CHORD}.c")  # it died, and its claim has expired; then the task is delivered again
    assert engine.record_parts([part("a", 0)], "w") == ["g"]


def test_parts_join_celery_s_unordered_list(engine: RedisEngine, client: Redis) -> None:
    """``result_chord_ordered`` is off on Celery's side."""
    engine.open_chord("g", 2, BODY, None)
    client.rpush(f"{CHORD}.j", payload("a", 1))
    client.sadd(f"{CHORD}.d", "a:0")
    assert engine.record_parts([part("b", 1)], "w") == ["g"]
    owed = engine.take_owed("g", "w")
    assert owed is not None
    assert [json.loads(each)[1] for each in owed.parts] == ["a", "b"]


# -- databases ---------------------------------------------------------------------------------------------


def test_chords_lie_with_the_results_and_bodies_go_to_the_broker(server: RedisServer) -> None:
    engine, results = opened(server.url()), opened(server.url(3), global_keyprefix="r.")
    assert engine.shares_store(results)
    consumer = engine.attach(incarnation())
    results.open_chord("g", 1, BODY, 60.0)
    results.open_chord("outer", 1, BODY, 60.0)
    engine.publish(pubs("a"))
    (delivery,) = claim(consumer)
    answer = consumer.exchange([outcome(delivery, parts=[part("a", 0)])], ["q"], 1)
    assert answer.owed == ["g"]
    assert results.take_owed("g", consumer.owner.name) is not None
    outer = ChordPart("outer", "x", 0, payload("x", 1))
    held = pub("held", unique=Unique("k", 60.0))
    engine.publish([pub("holder", unique=Unique("k", 60.0), delay=1000.0)])
    settled = results.settle_owed("g", consumer.owner.name, [pub("z"), held], [record("r")], [outer])
    assert settled == ["outer"]
    assert ids_of(claim(consumer)) == ["z"], "in the broker's database, and under its keys"
    assert set(results.fetch(["r"])) == {"r"}
    assert engine.fetch(["r"]) == {}
    assert results.settle_owed("g", consumer.owner.name, pubs("y")) is None
    assert claim(consumer) == []
    consumer.close()
    engine.close()
    results.close()


def test_follow_ups_are_tracked(engine: RedisEngine, consumer: Consumer) -> None:
    engine.publish(pubs("a"))
    (delivery,) = claim(consumer)
    settle(consumer, outcome(delivery, publications=[pub("b"), pub("c", track=60.0)]))
    assert engine.presence(["b", "c"]) == {"b": Presence.UNKNOWN, "c": Presence.QUEUED}
    assert ids_of(claim(consumer)) == ["b", "c"]


# -- failures ----------------------------------------------------------------------------------------------


def test_an_owed_chord_is_told_when_a_failed_exchange_is_repeated(
    engine: RedisEngine, consumer: Consumer, client: Redis
) -> None:
    engine.open_chord("g;1:2,", 1, BODY, None)
    engine.publish(pubs("ab"))
    first, second = claim(consumer)
    client.set("celeriac:{q}:dead", "of a foreign type")
    last = ChordPart("g;1:2,", "a", 0, payload("a", 1))
    outcomes = [outcome(first, parts=[last]), outcome(second, Verdict.DEAD, reason="failed")]
    with pytest.raises(OperationalError, match="WRONGTYPE"):
        consumer.exchange(outcomes, ["q"], 1)
    client.delete("celeriac:{q}:dead")
    answer = consumer.repeat()
    assert (answer.owed, answer.refused) == (["g;1:2,"], [])
    assert consumer.exchange([], ["q"], 1).owed == []


def test_at_maxmemory_workers_go_on_and_clients_are_refused() -> None:
    with RedisServer() as server:
        engine = opened(server.url())
        consumer = engine.attach(incarnation())
        engine.publish(pubs("ab"))
        engine.open_chord("g", 2, BODY, 60.0)
        first, second = claim(consumer)
        server.command("CONFIG", "SET", "maxmemory", "1mb")
        for refused in (
            lambda: engine.publish([pub("x", unique=Unique("k", 60.0))]),
            lambda: engine.open_chord("h", 1, BODY, 60.0),
            lambda: engine.store_group("g", b"[]", 60.0),
        ):
            with pytest.raises(StoreFull, match="maxmemory"):
                refused()
        lease = (consumer.owner.name, "q", second.token)
        assert engine.enter("p", 1, lease)
        assert engine.keep_checkpoint("b", b"half", 60.0, lease)
        assert engine.record_parts([part("b", 1)], "w") == []
        answer = consumer.exchange([outcome(first, parts=[part("a", 0)])], ["q"], 1)
        assert answer.owed == ["g"]
        assert engine.take_owed("g", consumer.owner.name) is not None
        assert engine.settle_owed("g", consumer.owner.name, pubs("z"), [record("r")]) == []
        assert ids_of(claim(consumer)) == ["z"]
        assert engine.holder("k") is None
        engine.close()


def test_attaching_again_after_a_lost_answer(redis_server: RedisServer) -> None:
    redis_server.flush()
    with Proxy(redis_server.host, redis_server.port) as proxy:
        engine = opened(proxy.url(), socket_timeout=0.5)
        engine.publish(pubs("a"))
        proxy.drop_replies()
        with pytest.raises(OperationalError):
            engine.attach(incarnation())
        consumer = engine.attach(incarnation())
        assert ids_of(claim(consumer)) == ["a"]
        with pytest.raises(ValueError, match="exists already"):
            engine.attach(incarnation())
        consumer.close()
        engine.close()


# -- unique keys and places --------------------------------------------------------------------------------


def test_a_purge_leaves_the_keys_of_running_tasks(engine: RedisEngine, consumer: Consumer) -> None:
    engine.publish([pub("running", unique=Unique("r", 60.0))])
    (delivery,) = claim(consumer)
    engine.publish([pub("waiting", unique=Unique("w", 60.0))])
    assert engine.purge(["q"]) == 1
    assert (engine.holder("r"), engine.holder("w")) == ("running", None)
    settle(consumer, outcome(delivery, unique="r", task_id="running"))
    assert engine.holder("r") is None


def test_a_debounced_message_that_is_sent_at_once_holds_no_key(
    engine: RedisEngine, consumer: Consumer
) -> None:
    engine.publish([pub("a", delay=1000.0, unique=Unique("k", 60.0, Hold.DELAYED))])
    assert engine.publish([pub("a", unique=Unique("k", 60.0, Hold.DELAYED, instead_of="a"))]) == {}
    assert engine.holder("k") is None
    assert ids_of(claim(consumer)) == ["a"]
    assert engine.depth(["q"])["q"].delayed == 0


def test_an_owed_body_gets_no_more_parts(engine: RedisEngine) -> None:
    engine.open_chord("g", 1, BODY, None)
    assert engine.record_parts([part("a", 0)], "w") == ["g"]
    assert engine.record_parts([part("late", 1)], "w") == []
    owed = engine.take_owed("g", "w")
    assert owed is not None
    assert owed.parts == [part("a", 0).payload]


def test_who_leaves_a_place_wakes_a_sleeper(engine: RedisEngine, consumer: Consumer, client: Redis) -> None:
    """By the marker on which sleepers wait, not by their poll."""
    marker = "celeriac:{q}:wake"
    engine.publish(pubs("abcd"))
    inside, outside = (deliveries := claim(consumer))[:2], deliveries[2:]
    for delivery in inside:
        assert engine.enter("p", 2, (consumer.owner.name, "q", delivery.token))
    settle(consumer, *[outcome(each, Verdict.PARK, place="p") for each in outside])
    client.delete(marker)
    engine.give_back(consumer.owner.name, [("q", inside[0].token)])
    assert client.delete(marker) == 1
    assert ids_of(claim(consumer, 2)) == ["c", "a"]
    assert not client.exists(marker), "nobody is woken for what must wait"
    settle(consumer, outcome(inside[1]))
    assert client.exists(marker)


def test_two_free_places_are_two_workers_business(
    engine: RedisEngine, consumer: Consumer, client: Redis
) -> None:
    engine.publish(pubs("abc"))
    first, *others = claim(consumer)
    assert engine.enter("p", 1, (consumer.owner.name, "q", first.token))
    settle(consumer, *[outcome(each, Verdict.PARK, place="p") for each in others])
    assert engine.enter("p", 3, (consumer.owner.name, "q", first.token))
    client.delete("celeriac:{q}:wake")
    assert ids_of(claim(consumer, 1)) == ["b"]
    assert client.exists("celeriac:{q}:wake"), "another worker may have the other"
    assert ids_of(claim(consumer, 1)) == ["c"]


# -- what stays --------------------------------------------------------------------------------------------


def test_nothing_is_left_for_ever(engine: RedisEngine, consumer: Consumer, client: Redis) -> None:
    engine.publish([pub("d", delay=1000.0, unique=Unique("d", 60.0, Hold.DELAYED))])
    engine.publish([pub("e", delay=1000.0, unique=Unique("e", 60.0, Hold.EXPIRY))])
    engine.publish([pub("a", unique=Unique("a", 60.0)), pub("b"), pub("c")])
    engine.open_chord("g", 3, BODY, 60.0)
    engine.open_chord("h", 1, BODY, 60.0)
    a, b, c = claim(consumer)
    leases = [(consumer.owner.name, "q", each.token) for each in (a, b, c)]
    assert [engine.enter("p", 2, lease) for lease in leases] == [True, True, False]
    assert engine.keep_checkpoint("a", b"half", 60.0, leases[0])
    settle(consumer, outcome(c, Verdict.PARK, place="p", task_id="c"))
    settle(consumer, outcome(b, parts=[part("b", 0, ttl=60.0), ChordPart("h", "b", 0, b"x", ttl=60.0)]))
    kept = [
        key
        for key in client.keys("*")
        if not key.startswith(("celeriac:{q}:delayed", "celeriac:{q}:parked", "celeriac:{q}:lease:"))
        and client.ttl(key) < 0
    ]
    assert sorted(kept) == [
        "celeriac:beats",
        "celeriac:control",
        "celeriac:owner:n:1:1",
        "celeriac:owners:n",
        "celeriac:place:p",
        "celeriac:place:p:queues",
        "celeriac:queues",
        "celeriac:{q}:buckets",
        "celeriac:{q}:wake",
    ]
    (c,) = claim(consumer)
    assert c.placed
    settle(consumer, outcome(a, unique="a", task_id="a", forget_checkpoint=True), outcome(c))
    assert engine.cancel(["d"]) == ["d"]
    assert client.keys("*place*") == []
    assert client.keys("*checkpoint*") == []
    assert client.keys("*unique*") == ["celeriac:unique:e"]
    assert client.keys("*holds*") == ["celeriac:holds:e"]


def test_a_debounced_message_waits_in_the_store_beside_celery_s_workers(server: RedisServer) -> None:
    """``broker_delay="celery"`` leaves delays to workers; who debounces needs the message within reach."""
    engine = opened(server.url(), broker_delay="celery")
    engine.publish([pub("a", delay=1000.0, unique=Unique("k", 60.0, Hold.DELAYED))])
    assert engine.depth(["q"])["q"].delayed == 1
    assert engine.holder("k") == "a"
    engine.close()


def test_plain_messages_need_no_script(engine: RedisEngine, consumer: Consumer, client: Redis) -> None:
    def scripts_run() -> int:
        stats: Any = client.info("commandstats")
        return sum(stats.get(f"cmdstat_{name}", {"calls": 0})["calls"] for name in ("eval", "evalsha"))

    before = scripts_run()
    assert engine.publish(pubs("ab")) == {}
    assert engine.publish([pub("c")]) == {}
    assert scripts_run() == before
