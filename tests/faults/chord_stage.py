"""The stage of the chord faults: a store or two, a worker whose processes die, and the judgement."""

from __future__ import annotations

import json
import os
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from celeriac import Celeriac
from celeriac.canvas import maybe_signature
from tests.faults.ledger import MOST_NOTES, Entry
from tests.processes import LoggedProcess

ROOT = Path(__file__).parent.parent.parent
PROJECT = "tests.faults.chord_project"
PATIENCE = 40.0
"""Seconds without any death, or end of a chord, after which the stage gives up."""
AT_ONCE = 60
"""How many chords are under way at a time."""

STEPS = (
    "in_header", "before_exchange", "after_exchange", "after_take", "before_settle", "after_settle",
    "in_end", "in_recovery", "recovery_settle",
)  # fmt: skip
"""Where processes die; chord_project.py says what is what."""
STEPS_APART = (*STEPS, "before_parts")
"""The same where messages and results are two stores."""


class Stage:
    """Chords of three tasks, of which one may fail, on a worker of two processes."""

    def __init__(self, broker: str, backend: str | None, folder: Path) -> None:
        self.journal = folder / "journal"
        self.journal.touch()
        self.app = Celeriac("suite", broker=broker, backend=backend, set_as_current=False)
        env = {
            **os.environ,
            "FAULTS_BROKER": broker,
            "FAULTS_JOURNAL": str(self.journal),
            # One message a claim: a death then repeats no task but the one it cut off.
            "FAULTS_CONF": json.dumps({"worker_lease": 2.0, "worker_prefetch_multiplier": 1}),
            "PYTHONUNBUFFERED": "1",
            "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")])),
        }
        if backend is not None:
            env["FAULTS_BACKEND"] = backend
        command = [sys.executable, "-m", "celeriac", "-A", PROJECT, "worker", "-c", "2", "-n", "w@%h"]
        self.worker = LoggedProcess(command, env, ROOT)

    def play(self, entry: Entry, count: int) -> None:
        """Begin so many chords, each of which somebody dies for; judge how they end."""
        began = time.monotonic()
        steps = STEPS if self.app.fused else STEPS_APART
        groups = [f"{steps[n // 2 % len(steps)]}.{('success', 'error')[n % 2]}.{n}" for n in range(count)]
        try:
            for start in range(0, count, AT_ONCE):
                for group in groups[start : start + AT_ONCE]:
                    self._begin(group)
                self._await_ends(min(start + AT_ONCE, count))
        except TimeoutError as error:
            entry.stuck = True
            entry.notes.append(f"stuck: {error}\n{self.worker.log[-4000:]}")
        self._judge(entry, groups)
        entry.seconds = time.monotonic() - began

    def close(self) -> None:
        """Stop the worker."""
        try:
            self.worker.stop()
        finally:
            self.app.close()

    def _begin(self, group: str) -> None:
        fails = ".error." in group
        errback = self.app.signature(f"{PROJECT}.errback")
        body: Any = self.app.signature(f"{PROJECT}.body")
        body.set(task_id=f"{group}-body", link_error=[errback])
        self.app.chords.open(group, 3, maybe_signature(body, self.app))
        header = [
            self.app.publisher.build(
                f"{PROJECT}.part", (n, fails and n == 1), task_id=f"{group}-{n}", group_id=group,
                group_index=n, chord=dict(body),
            )
            for n in range(3)
        ]  # fmt: skip
        self.app.publisher.send(header)

    def _await_ends(self, count: int) -> None:
        """Wait until so many chords have ended and no message is left."""
        seen, moved = -1, time.monotonic()
        while True:
            ended = min(len(self._ends()), len(self._settled()))
            depth = self.app.broker.depth(["celery"])["celery"]
            if ended >= count and not depth.leased and not depth.ready:
                return
            if (written := self.journal.stat().st_size) > seen:
                seen, moved = written, time.monotonic()
            if time.monotonic() - moved > PATIENCE:
                raise TimeoutError(f"{ended} of {count} chords have ended, {depth}")
            time.sleep(0.02)

    def _ends(self) -> Counter[str]:
        """How often each body and error callback has run: ``body <id>`` or ``error <id>``."""
        lines = [line.split() for line in self.journal.read_text().splitlines()]
        return Counter(f"{line[0]} {line[1]}" for line in lines if line[0] in ("body", "error"))

    def _settled(self) -> set[str]:
        """The groups whose owed body has been settled."""
        lines = [line.split() for line in self.journal.read_text().splitlines()]
        return {line[1] for line in lines if line[0] == "settled"}

    def _died(self) -> list[str]:
        lines = [line.split() for line in self.journal.read_text().splitlines()]
        return [line[2] for line in lines if line[0] == "die"]

    def _judge(self, entry: Entry, groups: Sequence[str]) -> None:
        ends, died = self._ends(), self._died()
        expected = {f"{'body' if '.success.' in group else 'error'} {group}-body" for group in groups}
        entry.acknowledged += len(groups)
        entry.faults += len(died)
        entry.lost += len(expected - ends.keys())
        entry.repeated += sum(ends.values()) - len(ends)
        # The first run of an end is cut off before it takes effect: any other repeat is one too many.
        entry.unexplained += entry.repeated + len(ends.keys() - expected)
        wrong = [end for end, times in ends.items() if times > 1 or end not in expected]
        entry.notes += [f"lost: {end}" for end in sorted(expected - ends.keys())]
        entry.notes += [f"ended {ends[end]} times: {end}" for end in wrong]
        if missing := set(groups) - set(died):
            entry.stuck = True
            entry.notes.append(f"nobody died for {sorted(missing)}")
        self._judge_results(entry, groups)
        del entry.notes[MOST_NOTES:]

    def _judge_results(self, entry: Entry, groups: Sequence[str]) -> None:
        backend = self.app.backend
        assert backend is not None
        for group in groups:
            result = self.app.AsyncResult(f"{group}-body")
            state, value = result.state, str(result.result)
            good = ("SUCCESS", "3") if ".success." in group else ("FAILURE", f"Dependency {group}-1 raised")
            if state != good[0] or not value.startswith(good[1]):
                entry.lost += 1
                entry.notes.append(f"the result of {group} is {state} {value}")
            if backend.take_owed(group, "suite") is not None:
                entry.lost += 1
                entry.notes.append(f"the body of {group} is still owed")
