"""How long after its call an idle worker starts a task, and when the caller has the result.

``python -m bench.starts [--systems celeriac-postgres,celeriac] [--count 300]`` prints milliseconds, median
and 99th percentile, of calls one after the other and of calls each after a tenth of a second in which nothing
happens. Task and caller read the same clock.
"""

from __future__ import annotations

import argparse
import statistics

from bench import machine
from bench.server import Server
from bench.systems import SYSTEMS, System, fresh_stores

DEFAULT = "celeriac,celeriac-sqlite,celeriac-postgres,celeriac-postgres-sync,celeriac-rabbitmq"
STEPS = ("sent", "started", "result")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.starts", description=__doc__.splitlines()[0])
    parser.add_argument("--systems", default=DEFAULT, help=f"some of {DEFAULT}")
    parser.add_argument("--count", type=int, default=300, help="calls a measurement")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    print(f"{machine.describe()}; load average {machine.load():.1f}")
    print(f"{'system':>24}  {'calls':>11}" + "".join(f"  {step + ' p50':>12}  {'p99':>6}" for step in STEPS))
    with Server() as server:
        for _ in range(options.rounds):
            for name in options.systems.split(","):
                _measure(SYSTEMS[name], server, options.count)


def _measure(system: System, server: Server, count: int) -> None:
    with fresh_stores(system, server) as stores, system.running(stores):
        for function in ("starts", "starts_after_quiet"):
            times = system.call(stores, function, count, warm=20).returned
            cells = ""
            for step in zip(*times, strict=True):
                ordered = sorted(step)
                last = ordered[int(len(ordered) * 0.99)]
                cells += f"  {statistics.median(ordered) * 1000:12.2f}  {last * 1000:6.2f}"
            label = "in a row" if function == "starts" else "after quiet"
            print(f"{system.name:>24}  {label:>11}{cells}", flush=True)


if __name__ == "__main__":
    main()
