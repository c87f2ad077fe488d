"""The history: attempts stored with the settle they belong to, found again page by page, bounded."""

from __future__ import annotations

import msgspec
import pytest

from celeriac.contrib.conformance.helpers import (
    claim,
    id_of,
    incarnation,
    message,
    outcome,
    pub,
    pubs,
    record,
    settle,
)
from celeriac.contrib.conformance.rig import Rig
from celeriac.engines.attempts import PACK
from celeriac.engines.base import Consumer, Engine, Verdict
from celeriac.engines.history import Attempt, HistoryStore, Wanted
from celeriac.exceptions import OperationalError

NOW = 1_000_000.0


def attempt(task_id: str, **fields: object) -> Attempt:
    """An attempt of the task ``t.add`` that ended at ``NOW``."""
    made = Attempt(task_id, "t.add", "SUCCESS", "q", "celery@n", NOW)
    return msgspec.structs.replace(made, **fields)


def ids(history: HistoryStore, limit: int = 100, **wanted: object) -> list[str]:
    """The ids of the attempts that fit, newest first, of all pages."""
    found, cursor = history.attempts(Wanted(**wanted), limit)  # type: ignore[arg-type]
    names = [one.id for one in found]
    while cursor:
        found, cursor = history.attempts(Wanted(**wanted), limit, cursor)  # type: ignore[arg-type]
        assert found
        names += [one.id for one in found]
    return names


def test_an_attempt_is_stored_with_its_settle_as_it_is(engine: Engine, consumer: Consumer) -> None:
    assert isinstance(engine, HistoryStore)
    engine.publish(pubs("a"))
    (delivery,) = claim(consumer)
    whole = Attempt(
        "a", "t.add", "FAILURE", "q", "celery@n", NOW, NOW - 3, NOW - 2, 2.0, 1, 2, 4711,
        "(1, 'é\udc80')", "{'x': 1}", "3", "ValueError: x", "root", "parent", "group",
    )  # fmt: skip
    assert settle(consumer, outcome(delivery, attempt=whole)) == []
    found, cursor = engine.attempts(Wanted())
    whole.args = whole.args.replace("\udc80", "?")
    assert (found, cursor) == ([whole], "")


@pytest.mark.parametrize("verdict", [Verdict.ACK, Verdict.DELAY, Verdict.DEAD, Verdict.REQUEUE])
def test_every_ending_may_bring_one(engine: Engine, consumer: Consumer, verdict: Verdict) -> None:
    engine.publish(pubs("a"))
    (delivery,) = claim(consumer)
    end = outcome(
        delivery, verdict, attempt=attempt("a"), result=record("a"), reason="failed", task_id="a", delay=5.0
    )
    assert settle(consumer, end) == []
    assert ids(engine) == ["a"]


def test_some_of_an_exchange_bring_one(engine: Engine, consumer: Consumer) -> None:
    engine.publish(pubs("abcdefgh"))
    ends = [outcome(each) for each in claim(consumer)]
    for end, name in zip(ends, "abcdefgh", strict=True):
        if name not in "bcg":
            end.attempt = attempt(name)
    ends[1].verdict = Verdict.GIVE_BACK
    settle(consumer, *ends)
    assert sorted(ids(engine)) == list("adefh")


@pytest.mark.parametrize("names", ["ab", "abcdefgh"])
def test_a_refused_outcome_leaves_none(engine: Engine, consumer: Consumer, names: str) -> None:
    engine.publish(pubs(names))
    deliveries = claim(consumer)
    settle(consumer, outcome(deliveries[1]))
    ends = [outcome(each, attempt=attempt(id_of(each.payload)), result=record("x")) for each in deliveries]
    assert settle(consumer, *ends) == [deliveries[1].token]
    assert ids(engine) == [name for name in reversed(names) if name != "b"]
    assert settle(consumer, *ends) == [each.token for each in deliveries]
    assert len(ids(engine)) == len(names) - 1


def test_a_refused_outcome_among_those_that_take_more_leaves_none(engine: Engine, consumer: Consumer) -> None:
    engine.publish(pubs("abcdef"))
    deliveries = claim(consumer)
    settle(consumer, outcome(deliveries[0]))
    ends = [outcome(each, attempt=attempt(id_of(each.payload))) for each in deliveries]
    ends[-1].verdict, ends[-1].message = Verdict.DELAY, message("f")
    ends[-1].delay = 5.0
    settle(consumer, *ends)
    assert sorted(ids(engine)) == list("bcdef")


def test_a_repeated_exchange_stores_it_once(rig: Rig, engine: Engine, consumer: Consumer) -> None:
    engine.publish(pubs("abcde"))
    ends = [outcome(each, attempt=attempt(id_of(each.payload))) for each in claim(consumer)]
    rig.lose_next_reply(consumer)
    with pytest.raises(OperationalError):
        settle(consumer, *ends)
    consumer.repeat()
    assert ids(engine) == list("edcba")


def test_more_than_fit_into_one_row(engine: Engine, consumer: Consumer) -> None:
    names = [f"t{number}" for number in range(2 * PACK + 5)]
    engine.publish([pub(name) for name in names])
    ends = []
    while found := claim(consumer):
        ends += [outcome(each, attempt=attempt(id_of(each.payload))) for each in found]
    settle(consumer, *ends)
    assert ids(engine) == names[::-1]
    assert ids(engine, 7) == names[::-1]
    assert ids(engine, id="t3") == ["t3"]


def test_it_goes_with_results_where_they_are_stored_apart(engine: Engine) -> None:
    assert engine.store([record("a")], [attempt("a"), attempt("b")]) == []
    assert engine.store([], [attempt("c")]) == []
    assert ids(engine) == ["c", "b", "a"]
    assert "a" in engine.fetch(["a"])


@pytest.mark.parametrize("together", [1, 40])
def test_what_is_wanted_is_found(engine: Engine, together: int) -> None:
    kept = [
        attempt(
            f"id{number}",
            task="t.other" if number % 3 == 0 else "t.add",
            state=("SUCCESS", "RETRY", "FAILURE", "REVOKED")[number % 4],
            worker=f"celery@{number % 5}",
            queue="q" if number % 2 else "p",
            args="t.mul" if number == 7 else "",
        )
        for number in range(40)
    ]
    for start in range(0, 40, together):
        engine.note_attempts(kept[start : start + together])

    def of(test: object) -> list[str]:
        return [one.id for one in reversed(kept) if test(one)]  # type: ignore[operator]

    assert ids(engine) == of(lambda one: True)
    assert ids(engine, 9, task="t.other") == of(lambda one: one.task == "t.other")
    assert ids(engine, task="t.mul") == []
    assert ids(engine, states=["RETRY", "FAILURE"]) == of(lambda one: one.state in ("RETRY", "FAILURE"))
    assert ids(engine, 2, worker="celery@3", queue="p") == of(
        lambda one: one.worker == "celery@3" and one.queue == "p"
    )
    assert ids(engine, id="id17") == ["id17"]
    assert ids(engine, id="id17", states=["SUCCESS"]) == []
    assert ids(engine, id="id") == []


def test_all_attempts_of_one_task_are_found(engine: Engine) -> None:
    engine.note_attempts([attempt("a", state="RETRY"), attempt("b")])
    engine.note_attempts([attempt(name, state="RETRY") for name in "acdefg"])
    engine.note_attempts([attempt("a")])
    found, _ = engine.attempts(Wanted(id="a"))
    assert [one.state for one in found] == ["SUCCESS", "RETRY", "RETRY"]


def test_a_time_is_when_they_ended(rig: Rig, engine: Engine, consumer: Consumer) -> None:
    engine.publish(pubs("a"))
    now = consumer.exchange([], ["q"], 0).now
    engine.note_attempts([attempt(f"{ago}", ended=now - ago) for ago in (30, 20, 10)])
    engine.note_attempts([attempt(f"{ago}", ended=now - ago) for ago in (5, 4, 3, 2, 1)])
    assert ids(engine, since=now - 10.5) == ["1", "2", "3", "4", "5", "10"]
    assert ids(engine, until=now - 4.5) == ["5", "10", "20", "30"]
    assert ids(engine, 1, since=now - 20.5, until=now - 4.5) == ["5", "10", "20"]
    assert ids(engine, since=now + 10) == []
    assert ids(engine, until=now - 90_000) == []


def test_what_comes_meanwhile_does_not_disturb_the_pages(engine: Engine) -> None:
    engine.note_attempts([attempt(f"id{number}") for number in range(10)])
    first, cursor = engine.attempts(Wanted(), 4)
    engine.note_attempts([attempt("new"), attempt("newer")])
    second, cursor = engine.attempts(Wanted(), 4, cursor)
    third, end = engine.attempts(Wanted(), 4, cursor)
    assert [one.id for one in [*first, *second, *third]] == [f"id{number}" for number in range(9, -1, -1)]
    assert end == ""
    with pytest.raises(ValueError, match="page"):
        engine.attempts(Wanted(), 4, "here")


def test_it_is_bounded_by_number(engine: Engine) -> None:
    names = [f"id{number}" for number in range(200)]
    for start in range(0, 100, 50):
        engine.note_attempts([attempt(name, ended=4e9) for name in names[start : start + 50]])
    for name in names[100:]:
        engine.note_attempts([attempt(name, ended=4e9)])
    assert engine.prune_history(40, 1000.0) == 160
    assert ids(engine) == names[:159:-1]
    assert engine.prune_history(40, 1000.0) == 0
    engine.note_attempts([attempt("new", ended=4e9)])
    assert engine.prune_history(40, 1000.0) == 1
    assert ids(engine)[::39] == ["new", "id161"]


def test_a_row_goes_with_its_last_attempt(engine: Engine) -> None:
    engine.note_attempts([attempt(f"id{number}", ended=4e9) for number in range(20)])
    engine.prune_history(15, 1000.0)
    assert 15 <= len(ids(engine)) <= 20
    engine.note_attempts([attempt(f"new{number}", ended=4e9) for number in range(20)])
    engine.prune_history(15, 1000.0)
    assert 15 <= len(ids(engine)) <= 20


def test_it_is_bounded_by_age(rig: Rig, engine: Engine, consumer: Consumer) -> None:
    now = consumer.exchange([], ["q"], 0).now
    engine.note_attempts([attempt(name, ended=now) for name in "abcdef"])
    engine.note_attempts([attempt("g", ended=now)])
    rig.advance(4 * rig.unit)
    engine.note_attempts([attempt("h", ended=now + 4 * rig.unit)])
    assert engine.prune_history(1000, 3 * rig.unit) == 7
    assert ids(engine) == ["h"]
    assert engine.prune_history(1000, 1000.0) == 0


def test_the_bound_of_the_options_is_the_engine_s(rig: Rig) -> None:
    assert rig.open().history_max > 1000


def test_attempts_outlive_their_message_and_worker(rig: Rig, engine: Engine) -> None:
    consumer = engine.attach(incarnation("m"))
    engine.publish(pubs("a"))
    (delivery,) = claim(consumer)
    settle(consumer, outcome(delivery, attempt=attempt("a")))
    consumer.close()
    engine.purge(["q"])
    assert ids(rig.open()) == ["a"]
