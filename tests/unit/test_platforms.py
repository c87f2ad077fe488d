"""Node names, pid files, daemons and privileges: wrong ones start two workers, or run them as root."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from celeriac import platforms


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "gethostname", lambda: "box.example.org")


@pytest.mark.usefixtures("host")
@pytest.mark.parametrize(
    ("given", "name"),
    [
        (None, "celery@box.example.org"),
        ("w1", "celery@w1"),
        ("w1@%h", "w1@box.example.org"),
        ("%n@%d", "box@example.org"),
        ("@%n", "celery@box"),
        ("100%%@%n", "100%@box"),
        ("w%x@%n", "w%x@box"),
    ],
)
def test_node_names_are_celerys(given: str | None, name: str) -> None:
    assert platforms.node_name(given) == name


@pytest.mark.parametrize(
    ("pattern", "child", "path"),
    [
        ("/run/%n.pid", 0, "/run/w1.pid"),
        ("%n%I.log", 0, "w1.log"),
        ("%n%I.log", 3, "w1-3.log"),
        ("%h-%d-%i.log", 3, "w1@box.example.org-example.org-3.log"),
        ("100%%.log", 1, "100%.log"),
    ],
)
def test_files_of_a_node(pattern: str, child: int, path: str) -> None:
    assert platforms.node_file(pattern, "w1@box.example.org", child) == path


def test_only_patterns_with_i_are_one_file_a_child() -> None:
    assert platforms.is_per_child("%n%I.log")
    assert platforms.is_per_child("%i.log")
    assert not platforms.is_per_child("%n-%%i.log")


# -- the pid file --------------------------------------------------------------------------------------

HOLD = """
import sys
from celeriac.platforms import LockFailed, Pidfile
try:
    Pidfile(sys.argv[1]).acquire()
except LockFailed as exc:
    print(exc.pid, flush=True)
    sys.exit(73)
print("held", flush=True)
sys.stdin.read()
"""


def hold(path: Path) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout
    process.first = process.stdout.readline().strip()  # type: ignore[attr-defined]
    return process


def test_a_second_process_does_not_get_the_pid_file(tmp_path: Path) -> None:
    path = tmp_path / "w.pid"
    first = hold(path)
    assert path.read_text() == f"{first.pid}\n"
    assert platforms.Pidfile(path).holder() == first.pid
    second = hold(path)
    assert second.wait() == 73
    assert second.first == str(first.pid)  # type: ignore[attr-defined]
    assert path.read_text() == f"{first.pid}\n", "the loser must not touch the file"
    first.communicate()
    assert not path.exists()


def test_the_file_of_a_killed_process_is_taken_over(tmp_path: Path) -> None:
    path = tmp_path / "w.pid"
    first = hold(path)
    first.kill()
    first.wait()
    assert path.exists()
    second = hold(path)
    assert second.first == "held"  # type: ignore[attr-defined]
    assert path.read_text() == f"{second.pid}\n"
    second.communicate()


def test_a_stale_file_with_the_number_of_a_living_process_is_taken_over(tmp_path: Path) -> None:
    # In a container every worker is pid 1, so the number tells nothing.
    path = tmp_path / "w.pid"
    path.write_text(f"{os.getpid()}\n")
    process = hold(path)
    assert process.first == "held"  # type: ignore[attr-defined]
    process.communicate()


def test_a_child_that_outlives_us_does_not_hold_the_file(tmp_path: Path) -> None:
    path = tmp_path / "w.pid"
    pidfile = platforms.Pidfile(path)
    pidfile.acquire()
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        os.close(writing)
        os.read(reading, 1)
        os._exit(0)
    pidfile.release()
    other = hold(path)
    assert other.first == "held"  # type: ignore[attr-defined]
    os.close(writing)
    os.waitpid(child, 0)
    other.communicate()


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    target = tmp_path / "precious"
    target.write_text("x")
    (tmp_path / "w.pid").symlink_to(target)
    with pytest.raises(OSError):
        platforms.Pidfile(tmp_path / "w.pid").acquire()
    assert target.read_text() == "x"


# -- daemons -------------------------------------------------------------------------------------------

DAEMON = """
import os, sys
from celeriac.platforms import detach
ready = detach()
print("importing", flush=True)
if sys.argv[2] == "fails":
    sys.exit(3)
ready()
print("not seen", flush=True)
with open(sys.argv[1], "w") as file:
    file.write(f"{os.getpid()} {os.getsid(0)} {os.getppid()}")
"""


def test_a_daemon_lets_go_once_it_is_ready(tmp_path: Path) -> None:
    fifo = tmp_path / "said"
    os.mkfifo(fifo)
    done = subprocess.run(
        [sys.executable, "-c", DAEMON, str(fifo), "works"], capture_output=True, text=True, timeout=20
    )
    assert done.returncode == 0
    pid, session, _ = map(int, fifo.read_text().split())
    assert done.stdout == "importing\n"
    assert session != os.getsid(0)
    assert pid != session, "a session leader could get a terminal back"


def test_a_daemon_that_fails_early_tells_its_status(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", DAEMON, "-", "fails"], capture_output=True, timeout=20)
    assert done.returncode == 3


# -- privileges ----------------------------------------------------------------------------------------


def test_unknown_users_and_groups_are_named() -> None:
    with pytest.raises(KeyError, match="no user 'nobody-of-this-name'"):
        platforms.parse_uid("nobody-of-this-name")
    with pytest.raises(KeyError, match="no group 'no-such-group'"):
        platforms.parse_gid("no-such-group")
    assert platforms.parse_uid("12") == 12


DROP = """
import os
from celeriac.platforms import drop_privileges
os.setgroups([0, 4])
drop_privileges("nobody")
import pwd
assert os.getresuid() == (pwd.getpwnam("nobody").pw_uid,) * 3, os.getresuid()
assert os.getresgid() == (pwd.getpwnam("nobody").pw_gid,) * 3, os.getresgid()
assert 0 not in os.getgroups(), os.getgroups()
assert os.environ["USER"] == "nobody"
try:
    os.setuid(0)
except PermissionError:
    print("dropped")
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_privileges_are_dropped_for_good() -> None:
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run([sys.executable, "-c", DROP], capture_output=True, text=True, env=environment)
    assert done.stdout == "dropped\n", done.stderr


def test_somebody_else_may_not_become_root() -> None:
    if os.geteuid() == 0:
        code = "import os; from celeriac.platforms import drop_privileges as d; os.setuid(65534); d(0)"
    else:
        code = "from celeriac.platforms import drop_privileges as d; d(0)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "PermissionError" in done.stderr


@pytest.mark.parametrize(
    ("files", "most"),
    [
        ({"cpu.max": "150000 100000\n"}, 2),
        ({"cpu.max": "50000 100000\n"}, 1),
        ({"cpu.max": "max 100000\n"}, None),
        ({"cpu/cpu.cfs_quota_us": "100000", "cpu/cpu.cfs_period_us": "100000"}, 1),
        ({"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, None),
        ({}, None),
    ],
)
def test_processors_are_cut_by_the_containers_quota(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, files: dict[str, str], most: int | None
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)), raising=False)
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    assert platforms.cpu_count(str(tmp_path)) == (most or 8)
