"""Real workers in processes of their own, on every store that outlives a process."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from celeriac import Celeriac
from celeriac.engines.base import Incarnation, Outcome
from tests.processes import PATIENCE, LoggedProcess
from tests.servers import PostgresServer, RedisServer

HERE = Path(__file__).parent


NOT_ON_RABBITMQ = {
    "test_a_worker_s_copy_goes_with_it_and_comes_back_after_a_kill": "bindings are told to nobody else",
    "test_a_revoked_delayed_task_is_gone_at_once": "delayed messages cannot be taken out: dropped when due",
    "test_a_frozen_node_is_taken_over_and_refused_when_it_wakes": "see test_rabbitmq.py",
    "test_quick_tasks_are_not_held_behind_a_slow_one[rabbitmq-hold_interpreter]": "what is pushed to a "
    "process only it can give back",
    "test_no_more_run_at_once_than_the_limit_over_two_workers": "max_concurrency needs leases in the store",
    "test_a_purged_queue_frees_its_keys": "a purge does not see what it deletes",
    "test_a_revoked_delayed_header_task_fails_the_chord": "it is revoked when it is due",
}
"""Tests of ``site`` that do not run on RabbitMQ, and why not."""


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what RabbitMQ cannot give."""
    left_out = {
        item
        for item in items
        if "[rabbitmq" in item.name
        and not NOT_ON_RABBITMQ.keys().isdisjoint({item.name, item.name.partition("[")[0]})
    }
    if left_out:
        config.hook.pytest_deselected(items=list(left_out))
        items[:] = [item for item in items if item not in left_out]


class WorkerProcess(LoggedProcess):
    """A ``celeriac worker`` of the tests' project whose log is read as it comes."""

    def __init__(
        self, arguments: list[str], env: dict[str, str], application: str = "tests.integration.project"
    ) -> None:
        command = [sys.executable, "-m", "celeriac", "-A", application, "worker", "-l", "INFO", *arguments]
        super().__init__(command, env, HERE.parent.parent)

    def children(self) -> list[int]:
        """The pids of its child processes, by role ``celeriac:<number>`` (the agent excluded)."""
        found = []
        for pid in _children_of(self.process.pid):
            try:
                comm = Path(f"/proc/{pid}/comm").read_text().strip()
            except OSError:
                continue
            if comm.startswith("celeriac:") and comm != "celeriac:agent":
                found.append(pid)
        return found

    def agent(self) -> int | None:
        """The agent's pid; ``None`` while there is none."""
        for pid in _children_of(self.process.pid):
            if Path(f"/proc/{pid}/comm").read_text().strip() == "celeriac:agent":
                return pid
        return None


def _children_of(pid: int) -> list[int]:
    return [int(p) for p in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


class Site:
    """One broker with an application for the test and workers on demand."""

    def __init__(self, broker: str, tmp_path: Path, backend: str | None = None) -> None:
        self.broker = broker
        self.backend = backend
        self.journal_path = tmp_path / "journal"
        self.journal_path.touch()
        self.workers: list[WorkerProcess] = []
        self.env = {
            **os.environ,
            "TEST_BROKER": broker,
            "TEST_JOURNAL": str(self.journal_path),
            "PYTHONUNBUFFERED": "1",
        }
        if backend is not None:
            self.env["TEST_BACKEND"] = backend
        self.conf: dict[str, Any] = {}
        self.app = Celeriac(
            "client", broker=broker, backend=backend, set_as_current=False, beat_scope="project"
        )

    def worker(self, *arguments: str, ready: bool = True, **conf: Any) -> WorkerProcess:
        env = {**self.env, "TEST_CONF": json.dumps({**self.conf, **conf})}
        if not any(a.startswith(("-n", "--hostname")) for a in arguments):
            arguments = (*arguments, "-n", f"w{len(self.workers) + 1}@%h")
        worker = WorkerProcess(list(arguments), env)
        self.workers.append(worker)
        if ready:
            worker.await_line("ready.")
        return worker

    def send(self, name: str, *args: Any, **options: Any) -> Any:
        return self.app.send_task(f"tests.integration.project.{name}", args, **options)

    def journal(self) -> list[str]:
        return self.journal_path.read_text().splitlines()

    def await_journal(self, condition: Callable[[list[str]], bool], timeout: float = PATIENCE) -> list[str]:
        """Wait until the journal satisfies ``condition``. It is a file, so this is a look every 10 ms."""
        deadline = time.monotonic() + timeout
        while not condition(self.journal()):
            logs = "\n".join(worker.log for worker in self.workers)
            assert time.monotonic() < deadline, f"journal: {self.journal()}\n{logs}"
            time.sleep(0.01)
        return self.journal()

    def await_true(self, condition: Callable[[], Any], timeout: float = PATIENCE) -> Any:
        """Wait until ``condition()`` is true, looking every 20 ms; return its value."""
        deadline = time.monotonic() + timeout
        while not (value := condition()):
            logs = "\n".join(worker.log for worker in self.workers)
            assert time.monotonic() < deadline, f"it did not become true\n{logs}"
            time.sleep(0.02)
        return value

    def put(self, payload: bytes, queue: str = "celery") -> None:
        """Put bytes into a queue of RabbitMQ's as a foreign program would."""
        import amqp

        broker: Any = self.app.broker
        with broker.session("put") as session:
            broker.declare(session, queue)
            session.desk.basic_publish(amqp.Message(payload, delivery_mode=2), "", queue)
            session.alive()

    def take_all(self, queue: str = "celery") -> list[bytes]:
        """Take away what is ready in a queue, in order; without slots, for then nothing that was delivered
        before is held back for a while."""
        consumer = self.app.broker.attach(Incarnation(uuid.uuid4().hex, 1, 1, slots=0))
        found: list[bytes] = []
        try:
            while deliveries := consumer.exchange((), [queue], 100).deliveries:
                found += [one.payload for one in deliveries]
                consumer.exchange([Outcome(one.token, queue) for one in deliveries], [queue], 0)
        finally:
            consumer.close()
        return found

    def close(self) -> None:
        for worker in self.workers:
            if worker.process.poll() is None:
                worker.signal(signal.SIGCONT)
                worker.signal(signal.SIGQUIT)
                try:
                    worker.process.wait(10)
                except subprocess.TimeoutExpired:
                    worker.kill()
        self.app.close()


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run what uses this ``site`` on every engine that outlives a process, or on its marked ``engines``.

    For what has nothing to do with the store one will do.
    """
    if "site" in metafunc.fixturenames and not hasattr(metafunc.module, "site"):
        marked = metafunc.definition.get_closest_marker("engines")
        engines = ["sqlite", "redis", "rabbitmq", "postgres"]
        if "carrier" in metafunc.fixturenames:
            engines = ["redis", "rabbitmq"]  # the others carry no events
        metafunc.parametrize("site", marked.args if marked else engines, indirect=True)


@pytest.fixture
def site(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Site]:
    """A fresh broker with results in the same store; RabbitMQ's are in SQLite."""
    backend = None
    if request.param == "rabbitmq":
        broker = request.getfixturevalue("rabbit_server").fresh_url()
        backend = f"sqlite:///{tmp_path}/results.db"
    elif request.param == "sqlite":
        broker = f"sqlite:///{tmp_path}/queue.db"
    elif request.param == "postgres":
        postgres: PostgresServer = request.getfixturevalue("postgres_server")
        postgres.empty()
        broker = postgres.url()
    else:
        server: RedisServer = request.getfixturevalue("redis_server")
        import redis

        redis.Redis.from_url(server.url()).flushall()
        broker = server.url()
    site = Site(broker, tmp_path, backend)
    yield site
    site.close()
