"""What a killed worker of Celery's leaves in Redis is run by ours."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fleet.house import FleetSite
from tests.servers import RedisServer

pytestmark = pytest.mark.timeout(120)


@pytest.fixture
def site(tmp_path: Path) -> Iterator[FleetSite]:
    with RedisServer() as server:
        site = FleetSite(server, tmp_path)
        yield site
        site.close()


@pytest.mark.parametrize("release", ["5.6"])
def test_a_killed_worker_of_celery_s_tasks_run_once_they_are_due(site: FleetSite, release: str) -> None:
    """One that ran (acknowledged late), some that were prefetched, and a delayed one in its memory."""
    site.release = release
    due = {"visibility_timeout": 1, "unacked_restore_interval": 0.1, "unacked_restore_throttle": 10}
    theirs = site.worker("celery", "left", "-c", "1", task_acks_late=True)
    ids = site.client("celery").run(
        """
        answer = [call(mark, "delayed", countdown=1).id, call(nap, 3, "running").id]
        answer += [call(mark, f"prefetched{n}").id for n in range(3)]
        """,
        "left",
    )
    site.await_true(lambda: site.journal() == ["celery start running"])
    site.await_true(lambda: site.server.command("HLEN", "unacked") == b":5\r\n")
    theirs.kill()
    ours = site.worker("celeriac", "left", "-c", "2", broker_transport_options=due)
    code = f"answer = [app.AsyncResult(i).get(timeout=30) for i in {ids!r}]"
    wanted = ["delayed", "running", "prefetched0", "prefetched1", "prefetched2"]
    assert site.client("celery").run(code) == wanted
    ran = [line for line in site.journal() if not line.startswith("celery ")]
    assert sorted(ran) == sorted(
        f"celeriac {text}"
        for text in ("start running", "end running", *(w for w in wanted if w != "running"))
    )
    assert "message(s) of Celery's workers" in ours.log
    assert site.server.command("EXISTS", "unacked", "unacked_index") == b":0\r\n"
