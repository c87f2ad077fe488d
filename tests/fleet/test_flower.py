"""Real Flower with workers of ours: what it shows, and its buttons."""

from __future__ import annotations

import json
import os
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest

from tests.fleet.house import FleetSite, fleet_python
from tests.integration.test_celery_interop import HERE
from tests.processes import LoggedProcess, wait_until
from tests.servers import RedisServer, free_port

pytestmark = pytest.mark.timeout(120)

RELEASE = "5.6"


class Flower:
    """A Flower in Celery's environment, as a project in migration runs it: with its own application."""

    def __init__(self, site: FleetSite) -> None:
        self.site = site
        port = free_port()
        self.url = f"http://127.0.0.1:{port}"
        env = {**site.env("celery", {}), "FLOWER_UNAUTHENTICATED_API": "true"}
        command = [fleet_python(RELEASE), "-m", "celery", "-A", "interop_tasks", "flower"]
        options = [f"--port={port}", "--address=127.0.0.1", "--inspect_timeout=5000"]
        self.process = LoggedProcess([*command, *options], env, HERE)
        self.process.await_line("Visit me at", 40)

    def ask(self, path: str, **form: Any) -> tuple[int, Any]:
        """GET, or POST the form; return the status and the body, which may be JSON."""
        data = urllib.parse.urlencode(form).encode() if form else None
        request = urllib.request.Request(self.url + path, data=data)
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                status, body = answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            status, body = error.code, error.read().decode()
        try:
            return status, json.loads(body)
        except ValueError:
            return status, body

    def press(self, path: str, **form: Any) -> str:
        """A button; its answer."""
        status, body = self.ask(path, **(form or {"pressed": 1}))
        assert status == 200, (path, body)
        return str(body["message"])

    def worker(self, name: str) -> dict[str, Any]:
        """What Flower tells of a worker, asked anew."""
        status, body = self.ask(f"/api/workers?refresh=1&workername={name}")
        assert status == 200, body
        found: dict[str, Any] = body[name]
        return found


@pytest.fixture(scope="module", params=["redis", "rabbitmq"])
def flower(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Flower]:
    broker = None
    if request.param == "rabbitmq":
        broker = request.getfixturevalue("rabbit_server").fresh_url()
    with RedisServer() as redis:
        site = FleetSite(redis, tmp_path_factory.mktemp("flower"), broker)
        site.release = RELEASE
        try:
            flower = Flower(site)
            conf = {"worker_pool_restarts": True, "worker_prefetch_multiplier": 1}
            site.worker("celeriac", "shown", "-c", "2", "-n", "shown@%h", **conf)
            yield flower
            flower.process.kill()
        finally:
            site.close()


@pytest.fixture(scope="module")
def name(flower: Flower) -> str:
    """Our worker's name, once Flower knows it and hears of its tasks: it orders events every five seconds."""
    node = f"shown@{os.uname().nodename}"
    wait_until(lambda: flower.ask("/api/workers?status=1")[1].get(node) is True, 40)
    client = flower.site.client("celery")

    def is_told() -> bool:
        task_id = client.run("r = call(echo, 1); r.get(timeout=20); answer = r.id", "shown")
        return flower.ask(f"/api/task/info/{task_id}")[0] == 200

    wait_until(is_told, 40)
    return node


def test_workers_tasks_and_queues_are_shown(flower: Flower, name: str) -> None:
    client = flower.site.client("celery")
    ids = client.run(
        """
        calls = [call(add, 1, 2), call(boom, "x"), call(flaky, 1)]
        [r.get(timeout=20, propagate=False) for r in calls]
        answer = [r.id for r in calls]
        """,
        "shown",
    )
    ends = ["SUCCESS", "FAILURE", "SUCCESS"]

    def tasks() -> list[Any]:
        return [flower.ask(f"/api/task/info/{task_id}")[1] for task_id in ids]

    wait_until(lambda: [t["state"] for t in tasks() if isinstance(t, dict)] == ends)
    added, failed, retried = tasks()
    assert (added["name"], added["args"], added["kwargs"], added["result"]) == (
        "interop_tasks.add", "(1, 2)", "{}", "3",
    )  # fmt: skip
    assert added["worker"] == failed["worker"] == name
    assert added["received"] <= added["started"] <= added["succeeded"]
    assert added["runtime"] >= 0
    assert failed["exception"] == "ValueError('x')"
    assert "raise ValueError" in failed["traceback"]
    assert retried["retries"] == 1
    assert flower.ask(f"/api/task/result/{ids[0]}")[1]["result"] == 3
    told = flower.worker(name)
    assert told["stats"]["total"]["interop_tasks.add"] == 1
    assert told["stats"]["pool"]["max-concurrency"] == 2
    assert [queue["name"] for queue in told["active_queues"]] == ["shown"]
    assert "interop_tasks.add" in told["registered"]
    assert told["conf"]["worker_pool_restarts"] is True
    assert {"active", "reserved", "scheduled", "revoked"} <= set(told)
    assert json.dumps(told["conf"]).count("guest:guest") == 0
    if not flower.site.broker.startswith("amqp"):  # there Flower asks RabbitMQ's management plug-in
        queues = flower.ask("/api/queues/length")[1]["active_queues"]
        assert queues == [{"name": "shown", "messages": 0}]


def test_the_pages_are_there(flower: Flower, name: str) -> None:
    for path in ("/workers", f"/worker/{name}", "/tasks", "/broker", "/healthcheck"):
        status, body = flower.ask(path)
        assert status == 200, (path, body)
        if path.startswith("/worker"):
            assert name in body
    (row,) = [row for row in flower.ask("/workers?json=1")[1]["data"] if row["hostname"] == name]
    assert row["status"] is True
    assert row["freq"] == 2.0
    assert len(row["loadavg"]) == 3
    metrics = flower.ask("/metrics")[1]
    assert f'flower_worker_online{{worker="{name}"}} 1.0' in metrics
    assert f'flower_events_total{{task="interop_tasks.add",type="task-succeeded",worker="{name}"}}' in metrics


def test_what_celery_exporter_asks_is_answered(flower: Flower, name: str) -> None:
    """danihodovic's is no package that pip could install: these are its questions at each scrape."""
    told = flower.site.client("celery").run(
        """
        stats, queues = app.control.inspect().stats(), app.control.inspect().active_queues()
        processes = {worker: len(each["pool"].get("processes", [])) for worker, each in stats.items()}
        queues = {worker: [queue["name"] for queue in some] for worker, some in queues.items()}
        with app.connection() as connection:
            if connection.info()["transport"] == "redis":
                counts = [connection.default_channel.client.llen("shown"), 1]
            else:
                found = connection.default_channel.queue_declare(queue="shown", passive=True)
                counts = [found.message_count, int(found.consumer_count > 0)]
        answer = [processes, queues, counts]
        """
    )
    assert told == [{name: 2}, {name: ["shown"]}, [0, 1]]


def test_the_pool_s_buttons(flower: Flower, name: str) -> None:
    def size(wanted: int) -> None:
        wait_until(lambda: len(flower.worker(name)["stats"]["pool"]["processes"]) == wanted)

    assert flower.press(f"/api/worker/pool/grow/{name}", n=2) == f"Growing '{name}' worker's pool by 2"
    size(4)
    assert flower.press(f"/api/worker/pool/shrink/{name}", n=2) == f"Shrinking '{name}' worker's pool by 2"
    size(2)
    before = flower.worker(name)["stats"]["pool"]["processes"]
    told = flower.press(f"/api/worker/pool/restart/{name}")
    assert told == f"Restarting '{name}' worker's pool"
    wait_until(lambda: not set(before) & set(flower.worker(name)["stats"]["pool"]["processes"]))
    status, told = flower.ask(f"/api/worker/pool/autoscale/{name}", min=1, max=3)
    assert status in (200, 403)
    assert "utoscal" in str(told)


def test_the_queues_buttons(flower: Flower, name: str) -> None:
    def queues() -> list[str]:
        return sorted(queue["name"] for queue in flower.worker(name)["active_queues"])

    assert "extra" in flower.press(f"/api/worker/queue/add-consumer/{name}", queue="extra")
    wait_until(lambda: queues() == ["extra", "shown"])
    client = flower.site.client("celery")
    assert client.run("answer = call(add, 2, 2).get(timeout=20)", "extra") == 4
    assert "extra" in flower.press(f"/api/worker/queue/cancel-consumer/{name}", queue="extra")
    wait_until(lambda: queues() == ["shown"])


def test_the_tasks_buttons(flower: Flower, name: str) -> None:
    task = "interop_tasks.nap"
    assert flower.press(f"/api/task/rate-limit/{task}", workername=name, ratelimit="100/s") == (
        "new rate limit set successfully"
    )
    status, told = flower.ask(f"/api/task/rate-limit/{task}", workername=name, ratelimit="often")
    assert status == 403, told
    assert flower.press(f"/api/task/timeout/{task}", workername=name, hard=40, soft=30) == (
        "time limits set successfully"
    )
    assert any(line.startswith(task) and "100/s" in line for line in flower.worker(name)["registered"])
    client = flower.site.client("celery")
    ids = client.run("answer = [call(nap, 60, 'x').id, call(nap, 60, 'y', countdown=1).id]", "shown")
    wait_until(lambda: any(each["id"] == ids[0] for each in flower.worker(name)["active"]))
    assert flower.press(f"/api/task/revoke/{ids[1]}") == f"Revoked '{ids[1]}'"
    flower.press(f"/api/task/revoke/{ids[0]}", terminate="true", signal="SIGKILL")
    code = f"answer = [type(app.AsyncResult(i).get(timeout=20, propagate=False)).__name__ for i in {ids!r}]"
    assert client.run(code) == ["TaskRevokedError"] * 2

    def state(task_id: str) -> str:
        status, told = flower.ask(f"/api/task/info/{task_id}")
        return str(told["state"]) if status == 200 else "unknown as yet"

    # No child had got the delayed one: the worker tells of it that has revoked it in the store.
    wait_until(lambda: [state(each) for each in ids] == ["REVOKED"] * 2)
    assert set(ids) <= set(flower.worker(name)["revoked"])
    request = urllib.request.Request(
        f"{flower.url}/api/task/async-apply/interop_tasks.add",
        data=json.dumps({"args": [4, 5], "queue": "shown"}).encode(),
    )
    with urllib.request.urlopen(request, timeout=30) as answer:
        sent = json.load(answer)["task-id"]
    assert client.run(f"answer = app.AsyncResult({sent!r}).get(timeout=20)") == 9


def test_the_shutdown_button(flower: Flower, name: str) -> None:
    """The last test of a Flower."""
    assert flower.press(f"/api/worker/shutdown/{name}") == "Shutting down!"
    (worker,) = flower.site.workers
    assert worker.process.wait(20) == 0
    wait_until(lambda: flower.ask("/api/workers?status=1")[1].get(name) is False)
