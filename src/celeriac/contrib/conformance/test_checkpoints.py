"""Checkpoints: what a running task keeps for its next delivery."""

from __future__ import annotations

from celeriac.contrib.conformance.helpers import claim, incarnation, message, outcome, pubs, settle
from celeriac.contrib.conformance.rig import Rig
from celeriac.engines.base import Consumer, Delivery, Engine, Loss, Verdict

LONG = 1000.0


def claimed(engine: Engine, consumer: Consumer) -> Delivery:
    engine.publish(pubs("a"))
    (delivery,) = claim(consumer)
    return delivery


def keep(engine: Engine, consumer: Consumer, delivery: Delivery, payload: bytes, ttl: float = LONG) -> bool:
    lease = (consumer.owner.name, delivery.queue, delivery.token)
    return engine.keep_checkpoint("a", payload, ttl, lease)


def test_the_last_one_is_kept(engine: Engine, consumer: Consumer, rig: Rig) -> None:
    delivery = claimed(engine, consumer)
    assert engine.checkpoint("a") is None
    assert keep(engine, consumer, delivery, b"one")
    assert keep(engine, consumer, delivery, b"\x00two\xff")
    assert rig.open().checkpoint("a") == b"\x00two\xff"
    assert engine.checkpoint("b") is None


def test_who_has_lost_the_lease_keeps_nothing(engine: Engine, consumer: Consumer) -> None:
    delivery = claimed(engine, consumer)
    assert keep(engine, consumer, delivery, b"one")
    engine.give_back(consumer.owner.name, [("q", delivery.token)])
    other = engine.attach(incarnation(child=2))
    (again,) = claim(other)
    assert not keep(engine, consumer, delivery, b"stale")
    assert engine.checkpoint("a") == b"one"
    assert keep(engine, other, again, b"two")
    other.close()


def test_it_outlives_retry_requeue_and_death(engine: Engine, consumer: Consumer) -> None:
    delivery = claimed(engine, consumer)
    assert keep(engine, consumer, delivery, b"one")
    settle(consumer, outcome(delivery, Verdict.DELAY, delay=0.0, message=message("a", retries=1)))
    (delivery,) = claim(consumer)
    assert engine.checkpoint("a") == b"one"
    settle(consumer, outcome(delivery, Verdict.REQUEUE))
    (delivery,) = claim(consumer)
    engine.release(consumer.owner.name, {delivery.token: Loss()})
    assert engine.checkpoint("a") == b"one"


def test_the_end_of_the_task_forgets_it(engine: Engine, consumer: Consumer) -> None:
    delivery = claimed(engine, consumer)
    assert keep(engine, consumer, delivery, b"one")
    assert settle(consumer, outcome(delivery, forget_checkpoint=True, task_id="a")) == []
    assert engine.checkpoint("a") is None


def test_a_refused_end_forgets_nothing(engine: Engine, consumer: Consumer) -> None:
    delivery = claimed(engine, consumer)
    assert keep(engine, consumer, delivery, b"one")
    engine.give_back(consumer.owner.name, [("q", delivery.token)])
    ended = outcome(delivery, forget_checkpoint=True, task_id="a")
    assert settle(consumer, ended) == [delivery.token]
    assert engine.checkpoint("a") == b"one"


def test_it_expires(engine: Engine, consumer: Consumer, rig: Rig) -> None:
    delivery = claimed(engine, consumer)
    assert keep(engine, consumer, delivery, b"one", rig.unit)
    rig.advance(1.5 * rig.unit)
    assert engine.checkpoint("a") is None


def test_without_a_lease_it_is_kept_in_any_case_and_forgotten_on_request(engine: Engine, rig: Rig) -> None:
    """As for tasks whose messages, and leases, are another store's."""
    assert engine.keep_checkpoint("a", b"1", 1000.0, None)
    assert engine.keep_checkpoint("a", b"2", 1000.0, None)
    assert rig.open().checkpoint("a") == b"2"
    assert engine.keep_checkpoint("a", b"", 0.0, None)
    rig.advance(rig.unit)
    assert engine.checkpoint("a") is None
