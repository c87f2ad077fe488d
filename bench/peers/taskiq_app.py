"""taskiq with Redis streams: results stored, JSON, acknowledged after the work."""

from __future__ import annotations

import asyncio
import os
from time import perf_counter

from taskiq.serializers import JSONSerializer
from taskiq_redis import RedisAsyncResultBackend, RedisStreamBroker

results = RedisAsyncResultBackend(os.environ["BENCH_RESULTS"], serializer=JSONSerializer())
broker = RedisStreamBroker(os.environ["BENCH_BROKER"]).with_result_backend(results)


@broker.task(task_name="noop")
async def noop(number: int) -> int:
    return number


def enqueue(count: int) -> None:
    asyncio.run(_enqueue(count, 1))


def enqueue_bulk(count: int) -> None:
    asyncio.run(_enqueue(count, 100))


async def _enqueue(count: int, together: int) -> None:
    await broker.startup()
    for start in range(0, count, together):
        await asyncio.gather(*(noop.kiq(start + number) for number in range(min(together, count - start))))
    await broker.shutdown()


def round_trips(count: int) -> list[float]:
    return asyncio.run(_round_trips(count))


async def _round_trips(count: int) -> list[float]:
    await broker.startup()
    times = []
    for number in range(count):
        started = perf_counter()
        task = await noop.kiq(number)
        await task.wait_result(check_interval=0.001, timeout=30)
        times.append(perf_counter() - started)
    await broker.shutdown()
    return times
