"""Losing leases: released children, overdue and dead nodes, nodes that leave, and what they may still do."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from celeriac.contrib.conformance.helpers import (
    always,
    claim,
    claim_all,
    drain,
    id_of,
    ids_of,
    incarnation,
    node,
    notes_of,
    outcome,
    pub,
    pubs,
    record,
    settle,
)
from celeriac.contrib.conformance.rig import Rig
from celeriac.engines.base import Consumer, Depth, Engine, Loss, Recovered
from celeriac.exceptions import Fenced

# -- a child dies, its node lives ------------------------------------------------------------------------


def test_an_owner_s_name_is_attached_once(engine: Engine, consumer: Consumer) -> None:
    with pytest.raises(ValueError, match="n:1:1"):
        engine.attach(consumer.owner)
    engine.attach(consumer.owner._replace(epoch=2)).close()


def test_release_gives_back_in_claim_order_to_the_front(engine: Engine, consumer: Consumer) -> None:
    other = engine.attach(incarnation(child=2))
    engine.publish(pubs("abcde"))
    claim(consumer, 3)
    assert engine.release(consumer.owner.name, {}) == 3
    assert drain(other) == ["a", "b", "c", "d", "e"]
    other.close()


def test_release_notes_losses_on_the_started_ones_only(engine: Engine, consumer: Consumer, rig: Rig) -> None:
    engine.publish(pubs("abcd"))
    first, second, third, _ = claim(consumer)
    losses = {
        first.token: Loss(task_id="a"),
        second.token: Loss(counted=False, mark="timeout:5", task_id="b"),
        third.token: Loss(counted=False, task_id="c"),
    }
    rig.die(consumer)
    assert engine.release(consumer.owner.name, losses) == rig.released(4)
    other = engine.attach(incarnation(child=2))
    # Marked ones may come first: where others' workers share the queue, they wait in a line of their own.
    deliveries = sorted(claim_all(other), key=lambda delivery: id_of(delivery.payload))
    noted = [notes_of(delivery) for delivery in deliveries]
    assert [(note.deliveries, note.lost) for note in noted] == [
        (1, None),
        (0, "timeout:5"),
        (0, None),
        (0, None),
    ]
    other.close()


def test_release_counts_on(engine: Engine, rig: Rig) -> None:
    engine.publish([pub("a")])
    for epoch in range(1, 4):
        consumer = engine.attach(incarnation(epoch=epoch))
        (delivery,) = claim(consumer)
        assert notes_of(delivery).deliveries == epoch - 1
        rig.die(consumer)
        engine.release(consumer.owner.name, {delivery.token: Loss(task_id="a")})


def test_a_loss_keeps_the_rest_of_the_envelope(engine: Engine, consumer: Consumer, rig: Rig) -> None:
    from celeriac.message import decode_envelope

    publication = pub("a")
    publication.message.headers |= {"celeriac": {"reply": "r1", "sent": 5.5}, "big": 2**62, "none": []}
    engine.publish([publication])
    (before,) = claim(consumer)
    rig.die(consumer)
    engine.release(consumer.owner.name, {before.token: Loss(task_id="a")})
    other = engine.attach(incarnation(child=2))
    (after,) = claim(other)
    old, new = decode_envelope(before.payload), decode_envelope(after.payload)
    assert (notes_of(after).reply, notes_of(after).sent) == ("r1", 5.5)
    del old.headers["celeriac"], new.headers["celeriac"]
    assert new.headers.pop("redelivered") is True
    assert new.properties["delivery_info"].pop("redelivered") is True
    assert new == old
    other.close()


def test_release_is_safe_to_repeat_and_fences_the_owner(engine: Engine, consumer: Consumer) -> None:
    engine.publish([pub("a")])
    (delivery,) = claim(consumer)
    assert engine.release(consumer.owner.name, {delivery.token: Loss()}) == 1
    assert engine.release(consumer.owner.name, {delivery.token: Loss()}) == 0
    with pytest.raises(Fenced):
        settle(consumer, outcome(delivery, result=record("a")))
    with pytest.raises(Fenced):
        claim(consumer)
    assert not consumer.mark_once(delivery)
    assert engine.fetch(["a"]) == {}
    other = engine.attach(incarnation(child=2))
    (again,) = claim(other)
    assert notes_of(again).deliveries == 1
    other.close()


def test_release_of_an_unknown_owner_is_nothing(engine: Engine) -> None:
    assert engine.release("n:7:7", {5: Loss()}) == 0


def test_release_ignores_tokens_that_were_settled(engine: Engine, consumer: Consumer, rig: Rig) -> None:
    engine.publish(pubs("ab"))
    first, _ = claim(consumer)
    settle(consumer, outcome(first))
    rig.die(consumer)
    assert engine.release(consumer.owner.name, {first.token: Loss(task_id="a")}) == rig.released(1)
    other = engine.attach(incarnation(child=2))
    (again,) = claim(other)
    assert (ids_of([again]), notes_of(again).deliveries) == (["b"], 0)
    other.close()


# -- acks_late=False ---------------------------------------------------------------------------------------


def test_a_lost_message_marked_once_comes_back_marked(engine: Engine, consumer: Consumer, rig: Rig) -> None:
    engine.publish(pubs("ab"))
    first, _ = claim(consumer)
    assert consumer.mark_once(first)
    rig.die(consumer)
    engine.release(consumer.owner.name, {first.token: Loss()})
    other = engine.attach(incarnation(child=2))
    deliveries = claim_all(other)
    assert [notes_of(delivery).lost for delivery in deliveries] == ["once", None]
    other.close()


def test_the_mark_of_a_kill_outranks_once(engine: Engine, consumer: Consumer, rig: Rig) -> None:
    engine.publish([pub("a")])
    (first,) = claim(consumer)
    assert consumer.mark_once(first)
    rig.die(consumer)
    engine.release(consumer.owner.name, {first.token: Loss(counted=False, mark="terminated:9", task_id="a")})
    other = engine.attach(incarnation(child=2))
    assert [notes_of(delivery).lost for delivery in claim(other)] == ["terminated:9"]
    other.close()


@pytest.mark.parametrize("way", ["release", "close", "leave", "recover"])
def test_however_it_is_lost_a_message_marked_once_comes_back_marked(
    engine: Engine, rig: Rig, way: str
) -> None:
    engine.beat(node())
    consumer = engine.attach(incarnation())
    engine.publish([pub("a")])
    (first,) = claim(consumer)
    assert consumer.mark_once(first)

    def release() -> None:
        rig.die(consumer)
        engine.release(consumer.owner.name, {})

    ways: dict[str, Callable[[], object]] = {
        "release": release,
        "close": consumer.close,
        "leave": lambda: engine.leave("n"),
        "recover": lambda: engine.recover("host", always(False)),
    }
    ways[way]()
    other = engine.attach(incarnation("m"))
    assert [notes_of(delivery).lost for delivery in claim(other)] == ["once"]
    other.close()


def test_mark_once_tells_whether_the_lease_is_held(engine: Engine, consumer: Consumer) -> None:
    engine.publish(pubs("ab"))
    first, second = claim(consumer)
    assert consumer.mark_once(first)
    assert consumer.mark_once(first)
    settle(consumer, outcome(first))
    assert not consumer.mark_once(first)
    engine.give_back(consumer.owner.name, [("q", second.token)])
    assert not consumer.mark_once(second)
    assert settle(consumer) == []


# -- closing in order --------------------------------------------------------------------------------------


def test_close_gives_back_and_forgets(engine: Engine) -> None:
    consumer = engine.attach(incarnation())
    engine.publish(pubs("abc"))
    claim(consumer, 2)
    consumer.close()
    other = engine.attach(incarnation())  # the same name, which is free again
    deliveries = claim_all(other)
    assert ids_of(deliveries) == ["a", "b", "c"]
    assert [notes_of(delivery).deliveries for delivery in deliveries] == [0, 0, 0]
    other.close()


def test_close_without_detach_leaves_the_leases_for_release(engine: Engine) -> None:
    consumer = engine.attach(incarnation())
    engine.publish(pubs("ab"))
    first, _ = claim(consumer)
    consumer.close(detach=False)
    assert engine.depth(["q"])["q"] == Depth(leased=2)
    assert engine.release(consumer.owner.name, {first.token: Loss()}) == 2


def recover_overdue(engine: Engine, rig: Rig) -> list[Recovered]:
    """Look often, as nodes do, until somebody's lease is overdue."""
    for _ in range(100):
        rig.advance(rig.unit / 4)
        if recovered := engine.recover("here", always(True)):
            return recovered
    raise AssertionError("nobody became overdue")


# -- nodes -------------------------------------------------------------------------------------------------


def test_an_overdue_node_is_recovered(engine: Engine, rig: Rig) -> None:
    engine.recover("here", always(True))
    engine.beat(node("n", lease=2 * rig.unit))
    engine.beat(node("m", lease=1000.0))
    lost, living = engine.attach(incarnation("n", slots=2)), engine.attach(incarnation("m"))
    engine.publish(pubs("abcde"))
    held = claim(lost, 3)
    assert ids_of(claim(living, 1)) == ["d"]
    recovered = recover_overdue(engine, rig)
    assert (sum(one.messages for one in recovered), sum(one.started for one in recovered)) == (3, 2)
    assert all(one.owner.startswith("n") for one in recovered)
    with pytest.raises(Fenced):
        settle(lost, outcome(held[0], result=record("a")))
    with pytest.raises(Fenced):
        engine.beat(node("n", lease=rig.unit))
    assert engine.fetch(["a"]) == {}
    again = claim(living)
    assert ids_of(again) == ["a", "b", "c", "e"]
    assert [notes_of(delivery).deliveries for delivery in again] == [1, 1, 0, 0]


def test_a_node_that_beats_keeps_its_leases(engine: Engine, rig: Rig) -> None:
    engine.beat(node(lease=4 * rig.unit))
    consumer = engine.attach(incarnation())
    engine.publish([pub("a")])
    (delivery,) = claim(consumer)
    for _ in range(8):
        rig.advance(rig.unit)
        engine.beat(node(lease=4 * rig.unit))
        assert engine.recover("here", always(True)) == []
    assert settle(consumer, outcome(delivery)) == []


def test_after_the_store_was_away_everybody_has_a_fresh_lease(engine: Engine, rig: Rig) -> None:
    engine.recover("here", always(True))
    engine.beat(node(lease=rig.unit))
    consumer = engine.attach(incarnation())
    engine.publish([pub("a")])
    (delivery,) = claim(consumer)
    rig.advance(3 * rig.unit)  # overdue, but nobody has looked meanwhile either
    assert engine.recover("here", always(True)) == []
    engine.beat(node(lease=rig.unit))
    assert settle(consumer, outcome(delivery)) == []


def test_a_fresh_lease_is_not_for_ever(engine: Engine, rig: Rig) -> None:
    engine.beat(node(lease=rig.unit))
    consumer = engine.attach(incarnation())
    engine.publish([pub("a")])
    claim(consumer)
    recovered = recover_overdue(engine, rig)
    assert sum(one.messages for one in recovered) == 1
    assert engine.depth(["q"])["q"].ready == 1


def test_a_dead_process_on_this_host_is_recovered_at_once(engine: Engine) -> None:
    asked = []

    def alive(pid: int, started: float) -> bool:
        asked.append((pid, started))
        return pid != 13

    for node_id, host, pid in (("dead", "here", 13), ("alive", "here", 14), ("elsewhere", "there", 13)):
        engine.beat(node(node_id, host, pid))
    consumers = {name: engine.attach(incarnation(name)) for name in ("dead", "alive", "elsewhere")}
    engine.publish(pubs("abc"))
    for consumer in consumers.values():
        claim(consumer, 1)
    recovered = engine.recover("here", alive)
    assert (sum(one.messages for one in recovered), sum(one.started for one in recovered)) == (1, 1)
    assert set(asked) == {(13, 1.0), (14, 1.0)}
    assert drain(consumers["alive"]) == ["a"]
    with pytest.raises(Fenced):
        claim(consumers["dead"])
    assert claim(consumers["elsewhere"]) == []


def test_the_first_started_are_the_lowest_tokens_of_each_owner(engine: Engine) -> None:
    engine.beat(node())
    one, two = engine.attach(incarnation(child=1)), engine.attach(incarnation(child=2, slots=2))
    engine.publish(pubs("abcdef"))
    claim(one, 3)
    claim(two, 3)
    recovered = engine.recover("host", always(False))
    assert (sum(each.messages for each in recovered), sum(each.started for each in recovered)) == (6, 3)
    other = engine.attach(incarnation("m"))
    counts = {ids_of([delivery])[0]: notes_of(delivery).deliveries for delivery in claim(other)}
    assert counts == {"a": 1, "b": 0, "c": 0, "d": 1, "e": 1, "f": 0}
    other.close()


def test_recovery_is_done_once(engine: Engine) -> None:
    engine.beat(node())
    consumer = engine.attach(incarnation())
    engine.publish([pub("a")])
    claim(consumer)
    assert engine.recover("host", always(False))
    assert engine.recover("host", always(False)) == []
    assert engine.depth(["q"])["q"].ready == 1


def test_a_recovered_node_attaches_no_more(engine: Engine) -> None:
    engine.beat(node())
    engine.recover("host", always(False))
    with pytest.raises(Fenced):
        engine.attach(incarnation(epoch=2))


def test_another_engine_recovers_too(engine: Engine, rig: Rig) -> None:
    engine.beat(node())
    consumer = engine.attach(incarnation())
    engine.publish([pub("a")])
    claim(consumer)
    other = rig.open()
    assert [one.messages for one in other.recover("host", always(False))] == [1]
    with pytest.raises(Fenced):
        engine.beat(node())


def test_a_node_that_leaves_gives_everything_back_uncounted(engine: Engine) -> None:
    engine.beat(node())
    consumer = engine.attach(incarnation())
    engine.publish(pubs("ab"))
    claim(consumer)
    engine.leave("n")
    assert engine.nodes() == []
    with pytest.raises(Fenced):
        claim(consumer)
    other = engine.attach(incarnation("m"))
    deliveries = claim(other)
    assert [notes_of(delivery).deliveries for delivery in deliveries] == [0, 0]
    assert ids_of(deliveries) == ["a", "b"]
    assert engine.recover("host", always(False)) == []
    other.close()


def test_nodes_tells_of_the_living(engine: Engine, rig: Rig) -> None:
    told = node("n", lease=rig.unit)
    now = engine.beat(told)
    engine.beat(node("m", pid=2))
    nodes = {each.id: each for each in engine.nodes()}
    assert set(nodes) == {"n", "m"}
    assert nodes["n"].seen == pytest.approx(now, abs=0.01)
    nodes["n"].seen = None
    assert nodes["n"] == told
    rig.advance(1.1 * rig.unit)
    engine.beat(node("m", pid=2))
    assert [each.id for each in engine.nodes()] == ["m"]


def test_a_beat_brings_the_store_s_clock(engine: Engine, consumer: Consumer, rig: Rig) -> None:
    now = consumer.exchange([], ["q"], 0).now
    rig.advance(rig.unit)
    assert engine.beat(node()) == pytest.approx(now + rig.unit, abs=rig.unit)


def test_undecodable_bytes_survive_a_loss(engine: Engine, consumer: Consumer, rig: Rig) -> None:
    rig.inject(engine, "q", b"\xff\x00 no envelope")
    (first,) = claim(consumer)
    rig.die(consumer)
    engine.release(consumer.owner.name, {first.token: Loss()})
    other = engine.attach(incarnation(child=2))
    (again,) = claim(other)
    assert again.payload == first.payload == b"\xff\x00 no envelope"
    other.close()
