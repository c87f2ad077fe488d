"""Concurrency limits: so many inside at once, the others parked in order, a place free with its lease."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest

from celeriac.contrib.conformance.helpers import (
    always,
    claim,
    drain,
    id_of,
    ids_of,
    incarnation,
    node,
    outcome,
    pub,
    pubs,
    settle,
)
from celeriac.contrib.conformance.rig import Rig
from celeriac.contrib.conformance.test_wait import SOON, Sleeper
from celeriac.engines.base import Consumer, Delivery, Depth, Engine, Loss, Verdict
from celeriac.exceptions import OperationalError

Lease = tuple[str, str, int]


def lease(consumer: Consumer, delivery: Delivery) -> Lease:
    """What a place is taken for."""
    return (consumer.owner.name, delivery.queue, delivery.token)


def enter(engine: Engine, consumer: Consumer, delivery: Delivery, limit: int = 1, place: str = "p") -> bool:
    return engine.enter(place, limit, lease(consumer, delivery))


def wait_in_line(consumer: Consumer, deliveries: Sequence[Delivery], place: str = "p") -> None:
    """Park these for a place."""
    parked = [outcome(each, Verdict.PARK, place=place, task_id=id_of(each.payload)) for each in deliveries]
    assert settle(consumer, *parked) == []


def occupy(engine: Engine, consumer: Consumer, task_ids: str, limit: int = 1) -> list[Delivery]:
    """Publish and claim; the first ``limit`` are inside, the others parked. Returns those inside."""
    engine.publish(pubs(task_ids))
    deliveries = claim(consumer)
    entered = [enter(engine, consumer, each, limit) for each in deliveries]
    assert entered == [index < limit for index in range(len(deliveries))]
    wait_in_line(consumer, deliveries[limit:])
    return deliveries[:limit]


# -- the limit -------------------------------------------------------------------------------------------


def test_so_many_are_inside_and_no_more(engine: Engine, consumer: Consumer) -> None:
    engine.publish(pubs("abcd"))
    a, b, c, d = claim(consumer)
    assert [enter(engine, consumer, each, 2) for each in (a, b, c)] == [True, True, False]
    assert enter(engine, consumer, d, 1, "elsewhere"), "each name has its own places"


def test_the_limit_is_global(engine: Engine, consumer: Consumer, rig: Rig) -> None:
    other_engine = rig.open()
    other = other_engine.attach(incarnation(child=2))
    engine.publish(pubs("ab"))
    (a,), (b,) = claim(consumer, 1), claim(other, 1)
    assert enter(engine, consumer, a)
    assert not enter(other_engine, other, b)
    other.close()


def test_entering_again_takes_no_second_place(engine: Engine, consumer: Consumer) -> None:
    engine.publish(pubs("ab"))
    a, b = claim(consumer)
    assert enter(engine, consumer, a, 2)
    assert enter(engine, consumer, a, 2)
    assert enter(engine, consumer, b, 2)


def test_a_lease_that_is_gone_gets_no_place(engine: Engine, consumer: Consumer) -> None:
    engine.publish(pubs("ab"))
    a, b = claim(consumer)
    engine.give_back(consumer.owner.name, [("q", a.token)])
    assert not enter(engine, consumer, a)
    assert enter(engine, consumer, b), "and none was lost by it"


def test_ordinary_messages_have_no_place(engine: Engine, consumer: Consumer) -> None:
    engine.publish(pubs("a"))
    assert [delivery.placed for delivery in claim(consumer)] == [False]


def test_a_raised_limit_lets_more_in(engine: Engine, consumer: Consumer) -> None:
    inside = occupy(engine, consumer, "abcd")
    assert claim(consumer) == []
    assert enter(engine, consumer, inside[0], 3)
    more = claim(consumer)
    assert ids_of(more) == ["b", "c"]
    assert all(delivery.placed for delivery in more)


def test_a_lowered_limit_lets_fewer_in(engine: Engine, consumer: Consumer) -> None:
    a, b = occupy(engine, consumer, "abcd", limit=2)
    assert enter(engine, consumer, a, 1)
    settle(consumer, outcome(b, place="p"))
    assert claim(consumer) == []
    settle(consumer, outcome(a, place="p"))
    assert ids_of(claim(consumer)) == ["c"]


# -- the line --------------------------------------------------------------------------------------------


def test_parked_messages_are_handed_out_in_order(engine: Engine, consumer: Consumer) -> None:
    (inside,) = occupy(engine, consumer, "abcd")
    assert engine.depth(["q"])["q"] == Depth(leased=1, parked=3)
    assert [id_of(each) for each in engine.peek("q", state="parked")] == ["b", "c", "d"]
    for expected in "bcd":
        answer = consumer.exchange([outcome(inside, place="p")], ["q"], 5)
        (inside,) = answer.deliveries
        assert (ids_of([inside]), inside.placed, inside.admitted) == ([expected], True, False)
    settle(consumer, outcome(inside, place="p"))
    assert engine.depth(["q"])["q"] == Depth()


def test_nobody_overtakes_the_parked(engine: Engine, consumer: Consumer) -> None:
    (inside,) = occupy(engine, consumer, "ab")
    engine.publish(pubs("c"))
    (late,) = claim(consumer)
    settle(consumer, outcome(inside, place="p"))
    assert not enter(engine, consumer, late), "the place is for the one that waits"
    wait_in_line(consumer, [late])
    assert ids_of(claim(consumer)) == ["b"]


def test_parked_messages_hold_up_no_others(engine: Engine, consumer: Consumer) -> None:
    occupy(engine, consumer, "ab")
    engine.publish(pubs("cd"))
    assert drain(consumer) == ["c", "d"]


def test_places_wait_apart_from_each_other(engine: Engine, consumer: Consumer) -> None:
    engine.publish(pubs("abcd"))
    a, b, c, d = claim(consumer)
    assert enter(engine, consumer, a, 1, "p")
    assert enter(engine, consumer, b, 1, "r")
    wait_in_line(consumer, [c], "p")
    wait_in_line(consumer, [d], "r")
    settle(consumer, outcome(b, place="r"))
    assert ids_of(claim(consumer)) == ["d"]


def test_a_limit_spans_queues(engine: Engine, consumer: Consumer) -> None:
    engine.publish([pub("a", "q1"), pub("b", "q2")])
    a, b = claim(consumer, 5, ["q1", "q2"])
    assert enter(engine, consumer, a)
    assert not enter(engine, consumer, b)
    wait_in_line(consumer, [b])
    settle(consumer, outcome(a, place="p"))
    assert claim(consumer, 5, ["q1"]) == []
    (placed,) = claim(consumer, 5, ["q2"])
    assert (ids_of([placed]), placed.placed) == (["b"], True)


def test_the_parked_of_a_paused_queue_wait(engine: Engine, consumer: Consumer) -> None:
    (inside,) = occupy(engine, consumer, "ab")
    engine.pause("q")
    settle(consumer, outcome(inside, place="p"))
    assert claim(consumer) == []
    engine.resume("q")
    assert ids_of(claim(consumer)) == ["b"]


def test_the_parked_can_be_cancelled_found_and_purged(engine: Engine, consumer: Consumer) -> None:
    (inside,) = occupy(engine, consumer, "abcd")
    assert {task_id: id_of(each) for task_id, each in engine.find("abx").items()} == {"b": "b"}
    assert engine.cancel(["b"]) == ["b"]
    assert engine.purge(["q"]) == 2
    assert engine.depth(["q"])["q"] == Depth(leased=1)
    assert consumer.exchange([outcome(inside, place="p")], ["q"], 5).deliveries == []


def test_a_place_may_get_free_while_one_is_being_parked(engine: Engine, consumer: Consumer) -> None:
    engine.publish(pubs("ab"))
    a, b = claim(consumer)
    assert enter(engine, consumer, a)
    assert not enter(engine, consumer, b)
    settle(consumer, outcome(a, place="p"))
    wait_in_line(consumer, [b])
    assert ids_of(claim(consumer)) == ["b"]


@pytest.mark.parametrize("lost", ["request", "reply"])
def test_a_lost_answer_loses_no_place(engine: Engine, consumer: Consumer, rig: Rig, lost: str) -> None:
    (inside,) = occupy(engine, consumer, "abc")
    rig.lose_next_reply(consumer) if lost == "reply" else rig.lose_next_request(consumer)
    with pytest.raises(OperationalError):
        consumer.exchange([outcome(inside, place="p")], ["q"], 5)
    (b,) = consumer.repeat().deliveries
    assert (ids_of([b]), b.placed) == (["b"], True)
    assert ids_of(consumer.exchange([outcome(b, place="p")], ["q"], 5).deliveries) == ["c"]


# -- getting free ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "verdict", [Verdict.ACK, Verdict.GIVE_BACK, Verdict.DELAY, Verdict.DEAD, Verdict.REQUEUE]
)
def test_every_verdict_frees_the_place(engine: Engine, consumer: Consumer, verdict: Verdict) -> None:
    (inside,) = occupy(engine, consumer, "ab")
    ended = outcome(inside, verdict, place="p", delay=1000.0, reason="failed", task_id="a")
    assert settle(consumer, ended) == []
    placed = [delivery for delivery in claim(consumer) if delivery.placed]
    assert ids_of(placed) == ["b"]


def test_parking_for_a_rate_limit_frees_the_place(engine: Engine, consumer: Consumer) -> None:
    (inside,) = occupy(engine, consumer, "ab")
    assert engine.admit("q", "t.add", 1000.0)
    settle(consumer, outcome(inside, Verdict.PARK, bucket="t.add", place="p", task_id="a"))
    assert ids_of(claim(consumer)) == ["b"]


def test_a_refused_outcome_frees_no_place(engine: Engine, consumer: Consumer) -> None:
    (inside,) = occupy(engine, consumer, "ab")
    other = engine.attach(incarnation(child=2))
    assert settle(other, outcome(inside, place="p")) == [inside.token]
    assert claim(other) == []
    other.close()


def by_give_back(engine: Engine, owner: Consumer, inside: Delivery) -> None:
    assert engine.give_back(owner.owner.name, [("q", inside.token)]) == 1


def by_release(engine: Engine, owner: Consumer, inside: Delivery) -> None:
    engine.release(owner.owner.name, {inside.token: Loss()})


def by_recover(engine: Engine, owner: Consumer, inside: Delivery) -> None:
    engine.recover("host", always(False))


def by_leave(engine: Engine, owner: Consumer, inside: Delivery) -> None:
    engine.leave(owner.owner.node)


def by_detach(engine: Engine, owner: Consumer, inside: Delivery) -> None:
    owner.close()


@pytest.mark.parametrize("end", [by_give_back, by_release, by_recover, by_leave, by_detach])
def test_a_place_ends_with_its_lease(
    engine: Engine, consumer: Consumer, end: Callable[[Engine, Consumer, Delivery], None]
) -> None:
    engine.beat(node("other"))
    other = engine.attach(incarnation("other"))
    (inside,) = occupy(engine, other, "abc")
    end(engine, other, inside)
    got = claim(consumer)
    assert [(id_of(each.payload), each.placed) for each in got if each.placed] == [("b", True)]
    assert "a" in ids_of(got), "it is in line again, and has to ask for a place like everybody"
    (a,) = [each for each in got if id_of(each.payload) == "a"]
    assert not enter(engine, consumer, a)


def test_a_placed_message_is_lost_and_comes_back_without_a_place(engine: Engine, consumer: Consumer) -> None:
    (inside,) = occupy(engine, consumer, "ab")
    (placed,) = consumer.exchange([outcome(inside, place="p")], ["q"], 1).deliveries
    engine.give_back(consumer.owner.name, [("q", placed.token)])
    (again,) = claim(consumer)
    assert not again.placed
    assert enter(engine, consumer, again)


# -- waking ----------------------------------------------------------------------------------------------


def asleep(rig: Rig) -> tuple[Consumer, Sleeper]:
    """An idle consumer, asleep."""
    idle = rig.open().attach(incarnation(child=2))
    assert claim(idle) == []
    return idle, Sleeper(idle, ["q"])


def test_an_idle_consumer_is_woken_by_a_free_place(engine: Engine, consumer: Consumer, rig: Rig) -> None:
    (inside,) = occupy(engine, consumer, "ab")
    idle, sleeper = asleep(rig)
    assert sleeper.woken_by(lambda: settle(consumer, outcome(inside, place="p"))) < SOON
    assert ids_of(claim(idle)) == ["b"]
    idle.close()


def test_an_idle_consumer_is_woken_by_a_death_inside(engine: Engine, consumer: Consumer, rig: Rig) -> None:
    (inside,) = occupy(engine, consumer, "ab")
    idle, sleeper = asleep(rig)
    assert sleeper.woken_by(lambda: by_release(engine, consumer, inside)) < SOON
    assert "b" in ids_of(claim(idle))
    idle.close()


def test_an_idle_consumer_is_woken_by_a_raised_limit(engine: Engine, consumer: Consumer, rig: Rig) -> None:
    (inside,) = occupy(engine, consumer, "ab")
    idle, sleeper = asleep(rig)
    assert sleeper.woken_by(lambda: enter(engine, consumer, inside, 2)) < SOON
    assert ids_of(claim(idle)) == ["b"]
    idle.close()


def test_a_full_place_keeps_nobody_awake(engine: Engine, consumer: Consumer) -> None:
    occupy(engine, consumer, "ab")
    assert consumer.exchange([], ["q"], 1).next_due is None
    consumer.wait(["q"], 0.01)  # may be woken once, by the publish
    assert not consumer.wait(["q"], 0.05)


# -- together with a rate limit ----------------------------------------------------------------------------


def test_one_admitted_before_it_was_parked_for_a_place_stays_admitted(
    engine: Engine, consumer: Consumer, rig: Rig
) -> None:
    (inside,) = occupy(engine, consumer, "a")
    engine.publish(pubs("b"))
    (b,) = claim(consumer)
    assert engine.admit("q", "t.add", rig.unit)
    settle(consumer, outcome(b, Verdict.PARK, bucket="t.add", task_id="b"))
    rig.advance(1.5 * rig.unit)
    (b,) = claim(consumer)
    assert (b.admitted, b.placed) == (True, False)
    assert not enter(engine, consumer, b)
    wait_in_line(consumer, [b])
    (b,) = consumer.exchange([outcome(inside, place="p")], ["q"], 1).deliveries
    assert (ids_of([b]), b.admitted, b.placed) == (["b"], True, True)
