"""RQ: results stored, JSON; its worker that does not fork for each job, which is the faster one."""

from __future__ import annotations

import os
from time import perf_counter

from redis import Redis
from rq import Queue
from rq.serializers import JSONSerializer

queue = Queue("bench", connection=Redis.from_url(os.environ["BENCH_BROKER"]), serializer=JSONSerializer)


def noop(number: int) -> int:
    return number


def enqueue(count: int) -> None:
    for number in range(count):
        queue.enqueue("bench.peers.rq_app.noop", number)


def enqueue_bulk(count: int) -> None:
    for start in range(0, count, 1000):
        data = [
            Queue.prepare_data("bench.peers.rq_app.noop", (number,))
            for number in range(start, min(start + 1000, count))
        ]
        queue.enqueue_many(data)


def round_trips(count: int) -> list[float]:
    times = []
    for number in range(count):
        started = perf_counter()
        queue.enqueue("bench.peers.rq_app.noop", number).latest_result(timeout=30)
        times.append(perf_counter() - started)
    return times
