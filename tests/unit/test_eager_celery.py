"""Eager mode does what Celery's does: results, hooks, signals, retries, callbacks, what is stored."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.unit.conftest import CeleryPeer

TESTS = Path(__file__).parent.parent


def scenarios(python: str, library: str) -> dict[str, Any]:
    done = subprocess.run(
        [python, str(TESTS / "eager_scenarios.py"), library],
        env={**os.environ, "PYTHONPATH": str(TESTS.parent / "src")},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.mark.usefixtures("celery_peer")
def test_eager_mode_is_celerys(celery_peer: CeleryPeer) -> None:
    theirs = scenarios(str(celery_peer.process.args[0]), "celery")  # type: ignore[index]
    ours = scenarios(sys.executable, "celeriac")
    assert set(ours) == set(theirs)
    different = {name: (ours[name], theirs[name]) for name in ours if ours[name] != theirs[name]}
    assert different == {}
