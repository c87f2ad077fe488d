"""Events of real workers: started and switched at run time, through crashes, by scripts and by commands."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.integration.conftest import Site
from tests.processes import PATIENCE, LoggedProcess, wait_until
from tests.servers import RedisServer

pytestmark = pytest.mark.timeout(90)

ROOT = Path(__file__).parent.parent.parent


class Monitor:
    """A receiver in a thread, whose events can be waited for."""

    def __init__(self, site: Site, routing_key: str = "#") -> None:
        self.events: list[dict[str, Any]] = []
        self._news = threading.Condition()
        self.receiver = site.app.events.Receiver(handlers={"*": self._take}, routing_key=routing_key)
        self._thread = threading.Thread(target=self.receiver.capture, daemon=True)
        self._thread.start()

    def _take(self, event: dict[str, Any]) -> None:
        with self._news:
            self.events.append(event)
            self._news.notify_all()

    def wait(self, wanted: Callable[[dict[str, Any]], Any], count: int = 1) -> list[dict[str, Any]]:
        def found() -> list[dict[str, Any]]:
            return [event for event in self.events if wanted(event)]

        with self._news:
            assert self._news.wait_for(lambda: len(found()) >= count, PATIENCE), self.types()
            return found()

    def of(self, type: str, count: int = 1) -> list[dict[str, Any]]:
        return self.wait(lambda event: event["type"] == type, count)

    def types(self) -> list[str]:
        return [event["type"] for event in self.events]

    def close(self) -> None:
        self.receiver.should_stop = True
        self._thread.join(PATIENCE)


@pytest.fixture
def carrier(site: Site) -> Site:
    """A broker that carries events."""
    return site


@pytest.fixture
def own_redis(tmp_path: Path) -> Iterator[Site]:
    """A Redis of the test's own."""
    with RedisServer() as server:
        site = Site(server.url(), tmp_path)
        yield site
        site.close()


def test_events_are_switched_while_the_worker_runs(carrier: Site) -> None:
    site = carrier
    monitor = Monitor(site)
    site.worker("-c", "2")
    monitor.of("worker-heartbeat")
    site.send("add", 1, 1).get(timeout=20)
    assert site.app.control.enable_events(reply=True)[0].popitem()[1] == {"ok": "task events enabled"}
    assert site.app.control.enable_events(reply=True)[0].popitem()[1] == {"ok": "task events already enabled"}
    # Each child takes note with its next exchange.
    site.await_true(lambda: site.send("add", 2, 2).get(timeout=20) and "task-succeeded" in monitor.types())
    assert "(1, 1)" not in [event.get("args") for event in monitor.of("task-received")]
    site.app.control.disable_events(reply=True)

    def silent() -> bool:
        known = len(monitor.events)
        last = site.send("mark", "x")
        last.get(timeout=20)
        count = monitor.types().count("worker-heartbeat")
        monitor.of("worker-heartbeat", count + 1)
        return last.id not in [event.get("uuid") for event in monitor.events[known:]]

    site.await_true(silent)
    monitor.close()


def test_a_worker_comes_works_and_goes(carrier: Site) -> None:
    site = carrier
    monitor = Monitor(site)
    monitor_of_workers = Monitor(site, "worker.#")
    worker = site.worker("-E", "-c", "1", "-n", "one@%h", task_send_sent_event=True)
    result = site.send("add", 1, 2)
    site.send("boom").get(timeout=20, propagate=False)
    assert monitor.of("task-failed")[0]["exception"] == "ValueError('boom')"
    (received,) = [event for event in monitor.of("task-received") if event["uuid"] == result.id]
    assert (received["args"], received["queue"], received["hostname"][:4]) == ("(1, 2)", "celery", "one@")
    worker.stop()
    (gone,) = monitor.of("worker-offline")
    assert gone["processed"] == 2
    assert gone["sw_ident"] == "py-celeriac"
    monitor_of_workers.of("worker-offline")
    assert {event["type"].partition("-")[0] for event in monitor_of_workers.events} == {"worker"}
    monitor.close()
    monitor_of_workers.close()


def test_a_delayed_task_that_is_revoked_is_told_of_by_a_worker(own_redis: Site) -> None:
    """Where the store can find it; on RabbitMQ a worker drops it when it is due."""
    site = own_redis
    monitor = Monitor(site)
    site.worker("-E", "-c", "1", "-n", "one@%h")
    monitor.of("worker-heartbeat")
    result = site.app.send_task("tests.integration.project.add", (1, 2), countdown=300)
    result.revoke()
    (event,) = monitor.of("task-revoked")
    assert (event["uuid"], event["name"]) == (result.id, "tests.integration.project.add")
    assert event["hostname"].startswith("one@")
    monitor.close()


def test_tasks_send_events_of_their_own_with_and_without_E(carrier: Site) -> None:
    site = carrier
    monitor = Monitor(site)
    site.worker("-c", "1")
    result = site.send("report", 3)
    assert result.get(timeout=20) == 3
    (event,) = monitor.of("task-progress")
    assert (event["uuid"], event["done"]) == (result.id, 3)
    assert monitor.of("shop-paid")[0]["amount"] == 3
    assert "task-succeeded" not in monitor.types()
    monitor.close()


def test_what_a_worker_sends_on_is_told_too(carrier: Site) -> None:
    """``task-sent`` of a chain's next step and of the next attempt, by the worker."""
    site = carrier
    monitor = Monitor(site)
    site.worker("-c", "1", task_send_sent_event=True)
    project = "tests.integration.project."
    chain = site.app.signature(f"{project}add", (1, 1)) | site.app.signature(f"{project}add", (5,))
    assert chain.apply_async().get(timeout=20) == 7
    (sent,) = monitor.of("task-sent")
    assert (sent["args"], sent["queue"]) == ("(2, 5)", "celery")
    monitor.close()


def test_a_task_that_kills_its_process_keeps_its_events(carrier: Site) -> None:
    site = carrier
    monitor = Monitor(site)
    site.worker("-E", "-c", "1")
    result = site.send("die", "now")
    received = monitor.wait(lambda e: e.get("uuid") == result.id and e["type"] == "task-received", 3)
    assert len(received) == 3
    (failed,) = monitor.of("task-failed")
    assert failed["uuid"] == result.id
    assert "WorkerLostError" in failed["exception"]
    monitor.close()


def test_events_go_on_when_the_broker_comes_back(tmp_path: Path) -> None:
    with RedisServer("aof") as server:
        site = Site(server.url(), tmp_path)
        try:
            worker = site.worker("-E", "-c", "1")
            server.kill()
            worker.await_line("Cannot send events now")
            server.start()
            worker.await_line("Can send events again")
            monitor = Monitor(site)
            monitor.of("worker-heartbeat")
            result = site.send("add", 1, 2)
            monitor.of("task-succeeded")
            assert result.get(timeout=20) == 3
            monitor.close()
        finally:
            site.close()


def test_a_store_without_events_tells_them_from_its_history(tmp_path: Path) -> None:
    site = Site(f"sqlite:///{tmp_path}/queue.db", tmp_path)
    worker = site.worker("-E", "-c", "1")
    worker.await_line("celeriac history")
    table = command_line(site, "events")
    assert table.process.wait(PATIENCE) != 0
    table.await_line("carries no events")
    dump = command_line(site, "events", "--dump")
    dump.await_line("when it has ended")
    wait_until(lambda: site.send("add", 1, 2).get(timeout=20) and "task succeeded" in dump.log)
    ended = dump.await_line("task succeeded")
    assert "args=(1, 2) kwargs={} " in ended
    assert "result=3" in ended
    task = ended.partition("task succeeded: ")[2].partition(" ")[0]
    assert dump.log.index(f"task received: {task}") < dump.log.index(f"task started: {task}")
    dump.stop()
    site.close()


# -- Celery's documented scripts, the import changed ---------------------------------------------------------

REAL_TIME = """
import os
from celeriac import Celery

def my_monitor(app):
    state = app.events.State()

    def announce_failed_tasks(event):
        state.event(event)
        # task name is sent only with -received event, and state
        # will keep track of this for us.
        task = state.tasks.get(event['uuid'])

        print('TASK FAILED: %s[%s] %s' % (
            task.name, task.uuid, task.info(),), flush=True)

    with app.connection() as connection:
        recv = app.events.Receiver(connection, handlers={
                'task-failed': announce_failed_tasks,
                'worker-heartbeat': lambda event: print('HEARD', flush=True),
                '*': state.event,
        })
        recv.capture(limit=None, timeout=None, wakeup=True)

if __name__ == '__main__':
    app = Celery(broker=os.environ["TEST_BROKER"])
    my_monitor(app)
"""

CAMERA = """
from pprint import pformat

from celeriac.events.snapshot import Polaroid

class DumpCam(Polaroid):
    clear_after = True  # clear after flush (incl, state.event_count).

    def on_shutter(self, state):
        if not state.event_count:
            # No new events since last snapshot.
            return
        print('Workers: {}'.format(pformat(state.workers, indent=4)))
        print('Tasks: {}'.format(pformat(state.tasks, indent=4)))
        print('Total: {0.event_count} events, {0.task_count} tasks'.format(
            state), flush=True)

def main(app, freq=1.0):
    state = app.events.State()
    with app.connection() as connection:
        recv = app.events.Receiver(connection, handlers={'*': state.event})
        with DumpCam(state, freq=freq):
            recv.capture(limit=None, timeout=None)

if __name__ == '__main__':
    import os
    from celeriac import Celery
    main(Celery(broker=os.environ["TEST_BROKER"]), 0.2)
"""


def script(site: Site, tmp_path: Path, name: str, text: str) -> LoggedProcess:
    (tmp_path / name).write_text(text)
    return LoggedProcess([sys.executable, name], {**site.env, "PYTHONPATH": str(ROOT / "src")}, tmp_path)


def command_line(site: Site, *arguments: str, cwd: Path = ROOT) -> LoggedProcess:
    env = {**site.env, "PYTHONPATH": os.pathsep.join((str(ROOT / "src"), str(ROOT)))}
    command = [sys.executable, "-m", "celeriac", "-A", "tests.integration.project", *arguments]
    return LoggedProcess(command, env, cwd)


def test_celery_s_documented_monitor_runs(carrier: Site, tmp_path: Path) -> None:
    site = carrier
    site.worker("-E", "-c", "1")
    monitor = script(site, tmp_path, "monitor.py", REAL_TIME)
    monitor.await_line("HEARD")
    result = site.send("boom", "no")
    line = monitor.await_line("TASK FAILED")
    assert line.startswith(f"TASK FAILED: tests.integration.project.boom[{result.id}] ")
    assert "ValueError('no')" in line
    monitor.kill()


def test_celery_s_documented_camera_runs_by_itself_and_by_command(own_redis: Site, tmp_path: Path) -> None:
    site = own_redis
    site.worker("-E", "-c", "1", "-n", "seen@%h")
    alone = script(site, tmp_path, "cameras.py", CAMERA)
    pidfile = tmp_path / "camera.pid"
    arguments = ("events", "--camera", "cameras.DumpCam", "--freq", "0.2", "--pidfile", str(pidfile))
    command = command_line(site, *arguments, cwd=tmp_path)
    for camera in (alone, command):
        camera.await_line("<Worker: seen@")
    assert pidfile.read_text().strip() == str(command.process.pid)
    second = command_line(site, *arguments, cwd=tmp_path)
    second.await_line("is held by the running process")
    result = site.send("add", 1, 2)
    for camera in (alone, command):
        camera.await_line(f"tests.integration.project.add({result.id})")
        camera.await_line("1 tasks")
    command.signal(signal.SIGINT)
    assert command.process.wait(PATIENCE) == 0
    assert not pidfile.exists()
    alone.kill()


def test_the_json_dump_is_an_event_a_line(own_redis: Site) -> None:
    site = own_redis
    site.worker("-E", "-c", "1")
    dump = command_line(site, "events", "--json")
    dump.await_line('"type": "worker-heartbeat"')
    result = site.send("add", 1, 2)
    event = json.loads(dump.await_line('"type": "task-received"'))
    assert (event["uuid"], event["name"]) == (result.id, "tests.integration.project.add")
    dump.signal(signal.SIGINT)
    assert dump.process.wait(PATIENCE) == 0
