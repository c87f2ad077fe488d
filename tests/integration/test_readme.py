"""The README's quick start runs as written."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from celeriac import Celeriac

README = Path(__file__).parents[2] / "README.md"


def _section(heading: str) -> list[str]:
    """The code blocks below a heading."""
    text = README.read_text()
    body = text.split(f"\n## {heading}\n", 1)[1].split("\n## ", 1)[0]
    return re.findall(r"```\w*\n(.*?)```", body, re.DOTALL)


def test_quick_start(tmp_path: Path) -> None:
    tasks, start, call, _ = _section("Quick start")
    (tmp_path / "tasks.py").write_text(tasks)
    (tmp_path / "call.py").write_text(call)
    program, *arguments = shlex.split(start)
    assert program == "celeriac"
    command = [sys.executable, "-m", "celeriac", *arguments]
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith(("CELERY", "CELERIAC"))
    }
    with (tmp_path / "log").open("w+") as log:
        worker = subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=log, stderr=log)
        try:
            caller = [sys.executable, "call.py"]
            done = subprocess.run(
                caller, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60
            )
        finally:
            worker.terminate()
            worker.wait(30)
        log.seek(0)
        said = log.read()
    assert done.stdout == "5\n", done.stderr + said
    assert (tmp_path / "celeriac.db").exists()
    assert str(tmp_path / "celeriac.db") in said


def test_the_line_with_a_server() -> None:
    """Nothing is connected before something is sent."""
    names = {"Celeriac": partial(Celeriac, set_as_current=False)}
    exec(_section("Quick start")[3], names)
    app: Any = names["app"]
    assert app.conf.broker_url == "redis://localhost:6379/0"
    assert app.conf.result_backend == "redis://localhost:6379/1"


@pytest.mark.parametrize(
    ("line", "changed"),
    [
        ("from celery import Celery", "from celeriac import Celery"),
        ("import celery", "import celeriac as celery"),
        ("from celery.utils.log import x", "from celeriac.utils.log import x"),
    ],
)
def test_sed_changes_imports(line: str, changed: str, tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(f"{line}\nx = 'celery'  # celery, imported\n")
    subprocess.run(["bash", "-c", _section("From Celery")[0]], cwd=tmp_path, check=True)
    first, second = (tmp_path / "app.py").read_text().splitlines()
    assert first == changed
    assert second == "x = 'celery'  # celery, imported"


def test_links_lead_somewhere() -> None:
    for page in (README, *README.parent.glob("docs/**/*.md")):
        for target, anchor in re.findall(r"\]\(([^)#:]+)(?:#([^)]*))?\)", page.read_text()):
            path = page.parent / target
            assert path.exists(), f"{page.name} links to {target}"
            if anchor:
                assert anchor in _anchors(path), f"{page.name} links to {target}#{anchor}"


def _anchors(page: Path) -> set[str]:
    headings = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
