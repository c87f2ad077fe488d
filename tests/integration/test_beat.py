"""Real beats: who leads, what survives them, and what changes at run time."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Iterator
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from celeriac.beat.term import TTL
from celeriac.message import decode_envelope
from tests.integration.conftest import HERE, Site, _children_of
from tests.processes import LoggedProcess, wait_until
from tests.servers import RedisServer

pytestmark = pytest.mark.timeout(90)

PROJECT = "tests.integration.beat_project"
MARK = f"{PROJECT}.mark"


class Beats:
    """Beats of one application, and the ticks that they sent; no worker takes these away."""

    def __init__(self, site: Site) -> None:
        self.site = site
        self.app = site.app
        self.started: list[LoggedProcess] = []
        self._taken: list[bytes] = []

    def start(
        self, schedule: dict[str, Any], *arguments: str, command: str = "beat", name: str = "project"
    ) -> LoggedProcess:
        env = {**self.site.env, "TEST_SCHEDULE": json.dumps(schedule), "TEST_NAME": name}
        line = [sys.executable, "-m", "celeriac", "-A", PROJECT, command, "-l", "INFO", *arguments]
        process = LoggedProcess(line, env, HERE.parent.parent)
        self.started.append(process)
        return process

    def waiting(self) -> list[bytes]:
        if not self.site.broker.startswith("amqp"):
            return list(self.app.broker.peek("celery", limit=10_000))
        self._taken += self.site.take_all()  # it shows nothing without delivering it
        return list(self._taken)

    def ids(self, entry: str) -> list[str]:
        found = [decode_envelope(one) for one in self.waiting()]
        return [m.headers["id"] for m in found if m.headers["celeriac_schedule"]["entry"] == entry]

    def dues(self, entry: str) -> list[datetime]:
        """The due times of the ticks that were sent."""
        found = [decode_envelope(one).headers["celeriac_schedule"] for one in self.waiting()]
        return [datetime.fromisoformat(about["due"]) for about in found if about["entry"] == entry]

    def await_tick(self, entry: str, timeout: float) -> float:
        """Wait for the next tick; return how long that took."""
        began, before = time.monotonic(), len(self.ids(entry))
        wait_until(lambda: len(self.ids(entry)) > before, timeout)
        return time.monotonic() - began

    def assert_once(self, entry: str, broken_off: int = 0) -> None:
        """No tick was sent twice, and each is marked. No beat may be at work any more.

        So many were ``broken_off``: where messages are in another store, each may have sent a tick without
        marking it.
        """
        ids = self.ids(entry)
        assert len(ids) == len(set(ids))
        unmarked = len(ids) - self.app.schedule.get(entry).runs
        assert 0 <= unmarked <= (broken_off if self.site.broker.startswith("amqp") else 0)


@pytest.fixture
def beats(site: Site) -> Iterator[Beats]:
    made = Beats(site)
    yield made
    for process in made.started:
        if process.process.poll() is None:
            process.signal(signal.SIGTERM)
            process.process.wait(10)


def entry(seconds: float, **fields: Any) -> dict[str, Any]:
    return {"task": MARK, "schedule": seconds, **fields}


def test_another_beat_takes_over_within_ten_seconds_of_kill_9_and_at_once_after_a_stop(beats: Beats) -> None:
    schedule = {"fast": entry(0.2)}
    first = beats.start(schedule)
    first.await_line("beat: leading")
    second = beats.start(schedule)
    second.await_line("beat: standing by")
    beats.await_tick("fast", 5)
    first.kill()
    left = len(beats.ids("fast"))
    took = beats.await_tick("fast", 10)
    assert took < 10
    second.await_line("beat: leading")
    assert len(beats.ids("fast")) > left
    third = beats.start(schedule)
    third.await_line("beat: standing by")
    assert second.stop() == 0
    assert "beat: resigned" in second.log
    assert beats.await_tick("fast", 5) < 2.0
    assert third.stop() == 0
    beats.assert_once("fast", broken_off=1)


def test_entries_can_be_added_paused_and_run_while_beat_runs(beats: Beats) -> None:
    beat = beats.start({"code": entry(3600)})
    beat.await_line("beat: leading")
    schedule = beats.app.schedule
    schedule.add("new", MARK, 0.1, kwargs={"text": "new"})
    assert beats.await_tick("new", 5) < 1.5
    schedule.pause("new")
    time.sleep(1.0)  # that is the promise
    paused = len(beats.ids("new"))
    schedule.add("other", MARK, 0.1)
    beats.await_tick("other", 5)
    assert len(beats.ids("new")) == paused
    schedule.resume("new")
    assert beats.await_tick("new", 5) < 1.5
    result = schedule.run("code")
    assert result.id in beats.ids("code")
    schedule.remove("new")
    assert [view.name for view in schedule.list()] == ["code", "other"]


def test_changed_code_takes_effect_at_restart(beats: Beats) -> None:
    first = beats.start({"old": entry(0.1), "kept": entry(0.1)})
    first.await_line("Sending due task old")
    first.stop()
    beats.app.broker.purge(["celery"])
    second = beats.start({"kept": entry(0.1), "new": entry(0.1)})
    second.await_line("Sending due task new")
    assert "3 entries" not in second.log
    assert beats.ids("old") == []
    assert [view.name for view in beats.app.schedule.list()] == ["kept", "new"]
    assert not any(path.name.startswith("celerybeat") for path in Path.cwd().iterdir())


def embedded(worker: LoggedProcess) -> int:
    """The pid of a worker's own beat; 0 while there is none."""
    for pid in _children_of(worker.process.pid):
        if Path(f"/proc/{pid}/comm").read_text().strip() == "celeriac:beat":
            return pid
    return 0


@pytest.mark.parametrize("pool", ["prefork", "threads"])
def test_a_worker_with_a_beat_of_its_own_replaces_it_when_it_dies(beats: Beats, pool: str) -> None:
    worker = beats.start({"fast": entry(0.2)}, "-B", "-P", pool, "-c", "1", command="worker")
    worker.await_line("Sending due task fast")
    worker.await_line("succeeded")
    before = embedded(worker)
    os.kill(before, signal.SIGKILL)
    worker.await_line("The embedded beat")
    wait_until(lambda: embedded(worker) not in (0, before))
    runs = beats.app.schedule.get("fast").runs
    wait_until(lambda: beats.app.schedule.get("fast").runs > runs, 10)
    assert worker.stop() == 0
    assert "beat: resigned" in worker.log
    assert beats.app.coordinator is not None
    assert beats.app.coordinator.leader() is None


def test_a_worker_whose_processes_are_all_told_to_stop_sees_no_fault_in_its_beat(beats: Beats) -> None:
    """As systemd does it, and as a terminal does with Ctrl-C."""
    worker = beats.start({"fast": entry(0.2)}, "-B", "-c", "1", command="worker")
    worker.await_line("Sending due task fast")
    os.killpg(worker.process.pid, signal.SIGTERM)
    assert worker.process.wait(20) == 0
    assert "beat: resigned" in worker.log
    assert "ERROR" not in worker.log


def test_ticks_that_must_not_overlap_wait_for_the_task_before(beats: Beats) -> None:
    alone = {"task": f"{PROJECT}.nap", "schedule": 0.2, "args": [0.7], "overlap": False}
    worker = beats.start({"alone": alone}, "-B", "-c", "2", command="worker")
    journal = beats.site.await_journal(lambda lines: lines.count("end") >= 3)
    worker.stop()
    assert journal == ["start", "end"] * (len(journal) // 2) + ["start"] * (len(journal) % 2)
    assert beats.app.schedule.get("alone").skipped


def test_a_solo_worker_has_its_beat_as_a_thread(beats: Beats) -> None:
    worker = beats.start({"fast": entry(0.2)}, "-B", "-P", "solo", command="worker")
    worker.await_line("Sending due task fast")
    worker.await_line("succeeded")
    assert worker.stop() == 0
    assert "beat: resigned" in worker.log
    view = beats.app.schedule.get("fast")
    assert view.last_state == "SUCCESS"
    assert view.lateness is not None
    assert 0 <= view.lateness < 5


def test_beat_says_at_start_what_it_is_about_to_do(beats: Beats) -> None:
    beats.app.schedule.add("stored", MARK, 3600)
    beat = beats.start({"hourly": entry(3600)}, "-s", "celerybeat-schedule", "-n", "b1@here")
    beat.await_line("beat: leading")
    for line in ("celeriac 0", "b1@here", "nobody yet", "1 in the code, 1 added at run time", "next due:"):
        assert line in beat.log, line
    assert "there is no schedule file" in beat.log
    other = beats.start({"hourly": entry(3600)})
    other.await_line("leads:        b1@here")


def test_beat_outlasts_its_store(tmp_path: Path) -> None:
    """A Redis without persistence goes away and comes back empty."""
    with RedisServer() as server:
        site = Site(server.url(), tmp_path)
        beats = Beats(site)
        beat = beats.start({"fast": entry(0.2)})
        beat.await_line("Sending due task fast")
        server.kill()
        beat.await_line("cannot be reached, trying on")
        server.restart()
        beat.await_line("the store is back")
        beats.await_tick("fast", 10)
        assert beat.stop() == 0
        beats.assert_once("fast")
        other = beats.start({})
        server.kill()
        other.await_line("the store cannot be reached")
        assert other.stop() == 0
        site.close()


def test_a_detached_beat_holds_its_pidfile_and_ends_in_order(beats: Beats, tmp_path: Path) -> None:
    pidfile, log = tmp_path / "beat.pid", tmp_path / "beat.log"
    started = beats.start({}, "--detach", "--pidfile", str(pidfile), "-f", str(log))
    assert started.process.wait(20) == 0
    pid = int(pidfile.read_text())
    wait_until(lambda: "beat: leading" in log.read_text())
    second = beats.start({}, "--pidfile", str(pidfile))
    assert second.process.wait(10) == 73
    os.kill(pid, signal.SIGTERM)
    wait_until(lambda: "beat: resigned" in log.read_text() and not pidfile.exists())


def test_a_beat_whose_terminal_is_closed_ends_in_order(beats: Beats, tmp_path: Path) -> None:
    pidfile = tmp_path / "beat.pid"
    beat = beats.start({}, "--pidfile", str(pidfile))
    beat.await_line("beat: leading")
    beat.signal(signal.SIGHUP)
    assert beat.process.wait(10) == 0
    assert "beat: resigned" in beat.log
    assert not pidfile.exists()


def test_two_applications_on_one_store_each_have_a_leader(beats: Beats) -> None:
    ours, theirs = beats.start({"fast": entry(0.2)}), beats.start({"fast": entry(0.2)}, name="other")
    for beat in (ours, theirs):
        beat.await_line("beat: leading")
        beat.await_line("Sending due task fast")


def test_all_beats_are_stopped_for_longer_than_a_term(beats: Beats) -> None:
    """As when a laptop is closed: afterwards one leads, and no tick is sent twice."""
    both = [beats.start({"fast": entry(0.2)}) for _ in range(2)]
    beats.await_tick("fast", 10)
    for beat in both:
        beat.signal(signal.SIGSTOP)
    time.sleep(TTL + 0.5)
    for beat in both:
        beat.signal(signal.SIGCONT)
    for _ in range(5):
        beats.await_tick("fast", 10)
    for beat in both:
        assert beat.stop() == 0
    beats.assert_once("fast", broken_off=2)


def test_ticks_that_fall_due_while_redis_is_away_are_made_up_for(tmp_path: Path) -> None:
    """One run, or each, as the entry says; none is sent twice."""
    with RedisServer("aof-always") as server:
        site = Site(server.url(), tmp_path)
        beats = Beats(site)
        beat = beats.start({"once": entry(1.0), "all": entry(0.2, missed="all")})
        beat.await_line("Sending due task once")
        server.kill()
        beat.await_line("cannot be reached, trying on")
        time.sleep(TTL + 1.0)  # the term ends meanwhile
        server.restart()
        beat.await_line("the store is back")
        for name in ("once", "all"):
            beats.await_tick(name, 10)
        assert beat.stop() == 0
        runs, all_ = beats.app.schedule.get("once"), beats.app.schedule.get("all")
        assert runs.last_due is not None
        assert all_.last_due is not None
        for name in ("once", "all"):
            beats.assert_once(name)
        dues = beats.dues("all")
        assert {round((b - a).total_seconds(), 3) for a, b in pairwise(dues)} == {0.2}, "none is missing"
        assert max(b - a for a, b in pairwise(beats.dues("once"))).total_seconds() > TTL
        site.close()


def test_a_mistake_in_the_schedule_ends_beat_and_worker_at_start(beats: Beats) -> None:
    for command, *flags in (("beat",), ("worker", "-B")):
        process = beats.start({"wrong": {"task": MARK, "shedule": 3}}, *flags, command=command)
        process.await_line("did you mean 'schedule'?")
        assert process.process.wait(10) == 1
