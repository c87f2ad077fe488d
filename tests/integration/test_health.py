"""What a worker and a beat answer about themselves, while they work and when something is wrong."""

from __future__ import annotations

import http.client
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families as parse

from tests.integration.conftest import Site
from tests.processes import LoggedProcess
from tests.servers import RedisServer


@pytest.fixture
def here(tmp_path: Path) -> Iterator[Site]:
    """A site on SQLite: what is looked at is not the store."""
    site = Site(f"sqlite:///{tmp_path}/queue.db", tmp_path)
    yield site
    site.close()


def port_of(process: LoggedProcess) -> int:
    line = process.await_line("Health checks and metrics at")
    found = re.search(r"http://127\.0\.0\.1:(\d+)/", line)
    assert found is not None
    return int(found[1])


def get(port: int, path: str) -> tuple[int, str]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    connection.request("GET", path)
    answer = connection.getresponse()
    body = answer.read().decode()
    connection.close()
    return answer.status, body


def samples(port: int) -> dict[tuple[str, ...], float]:
    """All samples, by their name and the values of their labels."""
    status, text = get(port, "/metrics")
    assert status == 200
    return {
        (sample.name, *sample.labels.values()): sample.value
        for family in parse(text)
        for sample in family.samples
    }


NAME = "tests.integration.project."


def test_the_metrics_add_up_over_a_childs_replacement(here: Site) -> None:
    worker = here.worker("-c", "1", "--max-tasks-per-child", "2", "--health", "0")
    port, node = port_of(worker), f"w1@{socket.gethostname()}"
    results = [here.send("add", n, 1) for n in range(5)]
    results += [here.send("flaky", 1), here.send("boom"), here.send("mark", "done")]
    late = here.send("add", 1, 1, expires=-1)
    for result in (*results, late):
        result.get(timeout=20, propagate=False)
    here.await_true(
        lambda: samples(port).get(("celery_task_failed_total", NAME + "boom", node, "celery", "ValueError"))
    )
    found = samples(port)

    def count(what: str, task: str) -> float:
        return found.get((f"celery_task_{what}_total", NAME + task, node, "celery"), 0)

    assert [count(what, "add") for what in ("received", "started", "succeeded", "revoked")] == [6, 5, 5, 1]
    assert [count(what, "flaky") for what in ("started", "retried", "succeeded")] == [2, 1, 1]
    runtime = ("celery_task_runtime", NAME + "add", node, "celery")
    assert found[(runtime[0] + "_count", *runtime[1:])] == 5
    assert found[(runtime[0] + "_bucket", *runtime[1:], "+Inf")] == 5
    # Neither what was not run nor another attempt has waited.
    waited = "celery_task_queue_wait_time_count"
    assert [found[waited, NAME + task, node, "celery"] for task in ("add", "flaky")] == [5, 1]
    assert found["celery_worker_up", node] == 1
    assert found["celery_queue_length", "celery"] == 0
    assert found["celery_active_worker_count", "celery"] == 1
    assert found["celeriac_queue_depth", "celery", "delayed"] == 0


def test_one_of_several_workers_counts_what_clients_send(tmp_path: Path) -> None:
    """And each what its own tasks send; both by the events that tell of it, so they must be turned on."""
    with RedisServer() as server:
        here = Site(server.url(), tmp_path)
        try:
            _count_what_clients_send(here)
        finally:
            here.close()


def _count_what_clients_send(here: Site) -> None:
    workers = [
        here.worker("-c", "1", "--health", "0", "-n", f"{name}@%h", task_send_sent_event=True)
        for name in ("a", "b")
    ]
    ports, host = [port_of(worker) for worker in workers], socket.gethostname()

    def sent(task: str, sender: str) -> list[float]:
        name = ("celery_task_sent_total", NAME + task, sender, "celery")
        return [samples(port).get(name, 0) for port in ports]

    assert sent("add", host) == [0, 0]  # the first question: from now on it is counted
    here.app.conf.task_send_sent_event = True
    here.await_true(lambda: here.send("add", 1, 1) and sent("add", host)[0])
    publisher = here.app.publisher
    publisher.send([publisher.build(NAME + "add", (n, 1), {}) for n in range(100)])
    here.await_true(lambda: sent("add", host)[0] > 100)
    assert sent("add", host)[1] == 0
    here.send("flaky", 1).get(timeout=20)
    own = [sum(sent("flaky", f"{name}@{host}")) for name in ("a", "b")]
    assert sorted(own) == [0, 1]  # the second attempt, by the one that has run the first


def test_a_busy_worker_answers(here: Site) -> None:
    worker = here.worker("-c", "1", "--health", "0")
    port = port_of(worker)
    here.send("spin", 2.0)
    here.await_true(lambda: samples(port)["celery_worker_tasks_active", f"w1@{socket.gethostname()}"] == 1)
    assert get(port, "/livez")[0] == get(port, "/readyz")[0] == 200


def test_without_its_broker_a_worker_lives_and_is_not_ready(tmp_path: Path) -> None:
    with RedisServer() as server:
        site = Site(server.url(), tmp_path)
        worker = site.worker("-c", "1", "--health", "0", worker_lease=2.0)
        port = port_of(worker)
        site.await_true(lambda: get(port, "/readyz")[0] == 200)
        server.kill()
        site.await_true(lambda: get(port, "/readyz")[0] == 503)
        assert "the store has not been reached" in get(port, "/readyz")[1]
        assert get(port, "/livez") == (200, "ok\n")
        assert samples(port)["celeriac_store_up",] == 0
        server.restart()
        site.await_true(lambda: get(port, "/readyz")[0] == 200)
        site.close()


def test_the_endpoint_outlives_its_agent(here: Site) -> None:
    worker = here.worker("-c", "1", "--health", "0")
    port = port_of(worker)
    agent = worker.agent()
    assert agent is not None
    os.kill(agent, signal.SIGKILL)
    worker.await_line("replacing it")
    assert get(port, "/livez")[0] == 200, "who asks meanwhile is answered by the next one"
    here.await_true(lambda: get(port, "/readyz")[0] == 200)


def test_a_port_that_is_taken_stops_the_start(here: Site) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        worker = here.worker("-c", "1", "--health", str(taken.getsockname()[1]), ready=False)
        assert worker.process.wait(20) != 0
    assert "choose another port" in worker.log
    assert "Traceback" not in worker.log


@pytest.mark.parametrize("pool", ["prefork", "solo"])
def test_systemd_is_told_how_a_worker_fares(here: Site, tmp_path: Path, pool: str) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(tmp_path / "notify"))
        systemd.settimeout(20)
        here.env |= {"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "200000"}
        worker = here.worker("-P", pool, "-c", "1")
        while not (said := systemd.recv(1000).decode()).startswith("READY=1\nSTATUS=w1@"):
            assert said == "WATCHDOG=1"
        while systemd.recv(1000) != b"WATCHDOG=1":
            pass
        worker.stop()
        while not (last := systemd.recv(1000).decode()).startswith("STOPPING=1"):
            assert last == "WATCHDOG=1"


def test_the_heartbeat_file_tells_of_the_processes_not_of_the_broker(tmp_path: Path) -> None:
    beat = tmp_path / "beat"
    with RedisServer() as server:
        site = Site(server.url(), tmp_path)
        site.worker("-c", "1", worker_lease=1.0, worker_heartbeat_file=str(beat))
        server.kill()
        os.utime(beat, (0, 0))
        site.await_true(lambda: beat.stat().st_mtime > 0)
        site.close()


def test_the_probe_of_a_worker(here: Site) -> None:
    worker = here.worker("-c", "1", "--health", "0")
    command = [sys.executable, "-m", "celeriac", "probe", "ready", str(port_of(worker))]
    assert subprocess.run(command, capture_output=True, text=True).stdout == "ok\n"
    worker.stop()
    assert subprocess.run(command, capture_output=True).returncode == 1


def test_a_beat_tells_of_its_ticks(here: Site) -> None:
    command = [sys.executable, "-m", "celeriac", "-A", "tests.integration.project", "beat", "-l", "INFO"]
    beat = LoggedProcess([*command, "--health", "0"], here.env, Path(__file__).parents[2])
    try:
        port = port_of(beat)
        here.await_true(lambda: get(port, "/readyz")[0] == 200)
        here.app.schedule.add("often", NAME + "ignore", 0.1)
        name = f"celerybeat@{socket.gethostname()}"
        here.await_true(lambda: samples(port)["celeriac_schedule_sent_total", name] >= 3)
        found = samples(port)
        assert found["celeriac_beat_leader", name] == 1
        assert found["celeriac_schedule_entries", name] >= 1
        assert 0 <= found["celeriac_schedule_lag_seconds", name] < 60
        assert get(port, "/livez")[0] == 200
    finally:
        beat.stop()
