"""Options of the application's own on the command line (``app.user_options``)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import click
import pytest

from celeriac import Celeriac, signals
from celeriac.cli.root import run
from tests.unit.helpers import make_app


@pytest.fixture
def app() -> Iterator[Celeriac]:
    app = make_app()
    app.user_options["worker"].add(click.Option(["--shard"], type=int, default=1, help="Its shard."))
    app.user_options["worker"].add(click.Option(["--tag"], help="A label."))
    app.user_options["preload"].add(click.Option(["-Z", "--zone"], default="home", help="Where we are."))
    yield app
    app.close()


@pytest.fixture
def announced() -> Iterator[list[Any]]:
    heard: list[Any] = []

    def hear(app: Any, options: Any, **_: Any) -> None:
        heard.append(options)

    signals.user_preload_options.connect(hear)
    yield heard
    signals.user_preload_options.disconnect(hear)


@pytest.fixture
def started(app: Celeriac, monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """The options of workers that would have been started."""
    seen: list[dict[str, Any]] = []

    class Worker:
        def __init__(self, **options: Any) -> None:
            seen.append(options)

        def start(self) -> int:
            return 0

    monkeypatch.setattr(app, "Worker", Worker)
    return seen


def test_a_worker_is_given_them(app: Celeriac, started: Any, announced: Any) -> None:
    assert run(["worker", "--shard", "3", "-Z", "away", "-c", "2", "-l", "INFO"], app) == 0
    (options,) = started
    assert (options["shard"], options["tag"], options["concurrency"]) == (3, None, 2)
    assert "zone" not in options
    assert announced == [{"zone": "away"}]


def test_defaults_hold_where_none_is_given(app: Celeriac, started: Any, announced: Any) -> None:
    assert run(["worker"], app) == 0
    assert (started[0]["shard"], started[0]["tag"]) == (1, None)
    assert announced == [{"zone": "home"}]


def test_preload_options_are_for_every_command(app: Celeriac, announced: Any) -> None:
    assert run(["report", "--zone=away"], app) == 0
    assert announced == [{"zone": "away"}]


def test_help_shows_them(app: Celeriac, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["worker", "--help"], app) == 0
    shown = capsys.readouterr().out
    assert "--shard" in shown
    assert "Where we are." in shown


def test_help_is_had_without_an_application(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["worker", "-A", "no.such.module", "--help"]) == 0
    assert "--concurrency" in capsys.readouterr().out


def test_other_options_are_still_mistakes(app: Celeriac, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["worker", "--shart", "3"], app) == 2
    assert "--shart" in capsys.readouterr().err
    assert run(["report", "--shard", "3"], app) == 2


def test_what_is_no_option_is_named(app: Celeriac, capsys: pytest.CaptureFixture[str]) -> None:
    app.user_options["worker"].add("--flag")
    assert run(["worker", "--flag"], app) == 1
    assert "'--flag' is not an option" in capsys.readouterr().err
