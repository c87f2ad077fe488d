"""procrastinate on PostgreSQL: it keeps no results; a finished job stays as a row."""

from __future__ import annotations

import asyncio
import os
from time import perf_counter

import procrastinate

app = procrastinate.App(connector=procrastinate.PsycopgConnector(conninfo=os.environ["BENCH_BROKER"]))


@app.task(name="noop", queue="bench")
async def noop(number: int) -> int:
    return number


def prepare(count: int) -> None:
    """Make the tables."""
    asyncio.run(_prepare())


async def _prepare() -> None:
    async with app.open_async():
        await app.schema_manager.apply_schema_async()


def enqueue(count: int) -> None:
    asyncio.run(_enqueue(count))


async def _enqueue(count: int) -> None:
    async with app.open_async():
        for number in range(count):
            await noop.defer_async(number=number)


def enqueue_bulk(count: int) -> None:
    asyncio.run(_enqueue_bulk(count))


async def _enqueue_bulk(count: int) -> None:
    async with app.open_async():
        for start in range(0, count, 1000):
            numbers = range(start, min(start + 1000, count))
            await noop.batch_defer_async(*({"number": number} for number in numbers))


def round_trips(count: int) -> list[float]:
    return asyncio.run(_round_trips(count))


async def _round_trips(count: int) -> list[float]:
    """Until the job is seen to be done: there is nothing to wait on."""
    times = []
    async with app.open_async():
        for number in range(count):
            started = perf_counter()
            job = await noop.defer_async(number=number)
            while await app.job_manager.get_job_status_async(job) is not procrastinate.jobs.Status.SUCCEEDED:
                await asyncio.sleep(0.001)
            times.append(perf_counter() - started)
    return times
