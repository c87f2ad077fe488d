"""Checks, metrics and the probe: what answers, to whom, and what it says."""

from __future__ import annotations

import http.client
import os
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families as parse

from celeriac import probe
from celeriac.exceptions import ImproperlyConfigured
from celeriac.monitor.endpoint import Endpoint, Page, verdict
from celeriac.monitor.listening import address, listen
from celeriac.monitor.metrics import BUCKETS, Histogram, Metrics
from celeriac.monitor.systemd import Systemd
from celeriac.worker.board import Board
from celeriac.worker.counters import OTHER, Counted, Counters, Histograms, Names


@pytest.fixture
def sick() -> list[str]:
    return []


@pytest.fixture
def port(sick: list[str]) -> Iterator[int]:
    """A served endpoint whose ``/livez`` tells of ``sick``."""
    listening = listen("0")
    endpoint = Endpoint(listening, {"/livez": lambda: verdict(sick), "/broken": lambda: Page(1 // 0, "")})
    endpoint.start()
    yield listening.getsockname()[1]
    endpoint.close()
    listening.close()


def get(port: int, path: str, method: str = "GET") -> tuple[int, str]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    connection.request(method, path)
    answer = connection.getresponse()
    body = answer.read().decode()
    connection.close()
    return answer.status, body


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("8787", ("127.0.0.1", 8787)),
        ("0.0.0.0:80", ("0.0.0.0", 80)),
        ("[::1]:8787", ("::1", 8787)),
        ("worker-1:9000", ("worker-1", 9000)),
    ],
)
def test_addresses(text: str, found: tuple[str, int]) -> None:
    assert address(text) == found


@pytest.mark.parametrize("text", ["", "x", "host:", ":8787", "1:70000", "8787/livez"])
def test_what_is_no_address_is_told(text: str) -> None:
    with pytest.raises(ImproperlyConfigured, match="host:port"):
        listen(text)


def test_a_port_that_is_taken_is_told() -> None:
    with listen("0") as taken, pytest.raises(ImproperlyConfigured, match="another port"):
        listen(str(taken.getsockname()[1]))


def test_the_endpoint_says_what_is_wrong(port: int, sick: list[str]) -> None:
    assert get(port, "/livez?verbose") == (200, "ok\n")
    sick += ["one <thing>", "another"]
    assert get(port, "/livez") == (503, "one <thing>\nanother\n")
    assert get(port, "/livez", "HEAD") == (503, "")
    assert get(port, "/") == (200, "/livez\n/broken\n")
    assert get(port, "/nothing")[0] == 404
    assert get(port, "/livez", "POST")[0] == 501
    status, body = get(port, "/broken")
    assert (status, "division" in body) == (500, False)


def test_those_who_only_connect_do_not_keep_others_out_for_long(
    port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("celeriac.monitor.endpoint._Handler.timeout", 0.2)
    silent = [socket.create_connection(("127.0.0.1", port)) for _ in range(20)]

    def answered() -> bool:
        try:
            return get(port, "/livez")[0] == 200
        except (OSError, http.client.HTTPException):
            return False

    deadline = time.monotonic() + 20
    while not answered():
        assert time.monotonic() < deadline
    for end in silent:
        end.close()


def test_metrics_are_read_by_prometheus() -> None:
    metrics = Metrics()
    metrics.add("jobs_total", "counter", "Jobs.", 3, {"name": 'a "b"\\c\n', "queue": "x"})
    metrics.add("depth", "gauge", "Depth.", 0.25)
    metrics.add("jobs_total", "counter", "Jobs.", 4, {"name": "d", "queue": "x"})
    seen = Histogram(BUCKETS)
    seen.counts[1], seen.counts[-1], seen.total = 2, 1, 20.5
    metrics.histogram("runtime", "Seconds.", seen, {"name": "d"})
    families = {family.name: family for family in parse(metrics.text())}
    jobs = [(sample.labels["name"], sample.value) for sample in families["jobs"].samples]
    assert jobs == [('a "b"\\c\n', 3), ("d", 4)]
    assert families["depth"].samples[0].value == 0.25
    runtime = {(sample.name, sample.labels.get("le")): sample.value for sample in families["runtime"].samples}
    assert runtime["runtime_bucket", "0.005"] == 0
    assert runtime["runtime_bucket", "0.01"] == runtime["runtime_bucket", "10"] == 2
    assert runtime["runtime_bucket", "+Inf"] == runtime["runtime_count", None] == 3
    assert runtime["runtime_sum", None] == 20.5


def totals(board: Board, child: int = 0) -> tuple[Counter[tuple[Names, Counted]], Histograms]:
    counts: Counter[tuple[Names, Counted]] = Counter()
    runs: Histograms = {}
    Counters(board, child).add_to(counts, runs, {})
    return counts, runs


def test_a_successor_goes_on_with_the_counters_of_a_child_that_died() -> None:
    board = Board(children=2, slots=1)
    for _ in range(2):
        pid = os.fork()
        if pid == 0:
            area = Counters(Board(2, 1, board.fd), 1)
            area.count(Counted.STARTED, "add", "q")
            area.ran("add", "q", 0.3)
            area.failed("add", "q", "ValueError")
            os._exit(9)
        os.waitpid(pid, 0)
    counts, runs = totals(board, 1)
    assert counts[("add", "q"), Counted.STARTED] == counts[("add", "q"), Counted.SUCCEEDED] == 2
    assert (runs["add", "q"].total, runs["add", "q"].counts[BUCKETS.index(0.5)]) == (0.6, 2)
    failures: Counter[Names] = Counter()
    Counters(board, 1).add_failures_to(failures)
    assert failures == {("add", "q", "ValueError"): 2}
    assert not totals(board, 0)[0]


def test_names_there_is_no_room_for_are_counted_together() -> None:
    board = Board(children=1, slots=1)
    area = Counters(board, 0)
    for number in range(300):
        area.count(Counted.RECEIVED, f"task{number}", "q")
        area.failed(f"task{number}", "q", "E")
    area.count(Counted.RECEIVED, "é" * 200, "q")
    counts, _ = totals(board)
    assert sum(counts.values()) == 301
    assert counts[(OTHER, OTHER), Counted.RECEIVED] == 202
    failures: Counter[Names] = Counter()
    area.add_failures_to(failures)
    assert (sum(failures.values()), failures[OTHER, OTHER, OTHER]) == (300, 201)


def test_threads_lose_no_counts() -> None:
    board = Board(children=1, slots=4)
    area = Counters(board, 0)

    def work() -> None:
        for _ in range(2000):
            area.count(Counted.STARTED, "add", "q")

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert totals(board)[0][("add", "q"), Counted.STARTED] == 8000


# -- the probe -------------------------------------------------------------------------------------------


def test_the_probe_asks_the_endpoint(
    port: int, sick: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert probe.main([str(port)]) == probe.main(["live", f"127.0.0.1:{port}"]) == 0
    assert probe.main([f"0.0.0.0:{port}"]) == 0, "a wildcard is found on the loopback interface"
    monkeypatch.setenv("CELERIAC_WORKER_HEALTH", str(port))
    assert probe.main([]) == 0
    capsys.readouterr()
    sick.append("the supervisor sleeps")
    assert probe.main([str(port)]) == 1
    assert "the supervisor sleeps" in capsys.readouterr().err
    assert probe.main(["ready", str(port)]) == 1, "there is no such page"
    with listen("0") as silent:
        assert probe.main([str(silent.getsockname()[1]), "--timeout=0.05"]) == 1


def test_the_probe_looks_at_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    beat, pid = tmp_path / "beat", tmp_path / "pid"
    assert probe.main(["--file", str(beat)]) == 1
    beat.touch()
    assert probe.main(["--file", str(beat)]) == 0
    os.utime(beat, (time.time() - 100, time.time() - 100))
    assert probe.main(["--file", str(beat)]) == 1
    assert "100 s old" in capsys.readouterr().err
    assert probe.main(["--file", str(beat), "--max-age", "200"]) == 0
    pid.write_text(f"{os.getpid()}\n")
    assert probe.main([f"--pidfile={pid}"]) == 0
    ended = subprocess.Popen(["true"])
    ended.wait()
    pid.write_text(str(ended.pid))
    assert probe.main(["--pidfile", str(pid)]) == 1


@pytest.mark.parametrize(
    "arguments", [["--bad"], ["--file"], ["8787", "x"], ["x:y"], ["--timeout", "soon", "1"], []]
)
def test_a_mistake_in_the_arguments_is_told(
    arguments: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CELERIAC_WORKER_HEALTH", raising=False)
    assert probe.main(arguments) == 2
    assert "Usage" in capsys.readouterr().err


def test_the_probe_loads_no_library(port: int) -> None:
    """It must cost next to nothing, every few seconds: what it loads beside Python's start-up is itself."""
    code = (
        "import sys; before = set(sys.modules); from celeriac import __main__; "
        f"sys.argv[1:] = ['probe', '{port}']\n"
        "try: __main__.main()\n"
        "except SystemExit as end: status = end.code\n"
        "print(status, *sorted(set(sys.modules) - before))"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    status, *loaded = said.splitlines()[-1].split()
    assert status == "0"
    heavy = {"click", "msgspec", "http", "email", "asyncio", "logging", "ssl", "celeriac.app"}
    assert heavy.isdisjoint(loaded)


# -- systemd ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("abstract", [False, True])
def test_systemd_is_told(abstract: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = f"@celeriac-{os.getpid()}" if abstract else str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind("\0" + name[1:] if abstract else name)
        systemd.settimeout(5)
        monkeypatch.setenv("NOTIFY_SOCKET", name)
        monkeypatch.setenv("WATCHDOG_USEC", "60000000")
        service = Systemd()
        service.ready("up")
        service.alive()
        service.alive()
        service.stopping()
        said = [systemd.recv(1000).decode() for _ in range(3)]
    assert said == ["READY=1\nSTATUS=up", "WATCHDOG=1", "STOPPING=1\nSTATUS=Stopping"]


def test_the_watchdog_of_another_process_is_not_fed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(tmp_path / "notify"))
        systemd.setblocking(False)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        monkeypatch.setenv("WATCHDOG_USEC", "60000000")
        monkeypatch.setenv("WATCHDOG_PID", "1")
        Systemd().alive()
        with pytest.raises(BlockingIOError):
            systemd.recv(1000)


def test_without_systemd_nothing_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "gone"))
    Systemd().ready("up")
    monkeypatch.delenv("NOTIFY_SOCKET")
    Systemd().ready("up")
