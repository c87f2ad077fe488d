"""Publishing and claiming: order, lanes, queues, limits, pauses, delays."""

from __future__ import annotations

import pytest

from celeriac.contrib.conformance.helpers import (
    claim,
    drain,
    id_of,
    ids_of,
    incarnation,
    message,
    outcome,
    pub,
    pubs,
    settle,
)
from celeriac.contrib.conformance.rig import Rig
from celeriac.engines.base import Consumer, Depth, Engine, Outcome, Publication, Verdict
from celeriac.message import Message, decode_envelope, encode_envelope


def test_first_in_first_out(engine: Engine, consumer: Consumer) -> None:
    engine.publish(pubs("ab"))
    engine.publish(pubs("cd"))
    assert ids_of(claim(consumer)) == ["a", "b", "c", "d"]


def test_the_envelope_arrives_byte_for_byte(engine: Engine, consumer: Consumer) -> None:
    publication = pub("a")
    publication.message.headers |= {
        "big": 2**70,
        "empty": [],
        "text": "zażółć \x00 \U0001f300",
        "x": 9007199254740993,
    }
    engine.publish([publication])
    (delivery,) = claim(consumer)
    assert decode_envelope(delivery.payload) == decode_envelope(encode_envelope(publication.message))


def test_a_claim_takes_no_more_than_its_limit(engine: Engine, consumer: Consumer) -> None:
    engine.publish(pubs("abcde"))
    assert ids_of(claim(consumer, 2)) == ["a", "b"]
    assert ids_of(claim(consumer, 2)) == ["c", "d"]
    assert ids_of(claim(consumer, 2)) == ["e"]
    assert claim(consumer, 2) == []


def test_limit_zero_claims_nothing(engine: Engine, consumer: Consumer) -> None:
    engine.publish([pub("a")])
    assert claim(consumer, 0) == []
    assert engine.depth(["q"])["q"].ready == 1


def test_what_one_has_claimed_no_other_gets(engine: Engine, consumer: Consumer) -> None:
    other = engine.attach(incarnation(child=2))
    engine.publish(pubs("abc"))
    assert ids_of(claim(consumer, 2)) == ["a", "b"]
    assert ids_of(claim(other)) == ["c"]
    other.close()


def test_tokens_grow_in_claim_order(engine: Engine, consumer: Consumer) -> None:
    engine.publish(pubs("abcdef"))
    tokens = [delivery.token for limit in (1, 3, 2) for delivery in claim(consumer, limit)]
    assert tokens == sorted(set(tokens))
    assert len(tokens) == 6


def test_tokens_grow_over_queues_too(engine: Engine, consumer: Consumer) -> None:
    tokens = []
    for queue in ("q1", "q2", "q1", "q2"):
        engine.publish([pub("a", queue)])
        tokens += [delivery.token for delivery in claim(consumer, 1, ["q1", "q2"])]
    assert tokens == sorted(set(tokens))


def test_tokens_go_on_growing_when_the_store_is_opened_again(rig: Rig) -> None:
    tokens = []
    for epoch in range(1, 4):
        engine = rig.open()
        consumer = engine.attach(incarnation(epoch=epoch))
        engine.publish([pub("a")])
        (delivery,) = claim(consumer)
        settle(consumer, outcome(delivery))
        tokens.append(delivery.token)
        consumer.close()
        engine.close()
    assert tokens == sorted(set(tokens))


def test_queues_are_served_in_the_order_given(engine: Engine, consumer: Consumer) -> None:
    engine.publish([*pubs("ab", "q1"), *pubs("cd", "q2")])
    assert ids_of(claim(consumer, 3, ["q2", "q1"])) == ["c", "d", "a"]


def test_a_queue_named_twice_is_served_once(engine: Engine, consumer: Consumer) -> None:
    engine.publish(pubs("ab"))
    assert ids_of(claim(consumer, 5, ["q", "q"])) == ["a", "b"]


def test_only_the_queues_asked_for_are_served(engine: Engine, consumer: Consumer) -> None:
    engine.publish([pub("a", "q1"), pub("b", "q2")])
    assert claim(consumer, 5, ["q3"]) == []
    assert claim(consumer, 5, []) == []
    (delivery,) = claim(consumer, 5, ["q2"])
    assert (id_of(delivery.payload), delivery.queue) == ("b", "q2")


def test_urgent_messages_come_first(engine: Engine, consumer: Consumer, rig: Rig) -> None:
    engine.publish([*pubs("ab", priority=rig.lax), *pubs("cd", priority=rig.urgent)])
    assert ids_of(claim(consumer, 3)) == ["c", "d", "a"]


def test_urgent_messages_of_a_later_queue_come_before_lax_ones_of_an_earlier(
    engine: Engine, consumer: Consumer, rig: Rig
) -> None:
    engine.publish([pub("lax", "q1", priority=rig.lax), pub("urgent", "q2", priority=rig.urgent)])
    assert ids_of(claim(consumer, 1, ["q1", "q2"])) == ["urgent"]


def test_a_message_given_back_returns_to_its_lane(engine: Engine, consumer: Consumer, rig: Rig) -> None:
    engine.publish([*pubs("ab", priority=rig.lax), *pubs("cd", priority=rig.urgent)])
    deliveries = claim(consumer)
    settle(consumer, *[outcome(delivery, Verdict.GIVE_BACK) for delivery in reversed(deliveries)])
    assert drain(consumer) == ["c", "d", "a", "b"]


def test_a_batch_is_stored_whole_or_not_at_all(engine: Engine) -> None:
    bad = Publication(Message({"id": "b", "task": "t", "x": object()}, {}, b"[]"), "q")
    with pytest.raises(Exception):  # noqa: B017 - which error is the codec's business
        engine.publish([pub("a"), bad])
    assert engine.depth(["q"])["q"] == Depth()


def test_an_empty_batch_is_nothing(engine: Engine, consumer: Consumer) -> None:
    engine.publish([])
    assert claim(consumer) == []


@pytest.mark.parametrize("queue", ["zażółć gęślą", "队列", "a b:c{d}*?[e]", "with'quote\"", "x" * 200])
def test_queue_names_may_be_anything(engine: Engine, consumer: Consumer, queue: str) -> None:
    engine.publish([pub("a", queue)])
    (delivery,) = claim(consumer, 1, [queue])
    assert delivery.queue == queue
    settle(consumer, outcome(delivery, Verdict.GIVE_BACK))
    assert engine.depth([queue])[queue].ready == 1
    assert queue in engine.queues()


def test_a_big_batch_keeps_its_order(engine: Engine, consumer: Consumer) -> None:
    ids = [f"id-{number}" for number in range(5000)]
    engine.publish(pubs(ids))
    assert engine.depth(["q"])["q"].ready == 5000
    assert drain(consumer) == ids


def test_claims_settles_and_follow_ups_by_the_thousand(engine: Engine, consumer: Consumer) -> None:
    ids = [f"id-{number}" for number in range(2000)]
    engine.publish(pubs(ids))
    deliveries = claim(consumer, 2000)
    assert len(deliveries) == 2000
    outcomes = [
        Outcome(delivery.token, "q", publications=[pub(f"next-{number}")])
        for number, delivery in enumerate(deliveries)
    ]
    assert settle(consumer, *outcomes) == []
    assert engine.depth(["q"])["q"]._replace(age=None) == Depth(ready=2000)


# -- delays --------------------------------------------------------------------------------------------


def test_a_delayed_message_waits_its_delay_by_the_store_s_clock(
    engine: Engine, consumer: Consumer, rig: Rig
) -> None:
    before = consumer.exchange([], ["q"], 0).now
    engine.publish([pub("a", delay=2 * rig.unit)])
    answer = consumer.exchange([], ["q"], 5)
    assert answer.next_due is not None
    assert before + 2 * rig.unit <= answer.next_due + 0.001
    assert answer.next_due <= answer.now + 2 * rig.unit + 0.001
    assert answer.deliveries == [] or answer.now >= answer.next_due
    rig.advance(2.1 * rig.unit)
    answer = consumer.exchange([], ["q"], 5)
    assert ids_of(answer.deliveries) == ["a"]
    assert answer.next_due is None


def test_a_due_time_is_an_epoch_second(engine: Engine, consumer: Consumer, rig: Rig) -> None:
    now = consumer.exchange([], ["q"], 0).now
    engine.publish([pub("past", due=now - 100), pub("soon", due=now + rig.unit), pub("far", due=now + 1e6)])
    assert ids_of(claim(consumer))[:1] == ["past"]
    rig.advance(1.1 * rig.unit)
    answer = consumer.exchange([], ["q"], 5)
    assert ids_of(answer.deliveries) in (["soon"], [])  # already claimed, if the first exchange was slow
    assert answer.next_due == pytest.approx(now + 1e6, abs=0.01)


def test_delayed_messages_come_in_the_order_they_fall_due(
    engine: Engine, consumer: Consumer, rig: Rig
) -> None:
    now = consumer.exchange([], ["q"], 0).now
    due = [pub(name, due=now + step * rig.unit / 10) for name, step in zip("cbad", (3, 2, 1, 4), strict=True)]
    engine.publish(due)
    rig.advance(rig.unit)
    assert drain(consumer) == ["a", "b", "c", "d"]


def test_equal_due_times_keep_publish_order(engine: Engine, consumer: Consumer, rig: Rig) -> None:
    now = consumer.exchange([], ["q"], 0).now
    engine.publish([pub(f"{number:02}", due=now + rig.unit / 10) for number in range(20)])
    rig.advance(rig.unit)
    assert drain(consumer) == [f"{number:02}" for number in range(20)]


def test_many_due_at_once_all_come(engine: Engine, consumer: Consumer, rig: Rig) -> None:
    engine.publish([pub(f"{number}", delay=0.0) for number in range(350)])
    assert sorted(drain(consumer)) == sorted(str(number) for number in range(350))


def test_a_delayed_message_keeps_its_priority(engine: Engine, consumer: Consumer, rig: Rig) -> None:
    engine.publish([pub("lax", priority=rig.lax), pub("urgent", priority=rig.urgent, delay=rig.unit / 10)])
    rig.advance(rig.unit)
    assert ids_of(claim(consumer, 1)) == ["urgent"]


def test_next_due_is_of_the_queues_asked_for(engine: Engine, consumer: Consumer) -> None:
    engine.publish([pub("a", "q1", delay=1000.0), pub("b", "q2", delay=2000.0)])
    answer = consumer.exchange([], ["q2"], 1)
    assert answer.next_due == pytest.approx(answer.now + 2000, abs=5)
    answer = consumer.exchange([], ["q1", "q2"], 1)
    assert answer.next_due == pytest.approx(answer.now + 1000, abs=5)
    assert consumer.exchange([], ["q3"], 1).next_due is None


# -- pauses --------------------------------------------------------------------------------------------


def test_a_paused_queue_gives_nothing_until_it_is_resumed(engine: Engine, consumer: Consumer) -> None:
    engine.publish([pub("a", "q1"), pub("b", "q2")])
    (held,) = claim(consumer, 1, ["q1"])
    engine.pause("q1")
    engine.publish([pub("c", "q1")])
    assert ids_of(claim(consumer, 5, ["q1", "q2"])) == ["b"]
    assert settle(consumer, outcome(held)) == []
    engine.resume("q1")
    assert ids_of(claim(consumer, 5, ["q1"])) == ["c"]


def test_a_pause_survives_and_can_be_read(rig: Rig) -> None:
    engine = rig.open()
    version = engine.control().version
    engine.pause("q")
    engine.publish([pub("a")])
    engine.close()
    engine = rig.open()
    consumer = engine.attach(incarnation())
    answer = consumer.exchange([], ["q"], 1)
    assert answer.deliveries == []
    assert answer.version > version
    assert engine.control().paused == ["q"]
    engine.resume("q")
    assert engine.control().paused == []
    assert engine.control().version > answer.version
    consumer.close()


def test_delayed_messages_of_a_paused_queue_wait(engine: Engine, consumer: Consumer, rig: Rig) -> None:
    engine.publish([pub("a", delay=0.0)])
    engine.pause("q")
    rig.advance(rig.unit / 10)
    answer = consumer.exchange([], ["q"], 5)
    assert answer.deliveries == []
    assert answer.next_due is None or answer.next_due > answer.now, "sleepers would not sleep"
    engine.resume("q")
    assert ids_of(claim(consumer)) == ["a"]


def test_a_message_that_names_itself_in_its_properties_only(engine: Engine, consumer: Consumer) -> None:
    bare = message("a")
    del bare.headers["id"]
    engine.publish([Publication(bare, "q", delay=1000.0)])
    assert engine.cancel(["a"]) == ["a"]
