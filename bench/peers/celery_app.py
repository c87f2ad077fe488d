"""Celery: results stored, JSON, acks late."""

from __future__ import annotations

import os
from time import perf_counter

from celery import Celery, chord

app = Celery("bench", broker=os.environ["BENCH_BROKER"], backend=os.environ["BENCH_RESULTS"])
app.conf.task_acks_late = True
app.conf.broker_connection_retry_on_startup = True


@app.task(name="bench.noop")
def noop(number: int) -> int:
    return number


def enqueue(count: int) -> None:
    for number in range(count):
        noop.delay(number)


def enqueue_bulk(count: int) -> None:
    # One producer for all: the fastest that the documented interface offers.
    with app.producer_or_acquire() as producer:
        for number in range(count):
            noop.apply_async((number,), producer=producer)


def round_trips(count: int) -> list[float]:
    times = []
    for number in range(count):
        started = perf_counter()
        noop.delay(number).get(timeout=30)
        times.append(perf_counter() - started)
    return times


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
