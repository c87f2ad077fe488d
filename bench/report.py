"""From figures to tables: on the terminal, in ``docs/bench.md`` and in the README between two markers."""

from __future__ import annotations

import re
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.measures import Figures

ROOT = Path(__file__).parent.parent
Rounds = dict[str, dict[str, list[Figures]]]
"""Figures by benchmark, system and round."""


@dataclass(frozen=True)
class Table:
    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]

    def text(self) -> str:
        """Aligned columns; the first to the left, the others to the right."""
        lines = [self.header, *self.rows]
        widths = [max(len(line[column]) for line in lines) for column in range(len(self.header))]
        body = [
            "  ".join(
                cell.ljust(width) if not column else cell.rjust(width)
                for column, (cell, width) in enumerate(zip(line, widths, strict=True))
            )
            for line in lines
        ]
        return "\n".join([self.title, body[0], "-" * len(body[0]), *body[1:]])

    def markdown(self) -> str:
        alignment = ["---", *["---:"] * (len(self.header) - 1)]
        lines = [f"| {' | '.join(line)} |" for line in (self.header, alignment, *self.rows)]
        return "\n".join([f"**{self.title}**", "", *lines])


def median(results: Rounds, bench: str, system: str, figure: str) -> float | None:
    """The median of a figure over the rounds; ``None`` if it was not measured."""
    values = [figures[figure] for figures in results.get(bench, {}).get(system, []) if figure in figures]
    return statistics.median(values) if values else None


# -- one table a benchmark -----------------------------------------------------------------------------

Format = Callable[[float], str]


def _whole(value: float) -> str:
    return f"{value:,.0f}"


def _tenths(value: float) -> str:
    return f"{value:.1f}"


def _hundredths(value: float) -> str:
    return f"{value:.2f}"


COLUMNS: dict[str, tuple[str, str | None, list[tuple[str, str, Format]]]] = {
    "throughput": (
        "No-op tasks worked off a backlog by two processes, results stored",
        "rate",
        [
            ("tasks/s", "rate", _whole),
            ("worker CPU us/task", "worker_us", _whole),
            ("server CPU us/task", "server_us", _whole),
            ("memory after it, PSS MiB", "memory", _whole),
            ("bulk enqueue/s", "bulk", _whole),
        ],
    ),
    "enqueue": (
        "Sent one by one",
        "rate",
        [
            ("tasks/s", "rate", _whole),
            ("client CPU us/task", "client_us", _whole),
            ("server CPU us/task", "server_us", _whole),
        ],
    ),
    "roundtrip": (
        "Call and wait for the result, idle worker",
        None,
        [("p50 ms", "p50", _hundredths), ("p99 ms", "p99", _hundredths)],
    ),
    "first": ("From the worker's start to its first result", None, [("seconds", "seconds", _hundredths)]),
    "latency": (
        "Throughput with a broker 1 ms away",
        "rate",
        [("tasks/s", "rate", _whole), ("measured ping, ms", "ping_ms", _hundredths)],
    ),
    "chord": (
        "A chord, from the call to the result of its body",
        "rate",
        [
            ("header tasks", "size", _whole),
            ("header tasks/s", "rate", _whole),
            ("seconds", "seconds", _hundredths),
            ("of them sending", "sending", _hundredths),
            ("memory after it, PSS MiB", "memory", _whole),
        ],
    ),
    "backlog": ("Throughput over the head of a large backlog", None, []),
}
BACKLOGS = ("small", "ready", "delayed")


def tables(results: Rounds, notes: dict[str, str]) -> list[Table]:
    """A table for each benchmark that was run."""
    made = []
    for bench, (title, ratio, columns) in COLUMNS.items():
        if bench not in results:
            continue
        if bench == "backlog":
            made.append(_backlog_table(title, results, notes))
            continue
        header = ["system", *(heading for heading, _, _ in columns)]
        if ratio:
            header += ["range of the rounds", "x Celery"]
        made.append(
            Table(
                title, header, [_row(results, bench, name, columns, ratio, notes) for name in results[bench]]
            )
        )
    return made


def _row(
    results: Rounds,
    bench: str,
    name: str,
    columns: list[tuple[str, str, Format]],
    ratio: str | None,
    notes: dict[str, str],
) -> list[str]:
    cells = [f"{name} ({notes[name]})" if notes.get(name) else name]
    for _, figure, form in columns:
        value = median(results, bench, name, figure)
        cells.append("" if value is None else form(value))
    if ratio:
        values = [figures[ratio] for figures in results[bench][name]]
        celery, own = median(results, bench, "celery", ratio), median(results, bench, name, ratio)
        cells.append(f"{min(values):,.0f}-{max(values):,.0f}" if len(values) > 1 else "")
        cells.append(f"{own / celery:.1f}" if celery and own else "")
    return cells


def _backlog_table(title: str, results: Rounds, notes: dict[str, str]) -> Table:
    rows = []
    for name, rounds in results["backlog"].items():
        for backlog in BACKLOGS:
            rate, cpu, memory = (
                median(results, "backlog", name, f"{backlog}_{what}") for what in ("rate", "cpu_us", "memory")
            )
            size = median(results, "backlog", name, f"{backlog}_size") or 0
            base = median(results, "backlog", name, "small_rate")
            if rate is None or cpu is None or memory is None or not base or not rounds:
                continue
            label = {"small": "ready", "ready": "ready", "delayed": "delayed besides"}[backlog]
            figures = (_whole(rate), f"{rate / base:.2f}", _whole(cpu), _whole(memory))
            rows.append([name, f"{size:,.0f} {label}", *figures])
    header = ["system", "backlog", "tasks/s", "of the small one", "CPU us/task", "worker PSS MiB"]
    return Table(title, header, rows)


# -- the targets ---------------------------------------------------------------------------------------


def targets(results: Rounds) -> Table | None:
    """What this project wants to reach, against what was measured."""

    def get(bench: str, system: str, figure: str) -> float:
        return median(results, bench, system, figure) or float("nan")

    def times(bench: str, figure: str, ours: str = "celeriac", other: str = "celery") -> float:
        return get(bench, ours, figure) / get(bench, other, figure)

    def cpu(system: str) -> float:
        return get("enqueue", system, "client_us") + get("throughput", system, "worker_us")

    def rate(system: str) -> float:
        return get("throughput", system, "rate")

    peers = [name for name in results.get("throughput", {}) if not name.startswith(("celeriac", "celery"))]
    best = max(map(rate, peers), default=float("nan"))
    lines: list[tuple[str, str, float, bool, Format]] = []

    def least(what: str, limit: float, measured: float, form: Format = _tenths) -> None:
        lines.append((what, f">= {form(limit)}", measured, measured >= limit, form))

    def most(what: str, limit: float, measured: float) -> None:
        lines.append((what, f"<= {_hundredths(limit)}", measured, measured <= limit, _hundredths))

    least("Redis, no-op throughput, x Celery", 20, times("throughput", "rate"))
    least("the same, x the fastest other", 3, rate("celeriac") / best)
    least("with prefetch 1, x Celery", 8, times("throughput", "rate", "celeriac-prefetch-1"))
    part = times("throughput", "rate", "celeriac-events", "celeriac")
    least("with task events on and heard, of the rate without", 0.9, part, _hundredths)
    least("enqueue one by one, x Celery", 5, times("enqueue", "rate"))
    least("enqueue in bulk, x Celery", 30, times("throughput", "bulk"))
    most("round trip p50, ms", 1, get("roundtrip", "celeriac", "p50"))
    most("round trip p99, ms", 3, get("roundtrip", "celeriac", "p99"))
    most("round trip p50, of Celery's", 0.5, times("roundtrip", "p50"))
    most("CPU a task, client + worker, of Celery's", 0.1, cpu("celeriac") / cpu("celery"))
    most("memory of a worker of 2, of Celery's", 0.6, times("throughput", "memory"))
    most("first task after start, s", 0.4, get("first", "celeriac", "seconds"))
    least("broker 1 ms away, tasks/s", 15_000, get("latency", "celeriac", "rate"), _whole)
    for what in ("ready", "delayed"):
        part = get("backlog", "celeriac", f"{what}_rate") / get("backlog", "celeriac", "small_rate")
        least(f"large {what} backlog, of the small one's rate", 0.9, part, _hundredths)
    least("SQLite at synchronous=NORMAL, tasks/s", 15_000, rate("celeriac-sqlite"), _whole)
    least("SQLite at synchronous=FULL, tasks/s", 8_000, rate("celeriac-sqlite-full"), _whole)
    for suffix, commit, limit in (("", "off", 15_000), ("-sync", "on", 8_000)):
        postgres, other = f"celeriac-postgres{suffix}", f"procrastinate{suffix}"
        least(f"PostgreSQL at synchronous_commit={commit}, tasks/s", limit, rate(postgres), _whole)
        least("the same, x procrastinate", 4, times("throughput", "rate", postgres, other))
    rabbit = "celeriac-rabbitmq"
    least("RabbitMQ, x Celery on it", 8, times("throughput", "rate", rabbit, "celery-rabbitmq"))
    least("RabbitMQ, enqueue in bulk, tasks/s", 10_000, get("throughput", rabbit, "bulk"), _whole)

    rows = [
        [what, limit, form(measured), "yes" if met else "no"]
        for what, limit, measured, met, form in lines
        if measured == measured  # not NaN: it was measured
    ]
    return Table("Targets", ["what", "target", "measured", "met"], rows) if rows else None


# -- files ---------------------------------------------------------------------------------------------


def write(conditions: Sequence[str], made: Sequence[Table], goal: Table | None) -> list[Path]:
    """Write the generated part of ``docs/bench.md`` and of the README; return what was written."""
    said = "\n".join(f"- {line}" for line in conditions)
    every = "\n\n".join(table.markdown() for table in made)
    short = "\n\n".join(table.markdown() for table in ([goal] if goal else []) + list(made[:1]))
    written = []
    for path, body in ((ROOT / "docs/bench.md", every), (ROOT / "README.md", short)):
        replace_between_markers(path, "bench", f"{said}\n\n{body}")
        written.append(path)
    return written


def replace_between_markers(path: Path, name: str, body: str) -> None:
    """Replace what stands between ``<!-- name:begin -->`` and ``<!-- name:end -->``."""
    pattern = re.compile(rf"(<!-- {name}:begin[^>]*-->\n).*?(<!-- {name}:end -->)", re.DOTALL)
    text = path.read_text()
    if not pattern.search(text):
        raise SystemExit(f"{path} has no lines <!-- {name}:begin --> and <!-- {name}:end -->")
    path.write_text(pattern.sub(lambda match: f"{match[1]}{body}\n{match[2]}", text))
