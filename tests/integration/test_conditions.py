"""Limits of concurrency, unique calls and checkpoints, with real processes that die, on every store."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from tests.integration import project

pytestmark = pytest.mark.timeout(90)


def call(site: Any, name: str, *args: Any, **options: Any) -> Any:
    """Call as a process does that knows the task's options."""
    return site.app.call(f"{project.__name__}.{name}", args, {}, getattr(project, name), **options)


def test_no_more_run_at_once_than_the_limit_over_two_workers(site: Any) -> None:
    for _ in range(2):
        site.worker("-c", "2")
    results = [site.send("crowded", 0.05, str(number)) for number in range(12)]
    for result in results:
        result.get(timeout=30)
    running = most = 0
    for line in site.journal():
        running += 1 if line.startswith("start") else -1
        most = max(most, running)
    assert most == 2


def test_a_killed_worker_s_place_is_free_again(site: Any) -> None:
    site.worker("-c", "2")
    results = [site.send("tenant_dies_once", "acme", str(number)) for number in range(3)]
    assert [result.get(timeout=30) for result in results] == ["0", "1", "2"]
    # Either of the first two may have got the place first, and died with it.
    assert len(site.journal()) == 4
    assert set(site.journal()) == {"run 0", "run 1", "run 2"}


def test_a_killed_run_goes_on_from_its_checkpoint(site: Any) -> None:
    site.worker("-c", "1")
    assert site.send("steps", 10).get(timeout=30) == 6
    assert site.journal() == [f"step {number}" for number in range(10)]


def test_of_many_callers_at_once_one_sends(site: Any) -> None:
    results: list[Any] = []
    callers = [threading.Thread(target=lambda: results.append(call(site, "only_one", "a"))) for _ in range(8)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert len({result.id for result in results}) == 1
    assert sorted(result.duplicate for result in results) == [False] + [True] * 7
    site.worker("-c", "1")
    assert [result.get(timeout=10) for result in results] == ["a"] * 8
    assert site.journal() == ["only a"]
    # Where results are another store's, the key is freed a moment after the result is there.
    site.await_true(lambda: not call(site, "only_one", "a").duplicate)


def test_a_purged_queue_frees_its_keys(site: Any) -> None:
    first = call(site, "only_one", "b")
    assert call(site, "only_one", "b").id == first.id
    assert site.app.control.purge() == 1
    assert call(site, "only_one", "b").id != first.id


def test_a_callback_may_want_the_key_that_its_task_frees(site: Any) -> None:
    unique = {"unique_for": 60, "unique_key": "again"}
    again = site.app.signature(f"{project.__name__}.only_one", ("again",), immutable=True, options=unique)
    site.worker("-c", "1")
    call(site, "only_one", "again", link=again)
    site.await_journal(lambda lines: lines == ["only again"] * 2)
