"""The examples of docs/testing.md run as they stand there."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_the_examples_run(tmp_path: Path) -> None:
    page = (ROOT / "docs" / "testing.md").read_text()
    files = dict(re.findall(r"```python\n# (\w+\.py)\n(.*?)```", page, re.DOTALL))
    assert len(files) == page.count("```python"), "every example names its file"
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    tests = sum(text.count("\ndef test_") for text in files.values())
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT / "src"), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert f"{tests} passed" in done.stdout, done.stdout + done.stderr


def test_the_page_names_every_fixture() -> None:
    from celeriac.contrib.fixtures import fixtures

    page = (ROOT / "docs" / "testing.md").read_text()
    for prefix in ("celery", "celeriac"):
        assert [name for name in fixtures(prefix) if f"`{name}`" not in page] == []
