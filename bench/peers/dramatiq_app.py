"""dramatiq: results stored, JSON, acknowledged after the work."""

from __future__ import annotations

import os
from time import perf_counter

import dramatiq
from dramatiq.brokers.redis import RedisBroker
from dramatiq.results import Results
from dramatiq.results.backends import RedisBackend

broker = RedisBroker(url=os.environ["BENCH_BROKER"])
broker.add_middleware(Results(backend=RedisBackend(url=os.environ["BENCH_RESULTS"]), store_results=True))
dramatiq.set_broker(broker)


@dramatiq.actor(actor_name="noop")
def noop(number: int) -> int:
    return number


def enqueue(count: int) -> None:
    for number in range(count):
        noop.send(number)


enqueue_bulk = enqueue


def round_trips(count: int) -> list[float]:
    times = []
    for number in range(count):
        started = perf_counter()
        noop.send(number).get_result(block=True, timeout=30_000)
        times.append(perf_counter() - started)
    return times
