"""What moving messages to another store asks of an engine: bringing forward, dead letters, bindings."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from celeriac.contrib.conformance.helpers import (
    claim,
    drain,
    id_of,
    ids_of,
    incarnation,
    message,
    node,
    notes_of,
    outcome,
    pub,
    pubs,
    settle,
)
from celeriac.contrib.conformance.rig import Rig
from celeriac.engines.base import Consumer, DeadLetter, Engine, Hold, Unique, Verdict
from celeriac.message import decode_envelope, encode_envelope
from celeriac.routing.queues import Binding


def eta(payload: bytes) -> float:
    """When an envelope says that it is due."""
    return datetime.fromisoformat(decode_envelope(payload).headers["eta"]).timestamp()


def ours(task_id: str, **options: Any) -> Any:
    """A delayed publication whose delay the store keeps."""
    publication = pub(task_id, **options)
    publication.message.headers["celeriac"] = {"held": True}
    return publication


def test_delayed_messages_become_ready_and_say_when_they_are_due(engine: Engine, consumer: Consumer) -> None:
    now = engine.beat(node())
    engine.publish([ours("b", due=now + 500.0), ours("a", due=now + 200.0), pub("r")])
    assert engine.bring_forward("q", 10) == 2
    found = {id_of(each.payload): each for each in claim(consumer)}
    assert list(found) == ["r", "a", "b"]
    assert abs(eta(found["a"].payload) - (now + 200.0)) < 1.1
    assert abs(eta(found["b"].payload) - (now + 500.0)) < 1.1
    assert notes_of(found["a"]).forward
    assert not notes_of(found["a"]).held
    assert engine.bring_forward("q", 10) == 0


def test_a_foreign_delayed_message_says_only_when_it_is_due(engine: Engine, consumer: Consumer) -> None:
    engine.publish([pub("a", delay=300.0)])
    engine.bring_forward("q", 10)
    (delivery,) = claim(consumer)
    headers = decode_envelope(delivery.payload).headers
    assert "eta" in headers
    assert "celeriac" not in headers


def test_no_more_are_brought_forward_than_asked_for(engine: Engine, consumer: Consumer) -> None:
    engine.publish([ours(str(number), delay=100.0 + number) for number in range(10)])
    assert engine.bring_forward("q", 4) == 4
    assert len(claim(consumer)) == 4
    assert engine.bring_forward("q", 100) == 6


def test_only_messages_of_these_tasks_are_brought_forward(engine: Engine, consumer: Consumer) -> None:
    engine.publish([ours(task_id, delay=100.0) for task_id in "abc"])
    assert engine.bring_forward("q", 10, ["b", "x"]) == 1
    assert ids_of(claim(consumer)) == ["b"]


def test_only_the_queue_s_own_are_brought_forward(engine: Engine, consumer: Consumer) -> None:
    engine.publish([ours("a", delay=100.0), ours("b", queue="q2", delay=100.0)])
    assert engine.bring_forward("q", 10) == 1
    assert ids_of(claim(consumer, queues=["q", "q2"])) == ["a"]


def test_a_paused_queue_s_messages_are_brought_forward(engine: Engine, consumer: Consumer) -> None:
    engine.publish([ours("a", delay=100.0)])
    engine.pause("q")
    assert engine.bring_forward("q", 10) == 1
    engine.resume("q")
    assert ids_of(claim(consumer)) == ["a"]


def test_parked_messages_become_ready(engine: Engine, consumer: Consumer) -> None:
    engine.publish(pubs("abc"))
    assert engine.admit("q", "t.add", 1000.0)
    assert engine.enter("place", 1, _lease(consumer, claim(consumer, 1)[0]))
    first, second = claim(consumer)
    settle(consumer, outcome(first, Verdict.PARK, bucket="t.add", task_id="b"))
    settle(consumer, outcome(second, Verdict.PARK, place="place", task_id="c"))
    assert engine.depth(["q"])["q"].parked == 2
    assert engine.bring_forward("q", 10) == 2
    assert sorted(ids_of(claim(consumer))) == ["b", "c"]
    assert engine.depth(["q"])["q"].parked == 0


def test_new_messages_are_admitted_once_the_parked_are_gone(
    engine: Engine, consumer: Consumer, rig: Rig
) -> None:
    engine.publish(pubs("a"))
    assert engine.admit("q", "t.add", rig.unit)
    settle(consumer, outcome(claim(consumer)[0], Verdict.PARK, bucket="t.add", task_id="a"))
    assert engine.bring_forward("q", 10) == 1
    rig.advance(2 * rig.unit)
    assert engine.admit("q", "t.add", rig.unit)


def test_a_key_held_while_delayed_is_free_once_it_is_brought_forward(engine: Engine) -> None:
    engine.publish([ours("a", delay=100.0, unique=Unique("key", 1000.0, Hold.DELAYED))])
    assert engine.holder("key") == "a"
    engine.bring_forward("q", 10)
    assert engine.holder("key") is None


def test_an_owner_that_starts_nothing_costs_no_delivery(engine: Engine, rig: Rig) -> None:
    engine.publish(pubs("ab"))
    engine.beat(node())
    claim(engine.attach(incarnation(slots=0)))
    assert engine.recover("host", lambda pid, started: False)[0].started == 0
    other = engine.attach(incarnation("m"))
    assert [notes_of(delivery).deliveries for delivery in claim(other)] == [0, 0]


def letter(task_id: str, queue: str = "q", at: float = 1_790_000_000.25, **fields: Any) -> DeadLetter:
    payload = encode_envelope(message(task_id))
    return DeadLetter("old", queue, "failed", "ValueError: no", at, "t.add", task_id, payload, **fields)


def test_dead_letters_of_another_store_are_kept_as_they_were(engine: Engine, consumer: Consumer) -> None:
    now = engine.beat(node())
    given = [letter("a", at=now - 50.0), letter("b", at=now - 20.0), letter("c", queue="q2", at=now - 10.0)]
    engine.bury(given)
    found = engine.dead_letters("q")
    assert [(x.task_id, x.reason, x.detail, x.task) for x in found] == [
        ("b", "failed", "ValueError: no", "t.add"),
        ("a", "failed", "ValueError: no", "t.add"),
    ]
    assert [round(x.at - now) for x in found] == [-20, -50]
    assert [x.payload for x in found] == [given[1].payload, given[0].payload]
    assert engine.replay([found[0].key]) == 1
    assert ids_of(claim(consumer)) == ["b"]
    assert engine.purge_dead(queue="q") == 1
    assert engine.depth(["q2"])["q2"].dead == 1


def test_what_cannot_be_read_is_kept_too(engine: Engine, consumer: Consumer) -> None:
    now = engine.beat(node())
    engine.bury([DeadLetter("", "q", "undecodable", "?", now, "", "", b"\xff\x00no envelope")])
    (found,) = engine.dead_letters("q")
    assert found.payload == b"\xff\x00no envelope"


def test_the_bounds_hold_for_dead_letters_of_another_store(rig: Rig) -> None:
    engine = rig.open(dead_letters_max=3)
    now = engine.beat(node())
    engine.bury([letter(str(number), at=now - 100 + number) for number in range(5)])
    assert [x.task_id for x in engine.dead_letters("q")] == ["4", "3", "2"]


def test_ties_are_those_of_no_node(engine: Engine) -> None:
    engine.beat(node())
    given = [Binding("news", "fanout", "", "q"), Binding("logs", "topic", "a.#", "q2")]
    engine.bind(given)
    engine.bind([Binding("news", "fanout", "", "bcast.1")], "n")
    assert sorted(engine.ties()) == sorted(given)


def test_a_brought_forward_message_is_put_off_again(engine: Engine, consumer: Consumer) -> None:
    engine.publish([ours("a", delay=100.0)])
    engine.bring_forward("q", 10)
    (delivery,) = claim(consumer)
    settle(consumer, outcome(delivery, Verdict.DELAY, due=eta(delivery.payload)))
    assert drain(consumer) == []
    assert engine.bring_forward("q", 10) == 1


def _lease(consumer: Consumer, delivery: Any) -> tuple[str, str, int]:
    return consumer.owner.name, delivery.queue, delivery.token
