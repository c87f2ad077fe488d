"""Measure the SQLite engine by itself: bulk publish, exchanges with results, the round trip of a call.

    PYTHONPATH=src python bench/sqlite_exchange.py [--tasks N] [--url-options synchronous=FULL] [--dir DIR]

Prints tasks a second and, because other programs may be busy, the CPU time (user + system) a task took.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import threading
import time
import uuid
from collections.abc import Callable
from pathlib import Path

from celeriac.engines import create
from celeriac.engines.base import Engine, Incarnation, Outcome, Publication, Verdict
from celeriac.engines.results import ResultRecord
from celeriac.message import Message

BODY = b'[[2, 3], {}, {"callbacks": null, "errbacks": null, "chain": null, "chord": null}]'
RESULT = b'{"status": "SUCCESS", "result": 5, "traceback": null, "children": [], "date_done": "2026-11-22"}'


def publication(track: float | None) -> Publication:
    """A protocol-2 message of usual size."""
    task_id = str(uuid.uuid4())
    headers = {"lang": "py", "task": "bench.add", "id": task_id, "shadow": None, "eta": None, "expires": None}
    headers |= {"group": None, "retries": 0, "timelimit": [None, None], "root_id": task_id, "parent_id": None}
    headers |= {"argsrepr": "(2, 3)", "kwargsrepr": "{}", "origin": "gen1@host", "ignore_result": False}
    return Publication(
        Message(headers, {"correlation_id": task_id, "priority": 0}, BODY), "celery", track=track
    )


def timed(label: str, count: int, work: Callable[[], None]) -> None:
    """Run ``work`` and print its rate."""
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    print(f"{label:34} {count / wall:10,.0f}/s {cpu / count * 1e6:8.1f} us CPU each")


def exchanges(engine: Engine, count: int, batch: int) -> None:
    """Settle with results and claim, until ``count`` are done; each result has its task's id."""
    consumer = engine.attach(Incarnation("bench", 1, 1))
    outcomes: list[Outcome] = []
    done = 0
    while done < count:
        answer = consumer.exchange(outcomes, ["celery"], min(batch, count - done))
        outcomes = [
            Outcome(
                delivery.token,
                delivery.queue,
                Verdict.ACK,
                ResultRecord(_id(delivery.payload), "SUCCESS", RESULT, 86400.0),
            )
            for delivery in answer.deliveries
        ]
        done += len(outcomes)
    consumer.exchange(outcomes, ["celery"], 0)
    consumer.close()


def echo(engine: Engine, stop: threading.Event) -> None:
    """A worker that answers every call, one at a time."""
    consumer = engine.attach(Incarnation("echo", 1, 1))
    outcomes: list[Outcome] = []
    while not stop.is_set():
        answer = consumer.exchange(outcomes, ["calls"], 1)
        outcomes = [
            Outcome(
                delivery.token, "calls", Verdict.ACK, ResultRecord(_id(delivery.payload), "SUCCESS", RESULT)
            )
            for delivery in answer.deliveries
        ]
        if not outcomes:
            consumer.wait(["calls"], 0.2)
    consumer.close()


def _id(payload: bytes) -> str:
    start = payload.index(b'"id":"') + 6
    return payload[start : start + 36].decode()


def round_trips(url: str, engine: Engine, count: int) -> None:
    """Print how long a call takes from publish to its result, with an idle worker in another process."""
    if (pid := os.fork()) == 0:
        worker = create(url, {})
        stop = threading.Event()
        threading.Timer(count * 0.01 + 2, stop.set).start()
        echo(worker, stop)
        os._exit(0)
    time.sleep(0.3)
    engine.reply_address()
    times = []
    for _ in range(count):
        arrived = threading.Event()
        item = publication(None)
        item.queue = "calls"
        started = time.perf_counter()
        engine.publish([item])
        subscription = engine.subscribe([item.message.headers["id"]], lambda *_, event=arrived: event.set())
        arrived.wait(5)
        times.append(time.perf_counter() - started)
        subscription.close()
        time.sleep(0.002)
    times.sort()
    print(
        f"call and wait, idle worker: p50 {statistics.median(times) * 1e3:.2f} ms, "
        f"p99 {times[int(len(times) * 0.99)] * 1e3:.2f} ms"
    )
    os.waitpid(pid, 0)


def main() -> None:
    """Run all measurements on a fresh file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tasks", type=int, default=20_000)
    parser.add_argument("--calls", type=int, default=300)
    parser.add_argument("--url-options", default="synchronous=NORMAL")
    parser.add_argument(
        "--dir", default=None, help="where the file is made; default: the temporary directory"
    )
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.dir) as folder:
        url = f"sqlite:///{Path(folder) / 'bench.db'}?{options.url_options}"
        print(url)
        engine = create(url, {})
        count = options.tasks
        for label, track in (("publish, 1000 a batch", None), ("the same, tracked as queued", 3600.0)):
            items = [publication(track) for _ in range(count)]

            def publish(items: list[Publication] = items) -> None:
                for start in range(0, count, 1000):
                    engine.publish(items[start : start + 1000])

            timed(label, count, publish)
            engine.purge(["celery"])
        single = [publication(None) for _ in range(2000)]
        timed("publish, one by one", 2000, lambda: [engine.publish([item]) for item in single] and None)
        engine.purge(["celery"])
        for label, track in (("exchange with result", None), ("the same, tracked", 3600.0)):
            for batch in (1, 8, 32):
                for _ in range(0, count, 1000):
                    engine.publish([publication(track) for _ in range(1000)])
                timed(f"{label}, batch {batch}", count, lambda size=batch: exchanges(engine, count, size))
        round_trips(url, engine, options.calls)
        engine.close()


if __name__ == "__main__":
    main()
