"""A worker whose log is a file, and waiting for what must come."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent.parent
PATIENCE = 120.0
"""Seconds without what is waited for, after which the suite gives up and says so."""


class Stuck(AssertionError):
    """What should have happened did not."""


def await_true(condition: Callable[[], Any], what: str, timeout: float = PATIENCE) -> Any:
    """Look every 5 ms until ``condition()`` is true; return its value, raise ``Stuck`` after ``timeout``."""
    deadline = time.monotonic() + timeout
    while not (value := condition()):
        if time.monotonic() > deadline:
            raise Stuck(f"{what}: not within {timeout:g} s")
        time.sleep(0.005)
    return value


class Node:
    """A ``celeriac worker`` with two children, whose log is a file; it can be ended and started again."""

    def __init__(self, name: str, env: dict[str, str], log: Path, children: int = 2) -> None:
        self.name = name
        self.env = env
        self.log = log
        self.size = children
        self.process: subprocess.Popen[bytes] | None = None
        self._seen = 0

    def start(self, ready: bool = True) -> None:
        """Start the process, and wait until its children work unless told not to."""
        self._seen = self.log.stat().st_size if self.log.exists() else 0
        command = [sys.executable, "-m", "celeriac", "-A", "tests.faults.project", "worker"]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [*command, "-l", "INFO", "-c", str(self.size), "-n", f"{self.name}@%h"],
                env=self.env, cwd=ROOT, stdout=log, stderr=log,
            )  # fmt: skip
        if ready:
            self.await_line("ready.")

    def await_line(self, part: str, timeout: float = PATIENCE) -> None:
        """Wait until its log has ``part``, counted from the node's last start or :meth:`forget_log`."""
        try:
            await_true(lambda: part in self.news(), f"{self.name} writes {part!r}", timeout)
        except Stuck as stuck:
            raise Stuck(f"{stuck}\n{self.news()[-3000:]}") from None

    def forget_log(self) -> None:
        """Let :meth:`await_line` see only what comes from now on."""
        self._seen = self.log.stat().st_size

    def news(self) -> str:
        """The log since the last start."""
        with self.log.open("rb") as file:
            file.seek(self._seen)
            return file.read().decode(errors="replace")

    def members(self) -> dict[int, str]:
        """The pids of its agent and children, with their names."""
        found = {}
        try:
            pids = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        except OSError:
            return {}
        for pid in map(int, pids):
            try:
                found[pid] = Path(f"/proc/{pid}/comm").read_text().strip()
            except OSError:
                continue
        return {pid: name for pid, name in found.items() if name.startswith("celeriac:")}

    def children(self) -> list[int]:
        return [pid for pid, name in self.members().items() if name != "celeriac:agent"]

    def agent(self) -> int | None:
        return next((pid for pid, name in self.members().items() if name == "celeriac:agent"), None)

    def stop(self) -> None:
        """End it in order, or by force if it does not."""
        if self.process is not None and self.process.poll() is None:
            for pid in (self.process.pid, *self.members()):
                send_signal(pid, signal.SIGCONT)
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(15)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()


def send_signal(pid: int, number: int) -> None:
    """Signal a process, if it is still there."""
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        pass


def is_stopped(pid: int) -> bool:
    """Whether a process is stopped, or has ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "TZX"
    except OSError:
        return True
