"""``celeriac schedule``: every command, and what it says of mistakes."""

from __future__ import annotations

import json
import time
from typing import Any
from unittest import mock

import pytest

from celeriac import Celeriac, clock
from celeriac.cli import root
from celeriac.platforms import EX_USAGE
from tests.unit.helpers import make_app, messages


class Terminal:
    """Runs the command line, and keeps what it wrote."""

    def __init__(self, app: Celeriac, capsys: pytest.CaptureFixture[str]) -> None:
        self.app, self._capsys = app, capsys

    def __call__(self, *arguments: str, status: int = 0) -> str:
        self._capsys.readouterr()
        found = root.run(["schedule", *arguments], self.app)
        out, err = self._capsys.readouterr()
        assert found == status, out + err
        return out + err


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Terminal:
    app = make_app()

    @app.task(name="report")
    def report(kind: str = "daily") -> str:
        return kind

    return Terminal(app, capsys)


def listed(run: Terminal) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(run("list", "--json"))
    return found


@pytest.mark.parametrize(
    ("when", "said"),
    [
        (["--every", "90"], "1.50 minutes"),
        (["--cron", "*/5 * * * *"], "*/5 * * * *"),
        (["--cron", "0 3 * * *", "--zone", "Europe/Berlin"], "Europe/Berlin"),
        (["--crontab", "0 3 * * mon"], "0 3 * * mon"),
        (["--at", "2999-01-01T00:00:00"], "2999"),
    ],
)
def test_each_way_to_say_when(run: Terminal, when: list[str], said: str) -> None:
    assert said in run("add", "nightly", "report", *when)
    (entry,) = listed(run)
    assert (entry["name"], entry["task"], entry["source"], entry["enabled"]) == (
        "nightly", "report", "store", True,
    )  # fmt: skip
    assert said in run("list")


def test_all_of_an_entry_is_shown(run: Terminal) -> None:
    run(
        "add", "nightly", "report", "--every", "60", "-a", '["weekly"]', "--options", '{"queue": "slow"}',
        "--jitter", "5", "--expires", "30", "--missed", "skip", "--no-overlap",
    )  # fmt: skip
    shown = run("show", "nightly")
    for part in ("weekly", "slow", "jitter", "expires", "skip", "overlap"):
        assert part in shown
    assert json.loads(run("show", "nightly", "--json"))["definition"]["overlap"] is False


def test_who_leads_and_whose_schedule_it_is(run: Terminal) -> None:
    run.app.conf.beat_scope = "shop"
    assert "No beat of the scope 'shop' leads" in run("add", "nightly", "report", "--every", "60")
    assert run.app.coordinator is not None
    run.app.coordinator.lead("shop:b1@here/1.2", 60.0)
    assert "Beat shop:b1@here/1.2 leads." in run("list")


def test_what_is_overdue_is_shown(run: Terminal) -> None:
    run("add", "soon", "report", "--every", "0.1")
    run("add", "later", "report", "--every", "3600")
    assert "overdue" not in run("list")
    with mock.patch.object(clock, "source", return_value=time.time() + 65):
        shown = run("list")
        assert "1 overdue, by up to 1 min 5 s" in shown
        assert shown.count("overdue") == 2
        assert [round(entry["overdue"]) for entry in listed(run)] == [0, 65]


def test_paused_resumed_and_removed(run: Terminal) -> None:
    run("add", "a", "report", "--every", "60")
    run("add", "b", "report", "--every", "60")
    assert run("pause", "a", "b") == "Paused a.\nPaused b.\n"
    assert "paused" in run("list")
    assert [entry["enabled"] for entry in listed(run)] == [False, False]
    run("resume", "a")
    assert [entry["enabled"] for entry in listed(run)] == [True, False]
    run("remove", "a", "--yes")
    assert [entry["name"] for entry in listed(run)] == ["b"]


def test_run_sends_the_task_now(run: Terminal) -> None:
    run("add", "a", "report", "--every", "600", "-a", '["now"]', "--no-overlap")
    task_id = run("run", "a").strip()
    (sent,) = messages(run.app)
    assert sent.headers["id"] == task_id
    assert "nothing was sent" in run("run", "a")
    assert len(messages(run.app)) == 1


def test_without_a_beat_it_says_so(run: Terminal) -> None:
    assert "leads: nothing is sent" in run("list")
    assert run.app.coordinator is not None
    run.app.coordinator.lead("beat@here", 60)
    assert "Beat beat@here leads" in run("list")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["add", "a", "report"], "say when"),
        (["add", "a", "report", "--every", "5", "--cron", "@daily"], "say when"),
        (["add", "a", "report", "--every", "5", "--zone", "UTC"], "--zone belongs to"),
        (["add", "a", "report", "--cron", "61 * * * *"], "cannot be read"),
        (["add", "a", "report", "--cron", "@daily", "--zone", "Nowhere/At"], "Nowhere/At"),
        (["add", "a", "raport", "--every", "5"], "Did you mean report?"),
    ],
)
def test_a_mistake_is_named(run: Terminal, arguments: list[str], said: str) -> None:
    assert said in run(*arguments, status=EX_USAGE)
    assert listed(run) == []


def test_a_wrong_name_gets_a_proposal(run: Terminal) -> None:
    run("add", "nightly", "report", "--every", "60")
    assert "did you mean 'nightly'" in run("pause", "nigthly", status=1)
    assert "already" in run("add", "nightly", "report", "--every", "60", status=EX_USAGE)


def test_what_stands_in_the_code_is_changed_there(run: Terminal) -> None:
    from celeriac.app import definition
    from celeriac.engines.schedule import Entry

    assert run.app.coordinator is not None
    made = definition.make(run.app, "coded", "report", 60.0)
    run.app.coordinator.put_entries([Entry("coded", definition.encode(made), "code")])
    assert "cannot be removed here" in run("remove", "coded", "--yes", status=EX_USAGE)
    run("pause", "coded")
