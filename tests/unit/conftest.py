"""A process of the real Celery to compare with, and applications that leave nothing behind."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from celeriac.app.state import restored_apps

TESTS = Path(__file__).parent.parent


@pytest.fixture(autouse=True)
def own_apps() -> Iterator[None]:
    """A test's applications are no other test's current one, and their shared tasks join no other's."""
    with restored_apps():
        yield


class CeleryPeer:
    """Asks the real Celery; ``tests/celery_peer.py`` says what it can do."""

    def __init__(self, python: str) -> None:
        self.process = subprocess.Popen(
            [python, str(TESTS / "celery_peer.py")], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def ask(self, command: str, *arguments: Any) -> Any:
        assert self.process.stdin
        assert self.process.stdout
        self.process.stdin.write(json.dumps([command, *arguments]) + "\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        assert line, "the Celery process has ended"
        answer = json.loads(line)
        assert "error" not in answer, answer["error"]
        return answer["answer"]

    def close(self) -> None:
        assert self.process.stdin
        self.process.stdin.close()
        self.process.wait(10)
        assert self.process.stdout
        self.process.stdout.close()


@pytest.fixture(scope="session")
def celery_peer() -> Iterator[CeleryPeer]:
    python = os.environ.get("CELERIAC_CELERY_PYTHON") or str(TESTS.parent / ".celery-venv" / "bin" / "python")
    if not Path(python).exists():
        pytest.fail(
            f"The tests compare with the real Celery, and {python} does not exist. Run `make test`, which "
            "installs it into .celery-venv, or set CELERIAC_CELERY_PYTHON to a Python that has celery 5."
        )
    peer = CeleryPeer(python)
    yield peer
    peer.close()
