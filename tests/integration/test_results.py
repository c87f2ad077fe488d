"""Results and progress of tasks that real workers run."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest

from celeriac.result import Progress

pytestmark = pytest.mark.timeout(90)


@pytest.mark.parametrize(
    ("task", "pool"), [("tell_steps", "prefork"), ("tell_steps", "threads"), ("async_tell_steps", "asyncio")]
)
def test_progress_is_followed_while_tasks_run(site: Any, task: str, pool: str) -> None:
    sent = [site.send(task, 3), site.send(task, 3)]
    seen: list[list[Progress]] = [[], []]
    followers = [
        threading.Thread(target=lambda n=n: seen[n].extend(sent[n].updates(timeout=30))) for n in (0, 1)
    ]
    for follower in followers:
        follower.start()
    site.worker("-P", pool, "-c", "2")
    for follower in followers:
        follower.join()
    assert seen == [[Progress(n, 3, f"step {n}") for n in (1, 2, 3)]] * 2
    assert site.app.ResultSet(sent).get(timeout=10) == [3, 3]


def test_a_set_is_awaited_from_workers(site: Any) -> None:
    results = site.app.ResultSet([site.send("nap", wait, str(wait)) for wait in (0.4, 0)])
    site.worker("-c", "2", worker_prefetch_multiplier=1)

    async def main() -> list[Any]:
        return [member.value() async for member in results.as_completed(timeout=20)]

    assert asyncio.run(main()) == ["0", "0.4"]
    results.add(site.send("boom"))
    with pytest.raises(ValueError, match="boom"):
        results.get(timeout=10)
    assert results.completed_count() == 2
