"""Celeriac: its defaults."""

from __future__ import annotations

import os
from time import perf_counter, sleep, time

from celeriac import Celeriac, chord

app = Celeriac("bench", broker=os.environ["BENCH_BROKER"], backend=os.environ["BENCH_RESULTS"])


@app.task(name="bench.noop")
def noop(number: int) -> int:
    return number


def enqueue(count: int) -> None:
    for number in range(count):
        noop.delay(number)


def enqueue_bulk(count: int) -> None:
    for start in range(0, count, 1000):
        noop.enqueue_many([(number,) for number in range(start, min(start + 1000, count))])


def enqueue_delayed(count: int) -> None:
    """Send tasks that fall due in an hour."""
    for start in range(0, count, 1000):
        noop.enqueue_many([(number,) for number in range(start, min(start + 1000, count))], countdown=3600)


def round_trips(count: int) -> list[float]:
    times = []
    for number in range(count):
        started = perf_counter()
        noop.delay(number).get(timeout=30)
        times.append(perf_counter() - started)
    return times


@app.task(name="bench.moment")
def moment() -> float:
    """When it runs, by the machine's clock."""
    return time()


def starts(count: int, quiet: float = 0.0) -> list[tuple[float, float, float]]:
    """Seconds from each call to its return, to the task's start, and to its result."""
    times = []
    for _ in range(count):
        sleep(quiet)
        called = time()
        result = moment.delay()
        sent = time() - called
        began = result.get(timeout=30) - called
        times.append((sent, began, time() - called))
    return times


def starts_after_quiet(count: int) -> list[tuple[float, float, float]]:
    """The same, each after a tenth of a second in which nothing happens."""
    return starts(count, 0.1)


@app.task(name="bench.last")
def last(results: list[int]) -> int:
    return len(results)


def one_chord(count: int) -> float:
    """Send a chord of so many header tasks and wait for its body; return the seconds that sending took."""
    started = perf_counter()
    result = chord([noop.s(number) for number in range(count)])(last.s())
    sent = perf_counter() - started
    assert result.get(timeout=120) == count
    return sent
