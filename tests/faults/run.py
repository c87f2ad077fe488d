"""``python -m tests.faults.run [--engine NAME] [--scenario NAME] [--update] [--scale FACTOR]``: all of it.

Runs every scenario on every engine that outlives a process, prints the ledger, and writes it
to ``docs/faults.md`` and between the markers of the README. A part of it is only printed, unless ``--update``
lets its rows take the place of the same ones there. The exit code is 1 if a task was lost, or repeated
without a cause. With ``FAULTS_KEEP`` set to a folder, journals, logs and stores are copied there.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import os
import platform
import re
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

from celeriac import __version__
from tests.faults.field import LEASE, machine
from tests.faults.ledger import Entry
from tests.faults.node import ROOT
from tests.faults.scenarios import SCENARIOS
from tests.servers import postgres_binary, rabbit_script, server_binary

COLUMNS = (
    "engine", "scenario", "faults", "acknowledged", "lost", "repeated", "unexplained", "given up", "refused",
    "dead letters", "restart s", "standstill s", "took s",
)  # fmt: skip
Row = tuple[str, ...]
PATH = ROOT / "docs" / "faults.md"
MARKERS = re.compile(r"(<!-- faults:begin[^>]*-->\n).*?(<!-- faults:end -->)", re.DOTALL)


def main() -> int:
    """Run, print, write; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults.run", description=__doc__)
    parser.add_argument("--engine", choices=sorted(SCENARIOS), action="append", help="only this one")
    parser.add_argument("--scenario", action="append", help="only this one (by its function's name)")
    parser.add_argument("--update", action="store_true", help="write the rows of what was asked for")
    parser.add_argument("--scale", type=float, default=1.0, help="multiplies the numbers of tasks")
    parser.add_argument("--seed", type=int, default=1, help="chooses victims and moments")
    asked = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended by SIGTERM"))  # so that nothing is left running
    ledger: list[tuple[str, Entry]] = []
    for engine in asked.engine or SCENARIOS:
        for scenario, tasks in SCENARIOS[engine]:
            if asked.scenario and scenario.__name__ not in asked.scenario:
                continue
            print(f"{engine}: {scenario.__name__}, {int(tasks * asked.scale)} tasks ...", flush=True)
            entry = scenario(engine, asked.seed, int(tasks * asked.scale))
            ledger.append((engine, entry))
            for note in entry.notes:
                print(f"    {note}", flush=True)
    rows = [cells(engine, entry) for engine, entry in ledger]
    print(f"\n{aligned([COLUMNS, *rows])}\n")
    if asked.update:
        write(merged(rows))
    elif not (asked.engine or asked.scenario) and asked.scale >= 1:
        write(rows)
    fine = all(entry.fine for _, entry in ledger)
    print("Nothing was lost, and every repeat has its cause." if fine else "FAILED: see the notes above.")
    return 0 if fine else 1


def cells(engine: str, entry: Entry) -> Row:
    """An entry as text, in the order of ``COLUMNS``."""
    return (
        engine, entry.scenario, str(entry.faults), f"{entry.acknowledged:,}", str(entry.lost),
        str(entry.repeated), str(entry.unexplained), str(entry.given_up), str(entry.refused), str(entry.dead),
        f"{entry.restart:.2f}", f"{entry.standstill:.2f}", f"{entry.seconds:.0f}",
    )  # fmt: skip


def aligned(rows: list[Row]) -> str:
    """A table for the terminal: text to the left, numbers to the right."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if column < 2 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    )


def markdown(rows: list[Row]) -> str:
    """The same for a page."""
    rule = tuple("---" if column < 2 else "---:" for column in range(len(rows[0])))
    return "\n".join("| " + " | ".join(row) + " |" for row in (rows[0], rule, *rows[1:]))


def merged(rows: list[Row]) -> list[Row]:
    """The page's rows with these in place of the same ones, or after the others of their engine."""
    found = [tuple(line.strip("| \n").split(" | ")) for line in PATH.read_text().splitlines() if "|" in line]
    known = {row[:2]: row for row in found if row[0] in SCENARIOS} | {row[:2]: row for row in rows}
    return [row for engine in SCENARIOS for (owner, _), row in known.items() if owner == engine]


def write(rows: list[Row]) -> None:
    """Write the page, and the README's section if its markers are there."""
    table = markdown([COLUMNS, *rows])
    PATH.write_text(
        PAGE.format(table=table, circumstances=circumstances(), lease=LEASE, scenarios=descriptions())
    )
    readme = ROOT / "README.md"
    text = readme.read_text()
    if MARKERS.search(text):
        faults, total, lost = (sum(int(row[n].replace(",", "")) for row in rows) for n in (2, 3, 4))
        section = (
            f"{table}\n\n{total:,} tasks under {faults:,} faults: {lost} lost. {circumstances()}\n"
            "What the columns mean: [docs/faults.md](docs/faults.md).\n"
        )
        readme.write_text(MARKERS.sub(lambda found: found[1] + section + found[2], text))


def circumstances() -> str:
    """Machine, versions, durability and date, in a line."""
    redis = told([server_binary("redis-server", "valkey-server"), "--version"], r"v=(\S+)")
    postgres = told([postgres_binary("postgres"), "--version"], r"(\d\S*)")
    # Not "rabbitmqctl version": that leaves a port mapper running.
    folder = Path(rabbit_script("rabbitmqctl")).parent.parent / "lib"
    rabbit = told(["ls", str(folder)], r"rabbitmq_server-(\d\S*)")
    libraries = (f"{name} {importlib.metadata.version(name)}" for name in ("redis", "psycopg", "amqp"))
    return (
        f"{machine()}; Python {platform.python_version()}, Celeriac {__version__}, {', '.join(libraries)}; "
        f"SQLite {sqlite3.sqlite_version} (publishes at `synchronous=FULL`, the rest at `NORMAL`), "
        f"Redis {redis} (`appendonly yes`, `appendfsync always`), PostgreSQL {postgres} (`fsync` and "
        f"`synchronous_commit` on), RabbitMQ {rabbit} (durable queues, classic unless it says quorum; "
        f"results in such a Redis); "
        f"{time.strftime('%d %B %Y')}; `make faults`."
    )


def told(command: list[str], pattern: str) -> str:
    """The version that a program tells of itself."""
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "HOME": "/tmp"})
    version = re.search(pattern, done.stdout)
    return version[1] if version else "?"


def descriptions() -> str:
    """What each scenario does, from its docstring."""
    functions = dict.fromkeys(function for rows in SCENARIOS.values() for function, _ in rows)
    return "\n".join(
        f"* **{function.__name__}**: " + " ".join((function.__doc__ or "").split()) for function in functions
    )


PAGE = """# Faults

`make faults` runs tasks while it breaks things, and keeps a ledger. This page is written by it.

{table}

{circumstances}

## What is counted

Two nodes with two processes each work on a fresh store, with a lease of {lease:g} s. Producers are processes
of their own and write down what was acknowledged to them; every task appends a line to a journal when it
starts and when it ends, and returns the token of its run.

* **acknowledged**: tasks whose publish returned, and their callbacks. Most are plain; of a hundred, five are
  delayed, four succeed at their second try, four have a callback and five must run only once
  (`acks_late=False`). **lost**: those of them without a result in the end.
* **repeated**: runs over the first one of a task. A killed process may leave finished tasks unsettled (at
  most one batch), and they run again. **unexplained**: repeats of a run that no fault cut off, any repeat of
  a task that must run only once, and results that are not those of the newest lease.
* **given up**: tasks that must run only once and whose process died: they ended as a failure and a dead
  letter.
* **refused**: runs that came to their end after others had taken their lease over, so that the store refused
  what they wrote.
* **dead letters**: poison, garbage, unknown and given-up tasks; any other number than was sent counts as a
  failure.
* **restart**: the longest time from a fault until a task that it cut off was started again.
  **standstill**: the longest time from a fault until any task was started.

## On RabbitMQ

Results are in a Redis that writes every change to disk. RabbitMQ has no leases and no fencing: a message
belongs to a connection, and is delivered again when that ends, for whatever reason. Settling is three steps
in two servers: what follows is sent and confirmed, the result is stored, the message is acknowledged. So

* a task whose connection ends while it runs is run again elsewhere, even if its worker lives on and finishes
  it: after a restart of the server, a cut or a closed connection. Such a repeat has its cause here; on the
  other stores it would count as unexplained;
* a task that had ended and was not acknowledged is delivered again, found done by its result, and not run
  again;
* if that happens between the sending of a callback or a retry and the storing of the result, the task runs
  again and sends it again, and who gets the second copy looks for the result of the first;
* a chord's body that was sent by an agent which died before it could note that is sent again, and only run
  again if it has no result by then;
* a task that must run only once (`acks_late=False`) is not repeated, but may be given up (a dead letter)
  although its worker lived on.

Nothing is lost in any of these. There is no row for beats: their ticks are kept by the result store.

## Scenarios

{scenarios}
"""


if __name__ == "__main__":
    sys.exit(main())
