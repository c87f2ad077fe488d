"""``python -m bench``: measure, print and, on request, write the tables.

All systems are measured in turn within each round, and the median over the rounds is reported, so that slow
spells of the machine fall on all of them alike. Only the ratios within one run mean something.
"""

from __future__ import annotations

import argparse
import contextlib
import signal
import sys
import time
from collections.abc import Callable

from bench import machine, measures, report
from bench.measures import Figures
from bench.server import PERSISTENCE, Server
from bench.systems import PEERS, SYSTEMS, System, check_environments

ALL = [
    "celeriac", "celeriac-events", "celeriac-prefetch-1", "celeriac-tracked", "celeriac-sqlite",
    "celeriac-sqlite-full", "celeriac-postgres", "celeriac-postgres-sync", "celeriac-rabbitmq", *PEERS,
]  # fmt: skip
PLAIN = ["celeriac", "celeriac-sqlite", "celeriac-postgres", "celeriac-rabbitmq", *PEERS]
DEFAULT_SYSTEMS = {
    "throughput": ALL,
    "enqueue": ["celeriac", "celeriac-tracked", *PLAIN[1:]],
    "roundtrip": PLAIN,
    "first": PLAIN,
    "latency": ["celeriac", "celeriac-prefetch-1", "celery", "huey"],
    "backlog": ["celeriac", "celeriac-sqlite", "celeriac-postgres"],
    "chord": ["celeriac", "celeriac-sqlite", "celeriac-postgres", "celery"],
}


def main() -> None:
    options = _options()
    chosen = {
        bench: [SYSTEMS[name] for name in DEFAULT_SYSTEMS[bench] if _wanted(name, options)]
        for bench in options.only
    }
    check_environments([system for systems in chosen.values() for system in systems])
    results: report.Rounds = {bench: {} for bench in options.only}
    with Server(options.persistence) as server:
        conditions = _conditions(options, server, {s.name: s for systems in chosen.values() for s in systems})
        print("\n".join(conditions), flush=True)
        for number in range(options.rounds):
            for bench, systems in chosen.items():
                for system in systems:
                    figures = _measure(bench, system, server, options)
                    if figures:
                        results[bench].setdefault(system.name, []).append(figures)
                        shown = "  ".join(f"{name} {value:,.2f}" for name, value in figures.items())
                        print(f"[{number + 1}/{options.rounds}] {bench} {system.name}: {shown}", flush=True)
    _present(results, conditions, options)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__.splitlines()[0])
    benches = list(DEFAULT_SYSTEMS)
    parser.add_argument("--only", type=_names(benches), default=benches, help=f"some of {','.join(benches)}")
    parser.add_argument(
        "--peers", type=_names(list(PEERS)), default=list(PEERS), help=f"some of {','.join(PEERS)}"
    )
    parser.add_argument("--systems", type=_names(list(SYSTEMS)), help="exactly these, ours included")
    parser.add_argument("--rounds", type=int, help="5, or 1 in the short form")
    parser.add_argument("--short", action="store_true", help="smaller and rougher: under two minutes")
    parser.add_argument(
        "--persistence", choices=list(PERSISTENCE), default="none", help="of the Redis server"
    )
    parser.add_argument(
        "--write", action="store_true", help="write the tables into docs/bench.md and README.md"
    )
    options = parser.parse_args()
    options.rounds = options.rounds or (1 if options.short else 5)
    return options


def _names(known: list[str]) -> Callable[[str], list[str]]:
    def parse(text: str) -> list[str]:
        names = [name for name in text.split(",") if name]
        for name in names:
            if name not in known:
                raise argparse.ArgumentTypeError(f"{name!r} is none of {', '.join(known)}")
        return names

    return parse


def _wanted(name: str, options: argparse.Namespace) -> bool:
    if options.systems is not None:
        return name in options.systems
    return SYSTEMS[name].ours or name in options.peers


def _measure(bench: str, system: System, server: Server, options: argparse.Namespace) -> Figures | None:
    """Take one measurement; one that fails is told of and leaves a gap, so that the others still count."""
    short = options.short
    try:
        if bench == "throughput":
            return measures.throughput(system, server, 1 if short else 5)
        if bench == "enqueue":
            return measures.enqueue(system, server, 0.3 if short else 2)
        if bench == "roundtrip":
            return measures.round_trip(system, server, 200 if short else 2000)
        if bench == "first":
            return measures.first_task(system, server)
        if bench == "latency":
            return measures.latency(system, server, 0.5 if short else 3)
        if bench == "chord":
            # Celery's time grows with the square: 3,000 tasks took it a minute and a half.
            return measures.chord(system, server, 1000 if system.name == "celery" else 10_000)
        return _backlogs(system, server, short)
    except RuntimeError as error:
        print(f"{bench} {system.name}: {error}", file=sys.stderr, flush=True)
        return None


def _backlogs(system: System, server: Server, short: bool) -> Figures:
    small, large = (10_000, 100_000) if short else (10_000, 1_000_000)
    figures: Figures = {}
    for name, ready, delayed in (("small", small, 0), ("ready", large, 0), ("delayed", small, large)):
        taken = measures.backlog(system, server, small / system.guess, ready, delayed)
        figures |= {f"{name}_{figure}": value for figure, value in taken.items()}
        figures[f"{name}_size"] = delayed or ready
    return figures


def _conditions(options: argparse.Namespace, server: Server, systems: dict[str, System]) -> list[str]:
    versions = {system.package or name: system.version() for name, system in systems.items()}
    command = " ".join(["make bench", f'BENCH="{" ".join(sys.argv[1:])}"' if sys.argv[1:] else ""]).strip()
    return [
        f"Made by `{command}` on {time.strftime('%Y-%m-%d')}; {options.rounds} interleaved round(s), medians",
        f"{machine.describe()}; load average at the start {machine.load():.1f}",
        f"Python {sys.version.split()[0]}",
        server.version() + ", private, on the same machine",
        ", ".join(f"{package} {version}" for package, version in versions.items()),
    ]


def _present(results: report.Rounds, conditions: list[str], options: argparse.Namespace) -> None:
    notes = {name: system.note for name, system in SYSTEMS.items()}
    made = report.tables(results, notes)
    goal = report.targets(results)
    for table in [*made, *([goal] if goal else [])]:
        print("\n" + table.text())
    if options.write:
        for path in report.write(conditions, made, goal):
            print(f"written: {path.relative_to(report.ROOT)}")


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that servers and workers are ended, too
    with contextlib.suppress(KeyboardInterrupt):
        main()
