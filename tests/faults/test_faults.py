"""The short form of ``make faults``: every kind of fault once or twice, and the ledger's own judgement."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults import places, scenarios
from tests.faults.ledger import Entry, Fault, Journal, judge

SHORT = {
    "sqlite": {"processes": 200, "messages": 60, "disk": 300, "two_beats": 100},
    "redis": {"threads": 200, "server": 300, "network": 400, "memory": 300, "producers": 100},
    "postgres": {"connections": 200},
    "rabbitmq": {"network": 200},
}
"""Numbers of tasks: each scenario where it is quick, and each server whose connections end.

What is missing here is in the long form only (but chords: test_chord_faults.py has them)."""


@pytest.fixture(scope="module", autouse=True)
def servers() -> Iterator[None]:
    with places.kept_servers():
        yield


@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    ("engine", "name", "tasks"),
    [(engine, name, tasks) for engine, rows in SHORT.items() for name, tasks in rows.items()],
)
def test_nothing_is_lost(engine: str, name: str, tasks: int) -> None:
    entry: Entry = getattr(scenarios, name)(engine, 7, tasks)
    assert entry.fine, entry
    assert entry.acknowledged >= tasks or entry.notes[0].startswith("not run"), entry


def judged(tmp_path: Path, lines: str, faults: list[Fault], results: dict[str, int]) -> Entry:
    path = tmp_path / "journal"
    path.write_text(lines)
    journal, entry = Journal(path), Entry("test")
    journal.read()
    judge(entry, journal, faults, {"a", "b"}, results)
    return entry


def test_a_ledger_without_faults_is_fine(tmp_path: Path) -> None:
    entry = judged(
        tmp_path, "S a 1 10 1.0\nE a 1 10 1.1\nS b 1 11 1.2\nE b 1 11 1.3\n", [], {"a": 10, "b": 11}
    )
    assert entry.fine
    assert (entry.acknowledged, entry.lost, entry.repeated) == (2, 0, 0)


def test_what_has_no_result_is_lost(tmp_path: Path) -> None:
    entry = judged(tmp_path, "S a 1 10 1.0\nE a 1 10 1.1\n", [], {"a": 10})
    assert entry.lost == 1
    assert not entry.fine


def test_a_repeat_needs_a_cause(tmp_path: Path) -> None:
    lines = "S b 1 9 0.8\nE b 1 9 0.9\nS a 1 10 1.0\nS a 2 12 1.4\nE a 2 12 1.5\n"
    results = {"a": 12, "b": 9}
    entry = judged(tmp_path, lines, [], results)
    assert (entry.repeated, entry.unexplained, entry.fine) == (1, 1, False)
    entry = judged(tmp_path, lines, [Fault("child killed", 1.1, frozenset({1}))], results)
    assert (entry.repeated, entry.unexplained, entry.fine) == (1, 0, True)
    assert entry.restart == pytest.approx(0.3)


def test_a_task_that_must_run_once_is_given_up_only_with_its_process(tmp_path: Path) -> None:
    lines = "S a! 1 10 1.0\nS b 2 11 1.0\nE b 2 11 1.1\nS a 2 12 1.0\nE a 2 12 1.1\n"
    results = {"a!": 0, "a": 12, "b": 11}
    assert not judged(tmp_path, lines, [Fault("child killed", 1.1, frozenset({2}))], results).fine
    entry = judged(tmp_path, lines, [Fault("child killed", 1.1, frozenset({1}))], results)
    assert (entry.fine, entry.given_up) == (True, 1)
    again = lines + "S a! 2 13 1.2\nE a! 2 13 1.3\n"
    assert not judged(tmp_path, again, [Fault("child killed", 1.1, frozenset({1}))], results).fine


def test_a_stale_result_is_found(tmp_path: Path) -> None:
    lines = "S b 1 9 0.8\nE b 1 9 0.9\nS a 1 10 1.0\nS a 2 12 1.4\nE a 2 12 1.5\nE a 1 10 1.6\n"
    frozen = [Fault("node frozen", 1.1, frozenset({1}), taken_over=True)]
    assert not judged(tmp_path, lines, frozen, {"a": 10, "b": 9}).fine
    entry = judged(tmp_path, lines, frozen, {"a": 12, "b": 9})
    assert (entry.fine, entry.refused) == (True, 1)


def test_what_a_living_worker_ran_before_it_noticed_may_be_repeated_and_nothing_later(tmp_path: Path) -> None:
    lines = "S b 1 9 0.8\nE b 1 9 0.9\nS a 1 10 1.0\nE a 1 10 1.5\nS a 2 12 1.4\nE a 2 12 1.5\n"
    results = {"a": 12, "b": 9}
    assert judged(tmp_path, lines, [Fault("cut", 1.1, frozenset({1}), until=2.0)], results).fine
    assert not judged(tmp_path, lines, [Fault("cut", 0.5, frozenset({1}), until=0.7)], results).fine
