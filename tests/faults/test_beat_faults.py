"""Beats that are killed and frozen at random: each tick of a fast schedule is fired once, none is left out.

``FAULTS_TICKS=2000`` is the long form.
"""

from __future__ import annotations

import os
import random
import signal
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from celeriac import Celeriac
from celeriac.app.ticks import tick_id
from celeriac.beat.term import TTL
from celeriac.message import decode_envelope
from tests.processes import LoggedProcess, wait_until
from tests.servers import RedisServer

ROOT = Path(__file__).parent.parent.parent
TICKS = int(os.environ.get("FAULTS_TICKS", "400"))
INTERVAL = 0.02
PATIENCE = 40.0


class Field:
    """A store, beats on it, and the chance that kills them."""

    def __init__(self, broker: str, beats: int, seed: int) -> None:
        self.app = Celeriac("beats", broker=broker, set_as_current=False)
        self.chance = random.Random(seed)
        self.env = {**os.environ, "FAULTS_BROKER": broker, "PYTHONUNBUFFERED": "1"}
        self.kills = self.freezes = self.leaders_struck = 0
        self.frozen: list[tuple[float, LoggedProcess]] = []
        self.beats = [self.start() for _ in range(beats)]
        wait_until(lambda: self.store.leader() is not None, PATIENCE)

    @property
    def store(self):
        return self.app.coordinator

    def start(self) -> LoggedProcess:
        command = [sys.executable, "-m", "celeriac", "-A", "tests.faults.beat_project", "beat", "-l", "INFO"]
        return LoggedProcess(command, self.env, ROOT)

    def strike(self) -> None:
        """Kill a beat, the leader more often than not, and start another in its place; or freeze it.

        It is frozen for longer than a term lasts, so that it wakes up in the belief that it leads.
        """
        leader = self.store.leader()
        victims = [b for b in self.beats if leader and f"/{b.process.pid}." in leader.holder] or self.beats
        victim = self.chance.choice(victims if self.chance.random() < 0.7 else self.beats)
        self.leaders_struck += leader is not None and f"/{victim.process.pid}." in leader.holder
        if self.chance.random() < 0.3:
            victim.signal(signal.SIGSTOP)
            self.frozen.append((time.monotonic() + TTL + 1.0, victim))
            self.freezes += 1
        else:
            victim.kill()
            self.kills += 1
            self.frozen = [(until, beat) for until, beat in self.frozen if beat is not victim]
            self.beats[self.beats.index(victim)] = self.start()

    def thaw(self, all_of_them: bool = False) -> None:
        """Let those go on whose time is over."""
        for until, beat in list(self.frozen):
            if all_of_them or time.monotonic() >= until:
                beat.signal(signal.SIGCONT)
                self.frozen.remove((until, beat))

    def ids(self) -> list[str]:
        return [decode_envelope(one).headers["id"] for one in self.app.broker.peek("celery", limit=100_000)]

    def close(self) -> None:
        for beat in self.beats:
            beat.kill()
        self.app.close()


@pytest.fixture(params=["sqlite", "redis"])
def broker(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path}/queue.db"
    else:
        with RedisServer() as server:
            yield server.url()


@pytest.mark.timeout(60 + TICKS)
@pytest.mark.parametrize("beats", [2, 3])
def test_each_tick_is_fired_once_whichever_beat_is_killed(broker: str, beats: int) -> None:
    field = Field(broker, beats, seed=beats)
    try:
        start = datetime.now(UTC) + timedelta(seconds=1)
        last = start + TICKS * timedelta(seconds=INTERVAL)
        field.app.schedule.add(
            "fast", "tick", INTERVAL, start=start, end=last, missed="all", catch_up=100_000
        )
        while datetime.now(UTC) < last:
            time.sleep(field.chance.uniform(0.5, 3.0))
            field.strike()
            field.thaw()
        field.thaw(all_of_them=True)
        expected = [
            tick_id("beats", "fast", (start + n * timedelta(seconds=INTERVAL)).timestamp())
            for n in range(1, TICKS + 1)
        ]
        wait_until(lambda: len(field.ids()) >= TICKS, PATIENCE)
        time.sleep(1.0)  # a second copy would come with it
        assert field.ids() == expected
        assert field.app.schedule.get("fast").runs == TICKS
        assert field.leaders_struck
    finally:
        print(f"{field.kills} beats killed, {field.freezes} frozen; {field.leaders_struck} of them led")
        for beat in field.beats:
            print(beat.log[-600:])
        field.close()
