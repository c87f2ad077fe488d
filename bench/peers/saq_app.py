"""SAQ: results stored, JSON, jobs acknowledged after the work."""

from __future__ import annotations

import asyncio
import os
from time import perf_counter
from typing import Any

from saq import Queue

queue = Queue.from_url(os.environ["BENCH_BROKER"])


async def noop(ctx: Any, *, number: int) -> int:
    return number


settings = {"queue": queue, "functions": [noop], "concurrency": 10}


def enqueue(count: int) -> None:
    asyncio.run(_enqueue(count, 1))


def enqueue_bulk(count: int) -> None:
    asyncio.run(_enqueue(count, 100))


async def _enqueue(count: int, together: int) -> None:
    await queue.connect()
    for start in range(0, count, together):
        jobs = (
            queue.enqueue("noop", number=start + number) for number in range(min(together, count - start))
        )
        await asyncio.gather(*jobs)
    await queue.disconnect()


def round_trips(count: int) -> list[float]:
    return asyncio.run(_round_trips(count))


async def _round_trips(count: int) -> list[float]:
    await queue.connect()
    times = []
    for number in range(count):
        started = perf_counter()
        await queue.apply("noop", poll_interval=0, number=number)
        times.append(perf_counter() - started)
    await queue.disconnect()
    return times
