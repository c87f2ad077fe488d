"""Unique keys: who holds one, until when, and what is left out because of it."""

from __future__ import annotations

from typing import Any

import pytest

from celeriac.contrib.conformance.helpers import (
    claim,
    drain,
    ids_of,
    incarnation,
    message,
    outcome,
    pub,
    pubs,
    settle,
)
from celeriac.contrib.conformance.rig import Rig
from celeriac.engines.base import (
    Consumer,
    Delivery,
    Depth,
    Engine,
    Hold,
    Loss,
    Outcome,
    Publication,
    Unique,
    Verdict,
)
from celeriac.engines.results import Presence

LONG = 1000.0


def unique(
    task_id: str, key: str = "k", ttl: float = LONG, until: Hold = Hold.ENDED, **options: Any
) -> Publication:
    """A publication that needs a key."""
    return pub(task_id, unique=Unique(key, ttl, until), **options)


def replacing(task_id: str, until: Hold = Hold.DELAYED, delay: float = LONG, queue: str = "q") -> Publication:
    """A publication in place of the delayed one of the same id."""
    again = message(task_id, retries=7)
    return Publication(again, queue, delay=delay, unique=Unique("k", LONG, until, instead_of=task_id))


def ended(delivery: Delivery, verdict: Verdict = Verdict.ACK, **fields: Any) -> Outcome:
    """The end of task ``a``, which frees its key."""
    return outcome(delivery, verdict, task_id="a", unique="k", **fields)


# -- publishing --------------------------------------------------------------------------------------------


def test_a_free_key_is_taken_with_the_publication(engine: Engine, consumer: Consumer, rig: Rig) -> None:
    assert engine.holder("k") is None
    assert engine.publish([unique("a")]) == {}
    assert engine.holder("k") == "a"
    assert rig.open().holder("k") == "a"
    assert drain(consumer) == ["a"]


def test_a_held_key_leaves_the_message_out(engine: Engine, consumer: Consumer) -> None:
    engine.publish([unique("a")])
    batch = [pub("b"), unique("c"), pub("d"), unique("e", "free"), unique("f")]
    assert engine.publish(batch) == {1: "a", 4: "a"}
    assert engine.holder("free") == "e"
    assert drain(consumer) == ["a", "b", "d", "e"]


def test_of_two_in_one_batch_the_first_is_published(engine: Engine, consumer: Consumer) -> None:
    assert engine.publish([unique("a"), unique("b"), unique("c", delay=LONG)]) == {1: "a", 2: "a"}
    assert drain(consumer) == ["a"]


def test_the_holder_itself_is_left_out_too(engine: Engine) -> None:
    engine.publish([unique("a")])
    assert engine.publish([unique("a")]) == {0: "a"}
    assert engine.depth(["q"])["q"].ready == 1


def test_what_is_left_out_is_not_known_as_queued(engine: Engine) -> None:
    engine.publish([unique("a")])
    engine.publish([unique("b", track=LONG)])
    assert engine.presence(["b"]) == {"b": Presence.UNKNOWN}


def test_keys_are_told_apart(engine: Engine) -> None:
    keys = ["k", "K", "k ", "k:a", "ключ", "k" * 300]
    batch = [unique(f"t{number}", key) for number, key in enumerate(keys)]
    assert engine.publish(batch) == {}
    assert [engine.holder(key) for key in keys] == [f"t{number}" for number in range(len(keys))]


def test_a_key_is_free_after_its_ttl(engine: Engine, rig: Rig) -> None:
    for until in (Hold.ENDED, Hold.EXPIRY):
        engine.publish([unique("a", f"k {until}", rig.unit, until, delay=LONG)])
    rig.advance(1.5 * rig.unit)
    for until in (Hold.ENDED, Hold.EXPIRY):
        assert engine.holder(f"k {until}") is None
        assert engine.publish([unique("new", f"k {until}", LONG, until)]) == {}


def test_the_late_end_of_a_task_frees_nobody_elses_key(engine: Engine, consumer: Consumer, rig: Rig) -> None:
    engine.publish([unique("a", ttl=rig.unit)])
    (delivery,) = claim(consumer)
    rig.advance(1.5 * rig.unit)
    engine.publish([unique("b")])
    assert settle(consumer, ended(delivery)) == []
    assert engine.holder("k") == "b"


# -- until it has ended ------------------------------------------------------------------------------------


@pytest.mark.parametrize("verdict", [Verdict.ACK, Verdict.DEAD])
def test_the_end_frees_the_key(engine: Engine, consumer: Consumer, verdict: Verdict) -> None:
    engine.publish([unique("a")])
    (delivery,) = claim(consumer)
    assert engine.holder("k") == "a", "a running task holds on"
    assert settle(consumer, ended(delivery, verdict, reason="failed")) == []
    assert engine.holder("k") is None
    assert engine.publish([unique("b")]) == {}


@pytest.mark.parametrize("delay", [None, LONG], ids=["ready", "delayed"])
def test_purging_frees_the_key(engine: Engine, delay: float | None) -> None:
    engine.publish([unique("a", delay=delay), unique("b", "other", queue="elsewhere")])
    assert engine.purge(["q"]) == 1
    assert engine.holder("k") is None
    assert engine.holder("other") == "b"


def test_purging_the_parked_frees_the_key(engine: Engine, consumer: Consumer) -> None:
    park(engine, consumer)
    assert engine.purge(["q"]) == 1
    assert engine.holder("k") is None


@pytest.mark.parametrize("until", [Hold.ENDED, Hold.DELAYED])
def test_cancelling_the_delayed_frees_the_key(engine: Engine, until: Hold) -> None:
    engine.publish([unique("a", until=until, delay=LONG)])
    assert engine.cancel(["a"]) == ["a"]
    assert engine.holder("k") is None


def test_cancelling_the_parked_frees_the_key(engine: Engine, consumer: Consumer) -> None:
    park(engine, consumer)
    assert engine.cancel(["a"]) == ["a"]
    assert engine.holder("k") is None


def park(engine: Engine, consumer: Consumer) -> None:
    engine.publish([unique("a")])
    assert engine.admit("q", "t.add", LONG)
    (delivery,) = claim(consumer)
    assert settle(consumer, outcome(delivery, Verdict.PARK, bucket="t.add", task_id="a")) == []
    assert engine.holder("k") == "a"


def test_what_only_goes_on_frees_nothing(engine: Engine, consumer: Consumer) -> None:
    engine.publish([unique("a")])
    for verdict in (Verdict.GIVE_BACK, Verdict.REQUEUE):
        (delivery,) = claim(consumer)
        assert settle(consumer, outcome(delivery, verdict, task_id="a")) == []
        assert engine.holder("k") == "a"
    (delivery,) = claim(consumer)
    retry = outcome(delivery, Verdict.DELAY, delay=0.0, message=message("a", retries=1), task_id="a")
    assert settle(consumer, retry) == []
    assert engine.holder("k") == "a"
    (delivery,) = claim(consumer)
    assert engine.give_back(consumer.owner.name, [("q", delivery.token)]) == 1
    assert engine.holder("k") == "a"
    assert engine.publish([unique("b")]) == {0: "a"}


def test_the_death_of_its_worker_frees_nothing(engine: Engine, rig: Rig) -> None:
    engine.publish([unique("a")])
    one = engine.attach(incarnation(child=7))
    (delivery,) = claim(one)
    rig.die(one)
    engine.release(one.owner.name, {delivery.token: Loss(task_id="a")})
    assert engine.holder("k") == "a"
    two = engine.attach(incarnation(child=8))
    assert ids_of(claim(two)) == ["a"]
    two.close()
    assert engine.holder("k") == "a"


def test_a_refused_outcome_frees_nothing(engine: Engine, consumer: Consumer) -> None:
    engine.publish([unique("a")])
    (delivery,) = claim(consumer)
    engine.give_back(consumer.owner.name, [("q", delivery.token)])
    assert settle(consumer, ended(delivery)) == [delivery.token]
    assert engine.holder("k") == "a"


def test_a_replayed_dead_letter_holds_nothing(engine: Engine, consumer: Consumer) -> None:
    engine.publish([unique("a")])
    (delivery,) = claim(consumer)
    settle(consumer, ended(delivery, Verdict.DEAD, reason="failed"))
    assert engine.replay(queue="q") == 1
    assert engine.holder("k") is None


# -- while it is delayed, and for a time ---------------------------------------------------------------


def test_a_key_held_while_delayed_is_free_once_it_is_claimed(
    engine: Engine, consumer: Consumer, rig: Rig
) -> None:
    engine.publish([unique("a", until=Hold.DELAYED, delay=rig.unit)])
    assert engine.publish([unique("b", until=Hold.DELAYED, delay=rig.unit)]) == {0: "a"}
    rig.advance(1.5 * rig.unit)
    assert ids_of(claim(consumer)) == ["a"]
    assert engine.holder("k") is None
    assert engine.publish([unique("b", until=Hold.DELAYED, delay=LONG)]) == {}


def test_a_key_held_while_delayed_is_free_after_its_ttl(engine: Engine, rig: Rig) -> None:
    engine.publish([unique("a", ttl=rig.unit, until=Hold.DELAYED, delay=LONG)])
    rig.advance(1.5 * rig.unit)
    assert engine.holder("k") is None
    assert engine.publish([unique("new", until=Hold.DELAYED)]) == {}


def test_a_retry_does_not_take_the_debouncing_key_again(engine: Engine, consumer: Consumer, rig: Rig) -> None:
    engine.publish([unique("a", until=Hold.DELAYED, delay=0.0)])
    (delivery,) = claim(consumer)
    settle(consumer, outcome(delivery, Verdict.DELAY, delay=LONG, task_id="a"))
    assert engine.holder("k") is None


def test_a_key_held_for_a_time_outlives_the_task(engine: Engine, consumer: Consumer, rig: Rig) -> None:
    engine.publish([unique("a", ttl=4 * rig.unit, until=Hold.EXPIRY)])
    (delivery,) = claim(consumer)
    settle(consumer, ended(delivery))
    assert engine.publish([unique("b")]) == {0: "a"}
    rig.advance(5 * rig.unit)
    assert engine.publish([unique("b")]) == {}


def test_neither_purge_nor_cancel_frees_a_key_held_for_a_time(engine: Engine) -> None:
    engine.publish([unique("a", until=Hold.EXPIRY), unique("b", "k2", until=Hold.EXPIRY, delay=LONG)])
    engine.cancel(["b"])
    engine.purge(["q"])
    assert (engine.holder("k"), engine.holder("k2")) == ("a", "b")


# -- instead of ----------------------------------------------------------------------------------------------


def test_the_delayed_message_is_replaced(engine: Engine, consumer: Consumer, rig: Rig) -> None:
    engine.publish([unique("a", until=Hold.DELAYED, delay=LONG)])
    assert engine.publish([replacing("a", delay=rig.unit)]) == {}
    assert engine.depth(["q"])["q"] == Depth(delayed=1)
    assert engine.holder("k") == "a"
    rig.advance(1.5 * rig.unit)
    (delivery,) = claim(consumer)
    assert b'"retries":7' in delivery.payload.replace(b" ", b""), "the new arguments"
    assert engine.holder("k") is None


def test_replacing_puts_it_off(engine: Engine, consumer: Consumer, rig: Rig) -> None:
    engine.publish([unique("a", until=Hold.DELAYED, delay=2 * rig.unit)])
    assert engine.publish([replacing("a", delay=LONG)]) == {}
    rig.advance(3 * rig.unit)
    assert claim(consumer) == []


def test_what_runs_already_is_not_replaced(engine: Engine, consumer: Consumer) -> None:
    engine.publish([unique("a", until=Hold.ENDED, delay=0.0)])
    assert ids_of(claim(consumer)) == ["a"]
    assert engine.publish([replacing("a", Hold.ENDED)]) == {0: "a"}
    assert engine.depth(["q"])["q"] == Depth(leased=1)


def test_what_has_gone_is_not_replaced(engine: Engine, consumer: Consumer) -> None:
    engine.publish([unique("a", until=Hold.DELAYED, delay=0.0)])
    assert drain(consumer) == ["a"]
    assert engine.publish([replacing("a")]) == {0: ""}
    assert engine.publish([unique("b", until=Hold.DELAYED, delay=LONG)]) == {}
    assert engine.publish([replacing("a")]) == {0: "b"}
    assert engine.depth(["q"])["q"] == Depth(delayed=1)


# -- in outcomes -----------------------------------------------------------------------------------------


def test_follow_ups_whose_key_is_held_are_left_out_silently(engine: Engine, consumer: Consumer) -> None:
    engine.publish(pubs("x"))
    (delivery,) = claim(consumer)
    engine.publish([unique("a", delay=LONG)])
    follow_ups = [pub("b"), unique("c"), unique("d", "free")]
    assert settle(consumer, outcome(delivery, publications=follow_ups)) == []
    assert drain(consumer) == ["b", "d"]
    assert (engine.holder("k"), engine.holder("free")) == ("a", "d")


def test_the_end_frees_the_key_for_its_own_follow_ups(engine: Engine, consumer: Consumer) -> None:
    engine.publish([unique("a")])
    (delivery,) = claim(consumer)
    follow_up = outcome(delivery, publications=[unique("b")], unique="k", task_id="a")
    assert settle(consumer, follow_up) == []
    assert (engine.holder("k"), drain(consumer)) == ("b", ["b"])


def test_follow_ups_of_an_owed_body_are_left_out_silently(engine: Engine, consumer: Consumer) -> None:
    engine.publish([unique("a", delay=LONG)])
    engine.open_chord("g", 0, b"{}", None)
    assert engine.take_owed("g", "w") is not None
    assert engine.settle_owed("g", "w", [unique("b"), pub("c")]) == []
    assert drain(consumer) == ["c"]
