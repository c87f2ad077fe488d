"""Waking those who wait: named pipes beside the file, rung after a commit.

An idle consumer has its queues' pipes open for reading; opening one for writing fails at once when nobody
waits, which costs a busy system one system call. Pipes are only hints: whoever waits looks once a second.
"""

from __future__ import annotations

import os
import select
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from hashlib import blake2b
from pathlib import Path
from urllib.parse import quote

from celeriac.engines.readiness import drain, readable

POLL = 1.0
"""Seconds between two looks at the store while no pipe rings."""
_MOST_CALLS = 16
_EXCLUSIVE = getattr(select, "EPOLLEXCLUSIVE", 0)


class Bell:
    """The pipes of one store's queues."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._paths: dict[str, str] = {}

    def ring(self, calls: Mapping[str, int]) -> None:
        """Wake, for each queue, up to so many of those that wait for it."""
        for queue, count in calls.items():
            try:
                pipe = os.open(self._path(queue), os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            except OSError:
                continue  # nobody waits
            try:
                # One write a call: each wakes one of those that sleep exclusively.
                for _ in range(min(count, _MOST_CALLS)):
                    os.write(pipe, b"w")
            except OSError:
                pass  # full: they have been called often enough
            finally:
                os.close(pipe)

    def wait(
        self,
        queues: Sequence[str],
        timeout: float,
        wakeup_fd: int | None,
        look: Callable[[Sequence[str]], tuple[bool, float | None]],
    ) -> bool:
        """Sleep until ``look`` finds a message; see ``Consumer.wait``.

        ``look`` tells whether one may be ready, and in how many seconds the next one falls due.
        """
        deadline = time.monotonic() + timeout
        pipes = [self._listen(queue) for queue in queues]
        try:
            with _Sleeper(pipes, wakeup_fd) as sleeper:
                while True:
                    # After the pipes are open: what was published before that rang for nobody.
                    found, due = look(queues)
                    left = deadline - time.monotonic()
                    if found or left <= 0:
                        return found
                    woken = sleeper.sleep(min(left, POLL, POLL if due is None else max(due, 0.0)))
                    if wakeup_fd is not None and wakeup_fd in woken:
                        return False
                    if woken:
                        for pipe in woken:
                            drain(pipe, 1)  # one call, if nobody else has taken it
                        return True
        finally:
            for pipe in pipes:
                os.close(pipe)

    def _listen(self, queue: str) -> int:
        path = self._path(queue)
        try:
            os.mkfifo(path, 0o666)
        except FileExistsError:
            pass
        # Open for writing too: a pipe whose last writer has left would report that for ever.
        return os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)

    def _path(self, queue: str) -> str:
        path = self._paths.get(queue)
        if path is None:
            name = quote(queue, safe="")
            if len(name) > 100:
                name = name[:60] + blake2b(queue.encode(), digest_size=16).hexdigest()
            path = self._paths[queue] = str(self._folder / f"queue-{name}")
        return path


class _Sleeper:
    """Waits for any of some pipes. With epoll a call wakes one sleeper, not all of them."""

    def __init__(self, pipes: Iterable[int], wakeup_fd: int | None) -> None:
        self._all = [*pipes, *([] if wakeup_fd is None else [wakeup_fd])]
        self._epoll: select.epoll | None = None
        if hasattr(select, "epoll"):
            self._epoll = select.epoll()
            for pipe in self._all:
                self._epoll.register(pipe, select.POLLIN | (0 if pipe == wakeup_fd else _EXCLUSIVE))

    def __enter__(self) -> _Sleeper:
        return self

    def __exit__(self, *exc: object) -> None:
        if self._epoll is not None:
            self._epoll.close()

    def sleep(self, timeout: float) -> list[int]:
        """Return the pipes that rang within ``timeout`` seconds."""
        if self._epoll is None:
            return readable(self._all, timeout)
        # Rounded up: waking before the time is a wasted look.
        events = self._epoll.poll(timeout + 0.0005)
        return [pipe for pipe, event in events if event & select.POLLIN]
