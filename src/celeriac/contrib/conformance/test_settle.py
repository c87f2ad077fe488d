"""Settling: every verdict, results and follow-ups in the same step, refusals, lost answers."""

from __future__ import annotations

import pytest

from celeriac.contrib.conformance.helpers import (
    claim,
    drain,
    eventually,
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
from celeriac.engines.base import Consumer, Depth, Engine, Outcome, Verdict
from celeriac.exceptions import Fenced, OperationalError
from celeriac.message import Message


def test_ack_makes_it_gone(engine: Engine, consumer: Consumer) -> None:
    engine.publish(pubs("ab"))
    first, second = claim(consumer)
    assert settle(consumer, outcome(first)) == []
    assert engine.depth(["q"])["q"] == Depth(leased=1)
    assert settle(consumer, outcome(second)) == []
    assert engine.depth(["q"])["q"] == Depth()


def test_settles_come_in_any_order(engine: Engine, consumer: Consumer) -> None:
    engine.publish(pubs("abc"))
    first, second, third = claim(consumer)
    assert settle(consumer, outcome(third), outcome(first)) == []
    assert [id_of(payload) for payload in engine.peek("q", state="leased")] == ["b"]
    assert settle(consumer, outcome(second)) == []


def test_settle_and_claim_are_one_exchange(engine: Engine, consumer: Consumer) -> None:
    engine.publish(pubs("abc"))
    (delivery,) = claim(consumer, 1)
    answer = consumer.exchange([outcome(delivery)], ["q"], 1)
    assert (ids_of(answer.deliveries), answer.refused) == (["b"], [])
    assert engine.depth(["q"])["q"]._replace(age=None) == Depth(ready=1, leased=1)


def test_outcomes_of_several_queues_settle_together(engine: Engine, consumer: Consumer) -> None:
    engine.publish([pub("a", "q1"), pub("b", "q2")])
    deliveries = claim(consumer, 5, ["q1", "q2"])
    assert settle(consumer, *[outcome(delivery) for delivery in deliveries]) == []
    assert engine.depth(["q1", "q2"]) == {"q1": Depth(), "q2": Depth()}


def test_results_of_other_tasks_are_stored_with_an_outcome(engine: Engine, consumer: Consumer) -> None:
    engine.store([record("done", value="first")])
    engine.publish(pubs("ab"))
    first, second = claim(consumer)
    others = [record("later", "FAILURE"), record("done", "FAILURE")]
    assert settle(consumer, outcome(first, records=others, result=record("a"))) == []
    found = engine.fetch(["a", "later", "done"])
    assert found["later"] == others[0].payload
    assert found["a"] == record("a").payload
    assert found["done"] == record("done", value="first").payload, "nothing replaces SUCCESS"
    assert settle(consumer, outcome(first, records=[record("refused")])) == [first.token]
    assert engine.fetch(["refused"]) == {}
    assert settle(consumer, outcome(second)) == []


# -- give back and requeue -------------------------------------------------------------------------------


def test_give_back_keeps_the_place_in_line(engine: Engine, consumer: Consumer) -> None:
    engine.publish(pubs("abcde"))
    a, b, c = claim(consumer, 3)
    settle(
        consumer, outcome(b, Verdict.GIVE_BACK), outcome(a, Verdict.GIVE_BACK), outcome(c, Verdict.GIVE_BACK)
    )
    assert drain(consumer) == ["a", "b", "c", "d", "e"]


def test_give_back_changes_nothing_in_the_envelope(engine: Engine, consumer: Consumer) -> None:
    engine.publish([pub("a")])
    (first,) = claim(consumer)
    settle(consumer, outcome(first, Verdict.GIVE_BACK))
    (second,) = claim(consumer)
    assert second.payload == first.payload
    assert second.token > first.token
    assert notes_of(second).deliveries == 0


def test_give_back_of_a_message_marked_once_clears_the_mark(engine: Engine, consumer: Consumer) -> None:
    engine.publish([pub("a")])
    (first,) = claim(consumer)
    assert consumer.mark_once(first)
    settle(consumer, outcome(first, Verdict.GIVE_BACK))
    (second,) = claim(consumer)
    assert notes_of(second).lost is None


def test_requeue_goes_to_the_back_of_its_line(engine: Engine, consumer: Consumer, rig: Rig) -> None:
    engine.publish([*pubs("abc", priority=rig.urgent), pub("d", priority=rig.lax)])
    (delivery,) = claim(consumer, 1)
    settle(consumer, outcome(delivery, Verdict.REQUEUE))
    assert drain(consumer) == ["b", "c", "a", "d"]


def test_requeue_may_bring_a_new_envelope(engine: Engine, consumer: Consumer) -> None:
    engine.publish([pub("a")])
    (delivery,) = claim(consumer)
    settle(consumer, outcome(delivery, Verdict.REQUEUE, message=message("a", retries=7)))
    (delivery,) = claim(consumer)
    assert b'"retries":7' in delivery.payload.replace(b" ", b"")


# -- delay -----------------------------------------------------------------------------------------------


def test_delay_delivers_the_old_envelope_again_later(engine: Engine, consumer: Consumer, rig: Rig) -> None:
    engine.publish(pubs("ab"))
    first, _ = claim(consumer)
    before = consumer.exchange([], ["q"], 0).now
    answer = consumer.exchange([outcome(first, Verdict.DELAY, delay=rig.unit)], ["q"], 5)
    assert answer.next_due is not None
    assert before - 0.01 <= answer.next_due - rig.unit <= answer.now + 0.01
    assert engine.depth(["q"])["q"] == Depth(delayed=1, leased=1)
    rig.advance(1.1 * rig.unit)
    (again,) = claim(consumer)
    assert again.payload == first.payload
    assert again.token > first.token


def test_delay_with_a_new_envelope_is_a_retry(engine: Engine, consumer: Consumer, rig: Rig) -> None:
    engine.publish([pub("a")])
    (first,) = claim(consumer)
    settle(consumer, outcome(first, Verdict.DELAY, message=message("a", retries=1), delay=rig.unit / 10))
    rig.advance(rig.unit)
    (again,) = claim(consumer)
    assert b'"retries":1' in again.payload.replace(b" ", b"")
    settle(consumer, outcome(again))
    assert engine.depth(["q"])["q"] == Depth()


def test_delay_until_a_due_time(engine: Engine, consumer: Consumer, rig: Rig) -> None:
    engine.publish(pubs("ab"))
    first, second = claim(consumer)
    now = consumer.exchange([], ["q"], 0).now
    answer = consumer.exchange(
        [
            outcome(first, Verdict.DELAY, due=now + 1e6),
            outcome(second, Verdict.DELAY, due=now - 5),
        ],
        ["q"],
        0,
    )
    assert answer.next_due is not None
    assert ids_of(claim(consumer)) == ["b"]
    assert consumer.exchange([], ["q"], 0).next_due == pytest.approx(now + 1e6, abs=0.01)


def test_delay_zero_is_due_at_once(engine: Engine, consumer: Consumer) -> None:
    engine.publish([pub("a")])
    (delivery,) = claim(consumer)
    settle(consumer, outcome(delivery, Verdict.DELAY, delay=0.0))
    assert ids_of(claim(consumer)) == ["a"]


def test_a_delayed_message_returns_to_its_lane(engine: Engine, consumer: Consumer, rig: Rig) -> None:
    engine.publish([pub("urgent", priority=rig.urgent), pub("lax", priority=rig.lax)])
    (delivery,) = claim(consumer, 1)
    settle(consumer, outcome(delivery, Verdict.DELAY, delay=0.0))
    assert drain(consumer) == ["urgent", "lax"]


# -- dead letters are in test_dead_letters, parking in test_coordination -----------------------------------


# -- what is stored with it ------------------------------------------------------------------------------


def test_result_and_follow_ups_are_stored_with_the_ack(engine: Engine, consumer: Consumer) -> None:
    engine.publish([pub("a")])
    (delivery,) = claim(consumer)
    result = record("a", value=5)
    refused = settle(
        consumer,
        outcome(delivery, result=result, publications=[pub("b"), pub("c", "other"), pub("d", delay=1000.0)]),
    )
    assert refused == []
    assert engine.fetch(["a"]) == {"a": result.payload}
    depths = engine.depth(["q", "other"])
    assert (depths["q"].ready, depths["q"].delayed, depths["q"].leased) == (1, 1, 0)
    assert depths["other"].ready == 1
    assert drain(consumer, ["q", "other"]) == ["b", "c"]


@pytest.mark.parametrize("verdict", list(Verdict))
def test_every_verdict_may_bring_a_result_and_follow_ups(
    engine: Engine, consumer: Consumer, verdict: Verdict
) -> None:
    engine.publish([pub("a")])
    (delivery,) = claim(consumer)
    fields = {"bucket": "b", "reason": "failed", "delay": 1000.0, "task": "t.add", "task_id": "a"}
    engine.admit("q", "b", 1000.0)
    result = record("a", "RETRY")
    assert (
        settle(consumer, outcome(delivery, verdict, result=result, publications=[pub("z", "f")], **fields))
        == []
    )
    assert engine.fetch(["a"]) == {"a": result.payload}
    assert engine.depth(["f"])["f"].ready == 1


def test_follow_ups_keep_their_order(engine: Engine, consumer: Consumer) -> None:
    engine.publish(pubs("ab"))
    first, second = claim(consumer)
    settle(consumer, outcome(first, publications=pubs("cde")), outcome(second, publications=pubs("fg")))
    assert drain(consumer) == list("cdefg")


def test_a_bad_follow_up_settles_nothing(engine: Engine, consumer: Consumer) -> None:
    engine.publish(pubs("ab"))
    first, second = claim(consumer)
    bad = pub("z")
    bad.message = Message({"id": "z", "task": "t", "x": object()}, {}, b"[]")
    with pytest.raises(Exception):  # noqa: B017 - which error is the codec's business
        settle(consumer, outcome(first), outcome(second, publications=[bad]))
    assert engine.depth(["q"])["q"] == Depth(leased=2)
    assert settle(consumer, outcome(first), outcome(second)) == []


def test_settling_does_not_replace_success(engine: Engine, consumer: Consumer) -> None:
    success = record("a", value="first")
    engine.store([success])
    engine.publish([pub("a")])
    (delivery,) = claim(consumer)
    assert settle(consumer, outcome(delivery, result=record("a", "FAILURE"), publications=[pub("b")])) == []
    assert engine.fetch(["a"]) == {"a": success.payload}
    assert drain(consumer) == ["b"]


# -- refusals --------------------------------------------------------------------------------------------


def test_a_token_settles_once(engine: Engine, consumer: Consumer) -> None:
    engine.publish([pub("a")])
    (delivery,) = claim(consumer)
    assert settle(consumer, outcome(delivery)) == []
    again = outcome(delivery, result=record("a"), publications=[pub("b")])
    assert settle(consumer, again) == [delivery.token]
    assert engine.fetch(["a"]) == {}
    assert engine.depth(["q"])["q"] == Depth()


def test_a_token_twice_in_one_exchange_settles_once(engine: Engine, consumer: Consumer) -> None:
    engine.publish([pub("a")])
    (delivery,) = claim(consumer)
    refused = settle(
        consumer, outcome(delivery, Verdict.GIVE_BACK), outcome(delivery, publications=[pub("b")])
    )
    assert refused == [delivery.token]
    assert drain(consumer) == ["a"]


@pytest.mark.parametrize("verdict", list(Verdict))
def test_a_token_that_is_not_held_changes_nothing(
    engine: Engine, consumer: Consumer, verdict: Verdict
) -> None:
    engine.publish(pubs("ab"))
    (delivery,) = claim(consumer, 1)
    wrong = Outcome(
        delivery.token + 1000,
        "q",
        verdict,
        result=record("a"),
        publications=[pub("z")],
        message=message("a"),
        delay=0.0,
        bucket="b",
        reason="failed",
    )
    assert settle(consumer, wrong) == [delivery.token + 1000]
    assert engine.fetch(["a"]) == {}
    assert engine.depth(["q"])["q"]._replace(age=None) == Depth(ready=1, leased=1)
    assert engine.dead_letters() == []


def test_nobody_settles_another_s_message(engine: Engine, consumer: Consumer) -> None:
    other = engine.attach(incarnation(child=2))
    engine.publish([pub("a")])
    (delivery,) = claim(consumer)
    assert settle(other, outcome(delivery, result=record("a"))) == [delivery.token]
    assert engine.fetch(["a"]) == {}
    assert settle(consumer, outcome(delivery)) == []
    other.close()


def test_a_token_of_another_queue_is_refused(engine: Engine, consumer: Consumer) -> None:
    engine.publish([pub("a", "q1"), pub("b", "q2")])
    first, second = claim(consumer, 2, ["q1", "q2"])
    assert settle(consumer, Outcome(first.token, "q2")) == [first.token]
    assert settle(consumer, outcome(first), outcome(second)) == []


def test_one_refusal_does_not_keep_the_others_from_settling(engine: Engine, consumer: Consumer) -> None:
    engine.publish(pubs("abc"))
    first, second, third = claim(consumer)
    settle(consumer, outcome(second))
    assert settle(consumer, outcome(first), outcome(second), outcome(third)) == [second.token]
    assert engine.depth(["q"])["q"] == Depth()


def test_what_the_agent_gave_back_its_owner_cannot_settle(engine: Engine, consumer: Consumer) -> None:
    engine.publish(pubs("abc"))
    first, second, third = claim(consumer)
    assert engine.give_back(consumer.owner.name, [("q", third.token), ("q", second.token)]) == 2
    answer = consumer.exchange([outcome(first), outcome(second, result=record("b"))], ["q"], 0)
    assert answer.refused == [second.token]
    assert engine.fetch(["b"]) == {}
    assert drain(consumer) == ["b", "c"]


def test_what_its_owner_has_settled_the_agent_cannot_give_back(engine: Engine, consumer: Consumer) -> None:
    engine.publish(pubs("ab"))
    first, second = claim(consumer)
    settle(consumer, outcome(second))
    assert engine.give_back(consumer.owner.name, [("q", second.token)]) == 0
    assert engine.give_back("n:9:9", [("q", first.token)]) == 0
    assert engine.depth(["q"])["q"] == Depth(leased=1)


# -- lost answers ----------------------------------------------------------------------------------------


def test_a_claim_whose_answer_is_lost_is_answered_again(engine: Engine, consumer: Consumer, rig: Rig) -> None:
    engine.publish(pubs("abc"))
    rig.lose_next_reply(consumer)
    with pytest.raises(OperationalError):
        claim(consumer, 2)
    answer = consumer.repeat()
    assert ids_of(answer.deliveries) == ["a", "b"]
    assert engine.depth(["q"])["q"].leased == 2
    assert settle(consumer, *[outcome(delivery) for delivery in answer.deliveries]) == []
    assert drain(consumer) == ["c"]


def test_a_claim_that_never_arrived_is_carried_out_by_its_repeat(
    engine: Engine, consumer: Consumer, rig: Rig
) -> None:
    engine.publish(pubs("abc"))
    rig.lose_next_request(consumer)
    with pytest.raises(OperationalError):
        claim(consumer, 2)
    assert engine.depth(["q"])["q"].leased == 0
    assert ids_of(consumer.repeat().deliveries) == ["a", "b"]
    assert ids_of(claim(consumer)) == ["c"]


def test_a_settle_whose_answer_is_lost_takes_effect_once(
    engine: Engine, consumer: Consumer, rig: Rig
) -> None:
    engine.publish(pubs("ab"))
    (delivery,) = claim(consumer, 1)
    rig.lose_next_reply(consumer)
    with pytest.raises(OperationalError):
        consumer.exchange([outcome(delivery, result=record("a"), publications=[pub("c")])], ["q"], 1)
    answer = consumer.repeat()
    assert (ids_of(answer.deliveries), answer.refused) == (["b"], [])
    settle(consumer, outcome(answer.deliveries[0]))
    assert drain(consumer) == ["c"]


def test_a_settle_that_never_arrived_is_carried_out_by_its_repeat(
    engine: Engine, consumer: Consumer, rig: Rig
) -> None:
    engine.publish([pub("a")])
    (delivery,) = claim(consumer)
    rig.lose_next_request(consumer)
    with pytest.raises(OperationalError):
        settle(consumer, outcome(delivery, publications=[pub("b")]))
    assert consumer.repeat().refused == []
    assert drain(consumer) == ["b"]


def test_the_repeat_s_answer_may_be_lost_as_well(engine: Engine, consumer: Consumer, rig: Rig) -> None:
    engine.publish(pubs("ab"))
    for _ in range(3):
        rig.lose_next_reply(consumer)
        with pytest.raises(OperationalError):
            claim(consumer, 1) if engine.depth(["q"])["q"].leased == 0 else consumer.repeat()
    assert ids_of(consumer.repeat().deliveries) == ["a"]
    assert ids_of(claim(consumer)) == ["b"]


def test_a_repeated_answer_names_the_refused_tokens_again(
    engine: Engine, consumer: Consumer, rig: Rig
) -> None:
    engine.publish([pub("a")])
    (delivery,) = claim(consumer)
    settle(consumer, outcome(delivery))
    rig.lose_next_reply(consumer)
    with pytest.raises(OperationalError):
        settle(consumer, outcome(delivery))
    assert consumer.repeat().refused == [delivery.token]


def test_a_retry_whose_answer_is_lost_is_delayed_once(engine: Engine, consumer: Consumer, rig: Rig) -> None:
    engine.publish([pub("a")])
    (delivery,) = claim(consumer)
    rig.lose_next_reply(consumer)
    with pytest.raises(OperationalError):
        settle(consumer, outcome(delivery, Verdict.DELAY, message=message("a", retries=1), delay=1000.0))
    assert consumer.repeat().refused == []
    assert engine.depth(["q"])["q"] == Depth(delayed=1)


def test_an_owner_lost_before_its_repeat_is_fenced(engine: Engine, consumer: Consumer, rig: Rig) -> None:
    engine.publish(pubs("ab"))
    rig.lose_next_reply(consumer)
    with pytest.raises(OperationalError):
        claim(consumer, 2)
    assert engine.release(consumer.owner.name, {}) == 2
    with pytest.raises(Fenced):
        consumer.repeat()
    assert engine.depth(["q"])["q"].ready == 2


def test_exchanges_go_on_after_a_repeat(engine: Engine, consumer: Consumer, rig: Rig) -> None:
    engine.publish(pubs("abcd"))
    got = []
    for lose in (rig.lose_next_reply, rig.lose_next_request, rig.lose_next_reply, rig.lose_next_request):
        lose(consumer)
        with pytest.raises(OperationalError):
            claim(consumer, 1)
        got += ids_of(consumer.repeat().deliveries)
    assert got == ["a", "b", "c", "d"]


# -- states of other tasks ---------------------------------------------------------------------------------


def test_states_of_other_tasks_are_stored_in_the_same_step(engine: Engine, consumer: Consumer) -> None:
    engine.publish(pubs("a"))
    (delivery,) = claim(consumer)
    seen: list[str] = []
    subscription = engine.subscribe(["c"], lambda task_id, payload: seen.append(task_id))
    others = [record("b", "FAILURE"), record("c", "FAILURE")]
    settle(consumer, outcome(delivery, result=record("a", "FAILURE"), records=others))
    assert set(engine.fetch(["a", "b", "c"])) == {"a", "b", "c"}
    eventually(lambda: seen)
    subscription.close()


def test_a_refused_outcome_stores_no_states_of_others(engine: Engine, consumer: Consumer) -> None:
    engine.publish(pubs("a"))
    (delivery,) = claim(consumer)
    engine.give_back(consumer.owner.name, [("q", delivery.token)])
    assert settle(consumer, outcome(delivery, records=[record("b")])) == [delivery.token]
    assert engine.fetch(["b"]) == {}


def test_states_of_other_tasks_replace_no_success(engine: Engine, consumer: Consumer) -> None:
    engine.store([record("b")])
    engine.publish(pubs("a"))
    (delivery,) = claim(consumer)
    settle(consumer, outcome(delivery, records=[record("b", "FAILURE")]))
    assert b"SUCCESS" in engine.fetch(["b"])["b"]
