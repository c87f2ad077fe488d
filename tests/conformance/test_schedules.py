"""Schedules: who leads and for how long, what is stored of periodic tasks, and that a tick is fired once."""

from __future__ import annotations

import random
import threading
from collections import Counter
from collections.abc import Iterable
from typing import Any

import pytest

from celeriac import clock
from celeriac.engines import create
from celeriac.engines.base import Consumer, Depth, Engine, Hold, Presence, Publication, Unique
from celeriac.engines.schedule import Entry, Term, Tick
from celeriac.exceptions import Fenced
from tests.conformance.helpers import drain, incarnation, pub
from tests.conformance.rigs import Rig
from tests.conformance.test_concurrency import run

LONG = 1000.0
DUE = 1_700_000_000.123456
"""A due time: the store compares it with other due times only, not with its clock."""


def take(engine: Engine, holder: str = "one", ttl: float = LONG) -> Term:
    """Lead, which must work."""
    term = engine.lead(holder, ttl)
    assert term is not None
    return term


def entry(name: str = "e", definition: bytes = b"{}", **fields: Any) -> Entry:
    return Entry(name, definition, **fields)


def put(engine: Engine, *names: str, definition: bytes = b"{}", **fields: Any) -> None:
    engine.put_entries([entry(name, definition, **fields) for name in names])


def stored(engine: Engine) -> dict[str, Entry]:
    """All entries by name."""
    return {each.name: each for each in engine.schedule().entries}


def changed(engine: Engine, since: int) -> set[str]:
    """The names of what has changed after a version."""
    return {each.name for each in engine.schedule(since).entries}


def tick(name: str = "e", due: float = DUE, **options: Any) -> Tick:
    """A tick with a message; its id tells entry and due time."""
    task_id = f"{name}@{due - DUE:g}"
    return Tick(name, due, task_id, pub(task_id, **options))


def bare(name: str = "e", due: float = DUE, task_id: str = "", held: bool = False) -> Tick:
    """A tick without a message."""
    return Tick(name, due, task_id, held=held)


def overlapping(name: str, due: float, until: Hold = Hold.ENDED) -> Tick:
    """A tick whose task must not run beside the one before."""
    return tick(name, due, unique=Unique(f"schedule:{name}", LONG, until))


# -- the term ----------------------------------------------------------------------------------------------


def test_nobody_leads_at_first(engine: Engine) -> None:
    assert engine.leader() is None


def test_a_term_is_taken_and_told(engine: Engine, rig: Rig) -> None:
    term = take(engine)
    assert term.holder == "one"
    assert term.token >= 1
    assert term.expires == pytest.approx(term.now + LONG, abs=0.001)
    seen = rig.open().leader()
    assert seen is not None
    assert (seen.holder, seen.token) == ("one", term.token)
    assert seen.expires == pytest.approx(term.expires, abs=0.001)
    assert seen.now >= term.now


def test_others_are_refused_while_it_lasts(engine: Engine, rig: Rig) -> None:
    term = take(engine)
    assert rig.open().lead("two", LONG) is None
    leader = engine.leader()
    assert leader is not None
    assert (leader.holder, leader.token) == ("one", term.token)


def test_a_renewed_term_keeps_its_token_and_ends_later(engine: Engine, rig: Rig) -> None:
    first = take(engine, ttl=2 * rig.unit)
    rig.advance(rig.unit)
    second = take(engine, ttl=2 * rig.unit)
    assert second.token == first.token
    assert second.expires >= first.expires + rig.unit
    rig.advance(1.5 * rig.unit)
    assert engine.lead("two", LONG) is None


def test_a_term_may_be_renewed_to_a_nearer_end(engine: Engine, rig: Rig) -> None:
    take(engine, ttl=LONG)
    take(engine, ttl=rig.unit)
    rig.advance(1.2 * rig.unit)
    assert engine.lead("two", LONG) is not None


def test_a_term_is_over_after_its_ttl(engine: Engine, rig: Rig) -> None:
    first = take(engine, ttl=rig.unit)
    rig.advance(1.2 * rig.unit)
    assert engine.leader() is None
    assert take(engine, "two").token > first.token
    assert engine.lead("one", LONG) is None


def test_its_last_holder_takes_a_term_anew_under_a_new_token(engine: Engine, rig: Rig) -> None:
    first = take(engine, ttl=rig.unit)
    rig.advance(1.2 * rig.unit)
    assert take(engine).token > first.token


def test_who_resigns_makes_room_at_once(engine: Engine) -> None:
    first = take(engine)
    engine.resign("one")
    assert engine.leader() is None
    assert take(engine, "two").token > first.token


def test_only_the_holder_can_resign(engine: Engine) -> None:
    engine.resign("one")
    term = take(engine)
    engine.resign("two")
    leader = engine.leader()
    assert leader is not None
    assert leader.token == term.token


def test_a_term_outlives_its_connection(rig: Rig) -> None:
    engine = rig.open()
    term = take(engine)
    engine.close()
    engine = rig.open()
    assert engine.lead("two", LONG) is None
    assert take(engine, "one").token == term.token


def test_of_many_who_ask_at_once_one_leads(rig: Rig) -> None:
    engines = [rig.open() for _ in range(4)]
    for number in range(10):
        terms: list[Term] = []
        barrier = threading.Barrier(len(engines))

        def ask(engine: Engine, holder: str) -> None:
            barrier.wait()  # noqa: B023 - the threads end within the turn
            term = engine.lead(holder, LONG)
            if term is not None:
                terms.append(term)  # noqa: B023

        run([lambda e=e, n=n: ask(e, f"{number}-{n}") for n, e in enumerate(engines)])  # noqa: B023
        (term,) = terms
        assert term.token == number + 1
        engines[0].resign(term.holder)


def test_a_clock_set_back_does_not_keep_a_dead_leader_in_office(rig: Rig) -> None:
    if not rig.drives_clock:
        pytest.skip("its clock cannot be set")
    engine = rig.open()
    first = take(engine, ttl=10.0)
    rig.advance(-0.5)
    assert engine.lead("two", 10.0) is None, "clocks are corrected by a little now and then"
    rig.advance(-3600.0)
    assert engine.leader() is None
    with pytest.raises(Fenced):
        engine.fire(first, [])
    assert take(engine, "two", 10.0).token > first.token


# -- entries -----------------------------------------------------------------------------------------------


def test_there_is_no_schedule_at_first(engine: Engine) -> None:
    schedule = engine.schedule()
    assert (schedule.entries, schedule.removed, schedule.complete) == ([], [], True)
    assert engine.schedule_version() == schedule.version


def test_an_entry_is_stored_as_it_is(engine: Engine, rig: Rig) -> None:
    before = take(engine).now
    definition = bytes(range(256)) + b'|{"task": "t.add"}'
    names = ["e", "E", "e|1|code|", "e:a", "ключ", "n" * 300, " "]
    engine.put_entries([entry(name, definition, source="code", enabled=name != "E") for name in names])
    entries = stored(rig.open())
    assert set(entries) == set(names)
    version = engine.schedule_version()
    for name, kept in entries.items():
        assert kept.since == pytest.approx(before, abs=30)
        assert kept == Entry(name, definition, "code", name != "E", version, kept.since)


def test_what_is_the_stores_is_not_taken_from_the_caller(engine: Engine) -> None:
    given = entry(version=77, since=1.0, last_due=2.0, last_run=3.0, last_id="x", runs=4, skipped=5)
    engine.put_entries([given])
    kept = stored(engine)["e"]
    assert kept.version == engine.schedule_version()
    assert kept.since > 1.0
    assert (kept.last_due, kept.last_run, kept.last_id, kept.runs, kept.skipped) == (None, None, "", 0, 0)


def test_what_is_read_is_nobody_elses(engine: Engine) -> None:
    put(engine, "e")
    engine.schedule().entries[0].definition = b"spoilt"
    assert stored(engine)["e"].definition == b"{}"


def test_every_change_grows_the_version(engine: Engine) -> None:
    versions = [engine.schedule_version()]
    for change in (
        lambda: put(engine, "e"),
        lambda: put(engine, "e", definition=b"new"),
        lambda: put(engine, "e", definition=b"new", source="code"),
        lambda: put(engine, "e", definition=b"new", source="code", enabled=False),
        lambda: put(engine, "e", definition=b"new", source="code"),
        lambda: engine.remove_entries(["e"]),
    ):
        change()
        versions.append(engine.schedule_version())
        assert engine.schedule(versions[-2]).version == versions[-1]
    assert versions == sorted(set(versions))


def test_what_is_the_same_already_changes_nothing(engine: Engine) -> None:
    put(engine, "a", "b")
    version, since = engine.schedule_version(), stored(engine)["a"].since
    put(engine, "a", "b")
    engine.put_entries([])
    assert engine.schedule_version() == version
    engine.put_entries([entry("a"), entry("b", b"new")])
    assert changed(engine, version) == {"b"}
    assert stored(engine)["a"].since == since


def test_of_one_name_twice_the_last_is_kept(engine: Engine) -> None:
    engine.put_entries([entry("e", b"1"), entry("e", b"2")])
    assert stored(engine)["e"].definition == b"2"


def test_changes_since_a_version(engine: Engine) -> None:
    put(engine, "a")
    first = engine.schedule_version()
    put(engine, "b")
    second = engine.schedule_version()
    put(engine, "c")
    assert changed(engine, first) == {"b", "c"}
    assert changed(engine, second) == {"c"}
    latest = engine.schedule(engine.schedule_version())
    assert (latest.entries, latest.removed, latest.complete) == ([], [], False)


def test_a_new_definition_keeps_how_far_it_has_come(engine: Engine) -> None:
    put(engine, "e")
    term = take(engine)
    engine.fire(term, [tick()])
    before = stored(engine)["e"]
    put(engine, "e", definition=b"new", source="code")
    after = stored(engine)["e"]
    assert (after.definition, after.source) == (b"new", "code")
    assert after.version > before.version
    assert after.since == before.since
    assert (after.last_due, after.last_run, after.last_id, after.runs) == (DUE, before.last_run, "e@0", 1)
    assert engine.fire(term, [tick()]) == {"e": "done"}


def test_enabled_again_it_counts_from_then(engine: Engine, rig: Rig) -> None:
    put(engine, "e")
    engine.fire(take(engine), [tick()])
    since = stored(engine)["e"].since
    rig.advance(rig.unit)
    put(engine, "e", enabled=False)
    assert stored(engine)["e"].since == since
    rig.advance(rig.unit)
    put(engine, "e")
    again = stored(engine)["e"]
    assert again.enabled
    assert again.since >= since + 2 * rig.unit
    assert (again.last_due, again.runs) == (DUE, 1)


def test_removed_entries_are_told(engine: Engine) -> None:
    put(engine, "a", "b", "c")
    version = engine.schedule_version()
    assert engine.remove_entries(["a", "c", "none", "a"]) == 2
    assert set(stored(engine)) == {"b"}
    schedule = engine.schedule(version)
    assert (schedule.entries, sorted(schedule.removed), schedule.complete) == ([], ["a", "c"], False)
    assert engine.schedule(schedule.version).removed == []
    assert engine.schedule().removed == []


def test_removing_what_is_not_there_changes_nothing(engine: Engine) -> None:
    put(engine, "a")
    version = engine.schedule_version()
    assert engine.remove_entries(["b"]) == 0
    assert engine.remove_entries([]) == 0
    assert engine.schedule_version() == version


def test_an_entry_added_again_starts_anew(engine: Engine) -> None:
    put(engine, "e")
    term = take(engine)
    engine.fire(term, [tick()])
    version = engine.schedule_version()
    engine.remove_entries(["e"])
    put(engine, "e")
    schedule = engine.schedule(version)
    assert ([each.name for each in schedule.entries], schedule.removed) == (["e"], [])
    assert (schedule.entries[0].last_due, schedule.entries[0].runs) == (None, 0)
    assert engine.fire(term, [tick()]) == {}


def test_who_comes_too_late_for_the_removed_is_told_everything(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("celeriac.engines.schedule.REMOVED_MAX", 3)
    put(engine, "stays", *"abcdef")
    versions = [engine.schedule_version()]
    for name in "abcde":
        engine.remove_entries([name])
        versions.append(engine.schedule_version())
    late = engine.schedule(versions[0])
    assert late.complete
    assert late.removed == []
    assert {each.name for each in late.entries} == {"stays", "f"}
    early = engine.schedule(versions[2])
    assert (sorted(early.removed), early.entries, early.complete) == (["c", "d", "e"], [], False)


def test_many_removed_at_once_are_told_or_everything(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """A bound that cuts through what one step removed must not hide half of it."""
    monkeypatch.setattr("celeriac.engines.schedule.REMOVED_MAX", 3)
    put(engine, *"abcdef")
    version = engine.schedule_version()
    engine.remove_entries(list("abcdef"))
    assert engine.schedule(version).complete
    assert not engine.schedule(engine.schedule_version()).complete


def test_a_version_that_the_store_has_not_reached_is_told_everything(engine: Engine) -> None:
    put(engine, "a")
    ahead = engine.schedule(engine.schedule_version() + 50)
    assert ahead.complete
    assert [each.name for each in ahead.entries] == ["a"]


def test_entries_survive(rig: Rig) -> None:
    engine = rig.open()
    put(engine, "a", "b", "c", source="code")
    version = engine.schedule_version()
    engine.remove_entries(["b"])
    put(engine, "c", source="code", enabled=False)
    engine.fire(take(engine), [tick("a")])
    before, since = stored(engine), engine.schedule(version)
    engine.close()
    engine = rig.open()
    assert stored(engine) == before
    assert engine.schedule(version) == since
    assert engine.schedule_version() == since.version
    assert engine.fire(take(engine), [tick("a"), tick("c")]) == {"a": "done", "c": "gone"}


def test_many_entries(engine: Engine) -> None:
    names = [f"entry-{number}" for number in range(3000)]
    put(engine, *names)
    assert set(stored(engine)) == set(names)
    version = engine.schedule_version()
    put(engine, *names, definition=b"new")
    assert changed(engine, version) == set(names)
    assert engine.remove_entries(names) == 3000
    assert set(engine.schedule(version).removed) == set(names)


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

    run([lambda e=e, n=n: beat(e, f"beat-{n}") for n, e in enumerate(engines)])
    consumer = engines[0].attach(incarnation())
    fired = Counter(drain(consumer))
    consumer.close()
    assert set(fired.values()) == {1}
    assert len(fired) == len(names) * ticks
    assert {each.runs for each in stored(engines[0]).values()} == {ticks}
    assert refused["done"], "they have raced"
    assert refused["fenced"]


def test_the_memory_engine_follows_the_clock_that_tests_drive(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clock, "source", lambda: 42.0)
    engine = create(f"memory://{random.random()}", {})
    assert take(engine, ttl=8.0) == Term("one", 1, 50.0, 42.0)
    put(engine, "e")
    engine.fire(take(engine), [tick()])
    assert (stored(engine)["e"].since, stored(engine)["e"].last_run) == (42.0, 42.0)
