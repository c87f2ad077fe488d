"""Canvases on real workers, on every store that outlives a process."""

from __future__ import annotations

import json
import time
from types import SimpleNamespace

import pytest

from celeriac import chain, chord, group, states
from celeriac.exceptions import ChordError, TaskRevokedError
from tests.canvas_tasks import define
from tests.integration.conftest import Site
from tests.unit.test_canvas_run import CANVASES

pytestmark = pytest.mark.timeout(120)


def begin(site: Site, *arguments: str, work: bool = True) -> SimpleNamespace:
    """Tasks of the client's application, and a worker that knows them too."""
    tasks = define(site.app, [])
    tasks.worker = lambda: site.worker(
        *(arguments or ("-c", "2")), include=["tests.integration.canvas_tasks"]
    )
    if work:
        tasks.worker()
    return tasks


@pytest.mark.parametrize("frozen", [False, True])
def test_every_canvas_gives_its_result(site: Site, frozen: bool) -> None:
    tasks = begin(site)
    results = {}
    for name, (make, _) in CANVASES.items():
        sig = make(tasks)
        if frozen:
            sig.freeze()
            sig = site.app.signature(json.loads(json.dumps(sig)))
        results[name] = sig.apply_async()
    found = {name: result.get(timeout=60) for name, result in results.items()}
    assert found == {name: expected for name, (_, expected) in CANVASES.items()}


@pytest.mark.parametrize("pool", ["threads", "asyncio"])
def test_canvases_in_other_pools(site: Site, pool: str) -> None:
    tasks = begin(site, "-P", pool, "-c", "8")
    results = {name: make(tasks).apply_async() for name, (make, _) in CANVASES.items()}
    found = {name: result.get(timeout=60) for name, result in results.items()}
    assert found == {name: expected for name, (_, expected) in CANVASES.items()}


def test_errors_reach_all_who_wait(site: Site) -> None:
    tasks = begin(site)
    broken = chain(tasks.add.s(1, 2), tasks.fail.s(), tasks.add.s(1)).on_error(tasks.old.s()).delay()
    outer = chord(
        [tasks.add.s(1, 1), chord([tasks.add.s(1, 1), tasks.fail.s(7)], tasks.total.s())],
        tasks.listed.s().on_error(tasks.old.s()),
    ).delay()
    with pytest.raises(ValueError, match="3"):
        broken.get(timeout=20)
    with pytest.raises(ChordError, match=r"raised ChordError\('Dependency .* raised ValueError\(7\)'\)"):
        outer.get(timeout=20)
    site.await_journal(lambda lines: sorted(lines) == sorted([f"old {broken.parent.id}", f"old {outer.id}"]))


def test_stamped_tasks_are_revoked_wherever_they_are(site: Site) -> None:
    tasks = begin(site, "-c", "1", work=False)
    ours = [site.app.signature("tests.integration.project.nap", (60, str(n))) for n in range(2)]
    running, waiting = [sig.stamp(job="j1").delay() for sig in ours]
    worker = tasks.worker()
    site.await_journal(lambda lines: "start 0" in lines)
    began = time.monotonic()
    running.revoke_by_stamped_headers({"job": ["j1"]}, terminate=True)
    for result in (running, waiting):
        with pytest.raises(TaskRevokedError):
            result.get(timeout=20)
    assert time.monotonic() - began < 30
    assert tasks.add.delay(1, 2).get(timeout=20) == 3
    assert site.journal() == ["start 0"]
    assert "REVOKED" == waiting.state == states.REVOKED
    assert worker.process.poll() is None


def test_a_chord_of_two_thousand(site: Site) -> None:
    tasks = begin(site)
    result = chord((tasks.add.s(n, n) for n in range(2000)), tasks.total.s()).delay()
    assert result.get(timeout=60) == 2000 * 1999
    assert result.parent.get(timeout=20) == [2 * n for n in range(2000)]


def test_a_group_of_chords_of_groups(site: Site) -> None:
    tasks = begin(site)
    inner = [
        chord([tasks.add.s(n, 1) | group(tasks.add.s(i) for i in range(3))], tasks.listed.s())
        for n in range(20)
    ]
    assert group(inner).delay().get(timeout=60) == [[[[n + 1, n + 2, n + 3]]] for n in range(20)]
