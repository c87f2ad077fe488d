"""A real exporter for Prometheus with workers of ours: its series, and where they come from."""

from __future__ import annotations

import os
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families as parse

from tests.fleet.house import FleetSite, fleet_python
from tests.integration.test_celery_interop import HERE
from tests.processes import LoggedProcess, wait_until
from tests.servers import RedisServer, free_port

pytestmark = pytest.mark.timeout(120)

RELEASE = "5.6"
Found = dict[tuple[str, ...], float]


@pytest.fixture
def site(tmp_path: Path) -> Iterator[FleetSite]:
    with RedisServer() as redis:
        site = FleetSite(redis, tmp_path)
        site.release = RELEASE
        yield site
        site.close()


def test_celery_prometheus_exporter_counts_our_tasks(site: FleetSite) -> None:
    """It knows no application of ours: it turns events on, listens, and asks for queues and workers."""
    port = free_port()
    command = Path(fleet_python(RELEASE)).with_name("celery-prometheus-exporter")
    options = ["--broker", site.broker, "--addr", f"127.0.0.1:{port}", "--enable-events"]
    site.worker("celeriac", "watched", "-c", "1", "-n", "watched@%h")
    exporter = LoggedProcess([str(command), *options, "--queue-list", "watched"], dict(os.environ), HERE)

    def found() -> Found:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
                families = parse(answer.read().decode())
        except (urllib.error.URLError, ConnectionError):
            return {}  # it has not come up yet
        return {(one.name, *one.labels.values()): one.value for each in families for one in each.samples}

    def count(task: str, state: str) -> float:
        return found().get(("celery_tasks_by_name", f"interop_tasks.{task}", state), 0)

    client = site.client("celeriac")
    try:
        wait_until(lambda: found().get(("celery_workers",)) == 1, 40)
        # Its order to send events comes every five seconds; a task before that is nobody's to tell of.
        code = "answer = call(echo, 1).get(timeout=20)"
        wait_until(lambda: client.run(code, "watched") and count("echo", "SUCCESS"), 40)
        client.run(
            """
            calls = [call(add, n, 2) for n in range(5)] + [call(boom, "x")]
            answer = [r.get(timeout=20, propagate=False) and 1 for r in calls]
            """,
            "watched",
        )
        wait_until(lambda: (count("add", "SUCCESS"), count("boom", "FAILURE")) == (5, 1))
        metrics = found()
        assert metrics["celery_tasks_runtime_seconds_count", "interop_tasks.add"] == 5
        assert metrics["celery_task_latency_count",] >= 6
        assert metrics["celery_queue_length", "watched"] == 0
    finally:
        exporter.kill()
