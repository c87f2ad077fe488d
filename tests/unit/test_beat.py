"""Beat: who leads, what is fired when, and that nothing is fired twice."""

from __future__ import annotations

import logging
import re
import sys
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from celeriac import clock, engines, signals
from celeriac.app.base import Celeriac
from celeriac.app.definition import Definition
from celeriac.app.stores import schedule_scope
from celeriac.app.ticks import tick_id
from celeriac.beat import Beat, BeatLazyFunc, Scheduler
from celeriac.beat.agenda import Agenda, Item, newest
from celeriac.beat.service import LATE
from celeriac.beat.term import MARGIN, TTL, Leadership
from celeriac.engines.memory.state import Timetable
from celeriac.engines.schedule import Entry, Term
from celeriac.exceptions import ImproperlyConfigured, OperationalError
from celeriac.schedules import BaseSchedule, clocked, crontab, schedstate, schedule
from tests.processes import wait_until
from tests.unit.beat_rig import NOON, Rig, rig


@pytest.fixture
def site() -> Iterator[Rig]:
    with rig() as made:
        yield made


def entry(when: Any, **fields: Any) -> dict[str, Any]:
    return {"task": "add", "schedule": when, **fields}


def leading(site: Rig, **entries: Any) -> Beat:
    site.app.conf.beat_schedule = entries
    beat = site.beat()
    beat.attempt()
    assert beat.leads
    return beat


# -- due times ---------------------------------------------------------------------------------------------


def test_an_interval_is_fired_at_its_due_times_under_ids_that_follow_from_them(site: Rig) -> None:
    beat = leading(site, ten=entry(10, args=(2, 3), options={"headers": {"mine": 1}}))
    began = site.clock.time()
    site.let_pass(31.7, beat)
    sent = site.sent()
    assert [m.headers["id"] for m in sent] == [tick_id("beats", "ten", began + n) for n in (10, 20, 30)]
    headers = sent[0].headers
    assert (headers["celery_beat_task"], headers["mine"], headers["argsrepr"]) == (True, 1, "(2, 3)")
    assert headers["celeriac_schedule"]["due"] == (NOON + timedelta(seconds=10)).isoformat()
    (stored,) = beat.store.schedule().entries
    assert (stored.runs, stored.last_due, stored.last_id) == (3, began + 30, sent[-1].headers["id"])


def test_a_late_look_does_not_shift_what_comes_after(site: Rig) -> None:
    beat = leading(site, ten=entry(10))
    site.let_pass(60, beat, every=1.7)
    (stored,) = beat.store.schedule().entries
    assert stored.last_due == NOON.timestamp() + 60
    assert stored.runs == 6


@pytest.mark.parametrize("seed", range(20))
def test_missed_ticks_with_jitter_are_made_up_for_once(site: Rig, seed: int) -> None:
    """Also where the last of them is put off and still to come."""
    name = f"spread-{seed}"
    beat = leading(site, **{name: entry(60, jitter=59)})
    site.clock.advance(3600 + 5)
    beat.attempt()
    beat.attempt()
    made_up = site.count()
    assert made_up == 1
    site.let_pass(120, beat)
    assert 1 <= site.count() - made_up <= 3


def test_ticks_that_were_late_are_warned_of_in_one_line(site: Rig, caplog: pytest.LogCaptureFixture) -> None:
    beat = leading(site, minute=entry(60), hour=entry(3600), spread=entry(60, jitter=59))
    site.let_pass(60, beat)
    site.let_pass(120, beat)
    assert "late" not in caplog.text
    site.clock.advance(3600 + 35 - 180)
    beat.attempt()
    beat.attempt()
    assert caplog.text.count("late") == 1
    assert re.search(r"3 ticks were late, by up to (\d\d)\.\d s \((minute|spread)\)", caplog.text)
    caplog.clear()
    site.let_pass(50, beat)
    assert "late" not in caplog.text
    site.clock.advance(87)
    site.let_pass(LATE, beat)
    assert re.search(r"\d ticks were late, by up to 5\d\.\d s \(", caplog.text)


def test_step_says_how_long_nothing_is_to_be_done(site: Rig) -> None:
    beat = leading(site, soon=entry(0.2))
    assert beat.step() == pytest.approx(0.2, abs=1e-3)
    assert Beat(site.app, max_interval=0.1, monotonic=site.clock.time).max_interval == 0.1


@pytest.mark.parametrize(
    ("missed", "fired"),
    [
        ({"missed": "once"}, [10]),
        ({"missed": "skip"}, []),
        ({"missed": "all"}, [1, 2, 3, 4, 5, 6, 7, 8, 9, 10]),
        ({"missed": "all", "catch_up": 3}, [8, 9, 10]),
    ],
)
def test_missed_ticks_are_made_up_for_as_the_entry_says(
    site: Rig, missed: dict[str, Any], fired: list[int]
) -> None:
    beat = leading(site, minute=entry(60, **missed))
    beat._end()
    site.clock.advance(645)
    after = site.beat()
    site.let_pass(1, after)
    assert [m.headers["id"] for m in site.sent()] == [
        tick_id("beats", "minute", NOON.timestamp() + 60 * n) for n in fired
    ]
    site.let_pass(15, after)
    assert site.sent()[-1].headers["id"] == tick_id("beats", "minute", NOON.timestamp() + 660)
    assert site.count() == len(fired) + 1


def test_a_tick_that_is_late_by_a_takeover_is_not_missed(site: Rig) -> None:
    leading(site, minute=entry(60, missed="skip"))._end()
    site.clock.advance(70)
    site.let_pass(1, site.beat())
    assert site.count() == 1


def test_a_crontab_is_not_made_up_for_after_the_deadline(site: Rig) -> None:
    site.app.conf.beat_cron_starting_deadline = 600
    leading(site, one=entry(crontab(minute=0, hour=13)), two=entry(crontab(minute=50, hour=13)))._end()
    site.clock.advance(2 * 3600 - 300)
    site.let_pass(1, site.beat())
    assert (site.count("one"), site.count("two")) == (0, 1)


def test_jitter_is_the_same_for_every_beat_and_differs_between_ticks(site: Rig) -> None:
    beat = leading(site, spread=entry(60, jitter=30))
    definition = beat.code["spread"]
    delays = {definition.delay(NOON.timestamp() + 60 * n) for n in range(10)}
    assert len(delays) == 10
    assert all(0 <= delay < 30 for delay in delays)
    delay = definition.delay(NOON.timestamp() + 60)
    site.clock.advance(60 + delay - 0.1)
    beat.attempt()
    assert site.count() == 0
    site.clock.advance(0.2)
    beat.attempt()
    assert [m.headers["id"] for m in site.sent()] == [tick_id("beats", "spread", NOON.timestamp() + 60)]


def test_start_and_end_bound_the_ticks_and_an_interval_counts_from_the_start(site: Rig) -> None:
    start, end = NOON + timedelta(seconds=95), NOON + timedelta(seconds=160)
    beat = leading(site, bound=entry(30, start=start, end=end.replace(tzinfo=None)))
    site.let_pass(300, beat)
    dues = [datetime.fromisoformat(m.headers["celeriac_schedule"]["due"]) for m in site.sent()]
    assert dues == [start + timedelta(seconds=30), start + timedelta(seconds=60)]


def test_a_calendar_begins_at_the_start_too(site: Rig) -> None:
    beat = leading(site, bound=entry(crontab(minute="*/10"), start=NOON + timedelta(minutes=15)))
    site.let_pass(1900, beat, every=10)
    assert site.count() == 2  # 12:20 and 12:30


def test_a_changed_schedule_has_no_past(site: Rig) -> None:
    beat = leading(site)
    site.app.schedule.add("moved", "add", crontab(minute=1))
    site.app.schedule.add("slower", "add", 200)
    site.let_pass(190, beat)
    assert (site.count("moved"), site.count("slower")) == (1, 0)
    site.app.schedule.change("moved", schedule=crontab(minute=2))
    site.app.schedule.change("slower", schedule=1000)
    site.let_pass(900, beat)
    assert (site.count("moved"), site.count("slower")) == (1, 0)
    site.let_pass(105, beat)
    assert site.count("slower") == 1


def test_each_entry_may_have_a_zone_of_its_own(site: Rig) -> None:
    beat = leading(
        site,
        tokyo=entry(crontab(minute=0, hour=22, tz="Asia/Tokyo")),
        utc=entry(crontab(minute=0, hour=22)),
    )
    site.let_pass(3600 + 60, beat, every=30)
    assert (site.count("tokyo"), site.count("utc")) == (1, 0)


def test_a_one_off_is_fired_once_and_disabled(site: Rig) -> None:
    beat = leading(site)
    site.app.schedule.add("later", "add", clocked(NOON + timedelta(seconds=20)))
    site.app.schedule.add("past", "add", clocked(NOON - timedelta(days=1)))
    site.let_pass(30, beat)
    assert (site.count("later"), site.count("past")) == (1, 1)
    assert [view.enabled for view in site.app.schedule.list()] == [False, False]
    beat._end()
    site.let_pass(30, site.beat())
    assert site.count() == 2


def test_expires_counts_from_when_a_tick_was_sent(site: Rig) -> None:
    beat = leading(site, short=entry(10, expires=5))
    site.let_pass(10, beat)
    (message,) = site.sent()
    assert datetime.fromisoformat(message.headers["expires"]) == NOON + timedelta(seconds=15)


def test_without_overlap_a_tick_is_left_out_while_the_task_before_waits_or_runs(site: Rig) -> None:
    beat = leading(site, alone=entry(10, overlap=False))
    site.let_pass(35, beat)
    assert site.count() == 1
    (stored,) = beat.store.schedule().entries
    assert (stored.runs, stored.skipped) == (1, 2)
    site.app.broker.purge(["celery"])
    site.let_pass(10, beat)
    assert site.count() == 1


def test_newest_asks_little_and_finds_the_last_ones() -> None:
    asked = []

    def following(moment: float) -> float:
        asked.append(moment)
        return (moment // 10 + 1) * 10

    assert newest(following, 10.0, 1_000_005.0) == [1_000_000.0]
    assert newest(following, 10.0, 1_000_005.0, 3) == [999_980.0, 999_990.0, 1_000_000.0]
    assert newest(following, 10.0, 25.0, 5) == [10.0, 20.0]
    assert len(asked) < 100


def test_an_item_is_looked_at_at_its_newest_time_only() -> None:
    agenda = Agenda()
    item = Item(Definition(name="a", task="add", schedule=schedule(1)), Entry("a", b""))
    agenda.put(item, 5.0)
    agenda.put(item, 9.0)
    assert agenda.take(8.0, 10) == []
    assert agenda.next == 9.0
    assert agenda.take(9.0, 10) == [item]
    for number in range(5000):
        agenda.put(item, float(number))
    assert len(agenda._heap) < 2000  # what does not count is cleaned away


# -- schedules of other people's ---------------------------------------------------------------------------


class Ask(BaseSchedule):
    """Celery's way: due 7 seconds after the last run; ask again after 3."""

    def is_due(self, last_run_at: datetime) -> schedstate:
        passed = (self.now() - last_run_at).total_seconds()
        return schedstate(passed >= 7, 3)


class Duck:
    """Not even a schedule of ours."""

    def is_due(self, last_run_at: datetime) -> tuple[bool, float]:
        return (datetime.now(UTC) > last_run_at, 60.0)


def test_a_class_with_is_due_is_asked(site: Rig) -> None:
    beat = leading(site, asked=entry(Ask()), duck=entry(Duck()))
    site.let_pass(30, beat)
    assert site.count("asked") == 3  # after 9, 18 and 27 seconds
    assert site.count("duck") == 1


class Broken(schedule):
    def next_due(self, after: datetime, anchor: datetime | None = None) -> datetime | None:
        raise ZeroDivisionError("ours")


def test_a_schedule_that_fails_does_no_harm_to_others(site: Rig, caplog: pytest.LogCaptureFixture) -> None:
    beat = leading(site, broken=entry(Broken(5)), fine=entry(5))
    site.let_pass(11, beat)
    assert (site.count("broken"), site.count("fine")) == (0, 2)
    assert "the schedule of broken failed" in caplog.text


def test_arguments_may_be_worked_out_for_each_tick(site: Rig) -> None:
    numbers = iter(range(10))
    lazy = BeatLazyFunc(lambda step: next(numbers) * step, 10)
    beat = leading(site, lazy=entry(10, args=(lazy,), kwargs={"y": BeatLazyFunc(int)}))
    site.let_pass(20, beat)
    assert [m.headers["argsrepr"] for m in site.sent()] == ["(0,)", "(10,)"]


def test_a_message_that_cannot_be_written_is_logged_and_not_tried_for_ever(
    site: Rig, caplog: pytest.LogCaptureFixture
) -> None:
    beat = leading(site, wrong=entry(10, args=(1, 2, 3, 4)), fine=entry(10))
    site.let_pass(20, beat)
    assert (site.count("wrong"), site.count("fine")) == (0, 2)
    assert caplog.text.count("cannot send wrong") == 2


# -- leading -----------------------------------------------------------------------------------------------


def test_one_leads_and_another_takes_over_when_it_falls_silent(site: Rig) -> None:
    first = leading(site, second=entry(1))
    second = site.beat()
    site.let_pass(20, first, second)
    assert (first.leads, second.leads, site.count()) == (True, False, 20)
    site.let_pass(TTL - 0.6, second)
    assert not second.leads
    site.let_pass(1.2, second)
    assert second.leads
    site.let_pass(3, first, second)
    assert (first.leads, second.leads) == (False, True)
    ids = [m.headers["id"] for m in site.sent()]
    assert len(ids) == len(set(ids))


def test_after_a_clean_stop_another_leads_at_once(site: Rig) -> None:
    first, second = leading(site), site.beat()
    second.attempt()
    first._end()
    second.attempt()
    assert second.leads


def test_a_beat_that_slept_past_its_term_fires_nothing(site: Rig) -> None:
    """It was frozen between its look at the clock and the store's step: the store refuses."""
    first = leading(site, ten=entry(10))
    stopped = site.clock.time()
    first.leadership._monotonic = lambda: stopped
    first.leadership._ahead_by.append(10.0)  # the look was just before it slept
    site.clock.advance(9.5)
    second = site.beat()
    site.let_pass(0.5, second)
    assert (second.leads, site.count()) == (True, 1)
    assert first.leads  # so it believes
    first.attempt()
    assert not first.leads
    assert site.count() == 1


def test_trust_in_the_term_counts_from_before_the_question() -> None:
    now = [100.0]

    class Slow:
        def lead(self, holder: str, ttl: float) -> Term:
            now[0] += 4.0  # the answer is on its way for so long
            return Term(holder, 1, now[0] + ttl, now[0])

    leadership = Leadership(Slow(), "me", monotonic=lambda: now[0])  # type: ignore[arg-type]
    assert leadership.ask()
    assert leadership.holds
    assert leadership.wants_renewal
    now[0] = 100.0 + TTL - MARGIN
    assert not leadership.holds


def test_the_stores_clock_is_never_taken_for_later_than_it_is() -> None:
    """Answers that come late make a tick late by as much, once, and never early."""
    local = [1000.0]

    class Ahead:
        there, back, by = 0.0, 0.0, 50.0

        def lead(self, holder: str, ttl: float) -> Term:
            local[0] += self.there
            told = local[0] + self.by
            local[0] += self.back
            return Term(holder, 1, told + ttl, told)

    store = Ahead()
    leadership = Leadership(store, "me", monotonic=lambda: local[0])  # type: ignore[arg-type]
    for there, back, error in ((0.5, 0.25, 0.25), (0.25, 0.0, 0.0), (0.0, 3.0, 0.0)):
        store.there, store.back = there, back
        leadership.ask()
        assert local[0] + store.by - leadership.now == pytest.approx(error)
    store.by = 20.0  # a clock was set
    leadership.ask()
    assert leadership.now <= local[0] + store.by


def test_a_wall_clock_that_is_set_here_moves_no_tick(site: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """The store's clock counts, between two looks at it the monotonic one."""
    beat = leading(site, ten=entry(10))
    assert beat.leadership.now == site.clock.time()
    for error in (3600.0, -3600.0):
        monkeypatch.setattr(clock, "source", lambda error=error: site.clock.time() + error)
        monkeypatch.setattr(beat.store.state, "clock", site.clock.time)  # type: ignore[attr-defined]
        before = site.count()
        site.let_pass(10, beat)
        assert site.count() == before + 1


def test_a_store_whose_clock_jumps_fires_nothing_twice(site: Rig, caplog: pytest.LogCaptureFixture) -> None:
    """Ahead: ticks count as missed. Back again: what was fired stays fired, and the log says until when."""
    error = [0.0]
    beat = leading(site, ten=entry(10), all=entry(10, missed="all", catch_up=3))
    beat.store.state.clock = lambda: site.clock.time() + error[0]  # type: ignore[attr-defined]
    site.let_pass(10, beat)
    error[0] = 3600.0
    site.let_pass(5, beat)
    assert (site.count("ten"), site.count("all")) == (2, 4)
    error[0] = 0.0
    site.let_pass(60, beat)
    assert beat.leads
    assert (site.count("ten"), site.count("all")) == (2, 4)
    assert "the store's clock was set back: 2 entries" in caplog.text
    assert "2026-03-01 13:00:10" in caplog.text
    site.let_pass(3600 - 50, beat, every=2)
    assert site.count("ten") == 3
    assert len({message.headers["id"] for message in site.sent()}) == site.count()


def test_all_sleep_for_longer_than_the_term(site: Rig) -> None:
    """A laptop that was closed: one run for what was missed, whoever wakes first."""
    first = leading(site, ten=entry(10))
    second = site.beat()
    site.let_pass(10, first, second)
    for awake in ((second, first), (first, second)):
        before = site.count()
        site.clock.advance(3 * 3600)
        for beat in awake:
            beat.attempt()
        for beat in awake:
            beat.attempt()
        assert site.count() == before + 1
        assert first.leads + second.leads == 1
        site.let_pass(10, first, second)
        assert site.count() == before + 2


@pytest.mark.parametrize(
    ("begin", "fired"),
    [
        ("2026-03-28T23:30", ["01:30+01:00", "03:00+02:00", "01:30+02:00", "02:30+02:00"]),
        ("2026-10-24T23:30", ["01:30+02:00", "02:30+02:00", "01:30+01:00", "02:30+01:00"]),
    ],
)
def test_a_beat_that_runs_through_a_jump_of_the_clocks(begin: str, fired: list[str]) -> None:
    """Times of day are run once a day: one that does not exist at the jump, one that comes twice at first."""
    zone = ZoneInfo("Europe/Berlin")
    with rig(at=datetime.fromisoformat(begin).replace(tzinfo=zone).astimezone(UTC)) as site:
        beat = leading(
            site,
            one=entry(crontab(hour=1, minute=30, tz=zone)),
            two=entry(crontab(hour=2, minute=30, tz=zone)),
        )
        site.let_pass(2 * 24 * 3600 - 1800, beat, every=60)
        dues = [datetime.fromisoformat(m.headers["celeriac_schedule"]["due"]) for m in site.sent()]
        local = [due.astimezone(zone) for due in dues]
        assert [f"{due:%H:%M}{due.isoformat()[19:]}" for due in local] == fired


def test_one_that_stands_by_says_so_and_names_a_leader_of_another_application(
    site: Rig, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    leading(site)
    other = Celeriac("other", broker=site.app.broker.url, set_as_current=False, beat_scope="beats")
    beat = Beat(other, monotonic=site.clock.time, hostname="b2@x")
    beat.attempt()
    beat.attempt()
    assert caplog.text.count("standing by") == 1
    assert "belongs to the application 'beats'" in caplog.text


def test_two_applications_on_one_store_do_not_meet(site: Rig) -> None:
    """Each leads its own, also where entries have the same name and due time."""
    other = Celeriac("other", broker=site.app.broker.url, set_as_current=False)
    other.conf.result_expires = None
    other.conf.beat_schedule = {"ten": {"task": "others", "schedule": 10, "overlap": False}}
    first = leading(site, ten={**entry(10), "overlap": False})
    second = Beat(other, monotonic=site.clock.time)
    site.let_pass(21, first, second)
    assert first.leads
    assert second.leads
    sent = site.sent()
    assert sorted(message.headers["task"] for message in sent) == ["add", "others"]
    assert len({message.headers["id"] for message in sent}) == 2
    assert (site.app.schedule.get("ten").skipped, other.schedule.get("ten").skipped) == (1, 1)
    assert [one.task for one in other.schedule.list()] == ["others"]
    other.schedule.pause("ten")
    site.let_pass(10, first, second)
    assert site.app.schedule.get("ten").enabled


def test_an_application_that_is_a_script_is_called_as_its_module_is(monkeypatch: pytest.MonkeyPatch) -> None:
    main = sys.modules["__main__"]
    script = Celeriac("__main__", broker="memory://script", set_as_current=False)
    monkeypatch.setattr(main, "__spec__", None)
    monkeypatch.setattr(main, "__file__", "/somewhere/tasks.py", raising=False)
    assert schedule_scope(script) == "tasks"
    assert schedule_scope(Celeriac("__main__", set_as_current=False, beat_scope="")) == ""
    assert schedule_scope(Celeriac(set_as_current=False)) == ""


def test_it_tells_its_receivers_and_stops_from_another_thread(site: Rig) -> None:
    heard = []

    def hear(sender: Any, **_: Any) -> None:
        heard.append(sender)

    beat = site.beat(embedded=True)
    signals.beat_init.connect(hear, sender=beat)
    signals.beat_embedded_init.connect(hear, sender=beat)
    thread = threading.Thread(target=beat.run)
    thread.start()
    wait_until(lambda: beat.leads)
    beat.stop()
    thread.join(5)
    beat.stop()
    assert not thread.is_alive()
    assert heard == [beat, beat]
    assert site.app.coordinator is not None
    assert site.app.coordinator.leader() is None


# -- outages -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("done", [False, True], ids=["request lost", "answer lost"])
def test_a_tick_is_fired_once_when_the_store_is_away_just_then(
    site: Rig, monkeypatch: pytest.MonkeyPatch, done: bool
) -> None:
    beat = leading(site, ten=entry(10), other=entry(10))
    fire, calls = beat.store.fire, []

    def lost(*args: Any) -> dict[str, str]:
        calls.append(args)
        if done and len(calls) == 1:
            fire(*args)
        raise OperationalError("away")

    monkeypatch.setattr(beat.store, "fire", lost)
    site.let_pass(12, beat)
    assert len(calls) > 1
    monkeypatch.setattr(beat.store, "fire", fire)
    site.let_pass(3, beat)
    assert (site.count("ten"), site.count("other")) == (1, 1)
    assert beat.leads


def test_a_store_that_does_not_answer_ends_the_firing_before_the_term_ends(
    site: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    beat = leading(site)

    def away(*_: Any) -> Any:
        raise OperationalError("away")

    monkeypatch.setattr(beat.store, "lead", away)
    monkeypatch.setattr(beat.store, "leader", away)
    site.let_pass(TTL - MARGIN + 0.1, beat)
    assert not beat.leads
    assert beat.store.schedule_version() == 0


def test_a_store_that_was_emptied_gets_the_codes_entries_again(site: Rig) -> None:
    beat = leading(site, ten=entry(10))
    site.let_pass(10, beat)
    beat.store.state.timetables["beats"] = Timetable()  # type: ignore[attr-defined]
    site.let_pass(11, beat)
    assert beat.leads
    assert site.count() == 2


# -- entries come and go -----------------------------------------------------------------------------------


def test_changes_at_run_time_take_effect_within_a_second(site: Rig) -> None:
    beat = leading(site, code=entry(10))
    site.app.schedule.add("new", "add", 2, args=[5, 5])
    site.let_pass(4, beat)
    assert site.count("new") == 2
    site.app.schedule.pause("new")
    site.let_pass(4, beat)
    assert site.count("new") == 2
    site.app.schedule.resume("new")
    site.let_pass(4.5, beat)
    assert site.count("new") == 4  # what fell due meanwhile has not been missed
    site.app.schedule.change("new", schedule=1)
    site.let_pass(4.5, beat)
    assert site.count("new") == 8
    site.app.schedule.remove("new")
    site.let_pass(0.5, beat)
    assert len(beat.agenda) == 1
    site.let_pass(3.5, beat)
    assert site.count("new") == 8
    assert site.count("code") == 2


def test_changed_code_takes_effect_at_restart(site: Rig) -> None:
    leading(site, gone=entry(5), hourly=entry(3600), paused=entry(5), same=entry(20))._end()
    site.app.schedule.pause("paused")
    site.app.schedule.add("stored", "add", 20)
    site.clock.advance(50)
    after = leading(site, hourly=entry(10), paused=entry(6), same=entry(20), added=entry(10))
    site.let_pass(20, after)
    views = {view.name: view for view in site.app.schedule.list()}
    assert sorted(views) == ["added", "hourly", "paused", "same", "stored"]
    assert not views["paused"].enabled
    assert site.count("gone") == site.count("paused") == 0
    # A new schedule counts from its change; one that is the same makes up for what was missed.
    assert (site.count("hourly"), site.count("added"), site.count("same")) == (2, 2, 2)


def test_the_code_may_begin_with_an_entry_that_is_off(site: Rig) -> None:
    beat = leading(site, off=entry(5, enabled=False))
    site.let_pass(10, beat)
    assert site.count() == 0
    beat._end()
    site.let_pass(10.5, leading(site, off=entry(5)))
    assert site.count() == 2


def test_added_periodic_tasks_and_the_default_entry_are_there() -> None:
    with rig() as site:
        site.app.conf.result_expires = 3600

        @site.app.on_after_configure.connect
        def add(sender: Any, **_: Any) -> None:
            sender.add_periodic_task(30.0, sender.tasks["add"].s(1, 2), name="by-call")

        site.app.on_after_configure.send(sender=site.app, source=None)
        site.beat().attempt()
        names = {view.name: view for view in site.app.schedule.list()}
        assert set(names) == {"by-call", "celery.backend_cleanup"}
        cleanup = names["celery.backend_cleanup"]
        assert cleanup.next_due == datetime(2026, 3, 2, 4, tzinfo=UTC)
        assert cleanup.definition["options"] == {"expires": 12 * 3600}


@pytest.mark.parametrize(
    ("item", "said"),
    [
        ({"task": "add"}, "has no schedule"),
        ({"schedule": 3}, "has no task"),
        ({"task": "add", "schedule": 3, "arg": (1,)}, "did you mean 'args'?"),
        ({"task": "add", "schedule": object()}, "is no schedule"),
        ({"task": "add", "schedule": 3, "missed": "never"}, "once, skip, all"),
        ({"task": "add", "schedule": 3, "args": "ab"}, "a list or tuple"),
        ("add", "is a dictionary"),
    ],
)
def test_a_mistake_in_beat_schedule_is_named_at_start(site: Rig, item: Any, said: str) -> None:
    site.app.conf.beat_schedule = {"wrong": item}
    with pytest.raises(ImproperlyConfigured, match=r"beat_schedule\['wrong'\]") as caught:
        site.beat()
    assert said in str(caught.value)


# -- a scheduler class -------------------------------------------------------------------------------------


class Own(Scheduler):
    table: dict[str, Any] = {}  # noqa: RUF012
    max_interval = 1.0

    @property
    def schedule(self) -> dict[str, Any]:
        return dict(self.table)


class Hooked(Scheduler):
    def apply_entry(self, entry: Any) -> None: ...


def test_a_scheduler_class_says_which_entries_there_are(site: Rig) -> None:
    site.app.conf.beat_scheduler = f"{__name__}:Own"
    Own.table = {"a": entry(10)}
    beat = site.beat()
    site.let_pass(10.5, beat)
    Own.table = {"b": entry(5)}
    site.let_pass(12, beat)
    assert (site.count("a"), site.count("b")) == (1, 2)


class Failing(Own):
    fails = False

    def tick(self) -> float:
        if self.fails:
            raise ZeroDivisionError("the database is away")
        return super().tick()


def test_a_scheduler_class_that_fails_does_not_stop_what_it_said_before(site: Rig) -> None:
    Own.table = {"a": entry(10)}
    beat = site.beat(scheduler=Failing)
    site.let_pass(5, beat)
    Failing.fails = True
    site.let_pass(20, beat)
    assert site.count("a") == 2


@pytest.mark.parametrize(
    "name",
    [
        "django",
        "django_celery_beat.schedulers:DatabaseScheduler",
        "django_celery_beat.schedulers.DatabaseScheduler",
        "redbeat.RedBeatScheduler",
        "redbeat:RedBeatScheduler",
    ],
)
def test_schedulers_of_celerys_that_are_not_needed_are_named(site: Rig, name: str) -> None:
    site.app.conf.beat_scheduler = name
    with pytest.raises(ImproperlyConfigured, match=r"works with Celery only.*app\.schedule"):
        site.beat()


def test_a_scheduler_class_that_cannot_work_is_refused(site: Rig) -> None:
    for name, said in (
        (f"{__name__}:Hooked", "apply_entry would never be called"),
        ("datetime:datetime", "no subclass"),
        ("nowhere:Class", "cannot be imported"),
        ("unheard_of", "there is no scheduler"),
    ):
        with pytest.raises(ImproperlyConfigured, match=said):
            site.beat(scheduler=name)
    assert site.beat(scheduler="celery.beat:PersistentScheduler").scheduler is None


# -- other stores ------------------------------------------------------------------------------------------


class Apart(Celeriac):
    """Schedules in another store than messages."""

    other: Any = None

    @property
    def coordinator(self) -> Any:
        if type(self).other is None:
            type(self).other = engines.create("memory://apart", {"clock": lambda: 0.0})
        return type(self).other


class Alone(Celeriac):
    """No store that can coordinate."""

    @property
    def coordinator(self) -> Any:
        return None


def test_where_stores_differ_a_beat_that_dies_before_the_mark_sends_nothing_twice(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with rig(kind=Apart) as site:
        store = site.app.coordinator
        store.state.clock = site.clock.time
        first = leading(site, ten=entry(10))
        assert not first.firing.fused
        site.clock.advance(1)

        def dies(*_: Any) -> Any:
            raise OperationalError("away")

        with monkeypatch.context() as patch:
            patch.setattr(store, "fire", dies)
            site.let_pass(10, first)
        assert site.count() == 1
        site.let_pass(10, site.beat())
        assert [m.headers["id"] for m in site.sent()] == [
            tick_id("beats", "ten", NOON.timestamp() + due) for due in (10, 20)
        ]
        (stored,) = store.schedule().entries
        assert stored.runs == 2


def test_without_a_shared_store_it_works_alone_and_says_so(caplog: pytest.LogCaptureFixture) -> None:
    with rig(kind=Alone) as site:
        beat = site.beat()
        beat._say_limits()
        assert "must be the only one" in caplog.text
        beat.store.state.clock = site.clock.time  # type: ignore[attr-defined]
        site.app.conf.beat_schedule = {"ten": entry(10)}
        beat.code = beat._read_code()
        site.let_pass(25, beat)
        assert site.count() == 2
        with pytest.raises(ImproperlyConfigured, match="can keep schedules"):
            site.app.schedule.list()
