"""The benchmarks' tables: what is computed from the figures, and where it is written."""

from __future__ import annotations

from pathlib import Path

import pytest
from bench import machine, report


def _results(**rates: list[float]) -> report.Rounds:
    return {"throughput": {name: [{"rate": rate} for rate in rounds] for name, rounds in rates.items()}}


def test_targets_compare_medians_with_celery_and_the_fastest_other() -> None:
    table = report.targets(_results(celeriac=[20_000, 90_000, 21_000], celery=[1000], huey=[5000], rq=[300]))
    assert table is not None
    by_name = {row[0]: row[1:] for row in table.rows}
    assert by_name["Redis, no-op throughput, x Celery"] == [">= 20.0", "21.0", "yes"]
    assert by_name["the same, x the fastest other"] == [">= 3.0", "4.2", "yes"]
    assert "round trip p50, ms" not in by_name  # it was not measured


def test_a_missed_target_says_no() -> None:
    table = report.targets(_results(celeriac=[5000], celery=[1000]))
    assert table is not None
    assert [row[-1] for row in table.rows] == ["no"]


def test_throughput_table_has_a_ratio_and_a_range() -> None:
    (table,) = report.tables(_results(celery=[1000], huey=[4000, 6000, 5000]), {"huey": "no acknowledgement"})
    assert table.rows[1][0] == "huey (no acknowledgement)"
    assert table.rows[1][-2:] == ["4,000-6,000", "5.0"]
    assert len({len(line) for line in table.text().splitlines()[1:]}) == 1  # aligned
    assert table.markdown().count("| huey") == 1


def test_markers_keep_the_text_around_them(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- bench:begin (by hand: no) -->\nold\n<!-- bench:end -->\nafter\n")
    report.replace_between_markers(page, "bench", "new \\1")
    assert (
        page.read_text() == "before\n<!-- bench:begin (by hand: no) -->\nnew \\1\n<!-- bench:end -->\nafter\n"
    )
    with pytest.raises(SystemExit, match="faults:begin"):
        report.replace_between_markers(page, "faults", "new")


@pytest.mark.parametrize("page", ["README.md", "docs/bench.md"])
def test_pages_have_the_markers(page: str) -> None:
    text = (report.ROOT / page).read_text()
    assert 0 < text.index("<!-- bench:begin") < text.index("<!-- bench:end -->")


def test_machine_reads_this_process() -> None:
    import os

    assert os.getpid() in machine.tree(os.getppid())
    assert machine.cpu([os.getpid()]) > 0
    assert machine.pss([os.getpid()]) > 1_000_000
