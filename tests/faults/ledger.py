"""The ledger: what was acknowledged, what ran, what is stored, and whether the one explains the other."""

from __future__ import annotations

import dataclasses
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

MOST_NOTES = 20
UNSETTLED = 40
"""How many of the last tasks that a killed process ended may be unsettled: one batch (32) and some."""


def runs_once(key: str) -> bool:
    """Whether the task of this key must never be run again (see producer.py)."""
    return key.endswith("!")


class Run(NamedTuple):
    """One start of a task, from the journal."""

    key: str
    pid: int
    token: int
    at: float
    """``time.monotonic()``, which all processes of a machine share."""


@dataclasses.dataclass
class Fault:
    """Something that was done to the system."""

    kind: str
    at: float
    victims: frozenset[int] = frozenset()
    """The child processes whose runs it cut off, or whose leases it made others take over."""
    taken_over: bool = False
    """The victims lived on: what they still wrote had to be refused."""
    until: float | None = None
    """Where a lost connection gives a living worker's tasks to others: until when it may not have noticed
    that, so that what it ran until then may be run again. ``None``: what the victims did last counts."""


class Journal:
    """The journal's lines, read as far as they go."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.starts: list[Run] = []
        self.ends: list[Run] = []
        self.running: dict[int, Run] = {}
        """What each process has started and not ended; also what a killed one left."""
        self.newest: dict[str, int] = {}
        """The highest token under which a task was started."""
        self._offset = 0
        self._rest = b""

    def read(self) -> None:
        """Take in what was appended since the last time."""
        with self.path.open("rb") as file:
            file.seek(self._offset)
            data = file.read()
        self._offset += len(data)
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            kind, key, pid, token, at = line.decode().split()
            run = Run(key, int(pid), int(token), float(at))
            if kind == "S":
                self.starts.append(run)
                self.running[run.pid] = run
                self.newest[run.key] = max(run.token, self.newest.get(run.key, 0))
            else:
                self.ends.append(run)
                self.running.pop(run.pid, None)

    def open_runs(self, pids: Iterable[int]) -> list[Run]:
        """Runs in these processes that have started and not ended."""
        return [self.running[pid] for pid in pids if pid in self.running]


@dataclasses.dataclass
class Entry:
    """One scenario's line of the ledger. Times are seconds."""

    scenario: str
    faults: int = 0
    acknowledged: int = 0
    unacknowledged: int = 0
    """Ran although their producer was killed or told that the publish failed."""
    lost: int = 0
    repeated: int = 0
    """Runs over the first of a task."""
    unexplained: int = 0
    """Of these, runs whose predecessor was in no process that a fault cut off."""
    given_up: int = 0
    """Tasks that must run only once and whose process died: ended as a failure and a dead letter."""
    refused: int = 0
    """Runs that came to their end after others had taken their lease over: whose result was not stored."""
    dead: int = 0
    dead_unexpected: int = 0
    restart: float = 0.0
    """The longest time from a fault until a task that it cut off was started again."""
    standstill: float = 0.0
    """The longest time from a fault until any task was started."""
    seconds: float = 0.0
    stuck: bool = False
    """The scenario did not come to its end."""
    notes: list[str] = dataclasses.field(default_factory=list)

    @property
    def fine(self) -> bool:
        """Nothing lost, nothing unexplained."""
        return not (self.stuck or self.lost or self.unexplained or self.dead_unexpected)


def judge(
    entry: Entry,
    journal: Journal,
    faults: list[Fault],
    acknowledged: set[str],
    results: dict[str, int],
    fenced: bool = True,
) -> None:
    """Fill ``entry``.

    ``results`` are the tokens of the runs whose results are stored, by key; 0 if the task was given up
    because it must run only once and its process died. ``fenced``: the store refuses what a stale worker
    writes.
    """
    entry.faults = len(faults)
    entry.acknowledged = len(acknowledged)
    lost = acknowledged - results.keys()
    entry.lost = len(lost)
    entry.notes += [f"lost: {key}" for key in sorted(lost)[:10]]
    _judge_repeats(entry, journal, _Causes(journal, faults, fenced))
    entry.unacknowledged = len({run.key for run in journal.starts} - acknowledged)
    if fenced:
        _judge_results(entry, journal, faults, results)
    _judge_given_up(entry, journal, faults, results)
    times = sorted(run.at for run in journal.starts)
    for fault in faults:
        following = bisect_right(times, fault.at)
        if following < len(times):
            entry.standstill = max(entry.standstill, times[following] - fault.at)


class _Causes:
    """Which runs a fault has cut off, or left unsettled."""

    def __init__(self, journal: Journal, faults: list[Fault], fenced: bool) -> None:
        self._senders: dict[str, list[Run]] = defaultdict(list)
        """The runs of the tasks whose settling sends another, where that is no step of its settling: if it
        has been sent and the run is not settled, it is sent again."""
        if not fenced:
            for run in journal.starts:
                self._senders[run.key].append(run)
        self._faults: dict[int, list[tuple[Fault, set[int]]]] = defaultdict(list)
        ends: dict[int, list[Run]] = defaultdict(list)
        for run in journal.ends:
            ends[run.pid].append(run)
        for fault in faults:
            for pid in fault.victims:
                over = [run.token for run in ends[pid] if fault.until is None or run.at <= fault.at]
                self._faults[pid].append((fault, set(over[:-UNSETTLED])))

    def of(self, run: Run) -> Fault | None:
        """The last fault for which this run may be repeated."""
        sender = run.key.removesuffix("+") if run.key.endswith("+") else f"{run.key}~"
        for each in (run, *self._senders.get(sender, ())):
            for fault, settled in reversed(self._faults.get(each.pid, ())):
                if each.token not in settled and (fault.until is None or each.at <= fault.until):
                    return fault
        return None


def _judge_repeats(entry: Entry, journal: Journal, causes: _Causes) -> None:
    runs: dict[str, list[Run]] = defaultdict(list)
    for run in journal.starts:
        runs[run.key].append(run)
    for key, started in runs.items():
        started.sort(key=lambda run: run.token)
        for before, after in pairwise(started):
            entry.repeated += 1
            cause = causes.of(before)
            if cause is not None and not runs_once(key):
                entry.restart = max(entry.restart, after.at - max(cause.at, before.at))
            else:
                entry.unexplained += 1
                entry.notes.append(
                    f"repeated without a cause: {key} in {before.pid} (token {before.token}, at "
                    f"{before.at:.3f}) and in {after.pid} (token {after.token}, at {after.at:.3f})"
                )


def _judge_results(entry: Entry, journal: Journal, faults: list[Fault], results: dict[str, int]) -> None:
    """The stored result is that of the newest lease, and nothing else was written by those before."""
    taken_over = {pid for fault in faults if fault.taken_over for pid in fault.victims}
    for key, stored in results.items():
        if stored and stored != journal.newest.get(key):
            entry.unexplained += 1
            entry.notes.append(f"the result of {key} is of token {stored}, not of the newest lease")
    entry.refused = sum(
        1
        for run in journal.ends
        if run.pid in taken_over and not run.key.endswith("~") and results.get(run.key) != run.token
    )


def _judge_given_up(entry: Entry, journal: Journal, faults: list[Fault], results: dict[str, int]) -> None:
    """What was given up was in a process that a fault cut off, marked as started or really started."""
    cause = {pid for fault in faults for pid in fault.victims}
    given_up = {key for key, token in results.items() if token == 0}
    entry.given_up = len(given_up)
    blameless = [run for run in journal.starts if run.key in given_up and run.pid not in cause]
    if given_up and not cause:
        entry.notes.append(f"given up without a cause: {sorted(given_up)[:5]}")
        entry.unexplained += len(given_up)
    for run in blameless:
        entry.unexplained += 1
        entry.notes.append(f"given up without a cause: {run.key}, which ran in {run.pid}")
