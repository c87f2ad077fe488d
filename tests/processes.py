"""Processes of the tests: their output is read as it comes, so that a test can wait for a line of it."""

from __future__ import annotations

import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

PATIENCE = 20.0
"""Seconds a test waits for what should happen at once."""


def wait_until(condition: Callable[[], object], timeout: float = PATIENCE) -> None:
    """Wait for what no event tells (a line in a file, a state in a store), looking every 20 ms."""
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, f"it did not come true within {timeout} s"
        time.sleep(0.02)


class LoggedProcess:
    """A started command; ``lines`` holds what it has written so far to stdout and stderr."""

    def __init__(self, command: Sequence[str], env: Mapping[str, str], cwd: Path) -> None:
        self.lines: list[str] = []
        self._news = threading.Condition()
        self.process = subprocess.Popen(
            command,
            env=dict(env),
            cwd=cwd,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,  # its process group is its own
        )
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            with self._news:
                self.lines.append(line.rstrip())
                self._news.notify_all()
        with self._news:
            self._news.notify_all()

    def await_line(self, part: str, timeout: float = PATIENCE) -> str:
        """Wait until the log has a line with ``part``; return it."""

        def found() -> str | None:
            return next((line for line in self.lines if part in line), None)

        with self._news:
            if not self._news.wait_for(lambda: found() or self.process.poll() is not None, timeout):
                raise AssertionError(f"no line with {part!r} within {timeout} s:\n{self.log}")
            line = found()
        assert line is not None, f"the process ended before it wrote {part!r}:\n{self.log}"
        return line

    @property
    def log(self) -> str:
        return "\n".join(self.lines)

    def signal(self, number: int) -> None:
        self.process.send_signal(number)

    def stop(self, timeout: float = PATIENCE) -> int:
        """Ask it to end (SIGTERM) and return its exit code."""
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(timeout)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
                raise AssertionError(f"the process did not stop:\n{self.log}") from None
        return self.process.returncode

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()
