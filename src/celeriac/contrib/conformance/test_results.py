"""Results: stored, fetched, never replacing success, expiring, fenced, announced."""

from __future__ import annotations

import threading

import pytest

from celeriac.contrib.conformance.helpers import claim, eventually, incarnation, outcome, pub, record, settle
from celeriac.contrib.conformance.rig import Rig
from celeriac.engines.base import Consumer, Engine
from celeriac.engines.results import Presence


class Heard:
    """A subscriber's ears."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, bytes]] = []
        self.threads: set[threading.Thread] = set()

    def __call__(self, task_id: str, payload: bytes) -> None:
        self.threads.add(threading.current_thread())
        self.calls.append((task_id, payload))

    def latest(self) -> dict[str, bytes]:
        return dict(self.calls)


def test_a_state_is_fetched_as_it_was_stored(engine: Engine) -> None:
    one, two = record("a", value="zażółć \x00"), record("b", "FAILURE")
    two.payload = bytes(range(256)) * 300
    assert engine.store([one, two]) == []
    assert engine.fetch(["a", "b", "c"]) == {"a": one.payload, "b": two.payload}
    assert engine.fetch([]) == {}


def test_states_are_stored_in_order(engine: Engine) -> None:
    states = [record("a", state) for state in ("RECEIVED", "STARTED", "PROGRESS", "FAILURE", "RETRY")]
    assert engine.store(states) == []
    assert engine.fetch(["a"]) == {"a": states[-1].payload}


@pytest.mark.parametrize("state", ["STARTED", "FAILURE", "REVOKED", "SUCCESS"])
def test_nothing_replaces_success(engine: Engine, state: str) -> None:
    success = record("a", value="first")
    engine.store([success])
    assert engine.store([record("b"), record("a", state, value="second"), record("c")]) == ["a"]
    assert engine.fetch(["a"]) == {"a": success.payload}
    assert set(engine.fetch(["a", "b", "c"])) == {"a", "b", "c"}


def test_success_replaces_failure(engine: Engine) -> None:
    engine.store([record("a", "FAILURE")])
    success = record("a")
    assert engine.store([success]) == []
    assert engine.fetch(["a"]) == {"a": success.payload}


def test_success_in_one_batch_holds(engine: Engine) -> None:
    success = record("a")
    assert engine.store([success, record("a", "FAILURE")]) == ["a"]
    assert engine.fetch(["a"]) == {"a": success.payload}


def test_a_big_batch_of_results(engine: Engine) -> None:
    ids = [f"id-{number}" for number in range(5000)]
    assert engine.store([record(task_id, ttl=1000.0) for task_id in ids]) == []
    assert set(engine.fetch(ids)) == set(ids)
    engine.forget(ids)
    assert engine.fetch(ids) == {}


def test_results_expire_and_leave_a_tombstone(rig: Rig) -> None:
    engine = rig.open(result_tombstone_expires=1000.0)
    engine.store([record("a", ttl=rig.unit), record("b", ttl=1000.0), record("c")])
    rig.advance(1.2 * rig.unit)
    assert set(engine.fetch(["a", "b", "c"])) == {"b", "c"}
    expected = {"a": Presence.EXPIRED, "b": Presence.KNOWN, "c": Presence.KNOWN, "d": Presence.UNKNOWN}
    assert engine.presence(["a", "b", "c", "d"]) == expected
    assert engine.cleanup() >= 0
    assert engine.presence(["a", "b", "c", "d"]) == expected
    assert engine.cleanup() == 0


def test_tombstones_are_forgotten_in_time(rig: Rig) -> None:
    engine = rig.open(result_tombstone_expires=rig.unit)
    engine.store([record("a", ttl=rig.unit)])
    rig.advance(2.4 * rig.unit)
    engine.cleanup()
    assert engine.presence(["a"]) == {"a": Presence.UNKNOWN}


def test_an_expired_success_may_be_replaced(engine: Engine, rig: Rig) -> None:
    engine.store([record("a", ttl=rig.unit)])
    rig.advance(1.2 * rig.unit)
    again = record("a", "STARTED")
    assert engine.store([again]) == []
    assert engine.fetch(["a"]) == {"a": again.payload}
    assert engine.presence(["a"]) == {"a": Presence.KNOWN}


def test_a_settle_replaces_an_expired_success(engine: Engine, consumer: Consumer, rig: Rig) -> None:
    engine.store([record("a", ttl=rig.unit)])
    engine.publish([pub("a")])
    (delivery,) = claim(consumer)
    rig.advance(1.2 * rig.unit)
    again = record("a", "FAILURE")
    assert settle(consumer, outcome(delivery, result=again)) == []
    assert engine.fetch(["a"]) == {"a": again.payload}


def test_a_later_state_renews_the_expiry(engine: Engine, rig: Rig) -> None:
    engine.store([record("a", "STARTED", ttl=rig.unit)])
    engine.store([record("a", ttl=1000.0)])
    engine.store([record("b", "STARTED", ttl=rig.unit)])
    engine.store([record("b", ttl=None)])
    rig.advance(1.2 * rig.unit)
    assert set(engine.fetch(["a", "b"])) == {"a", "b"}


def test_forget(engine: Engine) -> None:
    engine.store([record("a"), record("b")])
    engine.forget(["a", "unknown"])
    assert set(engine.fetch(["a", "b"])) == {"b"}
    assert engine.presence(["a"]) == {"a": Presence.UNKNOWN}
    assert engine.store([record("a", "STARTED")]) == []


def test_presence_of_a_queued_task(engine: Engine, consumer: Consumer, rig: Rig) -> None:
    engine.publish(
        [pub("a", track=1000.0), pub("b"), pub("c", track=1000.0, delay=500.0), pub("d", track=rig.unit)]
    )
    rig.advance(1.2 * rig.unit)
    assert engine.presence(["a", "b", "c", "d"]) == {
        "a": Presence.QUEUED,
        "b": Presence.UNKNOWN,
        "c": Presence.QUEUED,
        "d": Presence.UNKNOWN,
    }
    delivery = claim(consumer, 1)[0]
    settle(consumer, outcome(delivery, result=record("a")))
    assert engine.presence(["a"]) == {"a": Presence.KNOWN}


def test_a_result_that_expired_outranks_that_the_task_was_queued(engine: Engine, rig: Rig) -> None:
    engine.publish([pub("a", track=1000.0)])
    engine.store([record("a", ttl=rig.unit)])
    rig.advance(1.2 * rig.unit)
    assert engine.presence(["a"]) == {"a": Presence.EXPIRED}


def test_a_tracked_task_has_no_result(engine: Engine) -> None:
    engine.publish([pub("a", track=1000.0)])
    assert engine.fetch(["a"]) == {}


def test_results_survive(rig: Rig) -> None:
    engine = rig.open()
    one = record("a")
    engine.store([one])
    engine.close()
    assert rig.open().fetch(["a"]) == {"a": one.payload}


# -- fencing -----------------------------------------------------------------------------------------------


def test_a_state_under_a_lease_is_stored_only_while_it_is_held(engine: Engine, consumer: Consumer) -> None:
    engine.publish([pub("a")])
    (delivery,) = claim(consumer)
    lease = (consumer.owner.name, "q", delivery.token)
    progress = record("a", "PROGRESS", lease=lease)
    assert engine.store([progress]) == []
    assert engine.fetch(["a"]) == {"a": progress.payload}
    for wrong in (("n:9:9", "q", delivery.token), (lease[0], "other", lease[2]), (*lease[:2], lease[2] + 1)):
        assert engine.store([record("a", "STARTED", lease=wrong)]) == ["a"]
    engine.release(consumer.owner.name, {})
    assert engine.store([record("a", "LATE", lease=lease), record("b")]) == ["a"]
    assert engine.fetch(["a"]) == {"a": progress.payload}


def test_a_refused_state_is_not_announced(engine: Engine, consumer: Consumer) -> None:
    heard = Heard()
    subscription = engine.subscribe(["a", "b"], heard)
    assert engine.store([record("a", "STARTED", lease=("n:1:1", "q", 1)), record("b")]) == ["a"]
    eventually(lambda: "b" in heard.latest())
    assert "a" not in heard.latest()
    subscription.close()


# -- subscriptions -----------------------------------------------------------------------------------------


def test_a_subscriber_hears_what_is_stored_already(engine: Engine) -> None:
    one = record("a")
    engine.store([one])
    heard = Heard()
    subscription = engine.subscribe(["a", "b"], heard)
    eventually(lambda: heard.latest() == {"a": one.payload})
    subscription.close()


def test_a_subscriber_hears_what_is_stored_later(engine: Engine, rig: Rig) -> None:
    heard = Heard()
    subscription = engine.subscribe(["a", "b"], heard)
    one, two = record("a"), record("b", "FAILURE")
    engine.store([one])
    rig.open().store([two, record("c")])  # another engine, as in another process
    eventually(lambda: heard.latest() == {"a": one.payload, "b": two.payload})
    assert threading.current_thread() not in heard.threads
    subscription.close()


def test_a_subscriber_hears_results_quickly_and_not_by_the_slow_poll(engine: Engine, rig: Rig) -> None:
    heard = Heard()
    subscription = engine.subscribe([f"id-{number}" for number in range(6)], heard)
    other = rig.open()
    for number in range(6):
        other.store([record(f"id-{number}")])
        eventually(lambda: f"id-{number}" in heard.latest(), timeout=0.7)  # noqa: B023 - called at once
    subscription.close()


def test_a_subscriber_hears_what_is_settled(engine: Engine, consumer: Consumer, rig: Rig) -> None:
    heard = Heard()
    subscription = rig.open().subscribe(["a"], heard)
    engine.publish([pub("a")])
    (delivery,) = claim(consumer)
    result = record("a")
    settle(consumer, outcome(delivery, result=result))
    eventually(lambda: heard.latest() == {"a": result.payload})
    subscription.close()


def test_a_subscriber_hears_the_newest_state(engine: Engine) -> None:
    heard = Heard()
    subscription = engine.subscribe(["a"], heard)
    newest = record("a")
    engine.store([record("a", "STARTED"), record("a", "PROGRESS")])
    engine.store([newest])
    eventually(lambda: heard.latest() == {"a": newest.payload})
    assert heard.calls[-1] == ("a", newest.payload)
    subscription.close()


def test_a_big_payload_reaches_its_subscriber(engine: Engine, rig: Rig) -> None:
    heard = Heard()
    subscription = engine.subscribe(["a"], heard)
    big = record("a", value="x" * 1_000_000)
    rig.open().store([big])
    eventually(lambda: heard.latest() == {"a": big.payload})
    subscription.close()


def test_one_subscription_may_wait_for_many(engine: Engine, rig: Rig) -> None:
    ids = [f"id-{number}" for number in range(2000)]
    heard = Heard()
    subscription = engine.subscribe(iter(ids), heard)
    rig.open().store([record(task_id) for task_id in ids])
    eventually(lambda: len(heard.latest()) == 2000)
    subscription.close()


def test_two_subscribers_of_one_id_both_hear(engine: Engine) -> None:
    one, two = Heard(), Heard()
    subscriptions = [engine.subscribe(["a"], one), engine.subscribe(["a"], two)]
    engine.store([record("a", "STARTED")])
    eventually(lambda: one.calls and two.calls)
    subscriptions[0].close()
    engine.store([record("a")])
    eventually(lambda: two.latest()["a"] == record("a").payload)
    assert one.latest()["a"] != record("a").payload
    subscriptions[1].close()


def test_a_closed_subscription_hears_no_more(engine: Engine) -> None:
    closed, witness = Heard(), Heard()
    subscription = engine.subscribe(["a"], closed)
    subscription.close()
    subscription.close()
    still = engine.subscribe(["a"], witness)
    engine.store([record("a")])
    eventually(lambda: witness.calls)
    assert closed.calls == []
    still.close()


def test_subscribing_to_nothing_is_allowed(engine: Engine) -> None:
    engine.subscribe([], Heard()).close()


def test_the_reply_address_is_told_as_well(engine: Engine, consumer: Consumer, rig: Rig) -> None:
    heard = Heard()
    client = rig.open()
    reply = client.reply_address()
    assert reply == client.reply_address()
    subscription = client.subscribe(["a", "b"], heard)
    engine.publish([pub("a")])
    (delivery,) = claim(consumer)
    settle(consumer, outcome(delivery, result=record("a", reply=reply)))
    engine.store([record("b", reply=reply)])
    eventually(lambda: set(heard.latest()) == {"a", "b"})
    subscription.close()


def test_a_reply_address_nobody_listens_at_does_no_harm(engine: Engine) -> None:
    assert engine.store([record("a", reply="celeriac:reply:gone")]) == []
    assert set(engine.fetch(["a"])) == {"a"}


def test_a_subscription_outlives_its_first_result(engine: Engine) -> None:
    heard = Heard()
    subscription = engine.subscribe(["a", "b"], heard)
    engine.store([record("a")])
    eventually(lambda: "a" in heard.latest())
    engine.store([record("b")])
    eventually(lambda: "b" in heard.latest())
    subscription.close()


def test_an_engine_closes_with_subscriptions_open(rig: Rig) -> None:
    engine = rig.open()
    engine.subscribe(["a"], Heard())
    engine.close()
    consumer = rig.open().attach(incarnation())
    consumer.close()
