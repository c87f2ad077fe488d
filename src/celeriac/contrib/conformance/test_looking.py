"""Looking and tidying without a lease: depth, peek, queues, purge, cancel, find."""

from __future__ import annotations

import pytest

from celeriac.contrib.conformance.helpers import claim, drain, id_of, incarnation, outcome, pub, pubs, settle
from celeriac.contrib.conformance.rig import Rig
from celeriac.engines.base import Consumer, Depth, Engine, Verdict


def fill(engine: Engine, consumer: Consumer) -> None:
    """Put one message in each state in queue q; its task id is the name of its state."""
    engine.admit("q", "bucket", 1000.0)
    engine.publish(pubs(["leased", "parked", "dead"]))
    _, parked, dead = claim(consumer)
    settle(
        consumer,
        outcome(parked, Verdict.PARK, bucket="bucket", task_id="parked"),
        outcome(dead, Verdict.DEAD, reason="failed", task_id="dead"),
    )
    engine.publish([pub("delayed", delay=1000.0), pub("ready")])


def test_depth_counts_every_state(engine: Engine, consumer: Consumer) -> None:
    fill(engine, consumer)
    depth = engine.depth(["q"])["q"]
    assert depth._replace(age=None) == Depth(1, 1, 1, 1, 1)


def test_depth_of_an_unknown_queue_is_nothing(engine: Engine) -> None:
    engine.publish([pub("a")])
    assert engine.depth(["other", "more"]) == {"other": Depth(), "more": Depth()}
    assert engine.depth([]) == {}


def test_age_is_that_of_the_oldest_ready_message(engine: Engine, consumer: Consumer, rig: Rig) -> None:
    engine.publish([pub("a")])
    rig.advance(rig.unit)
    engine.publish([pub("b")])
    age = engine.depth(["q"])["q"].age
    # An engine on foreign lists knows the age only where the message tells it.
    assert age is None or rig.unit * 0.9 <= age < 1000
    claim(consumer)
    assert engine.depth(["q"])["q"].age is None


def test_peek_shows_each_state(engine: Engine, consumer: Consumer) -> None:
    fill(engine, consumer)
    for state in ("ready", "delayed", "leased", "parked"):
        assert [id_of(payload) for payload in engine.peek("q", state=state)] == [state]
    before = engine.depth(["q"])["q"]._replace(age=None)
    assert before == Depth(1, 1, 1, 1, 1), "looking changes nothing"
    with pytest.raises(ValueError, match="nonsense"):
        engine.peek("q", state="nonsense")


def test_peek_goes_in_order_by_page(engine: Engine, rig: Rig) -> None:
    engine.publish([*pubs("abc", priority=rig.lax), *pubs("de", priority=rig.urgent)])
    assert [id_of(payload) for payload in engine.peek("q")] == ["d", "e", "a", "b", "c"]
    assert [id_of(payload) for payload in engine.peek("q", 1, 3)] == ["e", "a", "b"]
    assert engine.peek("q", 5) == []
    assert engine.peek("other") == []
    engine.publish([pub("late", delay=2000.0), pub("soon", delay=1000.0)])
    assert [id_of(payload) for payload in engine.peek("q", state="delayed")] == ["soon", "late"]
    assert [id_of(payload) for payload in engine.peek("q", 1, 1, "delayed")] == ["late"]


def test_queues_are_known_and_sorted(engine: Engine, consumer: Consumer) -> None:
    assert engine.queues() == []
    engine.publish([pub("a", "q2"), pub("b", "q1"), pub("c", "q3", delay=1000.0)])
    claim(consumer, 1, ["q2"])
    assert engine.queues() == ["q1", "q2", "q3"]


def test_purge_deletes_what_is_not_leased(engine: Engine, consumer: Consumer) -> None:
    fill(engine, consumer)
    engine.publish([pub("stays", "other")])
    assert engine.purge(["q", "unknown"]) == 3
    assert engine.depth(["q"])["q"] == Depth(leased=1, dead=1)
    assert engine.depth(["other"])["other"].ready == 1
    assert engine.purge(["q"]) == 0
    assert consumer.exchange([], ["q"], 5).next_due is None
    assert drain(consumer) == []


def test_purge_takes_all_lanes_and_many(engine: Engine, rig: Rig) -> None:
    engine.publish(pubs([str(number) for number in range(1200)], priority=rig.lax))
    engine.publish(pubs([str(number) for number in range(300)], priority=rig.urgent))
    assert engine.purge(["q"]) == 1500


def test_cancel_finds_delayed_and_parked_messages(engine: Engine, consumer: Consumer) -> None:
    fill(engine, consumer)
    engine.publish([pub("far", "other", delay=1e6)])
    found = engine.cancel(["ready", "delayed", "leased", "parked", "dead", "far", "unknown"])
    assert sorted(found) == ["delayed", "far", "parked"]
    assert engine.depth(["q"])["q"]._replace(age=None) == Depth(1, 0, 1, 0, 1)
    assert consumer.exchange([], ["q", "other"], 0).next_due is None
    assert engine.cancel(["delayed", "parked"]) == []
    assert engine.cancel([]) == []


def test_cancel_finds_a_retry(engine: Engine, consumer: Consumer) -> None:
    engine.publish(pubs("ab"))
    first, second = claim(consumer)
    settle(
        consumer,
        outcome(first, Verdict.DELAY, delay=1000.0, task_id="a", message=pub("a").message),
        outcome(second, Verdict.DELAY, delay=1000.0, task_id="b"),
    )
    assert sorted(engine.cancel(["a", "b"])) == ["a", "b"]
    assert engine.depth(["q"])["q"] == Depth()


def test_two_delayed_messages_of_one_id_are_both_kept(engine: Engine, consumer: Consumer, rig: Rig) -> None:
    engine.publish([pub("a", delay=rig.unit / 10), pub("a", delay=rig.unit / 10)])
    assert engine.depth(["q"])["q"].delayed == 2
    rig.advance(rig.unit)
    assert drain(consumer) == ["a", "a"]


def test_everything_survives_a_reopening(rig: Rig) -> None:
    engine = rig.open()
    consumer = engine.attach(incarnation())
    fill(engine, consumer)
    consumer.close(detach=False)
    engine.close()
    engine = rig.open()
    assert engine.depth(["q"])["q"]._replace(age=None) == Depth(1, 1, 1, 1, 1)
    for state in ("ready", "delayed", "leased", "parked"):
        assert [id_of(payload) for payload in engine.peek("q", state=state)] == [state]


# -- find ------------------------------------------------------------------------------------------------


def test_find_gives_what_cancel_would_remove(engine: Engine, consumer: Consumer) -> None:
    fill(engine, consumer)
    engine.publish([pub("far", "other", delay=1000.0)])
    ids = ["ready", "delayed", "leased", "parked", "dead", "far", "unknown"]
    found = engine.find(ids)
    assert {task_id: id_of(payload) for task_id, payload in found.items()} == {
        task_id: task_id for task_id in ("delayed", "parked", "far")
    }
    assert engine.find([]) == {}
    assert engine.cancel(ids) == ["delayed", "parked", "far"]
    assert engine.find(ids) == {}


def test_find_gives_the_envelope_as_it_will_be_delivered(
    engine: Engine, consumer: Consumer, rig: Rig
) -> None:
    engine.publish([pub("a", delay=rig.unit)])
    found = engine.find(["a"])
    rig.advance(1.5 * rig.unit)
    (delivery,) = claim(consumer)
    assert found == {"a": delivery.payload}
    assert engine.find(["a"]) == {}
