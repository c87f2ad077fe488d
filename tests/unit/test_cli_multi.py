"""``celeriac multi``: the names and commands it makes of its arguments, and what it refuses."""

from __future__ import annotations

import platform
import shlex
from pathlib import Path

import pytest

from celeriac.platforms import Pidfile
from tests.unit.test_cli import Run, app, run

__all__ = ["app", "run"]

HOST = platform.node()


def options(run: Run, arguments: str) -> dict[str, list[str]]:
    """Each node's options by its name, as ``multi show`` has them."""
    shown = run("multi", "show", "--pidfile=%n", "--logfile=%n", *arguments.split())
    assert shown.status == 0, shown.err
    commands = [shlex.split(line) for line in shown.out.splitlines()]
    assert all(words[1:5] == ["-m", "celeriac", "worker", "--detach"] for words in commands)
    names = [words[5].removeprefix("--hostname=") for words in commands]
    files = ("--pidfile=", "--logfile=")
    return {
        name.removesuffix(f"@{HOST}"): [word for word in words[6:] if not word.startswith(files)]
        for name, words in zip(names, commands, strict=True)
    }


@pytest.mark.parametrize(
    ("arguments", "names"),
    [
        ("3", [f"celery{number}@{HOST}" for number in (1, 2, 3)]),
        ("2 --range-prefix=worker", [f"worker{number}@{HOST}" for number in (1, 2)]),
        ("2 --hostname=one.example.com", ["celery1@one.example.com", "celery2@one.example.com"]),
        ("image -n one.example.com", ["image@one.example.com"]),
        ("image video", [f"image@{HOST}", f"video@{HOST}"]),
        ("foo@%h bar@other", [f"foo@{HOST}", "bar@other"]),
        ("image video --prefix=x- --suffix=h", ["x-image@h", "x-video@h"]),
        ("w-1", [f"w-1@{HOST}"]),
    ],
)
def test_the_names_are_celerys(run: Run, arguments: str, names: list[str]) -> None:
    assert run("multi", "names", *arguments.split()).out.split() == names


def test_options_are_for_all_or_for_some(run: Run) -> None:
    assert options(run, "3 -c 2 -c:1-2 10 -Q:3 images,mail -E") == {
        "celery1": ["--concurrency=10", "--task-events"],
        "celery2": ["--concurrency=10", "--task-events"],
        "celery3": ["--concurrency=2", "--task-events", "--queues=images,mail"],
    }
    assert options(run, "a b c -c4 --concurrency:a,b 5 -Q:3=z -l INFO -- worker.x=1") == {
        "a": ["--concurrency=5", "--loglevel=INFO", "worker.x=1"],
        "b": ["--concurrency=5", "--loglevel=INFO", "worker.x=1"],
        "c": ["--concurrency=4", "--loglevel=INFO", "--queues=z", "worker.x=1"],
    }


def test_a_flag_takes_no_value_and_an_option_takes_one(run: Run) -> None:
    """Celery takes what follows ``-E`` for its value, and the 4 of ``--concurrency 4`` for a node."""
    assert options(run, "-E w1 --concurrency 4") == {"w1": ["--task-events", "--concurrency=4"]}
    assert options(run, "w1 --own --other=2 -x 3") == {"w1": ["--own", "--other=2", "-x=3"]}


def test_global_options_are_handed_on_wherever_they_stand(run: Run) -> None:
    before = run("-A", "proj", "--workdir", "/srv", "multi", "show", "w1").out
    after = run("multi", "show", "w1", "-A", "proj", "--workdir=/srv").out
    for words in (shlex.split(before), shlex.split(after)):
        assert {"--app=proj", "--workdir=/srv"} <= set(words)


def test_templates_are_filled_in(run: Run) -> None:
    assert run("multi", "expand", "%n %N %h %p %d %i %I %%", "1").out == (
        f"celery1 celery1 celery1@{HOST} celery1@{HOST} {HOST} %i %I %\n"
    )
    (shown,) = run("multi", "show", "w1", "--pidfile=/run/%n.pid", "--workdir=/srv/%n").out.splitlines()
    assert {"--pidfile=/run/w1.pid", "--workdir=/srv/w1", "--logfile=/var/log/celery/w1%I.log"} <= set(
        shlex.split(shown)
    )


def test_one_nodes_command_can_be_had(run: Run) -> None:
    both = run("multi", "show", "a", "b").out.splitlines()
    assert run("multi", "get", "b", "a", "b").out.splitlines() == both[1:]
    assert run("multi", "get", "c", "a", "b").status == 1


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("begin w1", "There is no 'multi begin'"),
        ("strat w1", "Did you mean start"),
        ("start", "Which nodes?"),
        ("start w1", "Which application?"),
        ("restart w1 --pidfile=x", "Which application?"),
        ("show w1 -c:9 2", "no node '9' among w1"),
        ("show a b -c:1-3 2", "no node '1-3' among a, b"),
        ("show w1 -c", "-c needs a value"),
    ],
)
def test_what_is_refused_and_why(
    run: Run, monkeypatch: pytest.MonkeyPatch, arguments: str, said: str
) -> None:
    for name in ("APP", "CELERY_APP", "CELERIAC_APP"):
        monkeypatch.delenv(name, raising=False)
    ran = run("multi", *arguments.split())
    assert ran.status == 2
    assert said in ran.err


def test_its_help_shows_the_actions(run: Run) -> None:
    for arguments in (["--help"], ["help"], ["start", "-h"]):
        ran = run("multi", *arguments)
        assert ran.status == 0
        assert "stopwait NODES [-SIGNAL]" in ran.out


def test_a_node_that_does_not_run_is_down(run: Run, tmp_path: Path) -> None:
    """The pid in a file that nobody holds is another process's by now: it is left alone."""
    stale = tmp_path / "w1.pid"
    stale.write_text("1\n")
    ran = run("multi", "stop", "w1", "-KILL", f"--pidfile={stale}", "--nosplash")
    assert (ran.status, ran.out) == (0, f"> Stopping nodes...\n\t> w1@{HOST}: DOWN\n")
    assert Pidfile(stale).holder() == 0
    assert run("multi", "kill", "w1", f"--pidfile={stale}", "-q").out == ""


def test_a_folder_that_cannot_be_made_is_named(run: Run, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    ran = run("-A", "proj", "multi", "start", "w1", f"--pidfile={tmp_path}/file/run/%n.pid")
    assert ran.status == 73
    assert f"--pidfile: cannot make the folder {tmp_path}/file/run" in ran.err
