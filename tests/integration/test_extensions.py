"""Signals, steps and options of an application's own, with real workers."""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import pytest

from celeriac.message import encode_envelope
from tests.integration.conftest import HERE, Site, WorkerProcess
from tests.integration.test_bad_input import put
from tests.processes import LoggedProcess

pytestmark = pytest.mark.timeout(90)


class ExtendedWorker(WorkerProcess):
    """A worker of ``tests/integration/extended_project.py``."""

    def __init__(self, site: Site, *arguments: str, **env: str) -> None:
        command = [
            sys.executable, "-m", "celeriac", "-A", "tests.integration.extended_project:app", "worker",
            "-n", "w1@here", "-l", "INFO", *arguments,
        ]  # fmt: skip
        LoggedProcess.__init__(self, command, {**site.env, "TEST_CONF": "{}", **env}, HERE.parent.parent)
        site.workers.append(self)


def heard(site: Site) -> dict[str, list[Any]]:
    """Signal name -> what its receiver got: pid, sender, arguments."""
    found: dict[str, list[Any]] = {}
    for line in site.journal():
        if line.startswith("SIGNAL "):
            name, *rest = json.loads(line.removeprefix("SIGNAL "))
            found.setdefault(name, []).append(rest)
    return found


def steps(site: Site) -> list[str]:
    return [line.removeprefix("STEP ") for line in site.journal() if line.startswith("STEP ")]


def send(site: Site, name: str, **options: Any) -> Any:
    return site.app.send_task(f"tests.integration.extended_project.{name}", **options)


EXPECTED = {
    "celeryd_init": ("w1@here", {"instance", "conf", "options"}),
    "celeryd_after_setup": ("w1@here", {"instance", "conf"}),
    "import_modules": ("Celeriac", set()),
    "worker_init": ("w1@here", set()),
    "worker_before_create_process": ("Supervisor", set()),
    "worker_process_init": (None, set()),
    "worker_process_shutdown": (None, {"pid", "exitcode"}),
    "worker_ready": ("w1@here", set()),
    "worker_shutting_down": ("w1@here", {"sig", "how", "exitcode"}),
    "worker_shutdown": ("w1@here", set()),
    "heartbeat_sent": ("w1@here", set()),
    "after_setup_logger": (None, {"logger", "loglevel", "logfile", "format", "colorize"}),
    "after_setup_task_logger": (None, {"logger", "loglevel", "logfile", "format", "colorize"}),
    "user_preload_options": ("worker", {"app", "options"}),
    "task_received": ("w1@here", {"request"}),
    "task_prerun": ("*", {"task_id", "task", "args", "kwargs"}),
    "task_postrun": ("*", {"task_id", "task", "args", "kwargs", "retval", "state"}),
    "task_success": ("tests.integration.project.add", {"result", "runtime"}),
    "task_retry": ("tests.integration.extended_project.again", {"request", "reason", "einfo"}),
    "task_failure": (
        "tests.integration.extended_project.fails",
        {"task_id", "exception", "args", "kwargs", "traceback", "einfo"},
    ),
    "task_internal_error": (
        "tests.integration.extended_project.breaks",
        {"task_id", "args", "kwargs", "request", "exception", "traceback", "einfo"},
    ),
    "task_revoked": (
        "tests.integration.extended_project.again",
        {"request", "terminated", "signum", "expired"},
    ),
    "task_rejected": ("*", {"message", "exc"}),
    "task_unknown": ("w1@here", {"message", "exc", "name", "id"}),
}
"""Every signal of a worker: its sender (a node name, task name or class), and its keyword arguments."""


def test_every_signal_of_a_worker(site: Site) -> None:
    results = [
        site.send("add", 2, 3),
        *(send(site, name) for name in ("again", "fails", "breaks", "rejects")),
    ]
    send(site, "again", expires=-1)
    site.app.send_task("no.such.task")
    put(site, encode_envelope(site.app.publisher.build("x").message)[:-20])
    worker = ExtendedWorker(site, "-c", "1")
    site.await_true(lambda: EXPECTED.keys() - heard(site).keys() <= {
        "worker_process_shutdown", "worker_shutting_down", "worker_shutdown"})  # fmt: skip
    assert results[0].get(timeout=10) == 5
    assert results[1].get(timeout=10) == "done"
    assert worker.stop() == 0
    found = heard(site)
    for name, (sender, arguments) in EXPECTED.items():
        assert name in found, name
        assert all(set(given) == arguments for _, _, given in found[name]), (name, found[name])
        assert sender == "*" or (sender in [one for _, one, _ in found[name]]), (name, found[name])
    assert "a receiver that fails harms nobody" in worker.log

    # The next attempt of a task is a message too.
    for name in ("before_task_publish", "after_task_publish"):
        assert [sender for _, sender, _ in found[name]] == ["tests.integration.extended_project.again"], name

    states = {given["state"] for _, _, given in found["task_postrun"]}
    assert states >= {"SUCCESS", "FAILURE", "RETRY", "REJECTED"}
    assert {"sig": "SIGTERM", "how": "Soft"}.items() <= found["worker_shutting_down"][0][2].items()
    assert found["task_revoked"][0][2]["expired"] is True
    # Those of the worker come once, those of a process from the process.
    assert [len(found[name]) for name in ("worker_init", "worker_ready", "worker_shutdown")] == [1, 1, 1]
    assert found["task_prerun"][0][0] == found["worker_process_init"][0][0]
    assert found["worker_before_create_process"][0][0] == worker.process.pid


def test_the_signals_of_a_publish(site: Site) -> None:
    from celeriac import signals

    before, after = [], []

    def first(sender: Any, **given: Any) -> None:
        before.append((sender, given.keys() - {"signal"}))
        given["headers"]["trace"] = "t1"

    def second(sender: Any, **given: Any) -> None:
        after.append((sender, given.keys() - {"signal"}, given["headers"]["trace"]))

    signals.before_task_publish.connect(first)
    signals.after_task_publish.connect(second)
    try:
        site.app.send_task("shop.pay", (1,))
    finally:
        signals.before_task_publish.disconnect(first)
        signals.after_task_publish.disconnect(second)
    names = {"body", "exchange", "routing_key", "headers", "properties", "declare", "retry_policy"}
    assert before == [("shop.pay", names)]
    assert after == [("shop.pay", {"body", "headers", "exchange", "routing_key"}, "t1")]


# -- steps -------------------------------------------------------------------------------------------------


def test_steps_live_with_the_node(site: Site) -> None:
    worker = ExtendedWorker(site, "-c", "2", "--shard", "7")
    site.await_true(lambda: "Late start" in steps(site) and "First timer" in steps(site))
    assert worker.stop() == 0
    found = steps(site)
    made = next(line for line in found if line.startswith("First made"))
    assert made.startswith("First made 7 w1@here ")
    assert int(made.split()[-1]) != worker.process.pid, "they run in the agent"
    found = [line for line in found if line not in (made, "First timer")]
    # Second failed to start (it asked for Celery's connection), so it is not stopped either.
    assert found == [
        "First start prefork 2", "Second start", "Late start", "First close", "Late stop", "First stop",
    ]  # fmt: skip
    assert "has no 'connection': it has app, hostname" in worker.log


def test_steps_are_terminated_in_a_cold_shutdown_and_begin_anew_in_a_new_agent(site: Site) -> None:
    worker = ExtendedWorker(site, "-c", "1")
    site.await_true(lambda: "Late start" in steps(site))
    agent = worker.agent()
    assert agent is not None
    os.kill(agent, signal.SIGKILL)
    site.await_true(lambda: steps(site).count("Late start") == 2)
    worker.signal(signal.SIGQUIT)
    worker.process.wait(20)
    assert steps(site)[-2:] == ["Late terminate", "First stop"]
    assert len(heard(site)["worker_ready"]) == 1


def test_a_solo_worker_has_its_steps_too(site: Site) -> None:
    worker = ExtendedWorker(site, "-P", "solo")
    site.await_true(lambda: "Late start" in steps(site))
    assert worker.stop() == 0
    assert steps(site)[-2:] == ["Late stop", "First stop"]


def test_a_solo_worker_with_a_grace_calls_its_end_soft_too(site: Site) -> None:
    worker = ExtendedWorker(site, "-P", "solo")
    site.await_true(lambda: "worker_ready" in heard(site))
    assert worker.stop() == 0
    assert heard(site)["worker_shutting_down"][0][2]["how"] == "Soft"


def test_a_step_that_consumes_stops_the_start_with_a_sentence(site: Site) -> None:
    worker = ExtendedWorker(site, TEST_CONSUMES="1")
    assert worker.process.wait(20) == 1
    worker.await_line("the step Eats consumes messages of its own (get_consumers)")


# -- the eventlet pool -------------------------------------------------------------------------------------


def test_the_signals_of_the_eventlet_pool(site: Site, tmp_path: Path) -> None:
    worker = ExtendedWorker(site, "-P", "eventlet", "-c", "2")
    assert site.send("add", 2, 3).get(timeout=20) == 5
    assert worker.stop() == 0
    found = heard(site)
    assert found["eventlet_pool_apply"][0][2].keys() == {"target", "args", "kwargs"}
    for name in ("eventlet_pool_started", "eventlet_pool_preshutdown", "eventlet_pool_postshutdown"):
        assert [len(found[name]), found[name][0][2]] == [1, {}], name
