"""A worker on PostgreSQL while the server ends its connections, shuts down and crashes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.conftest import Site
from tests.servers import PostgresServer

TASKS = 400


@pytest.fixture
def server() -> Iterator[PostgresServer]:
    with PostgresServer(durable=True) as server:
        yield server


def test_no_task_is_lost_while_connections_and_server_end(server: PostgresServer, tmp_path: Path) -> None:
    site = Site(server.url(), tmp_path)
    try:
        site.worker("-c", "2")
        sent = [f"t{number}" for number in range(TASKS)]
        results = site.app.send_task
        handles = [results("tests.integration.project.mark", (text,)) for text in sent[: TASKS // 2]]
        server.run(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'celeriac'"
        )
        handles += [
            results("tests.integration.project.mark", (text,), retry=True) for text in sent[TASKS // 2 :]
        ]
        server.shut_down()
        server.start()
        site.await_journal(lambda lines: len(set(lines)) > TASKS // 4)
        server.restart()
        journal = site.await_journal(lambda lines: set(lines) >= set(sent), 60)
        assert [handle.get(timeout=30) for handle in handles] == sent
        # What was under way at an end of the server may have run twice: at most a batch a child each time.
        assert len(journal) <= TASKS + 3 * 2 * 32
        depth = site.app.broker.depth(["celery"])["celery"]
        assert depth[:4] == (0, 0, 0, 0)
    finally:
        site.close()
