"""Schedules give Celery's own answers: random ones, compared with the real package.

``CELERIAC_SCHEDULE_COMPARISONS=200000`` compares more of them, and ``CELERIAC_SCHEDULE_SEED`` others. The
differences are meant, and these are all:

* where the zone's offset changes between the last run and the next: our rule for such jumps
  (docs/schedules.md), tested in ``test_schedule_jumps.py``;
* text that Celery reads although a part of it has no effect, such as ``mon/2``, is refused (``_DROPPED``);
* spaces around a range or step (``"1-5, 8-10"``) are allowed, as Celery does around numbers;
* the sun's events may differ by 2 seconds, because they are computed from another start.
"""

from __future__ import annotations

import os
import random
import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from celeriac import schedules
from celeriac.schedules import BaseSchedule, ParseException, crontab_parser
from tests.unit.conftest import CeleryPeer
from tests.unit.helpers import make_app

COMPARISONS = int(os.environ.get("CELERIAC_SCHEDULE_COMPARISONS", "2000"))
SEED = int(os.environ.get("CELERIAC_SCHEDULE_SEED", "1"))
ZONES = [
    "UTC", "Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Asia/Kolkata", "America/Sao_Paulo",
    "Pacific/Apia", "Africa/Casablanca", "Asia/Kathmandu", "America/St_Johns", "Europe/Moscow",
]  # fmt: skip
FIELDS = {
    "minute": (0, 59, []),
    "hour": (0, 23, []),
    "day_of_week": (0, 6, ["mon", "tue", "Sunday", "fri"]),
    "day_of_month": (1, 31, []),
    "month_of_year": (1, 12, ["jan", "feb", "December", "jun"]),
}
# Celery reads "mon/2" and "mon 5" as "mon", "1-5-7" as "1-5", and as Python's int() does "1_0" and "+5".
_DROPPED = re.compile(r"[a-z]{3}.*|\w+-\w+[^\w/].*|\w+-\w+/\w+.*|\*/\w+\W.*|[+]\d+|\d+_\d+", re.I)


def part(some: random.Random, least: int, most: int, names: list[str]) -> str:
    kind = some.randrange(6)
    if kind == 0:
        return f"*/{some.randint(1, most + 3)}"
    if kind == 1:
        return f"{some.randint(least, most)}-{some.randint(least, most)}"
    if kind == 2:
        return f"{some.randint(least, most)}-{some.randint(least, most)}/{some.randint(1, 9)}"
    if kind == 3 and names:
        return some.choice([some.choice(names), f"{some.choice(names)}-{some.choice(names)}"])
    return str(some.randint(least, most))


def field(some: random.Random, name: str) -> Any:
    least, most, names = FIELDS[name]
    if name == "month_of_year" and some.random() < 0.5:
        return "*"
    kind = some.randrange(8)
    if kind < 3:
        return "*"
    if kind == 3:
        return some.randint(least, most)
    if kind == 4:
        return {some.randint(least, most) for _ in range(some.randint(1, 5))}
    return ",".join(part(some, least, most, names) for _ in range(some.randint(1, 3)))


def random_crontab(some: random.Random) -> str:
    while True:
        source = f"crontab({', '.join(f'{name}={field(some, name)!r}' for name in FIELDS)})"
        try:
            ours(source, "UTC")
        except ValueError:  # such as February 30
            continue
        return source


def random_moment(some: random.Random) -> datetime:
    return datetime(2005, 1, 1, tzinfo=UTC) + timedelta(seconds=some.randrange(35 * 365 * 86400))


def ours(source: str, zone: str) -> BaseSchedule:
    made: BaseSchedule = eval(source, vars(schedules) | {"timedelta": timedelta})
    made.tz = ZoneInfo(zone)
    return made


def answers(source: str, zone: str, last_run: str, now: str, deadline: float | None = None) -> list[Any]:
    made = ours(source, zone)
    made.app = make_app(beat_cron_starting_deadline=deadline) if deadline is not None else APP
    made.nowfun = lambda: datetime.fromisoformat(now)
    state = made.is_due(datetime.fromisoformat(last_run))
    left = made.remaining_estimate(datetime.fromisoformat(last_run)).total_seconds()
    return [left, state.is_due, state.next]


APP = make_app()


def jumps(zone: str, start: datetime, end: datetime) -> bool:
    """Whether the zone's offset changes in between, or within two days around."""
    tz, at, step = ZoneInfo(zone), start - timedelta(days=2), timedelta(days=1)
    offset = at.astimezone(tz).utcoffset()
    while at < end + timedelta(days=2):
        at += step
        if at.astimezone(tz).utcoffset() != offset:
            return True
    return False


def compared(peer: CeleryPeer, cases: list[tuple[Any, ...]]) -> Iterator[tuple[tuple[Any, ...], Any, Any]]:
    for start in range(0, len(cases), 500):
        some = cases[start : start + 500]
        yield from zip(some, map(answers_of, some), peer.ask("due", some), strict=True)


def answers_of(case: tuple[Any, ...]) -> list[Any]:
    return answers(*case)


def crontab_cases(some: random.Random, count: int) -> list[tuple[Any, ...]]:
    cases = []
    for _ in range(count):
        zone, last_run = some.choice(ZONES), random_moment(some).astimezone(ZoneInfo(some.choice(ZONES)))
        now = last_run + timedelta(seconds=some.choice([1, 30, 3600, 86400, 10**6]) * some.random())
        deadline = some.choice([None] * 30 + [60, 7200])
        cases.append((random_crontab(some), zone, last_run.isoformat(), now.isoformat(), deadline))
    return cases


def test_crontab(celery_peer: CeleryPeer) -> None:
    at_jumps = 0
    for case, got, wanted in compared(celery_peer, crontab_cases(random.Random(SEED), COMPARISONS)):
        if got == wanted:
            continue
        now = datetime.fromisoformat(case[3])
        spans = [datetime.fromisoformat(case[2]), now]
        for left, _, wait in (got, wanted):
            spans += [now + timedelta(seconds=left), now + timedelta(seconds=wait)]
        assert jumps(case[1], min(spans), max(spans)), (case, got, wanted)
        at_jumps += 1
    assert at_jumps < COMPARISONS / 100


def test_field_texts(celery_peer: CeleryPeer) -> None:
    some = random.Random(SEED)
    texts = [
        "*/",
        "8-10/",
        "*/0",
        "5-",
        "-5",
        "",
        "5,",
        ",",
        "*5",
        "5/15",
        "**",
        "*-5",
        " 5",
        "5 ",
        "wed",
        "x",
        "60",
    ]
    for _ in range(COMPARISONS // 4):
        text = ",".join(part(some, 0, 65, ["mon", "sunday", "jan"]) for _ in range(some.randint(1, 3)))
        texts.append(
            text if some.random() < 0.7 else text.replace(some.choice("-/*,012"), some.choice("-/*, x"))
        )
    for text in texts:
        for count, least in ((60, 0), (24, 0), (7, 0), (31, 1), (12, 1)):
            wanted, got = celery_peer.ask("parse_field", text, count, least), parsed(text, count, least)
            if got != wanted:
                assert isinstance(got, str) or " " in text, (text, count, got, wanted)
                assert isinstance(got, list) or isinstance(wanted, str) or dropped(text), (
                    text,
                    count,
                    got,
                    wanted,
                )


def dropped(text: str) -> bool:
    """Whether Celery reads the text but leaves out a part of it."""
    return any(_DROPPED.fullmatch(one.strip()) for one in text.split(","))


def parsed(text: str, count: int, least: int) -> Any:
    try:
        return sorted(crontab_parser(count, least).parse(text))
    except (ValueError, ParseException) as error:
        return type(error).__name__


@pytest.mark.parametrize("relative", [False, True])
def test_interval(celery_peer: CeleryPeer, relative: bool) -> None:
    some, cases = random.Random(SEED), []
    for _ in range(COMPARISONS // 2):
        unit, zone = some.choice([1, 60, 3600, 86400]), some.choice(ZONES)
        seconds = some.choice([some.randint(1, 9) * unit, round(some.uniform(1, 5) * unit, 3)])
        last_run = random_moment(some).astimezone(ZoneInfo(zone)) + timedelta(
            microseconds=some.randrange(10**6)
        )
        now = last_run + timedelta(seconds=round(seconds * some.uniform(0, 2), 3))
        source = f"schedule(timedelta(seconds={seconds}), {relative})"
        cases.append((source, zone, last_run.isoformat(), now.isoformat()))
    at_jumps = 0
    for case, got, wanted in compared(celery_peer, cases):
        if got != wanted:
            last_run, now = map(datetime.fromisoformat, case[2:4])
            assert relative
            assert jumps(case[1], last_run, now + timedelta(days=10)), (case, got, wanted)
            at_jumps += 1
    assert at_jumps < COMPARISONS / 20


def test_solar(celery_peer: CeleryPeer) -> None:
    some, cases = random.Random(SEED), []
    events = list(schedules.sun.EVENTS)
    for _ in range(COMPARISONS // 10):
        lat, lon = round(some.uniform(-65, 65), 3), round(some.uniform(-180, 180), 3)
        last_run = random_moment(some)
        source = f"solar({some.choice(events)!r}, {lat}, {lon})"
        now = last_run + timedelta(hours=some.uniform(0, 48))
        cases.append((source, "UTC", last_run.isoformat(), now.isoformat()))
    for case, got, wanted in compared(celery_peer, cases):
        assert got[1] == wanted[1], case
        assert got[0] == pytest.approx(wanted[0], abs=2), case
        assert got[2] == pytest.approx(wanted[2], abs=2), case
