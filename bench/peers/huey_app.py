"""huey: results stored; it has no acknowledgement."""

from __future__ import annotations

import os
from time import perf_counter

from huey import RedisHuey

huey = RedisHuey("bench", url=os.environ["BENCH_BROKER"])


@huey.task()
def noop(number: int) -> int:
    return number


def enqueue(count: int) -> None:
    for number in range(count):
        noop(number)


enqueue_bulk = enqueue


def round_trips(count: int) -> list[float]:
    times = []
    for number in range(count):
        started = perf_counter()
        noop(number).get(blocking=True, timeout=30, backoff=1.0, max_delay=0.001)
        times.append(perf_counter() - started)
    return times
