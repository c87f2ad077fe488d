"""Telling waiting clients which results were stored: one named pipe a listening process.

A line in a pipe is a task id; the client reads the result itself. Pipes are hints: clients look once a
second as well.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Sequence
from pathlib import Path

PREFIX = "results-"
FULL = 32768
"""Having read so much at once, a listener must assume that its pipe has overflowed."""
_TOLD_ALL = 8
"""Up to so many listening processes hear of every result; beyond, only the one that asked for it."""
_CHUNK = 4096
"""Writes of up to PIPE_BUF bytes are not mixed with other writers'."""


class News:
    """The listeners' pipes, as the storing side sees them."""

    def __init__(self, folder: Path) -> None:
        self._folder = str(folder)
        self._changed = -1
        self._listeners: list[str] = []

    def tell(self, news: Sequence[tuple[str, str | None]]) -> None:
        """Tell the listeners that the results ``(task id, reply address)`` have been stored."""
        changed = os.stat(self._folder).st_mtime_ns
        if changed != self._changed:
            self._listeners = [name for name in os.listdir(self._folder) if name.startswith(PREFIX)]
            self._changed = changed
        few = len(self._listeners) <= _TOLD_ALL
        for name in self._listeners:
            lines = [f"{id}\n".encode() for id, reply in news if few or reply == name]
            if lines:
                self._send(name, lines)

    def listen(self) -> tuple[str, int]:
        """Make a pipe of our own; return its name, which is the reply address, and its reading end."""
        name = f"{PREFIX}{os.getpid()}-{secrets.token_hex(4)}"
        path = f"{self._folder}/{name}"
        os.mkfifo(f"{self._folder}/new-{name}", 0o666)
        # Opened before it is seen: a pipe that nobody reads counts as a dead listener's and is removed.
        descriptor = os.open(f"{self._folder}/new-{name}", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        os.rename(f"{self._folder}/new-{name}", path)
        return name, descriptor

    def unlisten(self, name: str, descriptor: int) -> None:
        """Remove the pipe."""
        os.close(descriptor)
        try:
            os.unlink(f"{self._folder}/{name}")
        except FileNotFoundError:
            pass

    def _send(self, name: str, lines: list[bytes]) -> None:
        path = f"{self._folder}/{name}"
        try:
            pipe = os.open(path, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError:
            # ENXIO: its process is dead.
            try:
                os.unlink(path)
            except OSError:
                pass
            return
        try:
            chunk = b""
            for line in lines:
                if len(chunk) + len(line) > _CHUNK:
                    os.write(pipe, chunk)
                    chunk = b""
                chunk += line
            os.write(pipe, chunk)
        except OSError:
            pass  # full: the listener will notice
        finally:
            os.close(pipe)
