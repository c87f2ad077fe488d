"""The command line with a real worker: a daemon, its pid and log file, its node in the presence."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import celeriac
from celeriac.platforms import Pidfile

MODULE = """
from celeriac import Celeriac

app = Celeriac("shop", broker="sqlite:///{path}/shop.db")

@app.task
def add(x, y):
    return x + y
"""

Celery = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[Celery]:
    """Run ``celeriac -A shop ...`` in a project; a worker left over is stopped at the end."""
    (tmp_path / "shop.py").write_text(MODULE.format(path=tmp_path))
    environment = {**os.environ, "PYTHONPATH": str(Path(celeriac.__file__).parents[1])}

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "celeriac", "-A", "shop", *arguments],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            timeout=60,
        )

    yield run
    for file in tmp_path.glob("*.pid"):
        if pid := Pidfile(file).holder():
            os.kill(pid, signal.SIGQUIT)


def until_gone(path: Path) -> None:
    """Wait until the file is removed (there is no event for the end of a process that is not our child)."""
    deadline = time.monotonic() + 30
    while path.exists():
        assert time.monotonic() < deadline, f"{path} is still there"
        time.sleep(0.02)


def test_a_daemon_from_start_to_stop(shop: Celery, tmp_path: Path) -> None:
    task_id = shop("call", "shop.add", "-a", "[1, 2]").stdout.strip()
    flags = ("-n", "w1@%n", "-c", "1", "-l", "info", "--pidfile", "%n.pid", "-f", "%n.log", "--umask", "077")
    started = shop("worker", "--detach", *flags)
    assert (started.returncode, started.stdout) == (0, ""), started.stderr
    pid = int((tmp_path / "w1.pid").read_text())
    os.kill(pid, 0)

    done = shop("result", task_id, "--timeout", "30")
    assert (done.returncode, done.stdout) == (0, "3\n"), done.stderr
    alive = shop("status", "-t", "20")
    assert alive.returncode == 0
    assert "w1@" in alive.stdout

    second = shop("worker", "-D", *flags)
    assert second.returncode == 73
    assert str(pid) in second.stderr
    assert (tmp_path / "w1.pid").read_text() == f"{pid}\n"

    os.kill(pid, signal.SIGTERM)
    until_gone(tmp_path / "w1.pid")
    assert shop("status", "-t", "0").returncode == 69
    log = (tmp_path / "w1.log").read_text()
    assert f"shop.add[{task_id}]" in log
    assert (tmp_path / "w1.log").stat().st_mode & 0o777 == 0o600


def test_a_daemon_that_cannot_start_says_why(shop: Celery) -> None:
    failed = shop("-A", "no_such_shop", "worker", "-D", "-f", "w.log")
    assert failed.returncode == 2
    assert "no_such_shop" in failed.stderr


def test_several_daemons_as_celery_multi_starts_them(shop: Celery, tmp_path: Path) -> None:
    files = ("--pidfile=%n.pid", "--logfile=log/%n%I.log")
    flags = ("-l", "info", "-c", "1", *files)
    started = shop("multi", "start", "2", *flags)
    assert started.returncode == 0, started.stderr
    pids = [int((tmp_path / f"celery{number}.pid").read_text()) for number in (1, 2)]
    assert len(set(pids)) == 2
    again = shop("multi", "start", "2", *flags)
    assert again.returncode == 1
    assert f"held by the running process {pids[0]}" in again.stderr

    restarted = shop("multi", "restart", "celery2", *flags)
    assert restarted.returncode == 0, restarted.stderr
    assert int((tmp_path / "celery1.pid").read_text()) == pids[0]
    assert int((tmp_path / "celery2.pid").read_text()) != pids[1]
    stopped = shop("multi", "stopwait", "2", *files)
    assert stopped.returncode == 0, stopped.stderr
    assert "celery1@" in stopped.stdout
    assert not list(tmp_path.glob("*.pid"))
    assert sorted(path.name for path in (tmp_path / "log").iterdir())[0].startswith("celery1")
