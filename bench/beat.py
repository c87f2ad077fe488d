"""Beat with many entries: time to start, memory, CPU at rest, lateness at work.

    PYTHONPATH=src python -m bench.beat --entries 50000 --broker redis://127.0.0.1:6379/0

The broker should be an empty one of its own. Three entries in four are intervals of a minute whose ticks are
spread over it (or crontabs of one minute a day, with ``--rest``), the fourth is a crontab.
"""

from __future__ import annotations

import argparse
import random
import resource
import threading
import time
from datetime import UTC, datetime, timedelta

from celeriac import Celeriac
from celeriac.app.definition import Definition, encode
from celeriac.beat import Beat
from celeriac.engines.schedule import Entry
from celeriac.schedules import crontab, schedule


def main() -> None:
    options = _options()
    app = Celeriac("bench", broker=options.broker, set_as_current=False)
    store = app.coordinator
    assert store is not None
    began = time.perf_counter()
    made = [_entry(number, options.rest) for number in range(options.entries)]
    for start in range(0, len(made), 1000):
        store.put_entries(made[start : start + 1000])
    print(f"{options.entries} entries stored in {time.perf_counter() - began:.2f} s")
    before = _memory()
    beat = Beat(app)
    began = time.perf_counter()
    beat.step()
    print(f"taken over in {time.perf_counter() - began:.2f} s; memory {before:.0f} -> {_memory():.0f} MiB")
    used, began = _cpu(), time.perf_counter()
    threading.Timer(options.seconds, beat.stop).start()
    beat.run()
    passed = time.perf_counter() - began
    print(f"at work for {passed:.0f} s: {100 * (_cpu() - used) / passed:.2f} % of a processor")
    _lateness(store.schedule().entries)
    print(f"memory {_memory():.0f} MiB")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--broker", required=True)
    parser.add_argument("--entries", type=int, default=50_000)
    parser.add_argument("--seconds", type=float, default=70.0)
    parser.add_argument("--rest", action="store_true", help="nothing falls due meanwhile")
    return parser.parse_args()


def _entry(number: int, rest: bool) -> Entry:
    chance = random.Random(number)
    hour, minute = chance.randrange(24), chance.randrange(60)
    now = datetime.now(UTC)
    if rest or number % 4 == 0:
        day = (now + timedelta(days=200)).day
        when = crontab(minute=minute, hour=hour, day_of_month=day, month_of_year=(now.month + 5) % 12 + 1)
        start = None
    else:
        when, start = schedule(60.0), now + timedelta(seconds=chance.uniform(-55.0, 5.0))
    made = Definition(
        name=f"entry-{number}", task="bench.task", schedule=when, args=[number], start=start, missed="skip"
    )
    return Entry(made.name, encode(made))


def _lateness(entries: list[Entry]) -> None:
    late = sorted(e.last_run - e.last_due for e in entries if e.last_run and e.last_due)
    runs = sum(entry.runs for entry in entries)
    if late:
        p50, p99 = late[len(late) // 2], late[int(len(late) * 0.99)]
        print(f"{runs} ticks; lateness of the last: p50 {p50:.3f} s, p99 {p99:.3f} s, max {late[-1]:.3f} s")


def _cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def _memory() -> float:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize() / 2**20


if __name__ == "__main__":
    main()
