"""When schedules are due while the clocks of their zone jump."""

from __future__ import annotations

import random
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest

from celeriac.schedules import BaseSchedule, clocked, cron, crontab, schedule


def dues(made: BaseSchedule, start: str, count: int) -> list[str]:
    """So many due times from the start on (a local time), as day and local time with the offset."""
    after, found = datetime.fromisoformat(start).astimezone(UTC) - timedelta(microseconds=1), []
    for _ in range(count):
        due = made.next_due(after)
        assert due is not None
        assert due > after
        assert due.tzinfo is UTC
        found.append(due.astimezone(made.tz).strftime("%d %H:%M%z"))
        after = due
    return found


JUMPS_AHEAD = [
    # (zone, start, fields of crontab, expected)
    pytest.param(
        "Europe/Berlin", "2026-03-29T00:00+01:00", "30 2 * * *", ["29 03:00+0200", "30 02:30+0200"],
        id="a time that does not exist runs at the moment of the jump",
    ),
    pytest.param(
        "Europe/Berlin", "2026-03-29T00:00+01:00", "*/15 2 * * *",
        ["29 03:00+0200", *[f"30 02:{minute}+0200" for minute in ("00", "15", "30", "45")]],
        id="several such times run there once",
    ),
    pytest.param(
        "Europe/Berlin", "2026-03-29T00:00+01:00", "0 2,3 * * *",
        ["29 03:00+0200", "30 02:00+0200", "30 03:00+0200"],
        id="also together with a time that is the moment of the jump",
    ),
    pytest.param(
        "America/New_York", "2026-03-08T00:00-05:00", "15 1,2,4 * * *",
        ["08 01:15-0500", "08 03:00-0400", "08 04:15-0400", "09 01:15-0400", "09 02:15-0400"],
        id="the times around it run as ever",
    ),
    pytest.param(
        "Australia/Lord_Howe", "2026-10-04T00:00+10:30", "10 2 * * *",
        ["04 02:30+1100", "05 02:10+1100"],
        id="a jump by 30 minutes",
    ),
    pytest.param(
        "America/Sao_Paulo", "2017-10-14T12:00-03:00", "0 0 * * *",
        ["15 01:00-0200", "16 00:00-0200"],
        id="midnight does not exist",
    ),
    pytest.param(
        "Pacific/Apia", "2011-12-29T12:00-10:00", "0 8 * * *",
        ["31 00:00+1400", "31 08:00+1400"],
        id="a whole day does not exist",
    ),
    pytest.param(
        "Asia/Pyongyang", "2018-05-04T12:00+08:30", "45 23 * * *",
        ["05 00:00+0900", "05 23:45+0900"],
        id="a zone that changes its offset for good",
    ),
]  # fmt: skip
SET_BACK = [
    pytest.param(
        "Europe/Berlin", "2026-10-25T00:00+02:00", "30 2 * * *", ["25 02:30+0200", "26 02:30+0100"],
        id="a time that exists twice runs the first time",
    ),
    pytest.param(
        "Europe/Berlin", "2026-10-25T00:00+02:00", "*/30 1-3 * * *",
        [f"25 0{time}" for time in ("1:00+0200", "1:30+0200", "2:00+0200", "2:30+0200", "3:00+0100")],
        id="several times too",
    ),
    pytest.param(
        "America/New_York", "2026-11-01T00:00-04:00", "0 1 * * *", ["01 01:00-0400", "02 01:00-0500"],
        id="in New York",
    ),
    pytest.param(
        "Australia/Lord_Howe", "2026-04-05T00:00+11:00", "45 1 * * *",
        ["05 01:45+1100", "06 01:45+1030"],
        id="back by 30 minutes",
    ),
    pytest.param(
        "America/Havana", "2026-10-31T12:00-04:00", "0 0 * * *",
        ["01 00:00-0400", "02 00:00-0500"],
        id="midnight exists twice",
    ),
    pytest.param(
        "Europe/Moscow", "2014-10-26T00:00+04:00", "30 1 * * *", ["26 01:30+0400", "27 01:30+0300"],
        id="a zone that changes its offset for good",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("zone", "start", "fields", "expected"), JUMPS_AHEAD + SET_BACK)
def test_times_of_day_run_once(zone: str, start: str, fields: str, expected: list[str]) -> None:
    for made in (crontab.from_string(fields, tz=zone), cron(fields, tz=zone)):
        assert dues(made, start, len(expected)) == expected


@pytest.mark.parametrize(
    ("zone", "start", "pace"),
    [
        ("Europe/Berlin", "2026-03-28T22:00+01:00", ("7 * * * *", 60)),
        ("Europe/Berlin", "2026-10-24T22:00+02:00", ("7 * * * *", 60)),
        ("America/New_York", "2026-03-07T22:00-05:00", ("*/20 * * * *", 20)),
        ("America/New_York", "2026-10-31T22:00-04:00", ("*/20 * * * *", 20)),
        ("Australia/Lord_Howe", "2026-10-03T22:00+10:30", ("*/5 * * * *", 5)),
        ("Australia/Lord_Howe", "2026-04-04T22:00+11:00", ("*/30 0-23 * * *", 30)),
        ("Europe/Moscow", "2014-10-25T22:00+04:00", ("* * * * *", 1)),
        ("Pacific/Apia", "2011-12-29T12:00-10:00", ("59 * * * *", 60)),
    ],
)
def test_every_hour_follows_real_time(zone: str, start: str, pace: tuple[str, int]) -> None:
    fields, minutes = pace
    for made in (crontab.from_string(fields, tz=zone), cron(fields, tz=zone)):
        after = datetime.fromisoformat(start).astimezone(UTC)
        first = due = made.next_due(after)
        for count in range(1, 16 * 60 // minutes):
            assert due is not None
            due = made.next_due(due)
            assert due == first + timedelta(minutes=count * minutes)


def test_hourly_at_half_hour_jumps() -> None:
    """Ahead, the missing minute runs at the jump; back, the minute that comes again runs again."""
    ahead = dues(crontab(15, tz="Australia/Lord_Howe"), "2026-10-04T01:00+10:30", 3)
    assert ahead == ["04 01:15+1030", "04 02:30+1100", "04 03:15+1100"]
    back = dues(crontab(45, tz="Australia/Lord_Howe"), "2026-04-05T01:00+11:00", 3)
    assert back == ["05 01:45+1100", "05 01:45+1030", "05 02:45+1030"]


def test_asked_for_long_before_the_hour_that_comes_twice() -> None:
    """The zone's offset in winter is that of the second of the two hours; the first comes first."""
    made = crontab(0, "*", day_of_month=1, month_of_year=11, tz="America/Havana")
    assert dues(made, "2026-02-01T00:00-05:00", 3) == ["01 00:00-0400", "01 00:00-0500", "01 01:00-0500"]


def test_asked_for_within_the_hour_that_comes_twice() -> None:
    made = crontab(30, 2, tz="Europe/Berlin")
    for after in ("2026-10-25T02:30+02:00", "2026-10-25T02:00+01:00", "2026-10-25T02:29+01:00"):
        assert made.next_due(datetime.fromisoformat(after)) == datetime.fromisoformat(
            "2026-10-26T02:30+01:00"
        )
    hourly = crontab("0,30", tz="Europe/Berlin")
    due = hourly.next_due(datetime.fromisoformat("2026-10-25T02:45+02:00"))
    assert due == datetime.fromisoformat("2026-10-25T02:00+01:00")


def test_intervals_are_real_time_and_relative_days_are_the_calendars() -> None:
    anchor = datetime.fromisoformat("2026-03-28T08:00+01:00")
    assert schedule(86400, tz="Europe/Berlin").next_due(anchor) == anchor + timedelta(hours=24)
    daily = schedule(86400, relative=True, tz="Europe/Berlin")
    assert dues(daily, "2026-03-28T08:00+01:00", 2) == ["29 00:00+0100", "30 00:00+0200"]
    at_midnight = schedule(86400, relative=True, tz="America/Sao_Paulo")
    assert dues(at_midnight, "2017-10-14T08:00-03:00", 2) == ["15 01:00-0200", "16 00:00-0200"]


def test_a_moment_that_does_not_exist_is_the_jump() -> None:
    made = clocked(datetime(2026, 3, 29, 2, 30), tz="Europe/Berlin")
    assert made.next_due(datetime(2026, 1, 1, tzinfo=UTC)) == datetime(2026, 3, 29, 1, tzinfo=UTC)
    twice = clocked(datetime(2026, 10, 25, 2, 30, tzinfo=ZoneInfo("Europe/Berlin")))
    assert twice.next_due(datetime(2026, 1, 1, tzinfo=UTC)) == datetime(2026, 10, 25, 0, 30, tzinfo=UTC)


TURNS = [
    # (zone, a moment shortly before its offset changes)
    ("Europe/Berlin", "2026-03-29T00:30+01:00"),
    ("Europe/Berlin", "2026-10-25T00:30+02:00"),
    ("Europe/Dublin", "2026-03-29T00:30+00:00"),
    ("America/Sao_Paulo", "2017-10-14T22:30-03:00"),
    ("America/Sao_Paulo", "2018-02-17T21:30-02:00"),
    ("America/Havana", "2026-10-31T23:30-04:00"),
    ("Australia/Lord_Howe", "2026-10-04T00:30+10:30"),
    ("Australia/Lord_Howe", "2026-04-05T00:30+11:00"),
    ("Antarctica/Troll", "2026-03-29T00:30+00:00"),
    ("America/Caracas", "2007-12-09T01:30-04:00"),
    ("Pacific/Apia", "2011-12-29T22:30-10:00"),
]


@pytest.mark.parametrize(("zone", "start"), TURNS)
def test_random_crontabs_agree_with_a_scan(zone: str, start: str) -> None:
    some, began = random.Random(zone + start), datetime.fromisoformat(start).astimezone(UTC)
    tz = ZoneInfo(zone)
    for _ in range(25):
        hours = some.choice(["*", "*/2", "1-3", "0,2", "23,0,1"])
        days = some.choice(
            ["*", "*", began.astimezone(tz).day, (began + timedelta(hours=26)).astimezone(tz).day]
        )
        minutes = some.choice(["*/10", "30", "15,45", "0", some.randrange(60)])
        made = crontab(minutes, hours, day_of_month=days, tz=zone)
        expected = scanned(made, tz, began, hours=8)
        for after in [
            began - timedelta(microseconds=1),
            *(began + timedelta(minutes=7 * n) for n in range(60)),
        ]:
            later = [due for due in expected if due > after]
            if later:
                assert made.next_due(after) == later[0], (made, after)


def scanned(made: crontab, tz: ZoneInfo, began: datetime, hours: int) -> list[datetime]:
    """All due times within so many hours, by the rule as it is stated, minute by minute."""
    found, last = [], (began - timedelta(minutes=1)).astimezone(tz)
    for count in range(hours * 60):
        local = (began + timedelta(minutes=count)).astimezone(tz)
        missing = local.replace(tzinfo=None) - last.replace(tzinfo=None) - timedelta(minutes=1)
        jumped = [
            last.replace(tzinfo=None) + timedelta(minutes=n + 1)
            for n in range(int(missing.total_seconds() / 60))
        ]
        every_hour = len(made.hour) == 24
        if every_hour and missing % timedelta(hours=1) == timedelta(0):
            jumped = []
        now = [] if local.fold and not every_hour else [local.replace(tzinfo=None)]
        if any(matches(made, wall) for wall in jumped + now):
            found.append(local.astimezone(UTC))
        last = local
    return found


def matches(made: crontab, wall: datetime) -> bool:
    day = wall.day in made.day_of_month and wall.isoweekday() % 7 in made.day_of_week
    return day and wall.minute in made.minute and wall.hour in made.hour and wall.month in made.month_of_year
