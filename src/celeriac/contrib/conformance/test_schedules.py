"""Schedules: who leads and for how long, and what is stored of periodic tasks."""

from __future__ import annotations

import random
import threading
from functools import partial

import pytest

from celeriac import clock
from celeriac.contrib.conformance.rig import Rig
from celeriac.contrib.conformance.test_concurrency import run
from celeriac.contrib.conformance.timing import DUE, LONG, changed, entry, put, stored, take, tick
from celeriac.engines import create
from celeriac.engines.base import Engine
from celeriac.engines.schedule import Entry, Term
from celeriac.exceptions import Fenced

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

        run([partial(ask, e, f"{number}-{n}") for n, e in enumerate(engines)])
        (term,) = terms
        assert term.token == number + 1
        engines[0].resign(term.holder)


def test_a_clock_set_back_does_not_keep_a_dead_leader_in_office(rig: Rig) -> None:
    engine = rig.open()
    first = take(engine, ttl=10.0)
    rig.set_back(0.5)
    assert engine.lead("two", 10.0) is None, "clocks are corrected by a little now and then"
    rig.set_back(3600.0)
    assert engine.leader() is None
    with pytest.raises(Fenced):
        engine.fire(first, [])
    assert take(engine, "two", 10.0).token > first.token


# -- scopes -------------------------------------------------------------------------------------------------


def test_each_scope_has_a_leader_of_its_own(rig: Rig) -> None:
    one, two = rig.open(schedule_scope="one"), rig.open(schedule_scope="two")
    first, second = take(one), take(two, "other")
    assert (first.token, second.token) == (1, 1)
    assert one.lead("other", LONG) is None
    assert rig.open(schedule_scope="two").leader() is not None
    assert rig.open().leader() is None
    two.resign("other")
    leader = one.leader()
    assert leader is not None
    assert leader.holder == "one"
    for use in (lambda: two.fire(first, []), lambda: two.put_entries([entry()], first)):
        with pytest.raises(Fenced):
            use()


def test_each_scope_has_entries_of_its_own(rig: Rig) -> None:
    scopes = ["", "one", "two", "entries", "one:two", "versions:one", "о д\\н'\n", "n" * 300]
    engines = {scope: rig.open(schedule_scope=scope) for scope in scopes}
    for number, (scope, engine) in enumerate(engines.items()):
        assert engine.scope == scope
        put(engine, *[f"e{n}" for n in range(number + 1)], definition=scope.encode())
        assert engine.fire(take(engine), [tick("e0")]) == {}
        version = engine.schedule_version()
        assert version == 1
        engine.remove_entries(["e1"])
        assert engine.schedule(version).removed == (["e1"] if number else [])
    for number, (scope, engine) in enumerate(engines.items()):
        kept = stored(rig.open(schedule_scope=scope))
        assert set(kept) == {f"e{n}" for n in range(number + 1)} - {"e1"}
        assert {each.definition for each in kept.values()} == {scope.encode()}
        assert kept["e0"].runs == 1
        assert engine.find_entries(["e0"]) == [kept["e0"]]
        assert engine.schedule_version() == (2 if number else 1)
        assert engine.fire(take(engine), [tick("e0")]) == {"e0": "done"}


def test_the_removed_are_forgotten_scope_by_scope(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("celeriac.engines.schedule.REMOVED_MAX", 1)
    one, two = rig.open(schedule_scope="one"), rig.open(schedule_scope="two")
    for engine in (one, two):
        put(engine, "a", "b", "c")
        engine.remove_entries(["a"])
    one.remove_entries(["b"])
    assert one.schedule(1).complete
    assert (two.schedule(1).complete, two.schedule(1).removed) == (False, ["a"])


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


def test_entries_are_found_by_name(engine: Engine) -> None:
    put(engine, "a", "b", "c", source="code")
    engine.fire(take(engine), [tick("b")])
    assert engine.find_entries(["b", "x", "a", "b"]) == [stored(engine)["b"], stored(engine)["a"]]
    assert engine.find_entries([]) == []


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


def test_the_memory_engine_follows_the_clock_that_tests_drive(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clock, "source", lambda: 42.0)
    engine = create(f"memory://{random.random()}", {})
    assert take(engine, ttl=8.0) == Term("one", 1, 50.0, 42.0)
    put(engine, "e")
    engine.fire(take(engine), [tick()])
    assert (stored(engine)["e"].since, stored(engine)["e"].last_run) == (42.0, 42.0)
