"""Schedules: what they are made of, when they are due, how they are stored. Values are Celery 5.7's."""

from __future__ import annotations

import json
import pickle
import random
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta, timezone
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from celeriac import serialization
from celeriac.schedules import (
    BaseSchedule,
    ParseException,
    clocked,
    cron,
    crontab,
    crontab_parser,
    from_json,
    maybe_schedule,
    schedstate,
    schedule,
    solar,
    to_json,
)
from tests.unit.helpers import make_app

ALL = {name: set(range(least, most + 1)) for name, (least, most) in crontab.FIELDS.items()}


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, {}),
        ({"minute": 5}, {"minute": {5}}),
        ({"minute": "*/15", "hour": "8-10,22"}, {"minute": {0, 15, 30, 45}, "hour": {8, 9, 10, 22}}),
        ({"day_of_week": "mon-fri"}, {"day_of_week": {1, 2, 3, 4, 5}}),
        ({"day_of_week": "fri-mon"}, {"day_of_week": {0, 1, 5, 6}}),
        ({"day_of_week": "thurs"}, {"day_of_week": {4}}),
        ({"month_of_year": "jan-mar/2"}, {"month_of_year": {1, 3}}),
        ({"month_of_year": "December"}, {"month_of_year": {12}}),
        ({"hour": "22-2"}, {"hour": {0, 1, 2, 22, 23}}),
        ({"minute": "5-50/10"}, {"minute": {5, 15, 25, 35, 45}}),
        ({"day_of_month": "1-7/2"}, {"day_of_month": {1, 3, 5, 7}}),
        ({"hour": "5,*/6"}, {"hour": {0, 5, 6, 12, 18}}),
        ({"minute": [1, 5], "hour": {3}}, {"minute": {1, 5}, "hour": {3}}),
    ],
)
def test_fields_of_a_crontab(fields: dict[str, Any], expected: dict[str, Any]) -> None:
    made = crontab(**fields)
    assert {name: getattr(made, name) for name in crontab.FIELDS} == {**ALL, **expected}
    written = json.loads(serialization.json_dumps(made))
    assert from_json(written) == made == pickle.loads(pickle.dumps(made))


@pytest.mark.parametrize(
    ("field", "value", "error"),
    [
        ("day_of_week", 7, ValueError),
        ("day_of_week", "0-7", ValueError),
        ("month_of_year", 13, ValueError),
        ("day_of_month", 0, ValueError),
        ("minute", 60, ValueError),
        ("minute", -1, ValueError),
        ("minute", "10/5", ValueError),
        ("minute", "x", ValueError),
        ("minute", "5-", ValueError),
        ("minute", "*/0", ValueError),
        ("minute", [], ValueError),
        ("minute", ["5"], TypeError),
        ("minute", None, TypeError),
        ("minute", "8-10/", ParseException),
        ("minute", "", ParseException),
        ("minute", "-5", ParseException),
        ("minute", 1.5, TypeError),
    ],
)
def test_what_is_no_field(field: str, value: Any, error: type[Exception]) -> None:
    with pytest.raises(error):
        crontab(**{field: value})


def test_a_crontab_from_text_and_as_text() -> None:
    made = crontab.from_string("0 8 1,15 * mon-fri")
    assert repr(made) == "<crontab: 0 8 1,15 * mon-fri (m/h/dM/MY/d)>"
    assert made == crontab(minute=0, hour="8", day_of_month=[1, 15], day_of_week="1-5")
    assert hash(made) == hash(crontab(0, 8, "mon-fri", {1, 15}))
    assert made != crontab()
    with pytest.raises(ValueError, match="five fields"):
        crontab.from_string("0 8 * *")
    assert crontab_parser(24).parse("*/6") == {0, 6, 12, 18}


def test_intervals() -> None:
    assert repr(schedule(10)) == "<freq: 10.00 seconds>"
    assert repr(schedule(timedelta(minutes=5))) == "<freq: 5.00 minutes>"
    assert repr(schedule(90)) == "<freq: 1.50 minutes>"
    assert schedule(10) == schedule(10.0) == timedelta(seconds=10)
    assert schedule(10) != schedule(11)
    assert maybe_schedule(30).seconds == 30
    assert maybe_schedule(made := crontab()) is made
    assert from_json(json.loads(serialization.json_dumps(schedule(5, relative=True)))).relative is True  # type: ignore[union-attr]
    with pytest.raises(TypeError, match="seconds"):
        schedule("10")  # type: ignore[arg-type]


@pytest.mark.parametrize("value", [0, -1, timedelta(0)])
def test_an_interval_is_above_zero(value: Any) -> None:
    with pytest.raises(ValueError, match="above 0"):
        schedule(value)


def at(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def test_intervals_count_from_their_anchor() -> None:
    made, anchor = schedule(0.7), at("2026-01-01T00:00:00")
    due, count = anchor, 0
    for _ in range(1000):
        late = due + timedelta(milliseconds=random.Random(count).randrange(2000))
        due = made.next_due(late, anchor)
        assert due is not None
        count = round((due - anchor).total_seconds() / 0.7)
        assert due == anchor + count * timedelta(seconds=0.7) > late
        assert due - late <= timedelta(seconds=0.7)
    assert made.next_due(anchor - timedelta(days=1), anchor) == anchor + timedelta(seconds=0.7)
    assert made.next_due(anchor) == anchor + timedelta(seconds=0.7)
    assert schedule(timedelta(days=400)).next_due(at("9999-01-01")) is None


@pytest.mark.parametrize(
    ("seconds", "after", "anchor", "expected"),
    [
        (7200, "2026-01-01T10:17:33", None, "2026-01-01T12:00"),
        (7200, "2026-01-01T15:00", "2026-01-01T10:17:33", "2026-01-01T16:00"),
        (5400, "2026-01-01T10:50", None, "2026-01-01T12:00"),
        (5400, "2026-01-01T12:00", "2026-01-01T10:50", "2026-01-01T13:00"),
        (1800, "2026-01-01T10:17:33", None, "2026-01-01T10:47"),
        (86400, "2026-01-01T10:17:33", None, "2026-01-02"),
        (2 * 86400, "2026-01-05T10:17:33", "2026-01-01T09:00", "2026-01-07"),
        (10, "2026-01-01T10:17:33.5", None, "2026-01-01T10:17:43"),
    ],
)
def test_relative_intervals(seconds: int, after: str, anchor: str | None, expected: str) -> None:
    made = schedule(seconds, relative=True, tz="UTC")
    assert made.next_due(at(after), at(anchor) if anchor else None) == at(expected)


@pytest.mark.parametrize(
    ("made", "after", "expected"),
    [
        (crontab(0, 0, day_of_month=29, month_of_year=2), "2026-01-01", "2028-02-29"),
        (crontab(0, 0, day_of_month=29, month_of_year=2), "2096-02-29", "2104-02-29"),
        (crontab(0, 0, 1, 29, 2), "2072-02-29", "2112-02-29"),
        (crontab(0, 0, "fri", 13), "2026-03-13", "2026-11-13"),
        (crontab(59, 23, day_of_month=31), "2026-08-31T23:59", "2026-10-31T23:59"),
        (crontab(), "2026-12-31T23:59:59.999999", "2027-01-01"),
        (crontab(30), "9999-12-31T22:45", "9999-12-31T23:30"),
        (crontab(30), "9999-12-31T23:30", None),
        (crontab(0, 0, day_of_month=29, month_of_year=2), "9998-01-01", None),
        (cron("0 0 13 * 5"), "2026-03-13", "2026-03-20"),
        (cron("0 0 L * *"), "2026-02-01", "2026-02-28"),
        (cron("0 9 LW * *"), "2026-05-01", "2026-05-29T09:00"),
        (cron("0 0 * * 5L"), "2026-03-01", "2026-03-27"),
        (cron("0 0 * 2 MON#5"), "2026-01-01", "2044-02-29"),
        (cron("0 0 * * 7"), "2026-03-01", "2026-03-08"),
        (cron("@weekly"), "2026-03-01", "2026-03-08"),
        (cron("@hourly"), "2026-03-01T00:00", "2026-03-01T01:00"),
        (cron("@YEARLY"), "2026-03-01T00:00", "2027-01-01"),
    ],
    ids=repr,
)
def test_next_due(made: BaseSchedule, after: str, expected: str | None) -> None:
    made.tz = UTC
    assert made.next_due(at(after)) == (at(expected) if expected else None)


@pytest.mark.parametrize(("day", "month"), [(30, 2), ("30,31", "feb"), (31, "4,6,9,11")])
def test_a_date_that_never_comes_is_a_mistake(day: Any, month: Any) -> None:
    with pytest.raises(ValueError, match="never comes"):
        crontab(day_of_month=day, month_of_year=month)


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("* * * *", "five fields"),
        ("0 * * * * *", "five fields"),
        ("@reboot", "there is no '@reboot'"),
        ("61 * * * *", "bad minute"),
        ("0 0 30 2 *", "day-of-month"),
        ("0 0 * * 8", "bad day-of-week"),
    ],
)
def test_what_is_no_line_of_cron(line: str, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        cron(line)


def test_cron_agrees_with_cronsim() -> None:
    """Its own search takes milliseconds and knows other rules for jumps, so only its reading is used."""
    from cronsim import CronSim, CronSimError

    some = random.Random(5)
    fields = [
        ["*", "0", "5/20", "*/7", "10-30"],
        ["*", "4", "8-17/3", "0,12"],
        ["*", "*/2", "1", "15,31", "1-7", "L", "LW", "10-20/3", "29"],
        ["*", "2", "jan-mar", "4,6,12"],
        ["*", "mon-fri", "0", "7", "*/2", "5L", "2#3", "sat,sun", "3"],
    ]
    for _ in range(300):
        line = " ".join(map(some.choice, fields))
        start = at("2020-01-01") + timedelta(minutes=some.randrange(10**7))
        try:
            expected = next(CronSim(line, start))
        except (CronSimError, StopIteration):
            continue
        assert cron(line, tz="UTC").next_due(start) == expected, (line, start)


def test_finding_the_next_time_takes_no_scan() -> None:
    rare = [crontab(0, 0, weekday, 29, 2, tz="Europe/Berlin") for weekday in range(7)]
    start, began = at("2026-03-01"), time.perf_counter()
    for _ in range(100):
        for made in rare:
            assert made.next_due(start)
    assert (time.perf_counter() - began) / 700 < 0.002  # some 20 us; minute by minute it takes seconds


def test_equal_fields_are_kept_once() -> None:
    assert crontab(5).hour is crontab(6, day_of_month=1).hour
    assert crontab(5, 3)._walls is crontab("5", {3})._walls


def test_zones() -> None:
    app = make_app(timezone="Asia/Tokyo")
    after = at("2026-01-01")
    assert crontab(0, 12, app=app).next_due(after) == at("2026-01-01T03:00")
    assert crontab(0, 12, app=app, tz="Europe/Berlin").next_due(after) == at("2026-01-01T11:00")
    assert crontab(0, 12, tz=timezone(timedelta(hours=2))).next_due(after) == at("2026-01-01T10:00")
    made = crontab(0, 12, app=app)
    assert made.tz == ZoneInfo("Asia/Tokyo")
    moved = maybe_schedule(made, app=make_app(timezone="Europe/Berlin"))
    assert moved.next_due(after) == at("2026-01-01T11:00")
    assert crontab(0, 12, app=app).next_due(datetime(2026, 1, 1)) == at("2026-01-01T03:00")
    with pytest.raises(ValueError, match="no time zone 'Mars/Base'"):
        crontab(tz="Mars/Base")
    with pytest.raises(ValueError, match="no time zone"):
        crontab(tz="../../etc/passwd")


def test_once() -> None:
    when = at("2026-06-01T12:00")
    made = clocked(when, nowfun=lambda: now)
    assert made.next_due(when - timedelta(days=9)) == when
    assert made.next_due(when) is None
    now = when - timedelta(seconds=90)
    assert made.is_due(now) == schedstate(False, 90)
    now = when + timedelta(seconds=90)
    assert made.is_due(at("2026-01-01")) == schedstate(True, None)
    assert made.is_due(now) == schedstate(False, None)
    noon = clocked(datetime(2026, 6, 1, 12), tz="Asia/Tokyo")
    assert noon.next_due(at("2026-01-01")) == at("2026-06-01T03:00")
    with pytest.raises(TypeError, match="datetime"):
        clocked("2026-06-01")  # type: ignore[arg-type]


def test_the_sun() -> None:
    made = solar("sunset", 52.52, 13.405)
    days = [made.next_due(at("2026-06-01"))]
    for day in range(1, 40):  # each day's once, though asked for from the last
        days.append(made.next_due(days[-1]))  # type: ignore[arg-type]
        assert abs(days[day] - days[0] - timedelta(days=day)) < timedelta(hours=1)  # type: ignore[operator]
    berlin = made.next_due(at("2026-06-20T12:00"))
    assert abs(berlin - at("2026-06-20T19:33")) < timedelta(minutes=1)  # type: ignore[operator]
    dark = solar("sunrise", 69.65, 18.96).next_due(at("2026-12-01"))  # Tromsø's polar night
    assert at("2027-01-14") < dark < at("2027-01-18")  # type: ignore[operator]
    for event, lat, lon in (("moonrise", 0, 0), ("sunset", 91, 0), ("sunset", 0, 181)):
        with pytest.raises(ValueError, match="solar"):
            solar(event, lat, lon)


EACH = [
    schedule(90),
    schedule(timedelta(hours=2), relative=True, tz="Asia/Tokyo"),
    crontab("*/5", {8, 9}, "mon-fri", [1, 2], tz="Europe/Berlin"),
    cron("@daily"),
    cron("0 5 * * 1#2", tz="UTC"),
    solar("dusk_civil", -33.9, 151.2),
    clocked(datetime(2026, 5, 4, 3, 2, 1, tzinfo=UTC)),
    clocked(datetime(2026, 5, 4, 3), tz="Europe/Berlin"),
]


@pytest.mark.parametrize("made", EACH, ids=repr)
def test_stored(made: BaseSchedule) -> None:
    read = from_json(json.loads(json.dumps(to_json(made))))
    assert read == made == pickle.loads(pickle.dumps(made))
    assert hash(read) == hash(made)
    after = at("2026-01-01T00:00:01")
    assert read.next_due(after) == made.next_due(after) == pickle.loads(pickle.dumps(made)).next_due(after)
    assert read.tz == made.tz
    assert [other == made for other in EACH].count(True) == 1


class Evens(BaseSchedule):
    """Every even hour after a last one, in the way of Celery."""

    def __init__(self, hours: int, **options: Any) -> None:
        super().__init__(**options)
        self.hours = hours

    def is_due(self, last_run_at: datetime) -> schedstate:
        left = (last_run_at + timedelta(hours=self.hours) - self.now()).total_seconds()
        return schedstate(left <= 0, max(left, 60))

    def __json__(self) -> dict[str, Any]:
        return {"hours": self.hours}


class Workdays(crontab):
    """As written for Celery: a crontab with a decision of its own."""

    def is_due(self, last_run_at: datetime) -> schedstate:
        found = super().is_due(last_run_at)
        return schedstate(found.is_due and self.now().month != 8, found.next)


class Ours(crontab):
    def next_due(self, after: datetime, anchor: datetime | None = None) -> datetime | None:
        return super().next_due(after + timedelta(days=1), anchor)


def test_classes_of_ones_own() -> None:
    now = at("2026-01-01T12:00")
    made = Evens(4, nowfun=lambda: now)
    assert made.next_due(at("2026-01-01T10:00")) == at("2026-01-01T14:00")
    assert made.next_due(at("2026-01-01T07:00")) == now
    assert [each.polled for each in (made, Workdays(), Ours())] == [True, True, False]
    assert not any(each.polled for each in EACH)
    read = from_json(json.loads(json.dumps(to_json(made))))
    assert isinstance(read, Evens)
    assert read.hours == 4
    august = Workdays(0, 4, app=make_app(), nowfun=lambda: at("2026-08-03T04:00:01"))
    assert august.is_due(at("2026-08-02T04:00")).is_due is False
    late = Ours(0, 0, tz="UTC", nowfun=lambda: now)
    assert late.remaining_estimate(at("2026-01-01")) == timedelta(hours=36)
    with pytest.raises(TypeError, match="give Workdays a method __json__"):
        to_json(Workdays())
    with pytest.raises(NotImplementedError, match="neither next_due nor is_due"):
        BaseSchedule(nowfun=lambda: now).next_due(now)


@pytest.mark.parametrize(
    "data",
    [
        {"type": "class", "class": "os:system", "state": {}},
        {"type": "class", "class": "no_such_module:Thing", "state": {}},
        {"type": "class", "state": {}},
        {"type": "moon"},
        {"type": "interval"},
        {"type": "crontab", "second": 5},
    ],
)
def test_stored_data_that_is_no_schedule(data: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="schedule"):
        from_json(data)
    assert "no_such_module" not in sys.modules


def test_a_deadline_for_missed_times() -> None:
    now = at("2026-01-01T12:10")
    made = crontab(0, app=make_app(beat_cron_starting_deadline=300), tz="UTC", nowfun=lambda: now)
    assert made.is_due(at("2026-01-01T11:30")) == schedstate(False, 3000)
    now = at("2026-01-01T12:05")
    assert made.is_due(at("2026-01-01T11:30")) == schedstate(True, 3300)


def test_nothing_heavy_is_imported() -> None:
    code = (
        "import sys, celeriac.schedules as s; s.crontab(5, tz='UTC');"
        "print({'cronsim', 'ephem', 'celeriac.app'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_periodic_tasks_are_kept_in_the_settings() -> None:
    app = make_app(beat_schedule={"old": {"task": "old", "schedule": 5}})

    @app.task(shared=False, name="mail")
    def mail(to: str, cc: str = "") -> None: ...

    names = []

    def configured(sender: Any, **_: Any) -> None:
        names.append(
            sender.add_periodic_task(10.0, mail.s("a"), kwargs={"cc": "b"}, name="ten", queue="slow")
        )

    def finalized(sender: Any, **_: Any) -> None:
        names.append(sender.add_periodic_task(crontab(hour=7), mail, ("c",), expires=60))

    app.on_after_configure.connect(configured)
    app.on_after_finalize.connect(finalized)
    early = app.add_periodic_task(timedelta(hours=1), mail.s("early"))
    app.finalize()
    entries = app.conf.beat_schedule
    assert (early, names) == ("mail('early')", ["mail('c')", "ten"])
    assert entries.keys() == {"old", "ten", "mail('c')", "mail('early')"}
    assert entries["ten"] == {
        "schedule": schedule(10), "task": "mail", "args": ("a",), "kwargs": {"cc": "b"},
        "options": {"queue": "slow"},
    }  # fmt: skip
    assert entries["mail('c')"]["schedule"] == crontab(hour=7)
    assert entries["mail('c')"]["options"] == {"expires": 60}


def test_a_second_unnamed_entry_warns_and_a_wrong_one_is_a_mistake() -> None:
    app = make_app()

    @app.task(shared=False, name="mail")
    def mail(to: str) -> None: ...

    app.conf.load()
    app.add_periodic_task(10, mail.s("a"))
    with pytest.warns(UserWarning, match=r"a second entry mail\('a'\) replaces the first"):
        app.add_periodic_task(20, mail.s("a"))
    app.add_periodic_task(30, mail.s("a"), name="other")
    assert app.conf.beat_schedule["mail('a')"]["schedule"] == schedule(20)
    with pytest.raises(TypeError, match="is not a schedule"):
        app.add_periodic_task("10", mail.s("a"))
    with pytest.raises(TypeError, match="takes a signature or a task"):
        app.add_periodic_task(10, "mail")
