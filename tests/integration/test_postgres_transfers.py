"""Exactly-once effects: transactional tasks whose process is killed at each step from begin to commit."""

from __future__ import annotations

from pathlib import Path

from tests.integration.conftest import Site, WorkerProcess
from tests.integration.transfers_project import STEPS
from tests.servers import PostgresServer

TASKS = 24
"""Each loses its process once: so many kills."""


def test_effects_happen_once_wherever_the_process_is_killed(
    postgres_server: PostgresServer, tmp_path: Path
) -> None:
    postgres_server.empty()
    postgres_server.run("DROP TABLE IF EXISTS effect; CREATE TABLE effect (number int)")
    site = Site(postgres_server.url(), tmp_path)
    try:
        worker = WorkerProcess(["-c", "2"], site.env, "tests.integration.transfers_project")
        site.workers.append(worker)
        worker.await_line("ready.")
        sent = [
            site.app.send_task("transfer", (number, STEPS[number % len(STEPS)])) for number in range(TASKS)
        ]
        assert [result.get(timeout=60) for result in sent] == list(range(TASKS))
        # Every task has lost its process, the last one perhaps after its result was there to be seen.
        site.await_true(lambda: len(list(tmp_path.glob("journal.*"))) == TASKS)
        site.await_true(lambda: site.app.broker.depth(["celery"])["celery"][:5] == (0, 0, 0, 0, 0))
        done = postgres_server.run("SELECT number FROM effect ORDER BY number")
        assert done == [(number,) for number in range(TASKS)]
    finally:
        site.close()
