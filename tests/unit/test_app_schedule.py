"""``app.schedule``: entries at run time."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from celeriac.app.definition import BeatLazyFunc, Definition, decode, encode
from celeriac.exceptions import EncodeError, EntryNotFound, ImproperlyConfigured
from celeriac.schedules import clocked, cron, crontab, schedule
from tests.unit.beat_rig import NOON, Rig, rig


@pytest.fixture
def site() -> Iterator[Rig]:
    with rig() as made:
        yield made


LITTLE = timedelta(microseconds=1)
FULL: dict[str, Any] = {
    "args": [1, datetime(2026, 1, 1, tzinfo=UTC)],
    "kwargs": {"y": 2},
    "options": {"queue": "celery", "priority": 3},
    "jitter": 2.5,
    "start": NOON,
    "end": NOON + timedelta(days=1),
    "expires": 60.0,
    "missed": "all",
    "catch_up": 7,
    "overlap": False,
    "enabled": False,
}


def test_what_is_overdue(site: Rig) -> None:
    """How late the next tick is now, with nobody there to send it."""
    site.app.schedule.add("plain", "add", 60)
    site.app.schedule.add("spread", "add", 60, jitter=30)
    site.app.schedule.add("paused", "add", 60, enabled=False)
    assert {one.overdue for one in site.app.schedule.list()} == {0.0}
    site.clock.advance(100)
    paused, plain, spread = site.app.schedule.list()
    assert (plain.overdue, paused.overdue) == (40.0, 0.0)
    assert 10.0 < spread.overdue < 40.0
    site.beat().attempt()
    plain = site.app.schedule.get("plain")
    assert (plain.overdue, plain.lateness) == (0.0, 40.0)


@pytest.mark.parametrize(
    "when",
    [
        schedule(10),
        crontab(minute="*/5", tz="Europe/Berlin"),
        cron("@daily", tz="Asia/Tokyo"),
        clocked(NOON),
    ],
)
def test_a_definition_comes_back_as_it_was_stored(site: Rig, when: Any) -> None:
    made = Definition(name="n", task="add", schedule=when, **FULL)
    assert decode(site.app, "n", encode(made)) == made


def test_equal_schedules_are_shared(site: Rig) -> None:
    data = encode(Definition(name="a", task="add", schedule=crontab(minute=5)))
    assert decode(site.app, "a", data).schedule is decode(site.app, "b", data).schedule


def test_an_entry_is_seen_with_what_became_of_it(site: Rig) -> None:
    view = site.app.schedule.add("every", site.app.tasks["add"], timedelta(seconds=10), [1, 2])
    assert (view.task, view.schedule, view.source, view.enabled) == (
        "add", "<freq: 10.00 seconds>", "store", True,
    )  # fmt: skip
    assert view.next_due == NOON + timedelta(seconds=10)
    assert (view.last_run, view.last_id, view.last_state, view.lateness) == (None, None, None, None)
    beat = site.beat()
    beat.attempt()
    site.clock.advance(10.25)
    beat.attempt()
    view = site.app.schedule.get("every")
    assert (view.runs, view.last_state, view.lateness) == (1, "PENDING", 0.25)
    site.clock.run_until_idle()
    assert site.app.schedule.list()[0].last_state == "SUCCESS"
    assert site.app.AsyncResult(view.last_id).get(timeout=1) == 3


def test_text_is_a_cron_string(site: Rig) -> None:
    view = site.app.schedule.add("hourly", "add", "@hourly")
    assert view.next_due == NOON + timedelta(hours=1)
    assert site.app.schedule.change("hourly", schedule="30 * * * *").next_due == NOON + timedelta(minutes=30)


def test_a_change_keeps_the_rest(site: Rig) -> None:
    site.app.schedule.add("one", "add", 60, **FULL)
    view = site.app.schedule.change("one", args=[5], missed=None, jitter=None)
    assert not view.enabled
    assert view.definition["args"] == [5]
    assert "missed" not in view.definition
    assert {key: view.definition[key] for key in ("catch_up", "kwargs", "expires")} == {
        "catch_up": 7, "kwargs": {"y": 2}, "expires": 60.0,
    }  # fmt: skip


def test_run_sends_the_task_out_of_turn(site: Rig) -> None:
    site.app.schedule.add("rare", "add", 3600, [4, 5], overlap=False)
    result = site.app.schedule.run("rare")
    again = site.app.schedule.run("rare")
    assert again.duplicate
    assert again.id == result.id
    (message,) = site.sent("rare")
    assert "due" not in message.headers["celeriac_schedule"]
    site.clock.run_until_idle(1)
    assert result.get(timeout=1) == 9
    assert site.app.schedule.get("rare").runs == 0


def test_the_codes_entries_can_be_paused_and_not_changed(site: Rig) -> None:
    lazy = BeatLazyFunc(lambda: 7)
    site.app.conf.beat_schedule = {"code": {"task": "add", "schedule": 10, "args": (lazy,)}}
    with pytest.raises(EntryNotFound, match="no beat has led since"):
        site.app.schedule.pause("code")
    beat = site.beat()
    beat.attempt()
    for refused in (
        lambda: site.app.schedule.change("code", schedule=5),
        lambda: site.app.schedule.remove("code"),
    ):
        with pytest.raises(ImproperlyConfigured, match="stands in the code"):
            refused()
    site.app.schedule.pause("code")
    assert site.app.schedule.get("code").next_due is None
    site.app.schedule.run("code")
    assert site.sent("code")[0].headers["argsrepr"] == "(7,)"


def test_mistakes_are_named(site: Rig) -> None:
    schedule = site.app.schedule
    schedule.add("there", "add", 10)
    mistakes: list[tuple[type[Exception], str, Any]] = [
        (ValueError, "already", lambda: schedule.add("there", "add", 10)),
        (EntryNotFound, "did you mean 'there'", lambda: schedule.get("ther")),
        (EntryNotFound, "no periodic task", lambda: schedule.remove("zzz")),
        (ValueError, "before start", lambda: schedule.add("x", "add", 10, start=NOON, end=NOON - LITTLE)),
        (TypeError, "did you mean 'jitter'", lambda: schedule.add("x", "add", 10, jiter=3)),
        (ValueError, "five fields", lambda: schedule.add("x", "add", "* *")),
        (TypeError, "task is a task", lambda: schedule.add("x", 7, 10)),
        (EncodeError, "args", lambda: schedule.add("x", "add", 10, [object()])),
        (TypeError, "pause", lambda: schedule.change("there", enabled=False)),
        (TypeError, "give the schedule", lambda: schedule.change("there", relative=True)),
    ]
    for kind, said, mistake in mistakes:
        with pytest.raises(kind, match=said):
            mistake()
    assert [view.name for view in schedule.list()] == ["there"]
