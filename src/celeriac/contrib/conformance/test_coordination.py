"""What workers must agree on: rate limits with parking, revoked ids, orders and their version."""

from __future__ import annotations

import time

import pytest

from celeriac.contrib.conformance.helpers import (
    claim,
    drain,
    ids_of,
    incarnation,
    outcome,
    pub,
    pubs,
    settle,
)
from celeriac.contrib.conformance.rig import Rig
from celeriac.engines.base import Consumer, Depth, Engine, Verdict


def park_all(engine: Engine, consumer: Consumer, interval: float, task_ids: str) -> None:
    """Take the bucket's token and park messages of these ids over it, in one step."""
    began = time.monotonic()
    assert engine.admit("q", "t.add", interval)
    engine.publish(pubs(task_ids))
    deliveries = claim(consumer)
    # On a busy machine the next token may be there already; it is taken then.
    assert not engine.admit("q", "t.add", interval) or time.monotonic() - began >= interval
    settle(
        consumer,
        *[
            outcome(delivery, Verdict.PARK, bucket="t.add", task_id=task_id)
            for delivery, task_id in zip(deliveries, task_ids, strict=True)
        ],
    )


def test_one_token_an_interval_and_no_burst(engine: Engine, rig: Rig) -> None:
    rig.advance(5 * rig.unit)
    assert engine.admit("q", "t.add", rig.unit)
    assert not engine.admit("q", "t.add", 1000 * rig.unit)
    assert engine.admit("q", "t.mul", rig.unit), "each bucket has its own token"


def test_a_token_comes_back_after_the_interval(engine: Engine, rig: Rig) -> None:
    assert engine.admit("q", "t.add", rig.unit)
    rig.advance(1.1 * rig.unit)
    assert engine.admit("q", "t.add", rig.unit)


def test_the_limit_is_global(rig: Rig) -> None:
    one, two = rig.open(), rig.open()
    assert one.admit("q", "t.add", 1000.0)
    assert not two.admit("q", "t.add", 1000.0)


def test_a_changed_interval_holds_at_once(engine: Engine, rig: Rig) -> None:
    assert engine.admit("q", "t.add", 1000.0)
    rig.advance(rig.unit)
    assert not engine.admit("q", "t.add", 1000.0)
    assert engine.admit("q", "t.add", rig.unit / 2)


def test_parked_messages_are_handed_out_in_order_one_a_token(
    engine: Engine, consumer: Consumer, rig: Rig
) -> None:
    park_all(engine, consumer, rig.unit, "abc")
    got = []
    for _ in range(60):
        deliveries = claim(consumer)
        assert len(deliveries) <= 1
        assert all(delivery.admitted for delivery in deliveries)
        got += ids_of(deliveries)
        settle(consumer, *[outcome(delivery) for delivery in deliveries])
        if len(got) == 3:
            break
        rig.advance(rig.unit / 4)
    assert got == ["a", "b", "c"]
    assert engine.depth(["q"])["q"] == Depth()


def test_next_due_tells_when_the_token_comes(engine: Engine, consumer: Consumer) -> None:
    park_all(engine, consumer, 1000.0, "ab")
    answer = consumer.exchange([], ["q"], 5)
    assert answer.deliveries == []
    assert answer.next_due == pytest.approx(answer.now + 1000, abs=5)
    assert consumer.exchange([], ["other"], 5).next_due is None
    assert engine.depth(["q"])["q"] == Depth(parked=2)


def test_nobody_overtakes_the_parked(engine: Engine, consumer: Consumer, rig: Rig) -> None:
    park_all(engine, consumer, rig.unit, "a")
    rig.advance(1.5 * rig.unit)
    assert not engine.admit("q", "t.add", rig.unit), "the token is for the one that waits"
    (delivery,) = claim(consumer)
    assert (ids_of([delivery]), delivery.admitted) == (["a"], True)


def test_ordinary_messages_are_not_admitted_ones(engine: Engine, consumer: Consumer) -> None:
    engine.publish([pub("a")])
    assert [delivery.admitted for delivery in claim(consumer)] == [False]


def test_parked_messages_hold_up_no_others(engine: Engine, consumer: Consumer) -> None:
    park_all(engine, consumer, 1000.0, "ab")
    engine.publish(pubs("cd"))
    assert drain(consumer) == ["c", "d"]


def test_the_parked_of_a_paused_queue_wait(engine: Engine, consumer: Consumer, rig: Rig) -> None:
    park_all(engine, consumer, rig.unit, "a")
    engine.pause("q")
    rig.advance(1.5 * rig.unit)
    assert claim(consumer) == []
    engine.resume("q")
    assert ids_of(claim(consumer)) == ["a"]


def test_each_bucket_hands_out_by_its_own_tokens(engine: Engine, consumer: Consumer, rig: Rig) -> None:
    assert engine.admit("q", "slow", 1000.0)
    assert engine.admit("q", "fast", rig.unit)
    engine.publish(pubs("ab"))
    first, second = claim(consumer)
    settle(
        consumer,
        outcome(first, Verdict.PARK, bucket="slow", task_id="a"),
        outcome(second, Verdict.PARK, bucket="fast", task_id="b"),
    )
    rig.advance(1.5 * rig.unit)
    answer = consumer.exchange([], ["q"], 5)
    assert ids_of(answer.deliveries) == ["b"]
    assert answer.next_due is not None
    assert answer.next_due > answer.now + 500


def test_a_limit_of_zero_claims_no_parked_message(engine: Engine, consumer: Consumer, rig: Rig) -> None:
    park_all(engine, consumer, rig.unit, "a")
    rig.advance(1.5 * rig.unit)
    assert claim(consumer, 0) == []
    assert ids_of(claim(consumer, 1)) == ["a"]


# -- orders ------------------------------------------------------------------------------------------------


def test_control_starts_empty(engine: Engine, consumer: Consumer) -> None:
    control = engine.control()
    assert (control.revoked, control.paused, control.rate_limits) == ([], [], {})
    assert consumer.exchange([], ["q"], 0).version == control.version


def test_every_order_grows_the_version(engine: Engine, consumer: Consumer) -> None:
    versions = [engine.control().version]
    versions.append(engine.revoke(["a"], 1000.0))
    versions.append(engine.limit_rate("t.add", "10/m"))
    engine.pause("q1")
    versions.append(engine.control().version)
    engine.resume("q1")
    versions.append(engine.control().version)
    versions.append(engine.limit_rate("t.add", None))
    assert versions == sorted(set(versions))
    assert consumer.exchange([], ["q"], 0).version == versions[-1]
    assert engine.control().version == versions[-1]


def test_revoked_ids_since_a_version(engine: Engine) -> None:
    first = engine.revoke(["a", "b"], 1000.0)
    second = engine.revoke(["c"], 1000.0)
    assert sorted(engine.control().revoked) == ["a", "b", "c"]
    assert engine.control(first).revoked == ["c"]
    assert engine.control(second).revoked == []
    engine.revoke(["a"], 1000.0)
    assert engine.control(second).revoked == ["a"], "an id revoked again is news again"


def test_revoked_ids_are_forgotten_in_time(engine: Engine, rig: Rig) -> None:
    engine.revoke(["short"], rig.unit)
    engine.revoke(["long"], 1000.0)
    rig.advance(1.2 * rig.unit)
    assert engine.control().revoked == ["long"]


def test_revoking_is_not_cancelling(engine: Engine, consumer: Consumer) -> None:
    engine.publish([pub("a"), pub("b", delay=1000.0)])
    engine.revoke(["a", "b"], 1000.0)
    assert ids_of(claim(consumer)) == ["a"]
    assert engine.depth(["q"])["q"] == Depth(delayed=1, leased=1)


def test_many_revoked_ids(engine: Engine) -> None:
    ids = [f"id-{number}" for number in range(3000)]
    engine.revoke(ids, 1000.0)
    assert set(engine.control().revoked) == set(ids)


def test_rate_limits_are_told_in_whole(engine: Engine) -> None:
    engine.limit_rate("t.add", "10/m")
    version = engine.limit_rate("t.mul", "")
    assert engine.control(version).rate_limits == {"t.add": "10/m", "t.mul": ""}
    engine.limit_rate("t.add", None)
    engine.limit_rate("t.none", None)
    assert engine.control().rate_limits == {"t.mul": ""}


def test_orders_survive(rig: Rig) -> None:
    engine = rig.open()
    engine.revoke(["a"], 1000.0)
    engine.limit_rate("t.add", "1/s")
    engine.pause("q")
    before = engine.control()
    engine.close()
    engine = rig.open()
    assert engine.control() == before
    assert engine.revoke(["b"], 1000.0) > before.version


def test_an_engine_knows_what_it_is(rig: Rig) -> None:
    one, two = rig.open(), rig.open()
    assert one.scheme == two.scheme == rig.name
    assert rig.url().partition("://")[0] in one.url
    assert one.shares_store(two)
    assert one.shares_store(one)
    assert not one.shares_store(object())


def test_parked_messages_survive_their_consumer(engine: Engine, rig: Rig) -> None:
    consumer = engine.attach(incarnation())
    park_all(engine, consumer, rig.unit, "ab")
    consumer.close()
    other = rig.open().attach(incarnation("m"))
    rig.advance(1.5 * rig.unit)
    assert ids_of(claim(other)) == ["a"]
    other.close()
