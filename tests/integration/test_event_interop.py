"""Events of Celeriac's and of Celery's workers on one broker, as the monitors of both see them."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.integration.test_celery_interop import HERE, ROOT, InteropSite, celery_python
from tests.processes import LoggedProcess
from tests.servers import RedisServer

pytestmark = pytest.mark.timeout(120)

LIBRARIES = ("celery", "celeriac")
CALLS = """
    add.apply_async((1, 2), queue=Q, task_id=Q + '-add')
    boom.apply_async(('x',), queue=Q, task_id=Q + '-boom')
    flaky.apply_async((1,), queue=Q, task_id=Q + '-flaky')
    add.apply_async((1, 1), queue=Q, task_id=Q + '-late', expires=-5)
    library.group([echo.s(1).set(task_id=Q + '-one')]).apply_async(queue=Q)
"""
ENDS = 5


class Captured(NamedTuple):
    """What each library's monitor told: its events, and what its ``State`` said in the end."""

    events: dict[str, list[dict[str, Any]]]
    states: dict[str, dict[str, Any]]

    def of(self, worker: str, monitor: str = "celery") -> dict[str, list[dict[str, Any]]]:
        """The events about one worker's tasks and itself, by type, in order."""
        found: dict[str, list[dict[str, Any]]] = {}
        for event in self.events[monitor]:
            if event["hostname"].startswith(f"{worker}-") or event.get("queue") == worker:
                found.setdefault(event["type"], []).append(event)
        return found


def environment(library: str) -> dict[str, str]:
    env = {**os.environ, "EVENTS_LIBRARY": library, "PYTHONUNBUFFERED": "1"}
    env.pop("PYTHONPATH", None)
    return {**env, "PYTHONPATH": str(ROOT / "src")} if library == "celeriac" else env


def python(library: str) -> str:
    return celery_python() if library == "celery" else sys.executable


@pytest.fixture(scope="module", params=["redis", "rabbitmq"])
def broker(request: pytest.FixtureRequest) -> Iterator[tuple[str, RedisServer]]:
    """A broker's URL, and a Redis for results."""
    with RedisServer() as server:
        if request.param == "redis":
            yield server.url(), server
        else:
            yield request.getfixturevalue("rabbit_server").fresh_url(), server


@pytest.fixture(scope="module")
def captured(broker: tuple[str, RedisServer], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Captured]:
    """A worker and a monitor of each library; the client of each sends its worker the same calls."""
    url, server = broker
    site = InteropSite(server, tmp_path_factory.mktemp("events"), url)
    site.client_conf = {"task_send_sent_event": True}
    monitors = {}
    try:
        for library in LIBRARIES:
            site.worker(library, library, "-E", "-c", "1", worker_enable_remote_control=True)
        for library in LIBRARIES:
            command = [python(library), str(HERE / "event_capture.py"), url, str(len(LIBRARIES) * ENDS)]
            monitors[library] = LoggedProcess(command, environment(library), HERE)
        for monitor in monitors.values():
            for library in LIBRARIES:
                monitor.await_line(f'"hostname": "{library}-')
        for library in LIBRARIES:
            site.client(library).run(CALLS, library)
        events, states = {}, {}
        for library, monitor in monitors.items():
            states[library] = json.loads(monitor.await_line('{"tasks"', 60))
            events[library] = [
                json.loads(line) for line in monitor.lines if line.startswith("{") and '"type"' in line
            ]
        yield Captured(events, states)
    finally:
        for monitor in monitors.values():
            if monitor.process.poll() is None:
                monitor.kill()
        site.close()


def test_both_monitors_are_told_the_same(captured: Captured) -> None:
    seen = {
        library: {
            (event["hostname"], event["type"], event["uuid"], event["timestamp"])
            for event in events
            if event["type"].startswith("task-")
        }
        for library, events in captured.events.items()
    }
    assert seen["celery"] == seen["celeriac"]
    assert len(seen["celery"]) > 30


def test_our_events_have_celery_s_fields_of_celery_s_types(captured: Captured) -> None:
    theirs, ours = captured.of("celery"), captured.of("celeriac")
    assert set(ours) - {"worker-online"} == set(theirs) - {"worker-online"}
    assert {"task-sent", "task-received", "task-started", "task-succeeded", "task-failed"} < set(ours)
    assert {"task-retried", "task-revoked", "worker-heartbeat"} < set(ours)
    for type, (their_first, *_) in theirs.items():
        if type == "worker-online":
            continue
        our_first = ours[type][0]
        for name, value in their_first.items():
            assert name in our_first, f"{type} has no {name}"
            told = our_first[name]
            assert (told is None) == (value is None), (type, name)
            assert isinstance(told, type_of(value)), (type, name, told, value)


def type_of(value: Any) -> tuple[type, ...]:
    # 0.0 in JSON may come as 0
    return (
        (int, float) if isinstance(value, int | float) and not isinstance(value, bool) else (value.__class__,)
    )


def test_our_events_say_what_celery_s_say(captured: Captured) -> None:
    """The values that do not depend on when and where."""
    same = (
        "name", "args", "kwargs", "retries", "result", "exception", "terminated", "signum", "expired",
        "parent_id", "routing_key", "exchange",
    )  # fmt: skip

    def told(worker: str) -> dict[tuple[str, str], list[list[Any]]]:
        found: dict[tuple[str, str], list[list[Any]]] = {}
        for type, events in captured.of(worker).items():
            for event in events:
                if type.startswith("task-"):
                    key = (event["uuid"].replace(f"{worker}-", ""), type)
                    values = [str(event.get(name)).replace(worker, "*") for name in same]
                    if event.get("retries"):
                        values[same.index("parent_id")] = "*"  # Celery makes a retried task its own parent
                    if type == "task-revoked":
                        values[0] = "*"  # ours name the task, which nothing else has told
                    found.setdefault(key, []).append(values)
        return found

    theirs, ours = told("celery"), told("celeriac")
    assert ours == theirs


def test_the_states_of_both_monitors_agree(captured: Captured) -> None:
    theirs, ours = captured.states["celery"], captured.states["celeriac"]
    assert ours["tasks"] == theirs["tasks"]
    for worker in LIBRARIES:
        states = {uuid: told[1] for uuid, told in ours["tasks"].items() if uuid.startswith(f"{worker}-")}
        assert states == {
            f"{worker}-add": "SUCCESS",
            f"{worker}-boom": "FAILURE",
            f"{worker}-flaky": "SUCCESS",
            f"{worker}-late": "REVOKED",
            f"{worker}-one": "SUCCESS",
        }
    assert set(ours["workers"]) == set(theirs["workers"])
    assert all(told == [True, True] for told in ours["workers"].values())


def test_ours_tell_more(captured: Captured) -> None:
    ours = captured.of("celeriac")
    received = {event["uuid"]: event for event in ours["task-received"]}
    assert {event["queue"] for event in received.values()} == {"celeriac"}
    assert received["celeriac-one"]["group_id"]
    assert "group_id" not in received["celeriac-add"]
    assert ours["task-revoked"][0]["name"] == "interop_tasks.add"


def test_the_clocks_tell_the_order_of_a_task_s_events(captured: Captured) -> None:
    order = [
        event["type"]
        for event in sorted(
            (
                e
                for e in captured.events["celeriac"]
                if e.get("uuid") == "celeriac-flaky" and e["type"] != "task-sent"
            ),
            key=lambda event: event["clock"],
        )
    ]
    first = ["task-received", "task-started", "task-retried"]
    assert order == [*first, "task-received", "task-started", "task-succeeded"]


def test_celery_s_dump_of_our_events_reads_as_ours(broker: tuple[str, RedisServer], tmp_path: Path) -> None:
    """``events --dump`` of both, on a worker of ours; also its going."""
    url, server = broker
    site = InteropSite(server, tmp_path, url)
    dumps = {}
    try:
        worker = site.worker("celeriac", "dumped", "-E", "-c", "1")
        for library in LIBRARIES:
            command = [python(library), "-m", library, "-b", url, "events", "--dump"]
            dumps[library] = LoggedProcess(command, environment(library), HERE)
        for dump in dumps.values():
            dump.await_line("-> evdump: starting capture...")
            dump.await_line("heartbeat:")
        site.client("celeriac").run("add.apply_async((1, 2), queue=Q, task_id='dumped')", "dumped")
        for dump in dumps.values():
            dump.await_line("task succeeded")
        worker.stop()
        for dump in dumps.values():
            dump.await_line("shutdown:")
    finally:
        for dump in dumps.values():
            dump.signal(signal.SIGINT)
        codes = {library: dump.process.wait(20) for library, dump in dumps.items()}
        site.close()
    assert codes["celeriac"] == 0
    lines = {
        library: [line.partition(" local_received=") for line in dump.lines if "(dumped)" in line]
        for library, dump in dumps.items()
    }
    assert len(lines["celeriac"]) == 3
    for ours, theirs in zip(lines["celeriac"], lines["celery"], strict=True):
        assert ours[0] == theirs[0]
        assert ours[2].partition(",")[2] == theirs[2].partition(",")[2]
