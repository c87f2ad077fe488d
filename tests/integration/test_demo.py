"""The demonstration: its analysis is right, and it runs as ``make demo`` runs it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / "examples/stdlib_analysis"

SOURCE = b"""
# a comment
class Shelf:
    def find(self, name):
        for book in self.books:  # another
            if book.name == name and book.here:
                return book

async def wait(): ...
"""


@pytest.fixture
def demo_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(FOLDER))


@pytest.mark.usefixtures("demo_path")
def test_analysis_counts_what_is_there() -> None:
    from analysis import analyse

    report = analyse("shelf", SOURCE)
    assert report["module"] == "shelf"
    assert (report["functions"], report["classes"], report["comments"]) == (2, 1, 2)
    assert report["branches"] == 3  # for, if, and
    assert tuple(report["longest"]) == ("find", 4)
    assert tuple(report["knottiest"]) == ("find", 4)
    assert report["instructions"] > 20


@pytest.mark.usefixtures("demo_path")
def test_files_are_the_library_without_its_tests() -> None:
    from analysis import library_files

    modules = dict(library_files())
    assert Path(modules["asyncio.tasks"]).name == "tasks.py"
    assert Path(modules["json"]).name == "__init__.py"
    assert len(modules) > 300
    assert not [name for name in modules if name.startswith(("site-packages", "test."))]


@pytest.mark.serial
def test_demo_runs_and_leaves_nothing_behind(tmp_path: Path) -> None:
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    command = [sys.executable, str(FOLDER / "demo.py"), "--files", "60"]
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "60 of 60 files" in done.stdout
    assert "Two processes:" in done.stdout
    assert "Failed at first and succeeded when retried: antigravity, asyncio.tasks" in done.stdout
    assert list(tmp_path.iterdir()) == []
    assert _still_running(str(tmp_path)) == []


def _still_running(folder: str) -> list[str]:
    """The processes that were started with ``folder`` in their environment."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if folder.encode() in (process / "environ").read_bytes():
                found.append((process / "cmdline").read_bytes().replace(b"\0", b" ").decode())
        except OSError:
            continue  # it has ended, or is not ours
    return found
