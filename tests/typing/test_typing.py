"""What a user's type checker sees (mypy, strict)."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent


def test_mypy_accepts_and_refuses_what_it_must(tmp_path: Path) -> None:
    files = [HERE / "good.py", HERE / "bad.py"]
    command = [
        sys.executable, "-m", "mypy", "--strict", "--follow-imports=silent", "--no-error-summary",
        "--cache-dir", str(tmp_path), *map(str, files),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, cwd=HERE.parents[1], timeout=110)
    found = set(re.findall(r"(\w+\.py):(\d+): error", done.stdout))
    wanted = {
        ("bad.py", str(number))
        for number, line in enumerate((HERE / "bad.py").read_text().splitlines(), 1)
        if line.endswith("# E")
    }
    assert len(wanted) == 8
    assert found == wanted, done.stdout + done.stderr
