"""Groups and chords: parts counted once, one body owed, taken by one at a time, settled in one step."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from typing import Any

import pytest

from celeriac.contrib.conformance.helpers import (
    claim,
    drain,
    eventually,
    incarnation,
    outcome,
    pub,
    pubs,
    record,
    settle,
)
from celeriac.contrib.conformance.rig import Rig
from celeriac.engines.base import Consumer, Depth, Engine, Outcome, Verdict
from celeriac.engines.groups import ChordPart, Owed
from celeriac.exceptions import OperationalError

BODY = b'{"body": {"task": "t.sum"}}'


def payload(task_id: str) -> bytes:
    """What a part says: no engine looks into it."""
    return b'[1, "%s", "SUCCESS", 1]' % task_id.encode()


def part(task_id: str, index: int | None = 0, group: str = "g", **fields: Any) -> ChordPart:
    """How a header task ended."""
    return ChordPart(group, task_id, index, payload(task_id), **fields)


def parts(task_ids: str) -> list[ChordPart]:
    """One part a letter, in the order of the header."""
    return [part(task_id, index) for index, task_id in enumerate(task_ids)]


def payloads(task_ids: Iterable[str]) -> list[bytes]:
    return [payload(task_id) for task_id in task_ids]


def complete(engine: Engine, group: str = "g", by: str = "w") -> None:
    """A chord of one task, whose body is owed and taken by ``by``."""
    engine.open_chord(group, 1, BODY, None)
    assert engine.record_parts([part("only", 0, group)], by) == [group]


# -- groups ----------------------------------------------------------------------------------------------


def test_a_group_is_kept_until_it_is_forgotten(engine: Engine, rig: Rig) -> None:
    assert engine.fetch_group("g") is None
    engine.store_group("g", b"\x00one", None)
    engine.store_group("other", b"two", 1000.0)
    assert rig.open().fetch_group("g") == b"\x00one"
    assert engine.fetch_group("g") == b"\x00one"
    assert engine.fetch_group("other") == b"two"
    engine.forget_group("g")
    engine.forget_group("never stored")
    assert engine.fetch_group("g") is None
    assert engine.fetch_group("other") == b"two"


def test_a_group_stored_again_is_replaced_and_expires(engine: Engine, rig: Rig) -> None:
    engine.store_group("g", b"one", None)
    engine.store_group("g", b"two", rig.unit)
    assert engine.fetch_group("g") == b"two"
    rig.advance(1.5 * rig.unit)
    assert engine.fetch_group("g") is None


def test_the_group_of_a_chord_is_forgotten_without_the_chord(engine: Engine) -> None:
    engine.store_group("g", b"results", None)
    engine.open_chord("g", 1, BODY, None)
    engine.forget_group("g")
    assert engine.record_parts(parts("a"), "w") == ["g"]


# -- counting --------------------------------------------------------------------------------------------


def test_the_last_part_is_the_one_that_completes(engine: Engine) -> None:
    engine.open_chord("g", 3, BODY, None)
    a, b, c = parts("abc")
    assert engine.record_parts([c], "w") == []
    assert engine.record_parts([a], "w") == []
    assert engine.take_owed("g", "w") is None, "two of three"
    assert engine.record_parts([b], "w") == ["g"]
    assert engine.take_owed("g", "w") == Owed("g", BODY, payloads("abc"))


def test_a_task_counts_once_whatever_it_is_recorded_as_later(engine: Engine) -> None:
    engine.open_chord("g", 2, BODY, None)
    assert engine.record_parts([part("a", 0)], "w") == []
    again = ChordPart("g", "a", 0, b"another end", grow=5)
    assert engine.record_parts([again, again], "w") == []
    assert engine.record_parts([part("b", 1)], "w") == ["g"], "and the repeated part has not grown it"
    owed = engine.take_owed("g", "w")
    assert owed is not None
    assert owed.parts == payloads("ab")


def test_completion_is_told_once(engine: Engine) -> None:
    engine.open_chord("g", 2, BODY, None)
    assert engine.record_parts(parts("ab"), "w") == ["g"]
    assert engine.record_parts(parts("ab"), "w") == []
    assert engine.record_parts(parts("ab"), "other") == []


def test_several_chords_are_completed_by_one_step(engine: Engine) -> None:
    for group in ("g1", "g2", "g3"):
        engine.open_chord(group, 1, BODY, None)
    done = engine.record_parts([part("a", 0, "g1"), part("b", 0, "g2")], "w")
    assert sorted(done) == ["g1", "g2"]
    assert engine.take_owed("g3", "w") is None


def test_the_parts_come_in_the_order_of_the_header(engine: Engine) -> None:
    engine.open_chord("g", 5, BODY, None)
    mixed = [part("x", None), part("c", 10), part("b", 2), part("y", None), part("a", 0)]
    assert engine.record_parts(mixed, "w") == ["g"]
    owed = engine.take_owed("g", "w")
    assert owed is not None
    assert owed.parts[:3] == payloads("abc"), "by number, not by its digits"
    assert sorted(owed.parts[3:]) == payloads("xy"), "those without a place come last"


def test_two_thousand_parts(engine: Engine) -> None:
    count = 2000
    engine.open_chord("g", count, BODY, None)
    everyone = [part(f"t{index}", index) for index in range(count)]
    completed = []
    for start in range(0, count, 100):
        completed += engine.record_parts(everyone[start : start + 100][::-1], "w")
    assert completed == ["g"]
    owed = engine.take_owed("g", "w")
    assert owed is not None
    assert owed.parts == [each.payload for each in everyone]
    assert engine.settle_owed("g", "w") == []


# -- opening -----------------------------------------------------------------------------------------------


def test_opening_again_changes_nothing(engine: Engine) -> None:
    engine.open_chord("g", 2, BODY, None)
    engine.record_parts(parts("a"), "w")
    engine.open_chord("g", 1, b"another", None)
    assert engine.owed() == []
    assert engine.record_parts([part("b", 1)], "w") == ["g"]
    assert engine.take_owed("g", "w") == Owed("g", BODY, payloads("ab"))


def test_an_empty_header_is_owed_at_once(engine: Engine) -> None:
    engine.open_chord("g", 0, BODY, None)
    assert engine.owed() == ["g"]
    assert engine.take_owed("g", "w") == Owed("g", BODY, [])
    assert engine.settle_owed("g", "w") == []


def test_a_chord_that_is_done_stays_done(engine: Engine) -> None:
    complete(engine)
    assert engine.settle_owed("g", "w") == []
    engine.open_chord("g", 1, BODY, None)
    engine.open_chord("g", 0, BODY, None)
    assert engine.record_parts(parts("ab"), "w") == []
    assert engine.owed() == []
    assert engine.take_owed("g", "w") is None
    assert engine.settle_owed("g", "w") is None


def test_parts_recorded_before_it_is_opened_count(engine: Engine) -> None:
    assert engine.record_parts([part("b", 1), part("a", 0)], "w") == [], "nobody knows how many it takes"
    engine.open_chord("g", 2, BODY, None)
    assert engine.owed() == ["g"]
    assert engine.take_owed("g", "w") == Owed("g", BODY, payloads("ab"))


def test_a_part_brings_the_body_that_nobody_gave(engine: Engine) -> None:
    first = part("a", 0, body=b"first")
    assert engine.record_parts([first, part("b", 1, body=b"second")], "w") == []
    engine.open_chord("g", 2, b"third", None)
    owed = engine.take_owed("g", "w")
    assert owed is not None
    assert owed.body == b"first", "the first one it sees"


def test_a_growing_header(engine: Engine) -> None:
    engine.open_chord("g", 2, BODY, None)
    assert engine.record_parts([part("a", 0)], "w") == []
    assert engine.record_parts([part("b", 1, grow=2)], "w") == [], "the last one brought two more"
    assert engine.record_parts([part("c", 2)], "w") == []
    assert engine.record_parts([part("d", 3)], "w") == ["g"]
    owed = engine.take_owed("g", "w")
    assert owed is not None
    assert owed.parts == payloads("abcd")


def test_a_chord_expires_and_each_part_renews_it(engine: Engine, rig: Rig) -> None:
    ttl = 3 * rig.unit
    engine.open_chord("g", 3, BODY, ttl)
    rig.advance(2 * rig.unit)
    engine.record_parts([part("a", 0, ttl=ttl)], "w")
    rig.advance(2 * rig.unit)
    assert engine.record_parts([part("b", 1, ttl=ttl)], "w") == []
    rig.advance(4 * rig.unit)
    assert engine.record_parts([part("c", 2, ttl=ttl)], "w") == [], "it was gone"
    assert engine.owed() == []


def test_a_part_does_not_shorten_what_the_chord_was_given(engine: Engine, rig: Rig) -> None:
    engine.open_chord("g", 2, BODY, 10 * rig.unit)
    engine.record_parts([part("a", 0, ttl=rig.unit)], "w")
    rig.advance(1.5 * rig.unit)
    assert engine.record_parts([part("b", 1, ttl=rig.unit)], "w") == ["g"]


# -- parts in the settling step ------------------------------------------------------------------------


def test_a_settling_step_records_parts(engine: Engine, consumer: Consumer) -> None:
    engine.open_chord("g", 2, BODY, None)
    engine.publish(pubs("ab"))
    first, second = claim(consumer)
    answer = consumer.exchange([outcome(first, parts=[part("a", 0)])], ["q"], 0)
    assert (answer.refused, answer.owed) == ([], [])
    answer = consumer.exchange([outcome(second, parts=[part("b", 1)], result=record("b"))], ["q"], 0)
    assert answer.owed == ["g"]
    assert engine.take_owed("g", "another") is None, "the settling owner has taken it already"
    assert engine.owed() == []
    assert engine.take_owed("g", consumer.owner.name) == Owed("g", BODY, payloads("ab"))


@pytest.mark.parametrize("verdict", [Verdict.ACK, Verdict.DEAD])
def test_outcomes_of_one_step_complete_a_chord(engine: Engine, consumer: Consumer, verdict: Verdict) -> None:
    engine.open_chord("g", 2, BODY, None)
    engine.publish(pubs("ab"))
    ended = [
        outcome(delivery, verdict, parts=[each], reason="failed", task_id=each.task_id)
        for delivery, each in zip(claim(consumer), parts("ab"), strict=True)
    ]
    answer = consumer.exchange(ended, ["q"], 5)
    assert (answer.refused, answer.owed) == ([], ["g"])


def test_one_outcome_has_parts_of_several_chords(engine: Engine, consumer: Consumer) -> None:
    engine.open_chord("g1", 1, BODY, None)
    engine.open_chord("g2", 1, BODY, None)
    engine.publish(pubs("a"))
    (delivery,) = claim(consumer)
    both = [part("a", 0, "g1"), part("b", 0, "g2")]
    assert sorted(consumer.exchange([outcome(delivery, parts=both)], ["q"], 0).owed) == ["g1", "g2"]


@pytest.mark.parametrize("lost", ["request", "reply"])
def test_a_repeated_exchange_tells_the_same(engine: Engine, consumer: Consumer, rig: Rig, lost: str) -> None:
    engine.open_chord("g", 1, BODY, None)
    engine.publish(pubs("a"))
    (delivery,) = claim(consumer)
    rig.lose_next_reply(consumer) if lost == "reply" else rig.lose_next_request(consumer)
    with pytest.raises(OperationalError):
        consumer.exchange([outcome(delivery, parts=parts("a"))], ["q"], 0)
    assert consumer.repeat().owed == ["g"]
    assert engine.take_owed("g", consumer.owner.name) == Owed("g", BODY, payloads("a"))
    assert consumer.exchange([], ["q"], 0).owed == []


def test_a_refused_outcome_records_no_part(engine: Engine, consumer: Consumer) -> None:
    engine.open_chord("g", 1, BODY, None)
    engine.publish(pubs("a"))
    (delivery,) = claim(consumer)
    assert engine.give_back(consumer.owner.name, [("q", delivery.token)]) == 1
    answer = consumer.exchange([outcome(delivery, parts=parts("a"))], ["q"], 0)
    assert (answer.refused, answer.owed) == ([delivery.token], [])
    assert engine.owed() == []
    assert engine.record_parts(parts("a"), "w") == ["g"], "it was not counted"


# -- owing -------------------------------------------------------------------------------------------------


def test_what_is_owed_is_told_oldest_first(engine: Engine, rig: Rig) -> None:
    for group in ("gc", "ga", "gb"):
        engine.open_chord(group, 0, BODY, None)
        rig.advance(rig.unit / 10)
    assert engine.owed() == ["gc", "ga", "gb"]
    assert engine.take_owed("ga", "w") is not None
    assert engine.owed() == ["gc", "gb"]


def test_at_most_a_hundred_are_told(engine: Engine) -> None:
    for number in range(105):
        engine.open_chord(f"g{number}", 0, BODY, None)
    assert len(engine.owed()) == 100


def test_one_taker_at_a_time(engine: Engine, rig: Rig) -> None:
    engine.open_chord("g", 0, BODY, None)
    other = rig.open()
    assert engine.take_owed("g", "one") is not None
    assert other.take_owed("g", "two") is None
    assert engine.take_owed("g", "one") is not None, "one may take again what one holds"
    assert other.settle_owed("g", "two") is None
    assert engine.settle_owed("g", "one") == []


def test_of_many_at_once_one_takes_it(engine: Engine) -> None:
    engine.open_chord("g", 0, BODY, None)
    taken: list[str] = []
    start = threading.Barrier(6)

    def take(by: str) -> None:
        start.wait()
        if engine.take_owed("g", by) is not None:
            taken.append(by)

    threads = [threading.Thread(target=take, args=(f"w{number}",)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(taken) == 1


def test_what_was_taken_and_not_settled_is_owed_again(
    engine: Engine, rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig.shorten_owed(monkeypatch, 4 * rig.unit)
    complete(engine, by="dead")
    assert engine.take_owed("g", "two") is None
    rig.advance(5 * rig.unit)
    assert engine.owed() == ["g"]
    assert engine.take_owed("g", "two") == Owed("g", BODY, payloads(["only"]))
    assert engine.owed() == []
    assert engine.settle_owed("g", "dead", [pub("late")]) is None, "the dead one has come back too late"
    assert engine.settle_owed("g", "two", [pub("body")]) == []
    assert engine.depth(["q"])["q"].ready == 1


def test_taking_again_renews(engine: Engine, rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    rig.shorten_owed(monkeypatch, 4 * rig.unit)
    complete(engine)
    rig.advance(2.5 * rig.unit)
    assert engine.take_owed("g", "w") is not None
    rig.advance(2.5 * rig.unit)
    assert engine.owed() == []
    assert engine.take_owed("g", "two") is None


def test_nothing_is_taken_of_a_chord_nobody_knows(engine: Engine) -> None:
    assert engine.take_owed("g", "w") is None
    assert engine.settle_owed("g", "w", [pub("a")], [record("a")]) is None
    assert engine.depth(["q"])["q"] == Depth()
    assert engine.fetch(["a"]) == {}


def test_an_unfinished_chord_cannot_be_settled(engine: Engine) -> None:
    engine.open_chord("g", 1, BODY, None)
    assert engine.settle_owed("g", "w", [pub("a")]) is None
    assert engine.depth(["q"])["q"] == Depth()


# -- settling what is owed -----------------------------------------------------------------------------


def test_settling_stores_what_follows(engine: Engine, consumer: Consumer, rig: Rig) -> None:
    complete(engine)
    assert engine.settle_owed("g", "w", pubs("ab"), [record("c", "FAILURE"), record("d")]) == []
    assert drain(consumer) == ["a", "b"]
    assert set(engine.fetch(["c", "d"])) == {"c", "d"}


def test_settling_happens_once(engine: Engine, consumer: Consumer) -> None:
    complete(engine)
    assert engine.settle_owed("g", "w", pubs("a")) == []
    assert engine.settle_owed("g", "w", pubs("a"), [record("x")]) is None
    assert drain(consumer) == ["a"]
    assert engine.fetch(["x"]) == {}


def test_settling_wakes_those_who_wait_for_the_body(engine: Engine, consumer: Consumer) -> None:
    complete(engine)
    woken = threading.Event()

    def sleep() -> None:
        while not consumer.exchange([], ["q"], 1).deliveries:
            consumer.wait(["q"], 30.0)
        woken.set()

    thread = threading.Thread(target=sleep, daemon=True)
    thread.start()
    assert engine.settle_owed("g", "w", pubs("a")) == []
    assert woken.wait(10.0)
    thread.join()


def test_records_of_a_settled_body_are_announced(engine: Engine) -> None:
    complete(engine)
    seen: list[str] = []
    subscription = engine.subscribe(["x"], lambda task_id, payload: seen.append(task_id))
    assert engine.settle_owed("g", "w", (), [record("x")]) == []
    eventually(lambda: seen)
    subscription.close()


def test_the_end_of_a_body_is_a_part_of_an_outer_chord(engine: Engine) -> None:
    engine.open_chord("outer", 2, b"outer body", None)
    engine.record_parts([part("a", 0, "outer")], "w")
    complete(engine, "inner")
    inner = part("b", 1, "outer")
    assert engine.settle_owed("inner", "other", (), (), [inner]) is None
    assert engine.settle_owed("inner", "w", (), [record("b", "FAILURE")], [inner]) == ["outer"]
    assert engine.take_owed("outer", "two") is None, "it is taken by whoever settled the inner one"
    assert engine.take_owed("outer", "w") == Owed("outer", b"outer body", payloads("ab"))


def test_a_worker_ends_an_owed_body_with_the_lease_of_the_last_part_gone(
    engine: Engine, consumer: Consumer
) -> None:
    """What is owed outlives the worker that recorded the last part."""
    engine.open_chord("g", 1, BODY, None)
    engine.publish(pubs("a"))
    (delivery,) = claim(consumer)
    assert settle(consumer, Outcome(delivery.token, "q", parts=parts("a"))) == []
    name = consumer.owner.name
    consumer.close()
    other = engine.attach(incarnation(child=2))
    assert engine.take_owed("g", name) is not None
    other.close()
