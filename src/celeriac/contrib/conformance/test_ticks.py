"""Ticks: that each is fired once, by who leads, and that all engines answer alike."""

from __future__ import annotations

import random
import threading
import uuid
from collections import Counter
from collections.abc import Iterable
from copy import deepcopy
from functools import partial
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from celeriac.contrib.conformance.helpers import drain, incarnation
from celeriac.contrib.conformance.rig import Rig
from celeriac.contrib.conformance.test_concurrency import run
from celeriac.contrib.conformance.timing import DUE, LONG, bare, entry, overlapping, put, stored, take, tick
from celeriac.engines import create
from celeriac.engines.base import Consumer, Depth, Engine, Publication
from celeriac.engines.results import Presence
from celeriac.engines.schedule import Schedule, Term
from celeriac.exceptions import Fenced

# -- a stale term ------------------------------------------------------------------------------------------


def stale_terms(engine: Engine, rig: Rig) -> Iterable[Term]:
    """Terms that are not the current one, each while another state holds."""
    yield Term("one", 1, 0.0, 0.0)  # nobody has ever led
    first = take(engine, ttl=rig.unit)
    rig.advance(1.2 * rig.unit)
    yield first  # over, and nobody has followed
    second = take(engine, "two")
    yield first
    yield Term("one", second.token, second.expires, second.now)
    yield Term("two", second.token + 1, second.expires, second.now)
    engine.resign("two")
    yield second
    take(engine, "two")
    yield second


def test_a_stale_term_changes_nothing(engine: Engine, rig: Rig, consumer: Consumer) -> None:
    put(engine, "e")
    before = engine.schedule()
    count = 0
    for term in stale_terms(engine, rig):
        for use in (
            lambda: engine.fire(term, [tick()]),  # noqa: B023
            lambda: engine.fire(term, [bare()]),  # noqa: B023
            lambda: engine.fire(term, []),  # noqa: B023
            lambda: engine.put_entries([entry("new"), entry("e", b"new")], term),  # noqa: B023
            lambda: engine.remove_entries(["e"], term),  # noqa: B023
        ):
            with pytest.raises(Fenced, match="lead"):
                use()
        assert engine.schedule() == before
        count += 1
    assert count == 7
    assert drain(consumer) == []


def test_a_renewed_term_is_the_same_one(engine: Engine, consumer: Consumer) -> None:
    term = take(engine)
    take(engine)
    engine.put_entries([entry(), entry("other")], term)
    assert engine.remove_entries(["other"], term) == 1
    assert engine.fire(term, [tick()]) == {}
    assert drain(consumer) == ["e@0"]


# -- firing ------------------------------------------------------------------------------------------------


def test_a_tick_is_marked_and_its_message_published(engine: Engine, consumer: Consumer, rig: Rig) -> None:
    put(engine, "e")
    version = engine.schedule_version()
    term = take(engine)
    rig.advance(rig.unit)
    assert engine.fire(term, [tick()]) == {}
    kept = stored(engine)["e"]
    assert (kept.last_due, kept.last_id, kept.runs, kept.skipped) == (DUE, "e@0", 1, 0)
    assert kept.last_run is not None
    assert kept.last_run >= term.now + rig.unit
    assert engine.schedule_version() == version, "ticks are no change"
    assert engine.queues() == ["q"]
    assert drain(consumer) == ["e@0"]


def test_a_tick_is_fired_once(engine: Engine, consumer: Consumer) -> None:
    put(engine, "e")
    term = take(engine)
    assert engine.fire(term, [tick(due=DUE + 1)]) == {}
    for due in (DUE + 1, DUE + 0.999999, DUE):
        assert engine.fire(term, [tick(due=due)]) == {"e": "done"}
        assert engine.fire(term, [bare(due=due)]) == {"e": "done"}
    assert engine.fire(term, [tick(due=DUE + 1.000001)]) == {}
    assert drain(consumer) == ["e@1", "e@1"], "ids to six digits"
    kept = stored(engine)["e"]
    assert (kept.last_due, kept.runs) == (DUE + 1.000001, 2)


def test_due_times_are_compared_exactly(engine: Engine) -> None:
    put(engine, "e")
    term = take(engine)
    due = 1_234_567_890.123456789
    assert engine.fire(term, [tick(due=due)]) == {}
    assert stored(engine)["e"].last_due == due
    assert engine.fire(term, [tick(due=due)]) == {"e": "done"}


def test_a_later_leader_does_not_repeat_a_tick(rig: Rig, engine: Engine, consumer: Consumer) -> None:
    put(engine, "e")
    assert engine.fire(take(engine, "one"), [tick()]) == {}
    engine.resign("one")
    other = rig.open()
    assert other.fire(take(other, "two"), [tick()]) == {"e": "done"}
    assert drain(consumer) == ["e@0"]


def test_what_is_not_there_or_not_enabled_is_gone(engine: Engine, consumer: Consumer) -> None:
    put(engine, "a", "c")
    put(engine, "b", enabled=False)
    term = take(engine)
    assert engine.fire(term, [tick("a"), tick("b"), tick("none"), tick("c")]) == {"b": "gone", "none": "gone"}
    assert drain(consumer) == ["a@0", "c@0"]
    assert (stored(engine)["b"].last_due, stored(engine)["b"].runs) == (None, 0)


def test_ticks_without_a_message(engine: Engine) -> None:
    put(engine, "missed", "elsewhere", "held")
    term = take(engine)
    ticks = [bare("missed"), bare("elsewhere", task_id="t1"), bare("held", task_id="t2", held=True)]
    assert engine.fire(term, ticks) == {"held": "held"}
    entries = stored(engine)
    assert {(each.last_due, each.last_run is None) for each in entries.values()} == {(DUE, False)}
    assert {name: (each.last_id, each.runs, each.skipped) for name, each in entries.items()} == {
        "missed": ("", 0, 0),
        "elsewhere": ("t1", 1, 0),
        "held": ("", 0, 1),
    }
    assert engine.queues() == []
    assert engine.fire(term, ticks) == dict.fromkeys(entries, "done")


def test_a_held_key_leaves_the_message_out_and_counts(engine: Engine, consumer: Consumer) -> None:
    put(engine, "e")
    term = take(engine)
    assert engine.fire(term, [overlapping("e", DUE)]) == {}
    assert engine.fire(term, [overlapping("e", DUE + 1)]) == {"e": "held"}
    assert engine.fire(term, [overlapping("e", DUE + 1)]) == {"e": "done"}, "the tick was skipped for good"
    kept = stored(engine)["e"]
    assert (kept.last_due, kept.last_id, kept.runs, kept.skipped) == (DUE + 1, "e@0", 1, 1)
    assert engine.holder("schedule:e") == "e@0"
    assert drain(consumer) == ["e@0"]


def test_a_tick_that_is_done_leaves_its_key_free(engine: Engine) -> None:
    put(engine, "e")
    term = take(engine)
    engine.fire(term, [tick()])
    for due, left in ((DUE, "done"), (DUE - 5, "done")):
        assert engine.fire(term, [overlapping("e", due)]) == {"e": left}
    assert engine.holder("schedule:e") is None


def test_several_ticks_of_one_entry(engine: Engine, consumer: Consumer) -> None:
    put(engine, "e", "o")
    term = take(engine)
    ticks = [tick(due=DUE + number) for number in range(3)]
    assert engine.fire(term, ticks) == {}
    assert engine.fire(term, [tick(due=DUE + 1), tick(due=DUE + 3), tick(due=DUE + 3)]) == {"e": "done"}
    both = [overlapping("o", DUE), overlapping("o", DUE + 1)]
    assert engine.fire(term, both) == {"o": "held"}
    assert drain(consumer) == ["e@0", "e@1", "e@2", "e@3", "o@0"]
    entries = stored(engine)
    assert (entries["e"].runs, entries["e"].last_due) == (4, DUE + 3)
    assert (entries["o"].runs, entries["o"].skipped, entries["o"].last_due) == (1, 1, DUE + 1)


def test_a_tick_is_published_like_any_message(engine: Engine, consumer: Consumer, rig: Rig) -> None:
    put(engine, *"abc")
    term = take(engine)
    ticks = [
        tick("a", priority=rig.lax, track=LONG),
        tick("b", priority=rig.urgent),
        tick("c", delay=rig.unit, queue="other"),
    ]
    assert engine.fire(term, ticks) == {}
    assert engine.presence(["a@0", "b@0"]) == {"a@0": Presence.QUEUED, "b@0": Presence.UNKNOWN}
    assert engine.depth(["other"])["other"] == Depth(delayed=1)
    assert drain(consumer) == ["b@0", "a@0"]
    rig.advance(1.2 * rig.unit)
    assert drain(consumer, ["other"]) == ["c@0"]


def test_firing_wakes_a_sleeper(engine: Engine, consumer: Consumer, rig: Rig) -> None:
    put(engine, "e")
    term = take(engine)
    other = rig.open()
    woken: list[bool] = []
    started = threading.Event()

    def sleep() -> None:
        started.set()
        woken.append(consumer.wait(["q"], 20.0))

    sleeper = threading.Thread(target=sleep)
    sleeper.start()
    started.wait()
    other.fire(term, [tick()])
    sleeper.join(10)
    assert woken == [True]


def test_many_ticks_in_one_step(engine: Engine, consumer: Consumer) -> None:
    names = [f"entry-{number}" for number in range(2000)]
    put(engine, *names)
    term = take(engine)
    assert engine.fire(term, [tick(name) for name in names]) == {}
    again = [tick(name, DUE + number % 2) for number, name in enumerate(names)]
    assert engine.fire(term, again) == dict.fromkeys(names[::2], "done")
    assert drain(consumer) == [f"{name}@0" for name in names] + [f"{name}@1" for name in names[1::2]]
    assert {each.runs for each in stored(engine).values()} == {1, 2}


def test_nothing_is_marked_of_what_cannot_be_encoded(engine: Engine, consumer: Consumer) -> None:
    put(engine, "a", "b")
    term = take(engine)
    broken = tick("b")
    assert isinstance(broken.publication, Publication)
    broken.publication.message.headers["bad"] = object()
    with pytest.raises(Exception, match="object"):
        engine.fire(term, [tick("a"), broken])
    assert stored(engine)["a"].last_due is None
    assert drain(consumer) == []


def test_leaders_that_race_fire_each_tick_once(rig: Rig) -> None:
    """Terms run out under those who fire, at random: each tick's message is there once."""
    engines = [rig.open() for _ in range(3)]
    names = [f"entry-{number}" for number in range(5)]
    put(engines[0], *names)
    ticks = 60
    refused: Counter[str] = Counter()

    def beat(engine: Engine, holder: str) -> None:
        dice = random.Random(holder)
        position = 0
        term = None
        while position < ticks:
            term = engine.lead(holder, LONG) or term  # the stale one, as a leader that was frozen would
            if term is None:
                continue
            if dice.random() < 0.3:
                engine.resign(holder)
            due = DUE + position
            try:
                left = engine.fire(term, [tick(name, due) for name in names])
            except Fenced:
                refused["fenced"] += 1
            else:
                refused.update(left.values())
                position += dice.choice((0, 1, 1))  # an answer that was lost: again
            if dice.random() < 0.5:
                engine.resign(holder)
        engine.resign(holder)

    run([partial(beat, e, f"beat-{n}") for n, e in enumerate(engines)])
    consumer = engines[0].attach(incarnation())
    fired = Counter(drain(consumer))
    consumer.close()
    assert set(fired.values()) == {1}
    assert len(fired) == len(names) * ticks
    assert {each.runs for each in stored(engines[0]).values()} == {ticks}
    assert refused["done"], "they have raced"
    assert refused["fenced"]


# -- at random ---------------------------------------------------------------------------------------------

NAMES = st.sampled_from("abc")
HOLDERS = st.sampled_from(["one", "two"])
ENTRIES = st.lists(st.builds(entry, NAMES, st.sampled_from([b"1", b"2"]), enabled=st.booleans()), max_size=3)
TICKS = st.lists(
    st.one_of(
        st.builds(tick, NAMES, st.sampled_from([DUE, DUE + 1, DUE + 2])),
        st.builds(overlapping, NAMES, st.sampled_from([DUE, DUE + 1, DUE + 2, DUE + 3])),
        st.builds(bare, NAMES, st.sampled_from([DUE, DUE + 1]), st.sampled_from(["", "x"]), st.booleans()),
    ),
    max_size=4,
)
STEPS = st.one_of(
    st.tuples(st.just("lead"), HOLDERS),
    st.tuples(st.just("resign"), HOLDERS),
    st.tuples(st.just("put"), ENTRIES, st.integers(0, 3)),
    st.tuples(st.just("remove"), st.lists(NAMES, max_size=3), st.integers(0, 3)),
    st.tuples(st.just("fire"), TICKS, st.integers(0, 2)),
    st.tuples(st.just("schedule"), st.integers(0, 12)),
)


def play(engine: Engine, steps: list[Any]) -> list[Any]:
    """What an engine answers, without its times. A step's last number tells how old a term it uses."""
    terms = [Term("nobody", 0, 0.0, 0.0)] * 3
    answers: list[Any] = []
    for action, *arguments in deepcopy(steps):
        try:
            match action, arguments:
                case "lead", [holder]:
                    term = engine.lead(holder, LONG)
                    terms += [term] if term else []
                    answers.append(term and (term.holder, term.token))
                case "resign", [holder]:
                    engine.resign(holder)
                    answers.append(engine.leader() is None)
                case "put", [entries, age]:
                    engine.put_entries(entries, terms[-age] if age else None)
                case "remove", [names, age]:
                    answers.append(engine.remove_entries(names, terms[-age] if age else None))
                case "fire", [ticks, age]:
                    answers.append(engine.fire(terms[-1 - age], ticks))
                case "schedule", [since]:
                    answers.append(told(engine.schedule(since)))
        except Fenced:
            answers.append("fenced")
    consumer = engine.attach(incarnation())
    answers += [told(engine.schedule()), engine.schedule_version(), drain(consumer)]
    consumer.close()
    return answers


def told(schedule: Schedule) -> Any:
    """A schedule without times, in an order of our own."""
    return (
        schedule.version,
        schedule.complete,
        sorted(schedule.removed),
        sorted(
            (
                e.name,
                e.definition,
                e.enabled,
                e.version,
                e.last_due,
                e.last_run is None,
                e.last_id,
                e.runs,
                e.skipped,
            )
            for e in schedule.entries
        ),
    )


def test_it_answers_as_the_memory_engine_does(rig: Rig, request: pytest.FixtureRequest) -> None:
    @settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck), database=None)
    @given(st.lists(STEPS, min_size=5, max_size=40))
    def check(steps: list[Any]) -> None:
        memory = create(f"memory://{uuid.uuid4()}", {"clock": lambda: 1_800_000_000.0})
        fresh = type(rig)(request)
        try:
            assert play(fresh.open(), steps) == play(memory, steps)
        finally:
            fresh.close()
            memory.close()

    check()
