"""The stage of the beats' faults: a fast schedule, beats that are killed and frozen, the judgement."""

from __future__ import annotations

import os
import random
import signal
import sys
import time
from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path

from celeriac import Celeriac
from celeriac.app.ticks import tick_id
from celeriac.beat.term import TTL
from celeriac.message import decode_envelope
from tests.faults.ledger import Entry
from tests.processes import LoggedProcess, wait_until

ROOT = Path(__file__).parent.parent.parent
INTERVAL = 0.02
PATIENCE = 40.0
LOOK = 0.05
"""Seconds between looks at how far the schedule has come."""


class Beats:
    """A store, beats on it, and the chance that strikes them."""

    def __init__(self, broker: str, count: int, seed: int) -> None:
        self.app = Celeriac("beats", broker=broker, set_as_current=False)
        self.chance = random.Random(seed)
        path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")]))
        self.env = {**os.environ, "FAULTS_BROKER": broker, "PYTHONUNBUFFERED": "1", "PYTHONPATH": path}
        self.killed = self.frozen = self.leaders = 0
        self._reached: tuple[float | None, float] = (None, 0.0)
        """The due time of the last tick that was seen, and when it was seen first."""
        self._frozen: list[tuple[float, LoggedProcess]] = []
        self.beats = [self.start() for _ in range(count)]

    def start(self) -> LoggedProcess:
        command = [sys.executable, "-m", "celeriac", "-A", "tests.faults.beat_project", "beat", "-l", "INFO"]
        return LoggedProcess(command, self.env, ROOT)

    def play(self, entry: Entry, ticks: int) -> None:
        """Let so many ticks come due while beats are struck; judge what was sent of them."""
        began, due = time.monotonic(), list[datetime]()
        try:
            wait_until(lambda: self.store.leader() is not None, PATIENCE)
            start = datetime.now(UTC) + timedelta(seconds=1)
            due = [start + number * timedelta(seconds=INTERVAL) for number in range(1, ticks + 1)]
            self.app.schedule.add(
                "fast", "tick", INTERVAL, start=start, end=due[-1], missed="all", catch_up=10 * ticks
            )
            self._reached = None, start.timestamp()
            while datetime.now(UTC) < due[-1]:
                self._watch(entry, start, self.chance.uniform(0.5, 3.0))
                self._strike()
                self._thaw()
            self._thaw(all_of_them=True)
            self._await_sent(ticks)
            time.sleep(1.0)  # a second copy would come with it
        except (TimeoutError, AssertionError) as error:
            entry.stuck = True
            entry.notes.append(f"stuck: {error!r}; {[beat.log[-600:] for beat in self.beats]}")
        self._judge(entry, [tick_id("beats", "fast", moment.timestamp()) for moment in due])
        entry.seconds = time.monotonic() - began

    def close(self) -> None:
        """End all beats, whatever state they are in."""
        for beat in self.beats:
            beat.kill()
        self.app.close()

    @property
    def store(self):
        return self.app.coordinator

    def _strike(self) -> None:
        """Kill a beat, the leader more often than not, and start another in its place; or freeze it.

        It is frozen for longer than a term lasts, so that it wakes up in the belief that it leads.
        """
        leader = self.store.leader()
        leading = [beat for beat in self.beats if leader and f"/{beat.process.pid}." in leader.holder]
        wanted = not self.leaders or self.chance.random() < 0.7
        victim = self.chance.choice(leading if leading and wanted else self.beats)
        self.leaders += victim in leading
        if self.chance.random() < 0.3:
            victim.signal(signal.SIGSTOP)
            self._frozen.append((time.monotonic() + TTL + 1.0, victim))
            self.frozen += 1
        else:
            victim.kill()
            self.killed += 1
            self._frozen = [(until, beat) for until, beat in self._frozen if beat is not victim]
            self.beats[self.beats.index(victim)] = self.start()

    def _thaw(self, all_of_them: bool = False) -> None:
        """Let those go on whose time is over."""
        for until, beat in list(self._frozen):
            if all_of_them or time.monotonic() >= until:
                beat.signal(signal.SIGCONT)
                self._frozen.remove((until, beat))

    def _watch(self, entry: Entry, start: datetime, seconds: float) -> None:
        """Look on; note the longest time without a tick."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            (fast,) = self.store.find_entries(["fast"])
            now = max(time.time(), start.timestamp())
            if fast.last_due != self._reached[0]:
                self._reached = fast.last_due, now
            entry.standstill = max(entry.standstill, now - self._reached[1])
            time.sleep(LOOK)

    def _await_sent(self, ticks: int) -> None:
        """Wait for the last tick, as long as further ones are sent."""
        sent = 0
        while sent < ticks:
            before = sent
            wait_until(lambda before=before: len(self._sent()) > before, PATIENCE)
            sent = len(self._sent())

    def _sent(self) -> list[str]:
        return [decode_envelope(one).headers["id"] for one in self.app.broker.peek("celery", limit=1_000_000)]

    def _judge(self, entry: Entry, expected: list[str]) -> None:
        sent = self._sent()
        copies = Counter(sent)
        entry.faults = self.killed + self.frozen
        entry.acknowledged = len(expected)
        entry.lost = len(set(expected) - copies.keys())
        entry.repeated = len(sent) - len(copies)
        entry.unexplained = entry.repeated + len(copies.keys() - set(expected))
        if not entry.lost and not entry.unexplained and sent != expected:
            entry.unexplained += 1
            entry.notes.append("ticks were sent in another order than they fell due")
        if self.app.schedule.get("fast").runs != len(expected):
            entry.unexplained += 1
            entry.notes.append("the store has counted another number of runs")
        entry.notes.append(f"{self.killed} beats killed, {self.frozen} frozen; {self.leaders} of them led")
        if not self.leaders:
            entry.stuck = True
