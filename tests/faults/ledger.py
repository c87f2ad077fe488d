"""The ledger: what was acknowledged, what ran, what is stored, and whether the one explains the other."""

from __future__ import annotations

import dataclasses
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

UNSETTLED = 40
"""How many of the last tasks that a killed process started may be unsettled: one batch (32) and some."""


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


class Journal:
    """The journal's lines, read as far as they go."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.starts: list[Run] = []
        self.ends: list[Run] = []
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
            (self.starts if kind == "S" else self.ends).append(run)

    def open_runs(self, pids: Iterable[int]) -> list[Run]:
        """Runs in these processes that have started and not ended."""
        wanted, ended = set(pids), {(run.key, run.token) for run in self.ends}
        last = {run.pid: run for run in self.starts if run.pid in wanted}
        return [run for run in last.values() if (run.key, run.token) not in ended]


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
    entry: Entry, journal: Journal, faults: list[Fault], acknowledged: set[str], results: dict[str, int]
) -> None:
    """Fill ``entry``: ``results`` are the tokens of the runs whose results are stored, by key."""
    entry.faults = len(faults)
    entry.acknowledged = len(acknowledged)
    lost = acknowledged - results.keys()
    entry.lost = len(lost)
    entry.notes += [f"lost: {key}" for key in sorted(lost)[:10]]
    _judge_repeats(entry, journal, faults)
    entry.unacknowledged = len({run.key for run in journal.starts} - acknowledged)
    _judge_results(entry, journal, faults, results)
    times = sorted(run.at for run in journal.starts)
    for fault in faults:
        following = bisect_right(times, fault.at)
        if following < len(times):
            entry.standstill = max(entry.standstill, times[following] - fault.at)


def _judge_repeats(entry: Entry, journal: Journal, faults: list[Fault]) -> None:
    cause = {pid: fault for fault in faults for pid in fault.victims}
    tails: dict[int, list[Run]] = defaultdict(list)
    runs: dict[str, list[Run]] = defaultdict(list)
    for run in journal.starts:
        tails[run.pid].append(run)
        runs[run.key].append(run)
    cut = {run for pid in cause for run in tails[pid][-UNSETTLED:]}
    for key, started in runs.items():
        started.sort(key=lambda run: run.token)
        for before, after in zip(started, started[1:], strict=False):
            entry.repeated += 1
            if before in cut:
                entry.restart = max(entry.restart, after.at - max(cause[before.pid].at, before.at))
            else:
                entry.unexplained += 1
                entry.notes.append(
                    f"repeated without a cause: {key} in {before.pid} (token {before.token}, at "
                    f"{before.at:.3f}) and in {after.pid} (token {after.token}, at {after.at:.3f})"
                )


def _judge_results(entry: Entry, journal: Journal, faults: list[Fault], results: dict[str, int]) -> None:
    """The stored result is that of the newest lease, and nothing else was written by those before."""
    taken_over = {pid for fault in faults if fault.taken_over for pid in fault.victims}
    newest: dict[str, int] = {}
    for run in journal.starts:
        newest[run.key] = max(run.token, newest.get(run.key, 0))
    for key, stored in results.items():
        if stored != newest.get(key):
            entry.unexplained += 1
            entry.notes.append(f"the result of {key} is of token {stored}, not of the newest lease")
    entry.refused = sum(
        1 for run in journal.ends if run.pid in taken_over and results.get(run.key) != run.token
    )
