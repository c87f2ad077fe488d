"""Analyse the whole standard library, one task a file, first with one worker process and then with two.

Run it with ``make demo``, or ``python examples/stdlib_analysis/demo.py``. It needs no server, takes well
under a minute, and removes what it made: the worker, and the folder with messages and results.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from analysis import library_files
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

import celeriac.exceptions

HERE = Path(__file__).parent
console = Console(highlight=False)


def main() -> None:
    """Run the analysis twice and compare."""
    parser = argparse.ArgumentParser(description="Analyse Python's standard library with Celeriac workers.")
    parser.add_argument("--files", type=int, metavar="N", help="only the first N files")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the worker and the folder go, too

    files = library_files()[: options.files]
    console.print(
        f"{len(files)} modules of Python {sys.version.split()[0]}'s standard library, one task each"
    )
    with tempfile.TemporaryDirectory(prefix="celeriac-demo-") as home:
        os.environ["CELERIAC_HOME"] = home
        console.print(f"Messages and results: SQLite, {home}/celeriac.db\n")
        slow, _ = run(files, processes=1, home=home)
        fast, reports = run(files, processes=2, home=home)
    summarise(reports)
    compare(slow, fast)


def run(files: list[tuple[str, str]], processes: int, home: str) -> tuple[float, list[dict[str, Any]]]:
    """Analyse ``files`` with a worker of so many processes; return the seconds it took and the reports."""
    from tasks import analyse_file

    with worker(processes, home) as process:
        await_worker(process)  # the clock starts when it is up
        started = time.perf_counter()
        results = analyse_file.enqueue_many(files)
        reports = follow(results, f"{processes} process{'es' if processes > 1 else ''}")
        return time.perf_counter() - started, reports


@contextmanager
def worker(processes: int, home: str) -> Iterator[subprocess.Popen[bytes]]:
    """Run ``celeriac -A tasks worker`` for the length of the block."""
    log = Path(home, f"worker-{processes}.log")
    command = [sys.executable, "-m", "celeriac", "-A", "tasks", "worker", "-c", str(processes), "-l", "INFO"]
    with log.open("wb") as output:
        process = subprocess.Popen(command, cwd=HERE, stdout=output, stderr=subprocess.STDOUT)
    try:
        yield process
    except Exception:
        print(f"The end of the worker's log:\n{log.read_text()[-3000:]}", file=sys.stderr)
        raise
    finally:
        process.terminate()
        process.wait(timeout=30)


def await_worker(process: subprocess.Popen[bytes]) -> None:
    """Return when the worker answers; fail if it ends instead."""
    from tasks import ping

    answer = ping.delay()
    while process.poll() is None:
        try:
            answer.get(timeout=1)
            return
        except celeriac.exceptions.TimeoutError:
            continue
    raise RuntimeError(f"the worker ended with exit code {process.returncode}")


def follow(results: list[Any], title: str) -> list[dict[str, Any]]:
    """Show the progress until every result is there; return them as they come."""
    if console.is_terminal:
        columns = (TextColumn("{task.description}"), BarColumn(40), MofNCompleteColumn(), TimeElapsedColumn())
        with Progress(*columns, console=console, refresh_per_second=10) as progress:
            bar = progress.add_task(title, total=len(results))
            return [_advanced(progress, bar, report) for report in arrivals(results)]
    reports = []
    for report in arrivals(results):
        reports.append(report)
        if len(reports) % 100 == 0 or len(reports) == len(results):
            console.print(f"{title}: {len(reports)} of {len(results)} files")
    return reports


def _advanced(progress: Progress, bar: Any, report: dict[str, Any]) -> dict[str, Any]:
    progress.advance(bar)
    return report


def arrivals(results: list[Any]) -> Iterator[dict[str, Any]]:
    """Yield the tasks' reports, about in the order in which they end; tell of retries on the way."""
    waiting = deque(results)
    told: set[str] = set()
    while waiting:
        result = waiting.popleft()
        try:
            yield result.get(timeout=0.1)
        except celeriac.exceptions.TimeoutError:
            waiting.append(result)
            if result.state == "RETRY" and result.id not in told:
                told.add(result.id)
                console.print(f"  failed, will be retried: {result.info}")


def summarise(reports: list[dict[str, Any]]) -> None:
    """Print the totals over all files, and the extremes."""
    totals = Table("total", "over all files", box=SIMPLE_HEAD)
    for figure in ("lines", "comments", "classes", "functions", "branches", "names", "instructions"):
        totals.add_row(f"{sum(report[figure] for report in reports):,}", figure)
    totals.columns[0].justify = "right"
    console.print(totals)
    show_top("lines", "longest functions", [_function(report, "longest") for report in reports])
    show_top("paths", "functions with most branches", [_function(report, "knottiest") for report in reports])
    times = [(round(report["seconds"] * 1000), report["module"]) for report in reports]
    show_top("ms", "slowest files to analyse", times)
    retried = [report["module"] for report in reports if report["retries"]]
    console.print(f"Failed at first and succeeded when retried: {', '.join(sorted(retried)) or 'none'}\n")


def _function(report: dict[str, Any], which: str) -> tuple[int, str]:
    name, figure = report[which]
    return figure, f"{report['module']}: {name}"


def show_top(unit: str, title: str, figures: list[tuple[int, str]]) -> None:
    """Print the five greatest."""
    table = Table(unit, title, box=SIMPLE_HEAD)
    for figure, name in sorted(figures, reverse=True)[:5]:
        table.add_row(f"{figure:,}", name)
    table.columns[0].justify = "right"
    console.print(table)


def compare(slow: float, fast: float) -> None:
    """Print how much a second process gained."""
    console.print(
        f"One process:    {slow:5.1f} s\n"
        f"Two processes:  {fast:5.1f} s   [bold]{slow / fast:.2f} x[/bold] as fast"
    )
    if len(os.sched_getaffinity(0)) < 2:
        console.print("This machine has one processor: a second process cannot gain anything here.")


if __name__ == "__main__":
    main()
