"""Schedules as data, and periodic tasks kept for the scheduler. The expected values are Celery 5.7's."""

from __future__ import annotations

import json
import pickle
from datetime import timedelta
from typing import Any

import pytest

from celeriac import serialization
from celeriac.schedules import ParseException, crontab, crontab_parser, from_json, maybe_schedule, schedule
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
