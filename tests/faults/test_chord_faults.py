"""Chords whose workers die at every step: each ends in exactly one body or one error callback (G10)."""

from __future__ import annotations

import json
import os
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from celeriac import Celeriac
from celeriac.canvas import maybe_signature
from celeriac.exceptions import ChordError
from tests.processes import LoggedProcess
from tests.servers import RedisServer

ROOT = Path(__file__).parent.parent.parent
PROJECT = "tests.faults.chord_project"
PATIENCE = 40.0
OUTCOMES = ("success", "error")

# Those between two stores are none where there is one, and the other way round.
STEPS = {
    "fused": ("in_header", "before_exchange"),
    "apart": ("in_header", "before_exchange", "before_parts"),
}
ALL = (
    "after_exchange", "after_take", "before_settle", "after_settle", "in_end", "in_recovery",
    "recovery_settle",
)  # fmt: skip


class Stage:
    """A store or two, a worker whose processes die, and what its journal tells."""

    def __init__(self, broker: str, backend: str | None, folder: Path) -> None:
        self.journal = folder / "journal"
        self.journal.touch()
        self.app = Celeriac("suite", broker=broker, backend=backend, set_as_current=False)
        env = {
            **os.environ,
            "FAULTS_BROKER": broker,
            "FAULTS_JOURNAL": str(self.journal),
            "FAULTS_CONF": json.dumps({"worker_lease": 2.0, "worker_prefetch_multiplier": 1}),
            "PYTHONUNBUFFERED": "1",
        }
        if backend is not None:
            env["FAULTS_BACKEND"] = backend
        command = [sys.executable, "-m", "celeriac", "-A", PROJECT, "worker", "-c", "2", "-n", "w@%h"]
        self.worker = LoggedProcess(command, env, ROOT)

    def begin(self, group: str) -> None:
        """Begin a chord of three tasks, of which the middle one may fail, as the canvas does."""
        fails = group.endswith("error")
        signature = self.app.signature
        errback = signature(f"{PROJECT}.errback")
        body = signature(f"{PROJECT}.body").set(task_id=f"{group}-body", link_error=[errback])
        self.app.chords.open(group, 3, maybe_signature(body, self.app))
        header = [
            self.app.publisher.build(
                f"{PROJECT}.part", (n, fails and n == 1), task_id=f"{group}-{n}", group_id=group,
                group_index=n, chord=dict(body),
            )
            for n in range(3)
        ]  # fmt: skip
        self.app.publisher.send(header)

    def ends(self) -> Counter[str]:
        """How often each body and error callback has run: ``body <id>`` or ``error <id>``."""
        lines = [line.split() for line in self.journal.read_text().splitlines()]
        return Counter(f"{line[0]} {line[1]}" for line in lines if line[0] != "die")

    def died(self) -> set[str]:
        return {line.split()[2] for line in self.journal.read_text().splitlines() if line.startswith("die")}

    def await_ends(self, count: int) -> None:
        """Wait until ``count`` chords have ended and nothing is left to do."""
        deadline = time.monotonic() + PATIENCE
        while len(self.ends()) < count or self.app.broker.depth(["celery"])["celery"].leased:
            if time.monotonic() > deadline:
                raise AssertionError(f"{self.journal.read_text()}\n{self.worker.log[-6000:]}")
            time.sleep(0.02)

    def close(self) -> None:
        try:
            self.worker.stop()
        finally:
            self.app.close()


@pytest.fixture(params=["sqlite", "redis", "apart"])
def stage(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Stage]:
    """One store for messages and results, or one for each."""
    file = f"sqlite:///{tmp_path}/queue.db"
    broker, backend = file, None
    if request.param != "sqlite":
        server: RedisServer = request.getfixturevalue("redis_server")
        import redis

        redis.Redis.from_url(server.url()).flushall()
        broker, backend = server.url(), None if request.param == "redis" else file
    stage = Stage(broker, backend, tmp_path)
    yield stage
    stage.close()


@pytest.mark.timeout(120)
def test_every_chord_ends_once_whoever_dies(stage: Any) -> None:
    """All steps at once: a death for one chord meets the others in the middle of something, too."""
    steps = STEPS["fused" if stage.app.fused else "apart"] + ALL
    groups = [f"{step}.{outcome}" for step in steps for outcome in OUTCOMES]
    for group in groups:
        stage.begin(group)
    stage.await_ends(len(groups))
    expected = {f"{'body' if group.endswith('success') else 'error'} {group}-body" for group in groups}
    assert set(stage.ends()) == expected
    repeated = {end: times for end, times in stage.ends().items() if times != 1}
    assert not repeated, stage.journal.read_text()
    assert stage.died() == set(groups), "each died at its step"
    for group in groups:
        result = stage.app.AsyncResult(f"{group}-body")
        if group.endswith("success"):
            assert result.get(timeout=10) == 3
        else:
            with pytest.raises(ChordError, match=f"Dependency {group}-1 raised ValueError"):
                result.get(timeout=10)
        assert stage.app.backend.take_owed(group, "suite") is None, "nothing is owed any more"
    assert stage.app.broker.depth(["celery"])["celery"].ready == 0
