"""Dead letters: made, looked at, replayed, purged, bounded."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from celeriac.contrib.conformance.helpers import (
    claim,
    drain,
    id_of,
    ids_of,
    incarnation,
    message,
    notes_of,
    outcome,
    pub,
    pubs,
    record,
    settle,
)
from celeriac.contrib.conformance.rig import Rig
from celeriac.engines.base import Consumer, Delivery, Engine, Loss, Outcome, Verdict


def kill(consumer: Consumer, count: int = 100, queues: tuple[str, ...] = ("q",)) -> list[str]:
    """Make dead letters of what is ready."""
    deliveries = claim(consumer, count, queues)
    settle(consumer, *[dead(delivery) for delivery in deliveries])
    return ids_of(deliveries)


def dead(delivery: Delivery, **fields: Any) -> Outcome:
    task_id = id_of(delivery.payload)
    fields = {"reason": "failed", "detail": "ValueError: no", "task": "t.add", "task_id": task_id, **fields}
    return outcome(delivery, Verdict.DEAD, **fields)


def test_a_dead_letter_keeps_everything(engine: Engine, consumer: Consumer) -> None:
    engine.publish([pub("a")])
    (delivery,) = claim(consumer)
    result = record("a", "FAILURE")
    before = consumer.exchange([], ["q"], 0).now
    answer = consumer.exchange([dead(delivery, result=result)], ["q"], 0)
    assert answer.refused == []
    (letter,) = engine.dead_letters()
    assert letter.key
    assert before - 0.01 <= letter.at <= answer.now + 0.01
    assert (letter.queue, letter.reason, letter.detail) == ("q", "failed", "ValueError: no")
    assert (letter.task, letter.task_id, letter.payload) == ("t.add", "a", delivery.payload)
    assert engine.fetch(["a"]) == {"a": result.payload}
    depth = engine.depth(["q"])["q"]
    assert (depth.dead, depth.leased, depth.ready) == (1, 0, 0)
    assert claim(consumer) == []


def test_a_dead_letter_may_have_a_new_envelope(engine: Engine, consumer: Consumer) -> None:
    engine.publish([pub("a")])
    (delivery,) = claim(consumer)
    settle(consumer, dead(delivery, message=message("a", retries=3)))
    (letter,) = engine.dead_letters()
    assert b'"retries":3' in letter.payload.replace(b" ", b"")


def test_dead_letters_are_listed_newest_first_and_by_page(
    engine: Engine, consumer: Consumer, rig: Rig
) -> None:
    for task_id in "abcde":
        engine.publish([pub(task_id)])
        kill(consumer)
        rig.advance(rig.unit / 10)
    assert [letter.task_id for letter in engine.dead_letters()] == list("edcba")
    assert [letter.task_id for letter in engine.dead_letters(offset=1, limit=2)] == ["d", "c"]
    assert engine.dead_letters(offset=5) == []


def test_dead_letters_of_one_queue(engine: Engine, consumer: Consumer) -> None:
    engine.publish([pub("a", "q1"), pub("b", "q2")])
    kill(consumer, queues=("q1", "q2"))
    assert [letter.task_id for letter in engine.dead_letters("q1")] == ["a"]
    assert sorted(letter.task_id for letter in engine.dead_letters()) == ["a", "b"]
    assert engine.dead_letters("q3") == []


def test_replay_by_key(engine: Engine, consumer: Consumer) -> None:
    engine.publish(pubs("abc"))
    kill(consumer)
    keys = {letter.task_id: letter.key for letter in engine.dead_letters()}
    assert engine.replay([keys["b"]]) == 1
    assert drain(consumer) == ["b"]
    assert sorted(letter.task_id for letter in engine.dead_letters()) == ["a", "c"]
    assert engine.replay([keys["b"]]) == 0
    assert engine.replay([]) == 0


def test_replay_of_a_queue_and_of_all(engine: Engine, consumer: Consumer) -> None:
    engine.publish([*pubs("ab", "q1"), *pubs("cd", "q2"), pub("e", "q3")])
    kill(consumer, queues=("q1", "q2", "q3"))
    assert engine.replay(queue="q1") == 2
    assert sorted(drain(consumer, ["q1", "q2", "q3"])) == ["a", "b"]
    assert engine.replay() == 3
    assert sorted(drain(consumer, ["q1", "q2", "q3"])) == ["c", "d", "e"]
    assert engine.dead_letters() == []


def test_replay_clears_count_and_mark(engine: Engine, rig: Rig) -> None:
    engine.publish([pub("a")])
    for epoch in (1, 2):
        consumer = engine.attach(incarnation(epoch=epoch))
        (delivery,) = claim(consumer)
        rig.die(consumer)
        engine.release(consumer.owner.name, {delivery.token: Loss(mark="once", task_id="a")})
    consumer = engine.attach(incarnation(epoch=3))
    (delivery,) = claim(consumer)
    assert (notes_of(delivery).deliveries, notes_of(delivery).lost) == (2, "once")
    settle(consumer, dead(delivery))
    assert engine.replay() == 1
    (delivery,) = claim(consumer)
    assert (notes_of(delivery).deliveries, notes_of(delivery).lost) == (0, None)
    consumer.close()


def test_a_replayed_message_returns_to_its_lane(engine: Engine, consumer: Consumer, rig: Rig) -> None:
    engine.publish([pub("urgent", priority=rig.urgent)])
    kill(consumer)
    engine.publish([pub("lax", priority=rig.lax)])
    engine.replay()
    assert drain(consumer) == ["urgent", "lax"]


def test_purge_dead(engine: Engine, consumer: Consumer) -> None:
    engine.publish([*pubs("ab", "q1"), *pubs("cd", "q2"), pub("e", "q3")])
    kill(consumer, queues=("q1", "q2", "q3"))
    keys = {letter.task_id: letter.key for letter in engine.dead_letters()}
    assert engine.purge_dead([keys["a"], "no such key"]) == 1
    assert engine.purge_dead(queue="q2") == 2
    assert sorted(letter.task_id for letter in engine.dead_letters()) == ["b", "e"]
    assert engine.purge_dead() == 2
    assert engine.dead_letters() == []
    assert engine.depth(["q1"])["q1"].dead == 0


def test_purging_a_queue_leaves_its_dead_letters(engine: Engine, consumer: Consumer) -> None:
    engine.publish(pubs("ab"))
    kill(consumer, 1)
    assert engine.purge(["q"]) == 1
    assert [letter.task_id for letter in engine.dead_letters()] == ["a"]


@pytest.mark.parametrize(
    "payload", [b"", b"\xff\x00\xfe", b"{}", b"not json", b'{"body": 5}', b"[1, 2", b"null"]
)
def test_undecodable_bytes_travel_to_the_dead_letters_and_back(
    engine: Engine, consumer: Consumer, rig: Rig, payload: bytes
) -> None:
    rig.inject(engine, "q", payload)
    (delivery,) = claim(consumer)
    assert delivery.payload == payload
    settle(consumer, outcome(delivery, Verdict.DEAD, reason="undecodable", detail="no envelope"))
    (letter,) = engine.dead_letters()
    assert (letter.payload, letter.reason, letter.task, letter.task_id) == (payload, "undecodable", "", "")
    assert engine.replay([letter.key]) == 1
    (delivery,) = claim(consumer)
    assert delivery.payload == payload


def test_the_same_task_may_die_twice(engine: Engine, consumer: Consumer) -> None:
    engine.publish([pub("a"), pub("a")])
    kill(consumer)
    letters = engine.dead_letters()
    assert len({letter.key for letter in letters}) == 2


def test_dead_letters_are_bounded_in_number(rig: Rig) -> None:
    engine = rig.open(dead_letters_max=3)
    consumer = engine.attach(incarnation())
    for task_id in "abcde":
        engine.publish([pub(task_id), pub(task_id, "other")])
        kill(consumer, queues=("q", "other"))
        rig.advance(rig.unit / 10)
    assert [letter.task_id for letter in engine.dead_letters("q")] == list("edc")
    assert [letter.task_id for letter in engine.dead_letters("other")] == list("edc")
    consumer.close()


def test_dead_letters_are_bounded_in_age(rig: Rig) -> None:
    engine = rig.open(dead_letters_expires=2 * rig.unit)
    consumer = engine.attach(incarnation())
    engine.publish([pub("a")])
    kill(consumer)
    rig.advance(2.1 * rig.unit)
    engine.publish([pub("b")])
    kill(consumer)
    assert [letter.task_id for letter in engine.dead_letters()] == ["b"]
    assert engine.depth(["q"])["q"].dead == 1
    consumer.close()


def test_dead_letters_survive(rig: Rig) -> None:
    engine = rig.open()
    consumer = engine.attach(incarnation())
    engine.publish([pub("a")])
    kill(consumer)
    (before,) = engine.dead_letters()
    consumer.close()
    engine.close()
    (after,) = rig.open().dead_letters()
    assert msgspec.structs.asdict(after) == msgspec.structs.asdict(before)
