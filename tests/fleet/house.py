"""A mixed fleet: one worker and one client of ours, and of a release of Celery."""

from __future__ import annotations

import os
import signal
import subprocess
import textwrap
import threading
from pathlib import Path
from typing import Any

import pytest

from tests.integration.test_celery_interop import HERE, ROOT, InteropSite, celery_python
from tests.processes import LoggedProcess
from tests.servers import RedisServer

RELEASES = ("5.4", "5.5", "5.6", "5.7")
OURS = "ours"
THEIRS = "theirs"
PATIENCE = 60.0
"""Seconds that a client has to answer."""


def fleet_python(release: str) -> str:
    """The interpreter of the environment with this release of Celery."""
    if release == "5.7":
        return celery_python()
    folder = Path(os.environ.get("CELERIAC_FLEET") or ROOT / ".fleet")
    python = folder / release / "bin" / "python"
    if not python.exists():
        pytest.fail(
            f"These tests need the real Celery {release}, and {python} does not exist. Run `make test`, "
            "which installs it into .fleet, or `scripts/make-fleet DIRECTORY` and set CELERIAC_FLEET to that."
        )
    return str(python)


class FleetSite(InteropSite):
    """A broker, a Redis for results, and processes of Celeriac and of one release of Celery at a time."""

    def __init__(self, server: RedisServer, folder: Path, broker: str | None = None) -> None:
        super().__init__(server, folder, broker)
        self.folder = folder
        self.release = RELEASES[-1]

    def python(self, library: str) -> str:
        return fleet_python(self.release) if library == "celery" else super().python(library)

    def move_on(self, release: str) -> None:
        """End what runs of Celery; what is started from now on is of this release."""
        client = self.clients.pop("celery", None)
        if client is not None:
            client.close()
        self.release = release

    def beat(self, library: str, task: str, queue: str, text: str) -> LoggedProcess:
        """A scheduler that sends ``task`` with ``text`` to the queue, twice a second."""
        entry = {
            "task": f"interop_tasks.{task}",
            "schedule": 0.5,
            "args": [text],
            "options": {"queue": queue},
        }
        conf = {"beat_schedule": {"tick": entry}, "beat_max_loop_interval": 1}
        command = [self.python(library), "-m", library, "-A", "interop_tasks", "beat", "-l", "INFO"]
        if library == "celery":
            command += ["-s", str(self.folder / f"schedule-{self.release}"), "--pidfile="]
        return LoggedProcess(command, self.env(library, conf), HERE)


def stop_now(process: LoggedProcess) -> None:
    """End a worker without waiting for what it runs."""
    if process.process.poll() is None:
        process.signal(signal.SIGQUIT)
        try:
            process.process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()


class Fleet:
    """What a test sees: a worker and a client on each side. Queues: ``theirs`` and ``ours``."""

    def __init__(self, site: FleetSite, names: dict[str, str]) -> None:
        self.site = site
        self.names = names
        """Side -> name of its worker's node."""

    def run(self, side: str, code: str, **values: Any) -> Any:
        """Run code in the client of a side, with ``node`` (each side's worker) and these values.

        A client that does not answer within :data:`PATIENCE` seconds is killed; the next call has a new one.
        """
        values = {"node": self.names, **values}
        lines = "".join(f"{name} = {value!r}\n" for name, value in values.items())
        client = self.site.client(library(side))
        timer = threading.Timer(PATIENCE, client.process.kill)
        timer.start()
        try:
            return client.run(f"import time\n{lines}{textwrap.dedent(code)}", side)
        except AssertionError as error:
            logs = "\n".join("\n".join(worker.lines[-20:]) for worker in self.site.workers)
            raise AssertionError(f"{error}\n{logs}") from None
        finally:
            timer.cancel()
            if client.process.poll() is not None:
                self.site.clients.pop(library(side)).close()


def library(side: str) -> str:
    return "celery" if side == THEIRS else "celeriac"


def other(side: str) -> str:
    return OURS if side == THEIRS else THEIRS
