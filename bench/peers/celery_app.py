"""Celery: results stored, JSON, acks late."""

from __future__ import annotations

import os
from time import perf_counter

from celery import Celery

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
