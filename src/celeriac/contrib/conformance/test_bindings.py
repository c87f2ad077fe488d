"""Exchanges: queues tied to them, a fanout's copies, and a node's own queues, which go with it."""

from __future__ import annotations

from celeriac.contrib.conformance.helpers import (
    always,
    claim,
    drain,
    ids_of,
    incarnation,
    message,
    node,
    outcome,
    pub,
    settle,
)
from celeriac.contrib.conformance.rig import Rig
from celeriac.engines.base import Consumer, Delivery, Engine, Outcome, Publication, Verdict
from celeriac.routing.queues import Binding


def told(task_id: str, exchange: str = "news", **options: object) -> Publication:
    """A message for everybody on a fanout exchange."""
    return Publication(message(task_id), "", exchange=exchange, **options)  # type: ignore[arg-type]


def own(queue: str, exchange: str = "news") -> Binding:
    return Binding(exchange, "fanout", "", queue)


def test_a_fanout_s_message_goes_to_every_bound_queue(engine: Engine, consumer: Consumer) -> None:
    for name in ("n1", "n2"):
        engine.beat(node(name, pid=7))
        engine.bind([own(f"bcast.{name}")], name)
    engine.bind([own("bcast.other", "other")], "n1")
    engine.publish([told("a"), pub("b")])
    assert drain(consumer, ["bcast.n1"]) == ["a"]
    assert drain(consumer, ["bcast.n2"]) == ["a"]
    assert drain(consumer, ["bcast.other"]) == []
    assert drain(consumer) == ["b"]


def test_without_a_bound_queue_a_broadcast_reaches_nobody(engine: Engine, consumer: Consumer) -> None:
    engine.publish([told("a"), pub("b")])
    engine.beat(node("n1", pid=7))
    engine.bind([own("bcast.n1")], "n1")
    assert drain(consumer, ["bcast.n1", "q"]) == ["b"]


def test_binding_again_changes_nothing(engine: Engine, consumer: Consumer) -> None:
    engine.beat(node("n1", pid=7))
    for _ in range(2):
        engine.bind([own("bcast.n1")], "n1")
    engine.publish([told("a")])
    assert drain(consumer, ["bcast.n1"]) == ["a"]


def test_a_copy_is_settled_like_any_message(engine: Engine, consumer: Consumer) -> None:
    engine.beat(node("n1", pid=7))
    engine.bind([own("bcast.n1")], "n1")
    engine.publish([told("a")])
    (delivery,) = claim(consumer, queues=["bcast.n1"])
    assert settle(consumer, outcome(delivery, Verdict.GIVE_BACK)) == []
    assert drain(consumer, ["bcast.n1"]) == ["a"]


def test_follow_ups_can_be_broadcast(engine: Engine, consumer: Consumer) -> None:
    engine.beat(node("n1", pid=7))
    engine.bind([own("bcast.n1")], "n1")
    engine.publish([pub("a")])
    (delivery,) = claim(consumer)
    assert settle(consumer, outcome(delivery, publications=[told("b"), pub("c")])) == []
    assert drain(consumer, ["bcast.n1"]) == ["b"]
    assert drain(consumer) == ["c"]


def test_a_delayed_broadcast_waits_in_each_queue(engine: Engine, consumer: Consumer, rig: Rig) -> None:
    engine.beat(node("n1", pid=7))
    engine.bind([own("bcast.n1")], "n1")
    engine.publish([told("a", delay=rig.unit)])
    assert engine.depth(["bcast.n1"])["bcast.n1"][:2] == (0, 1)
    rig.advance(1.1 * rig.unit)
    assert drain(consumer, ["bcast.n1"]) == ["a"]


def test_a_sleeper_wakes_for_its_copy(engine: Engine, consumer: Consumer) -> None:
    engine.beat(node("n1", pid=7))
    engine.bind([own("bcast.n1")], "n1")
    assert drain(consumer, ["bcast.n1"]) == []
    assert not consumer.wait(["bcast.n1"], 0.0)
    engine.publish([told("a")])
    assert consumer.wait(["bcast.n1"], 5.0)


def test_a_node_that_leaves_takes_its_own_queues_along(engine: Engine) -> None:
    engine.beat(node("n1", pid=7))
    engine.bind([own("bcast.n1")], "n1")
    worker = engine.attach(incarnation("n1"))
    engine.publish([told("a"), told("b")])
    assert len(claim(worker, 1, ["bcast.n1"])) == 1
    engine.leave("n1")
    engine.publish([told("c")])
    assert "bcast.n1" not in engine.queues()
    assert engine.bindings("news") == []
    assert sum(engine.depth(["bcast.n1"])["bcast.n1"][:4]) == 0


def test_a_dead_node_s_own_queues_go_with_it_and_not_those_of_its_next_life(engine: Engine) -> None:
    engine.beat(node("life1", pid=7))
    engine.bind([own("bcast.n1")], "life1")
    engine.bind([own("bcast.dead")], "life1")
    engine.attach(incarnation("life1"))
    engine.beat(node("life2", host="elsewhere", pid=8))
    engine.bind([own("bcast.n1")], "life2")
    engine.recover("host", always(False))
    engine.publish([told("a")])
    assert [tie.queue for tie in engine.bindings("news")] == ["bcast.n1"]
    assert engine.depth(["bcast.n1", "bcast.dead"])["bcast.n1"].ready == 1
    assert sum(engine.depth(["bcast.dead"])["bcast.dead"][:4]) == 0


def test_dead_letters_of_a_node_s_own_queue_stay(engine: Engine) -> None:
    engine.beat(node("n1", pid=7))
    engine.bind([own("bcast.n1")], "n1")
    worker = engine.attach(incarnation("n1"))
    engine.publish([told("a")])
    (delivery,) = claim(worker, queues=["bcast.n1"])
    worker.exchange([_dead(delivery)], ["bcast.n1"], 0)
    engine.leave("n1")
    assert [letter.task_id for letter in engine.dead_letters()] == ["a"]


def _dead(delivery: Delivery) -> Outcome:
    return outcome(delivery, Verdict.DEAD, reason="rejected", detail="no", task="t.add", task_id="a")


def test_shared_queues_are_tied_for_good(engine: Engine, consumer: Consumer) -> None:
    ties = [
        Binding("media", "topic", "image.#", "images"),
        Binding("jobs", "direct", "k", "work"),
        Binding("news", "fanout", "", "archive"),
    ]
    engine.bind(ties)
    assert engine.bindings("media") == [ties[0]]
    assert engine.bindings("jobs") == [ties[1]]
    assert [tie[::3] for tie in engine.bindings("news")] == [("news", "archive")]
    engine.publish([told("a")])
    assert drain(consumer, ["archive"]) == ["a"]


def test_urgencies_follow_the_order_in_which_priorities_are_served(
    engine: Engine, consumer: Consumer
) -> None:
    for urgency in ("low", "high", "normal"):
        engine.publish([pub(urgency, priority=engine.urgencies[urgency])])
    assert ids_of(claim(consumer)) == ["high", "normal", "low"]


def test_there_are_no_consumers_beside_the_nodes(engine: Engine) -> None:
    assert engine.consumers(["q"]) == {}
