"""What task events cost: one worker, one backlog, events turned on and off window by window.

Run: ``python -m bench.events [SECONDS] [--unheard]``. Neighbouring windows are compared, so that it tells
something on a machine that others use as well, as far as there are enough of them.
"""

from __future__ import annotations

import argparse
import statistics
import time
from contextlib import nullcontext
from typing import NamedTuple

from bench import machine
from bench.server import Server
from bench.systems import SYSTEMS, Stores, fresh_stores, listener
from celeriac import Celeriac

WINDOW = 0.5
"""Seconds that are measured; before that events are turned on or off, and a fifth of it passes."""
TASKS_A_SECOND = 20_000


class Window(NamedTuple):
    rate: float
    """Tasks a second."""
    cpu: float
    """Microseconds of the worker's and the server's processors a task."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("seconds", type=float, nargs="?", default=30.0)
    parser.add_argument("--unheard", action="store_true", help="nobody listens")
    options = parser.parse_args()
    system = SYSTEMS["celeriac"]
    with Server() as server, fresh_stores(system, server) as stores:
        hears = nullcontext() if options.unheard else listener(stores)
        count = int(options.seconds * TASKS_A_SECOND)
        system.call(stores, "enqueue_bulk", count)
        with hears, system.running(stores) as worker:
            while not stores.redis(1).dbsize():
                time.sleep(0.05)
            off, on = _windows(stores, server, worker.pid, count)
    for name, windows in (("off", off), ("on", on)):
        rate, cpu = (statistics.median(each) for each in zip(*windows, strict=True))
        print(f"events {name}: {len(windows)} windows, median {rate:,.0f} tasks/s, {cpu:.1f} us CPU a task")
    pairs = list(zip(off, on, off[1:], strict=False))
    rate = statistics.median(2 * b.rate / (a.rate + c.rate) for a, b, c in pairs)
    cpu = statistics.median(2 * b.cpu / (a.cpu + c.cpu) for a, b, c in pairs)
    print(f"on, of the windows before and after: rate {rate:.2f}, CPU a task {cpu:.2f}")


def _windows(stores: Stores, server: Server, pid: int, count: int) -> tuple[list[Window], list[Window]]:
    """Windows without and with events, in turn, until the backlog comes to its end."""
    results = stores.redis(1)
    found: tuple[list[Window], list[Window]] = ([], [])
    with Celeriac("bench", broker=stores.environment["BENCH_BROKER"], set_as_current=False) as app:
        pids = [*machine.tree(pid), server.pid]
        while True:
            for windows, switch in zip(
                found, (app.control.disable_events, app.control.enable_events), strict=True
            ):
                switch()
                time.sleep(WINDOW / 5)
                done, cpu, started = int(results.dbsize()), machine.cpu(pids), time.perf_counter()
                time.sleep(WINDOW)
                tasks = int(results.dbsize()) - done
                if done + tasks >= count or not tasks:
                    return found
                elapsed = time.perf_counter() - started
                windows.append(Window(tasks / elapsed, (machine.cpu(pids) - cpu) / tasks * 1e6))


if __name__ == "__main__":
    main()
