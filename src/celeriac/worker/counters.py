"""Counters: what the children have run, in shared memory, for the node's metrics.

Each child counts in an area of its own, which its successor goes on with. A count is an addition to a number
in memory: nothing is sent, nothing lost when a process dies. The agent adds the areas up when it is asked.
"""

from __future__ import annotations

import struct
import threading
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator, Sequence
from enum import IntEnum
from typing import Final

from celeriac import states
from celeriac.app.request import Context
from celeriac.message import OWN_HEADER
from celeriac.monitor.metrics import BUCKETS, WAIT_BUCKETS, Histogram
from celeriac.worker.board import Board
from celeriac.worker.job import Job

Names = tuple[str, ...]
"""Task and queue; of failures, the exception as well."""
OTHER: Final = "(other)"
"""Stands for the tasks, queues and exceptions that an area has no room for."""
UNREADABLE: Final = "(unreadable)"
"""Stands for the task of a message that cannot be read: what it says of itself is not to be trusted."""


class Counted(IntEnum):
    """What is counted of each task and queue. The numbers are places in memory."""

    RECEIVED = 0
    STARTED = 1
    SUCCEEDED = 2
    RETRIED = 3
    REVOKED = 4
    REJECTED = 5
    SENT = 6
    """By a task of this node; of what others send nobody here knows."""


_ENDS: Final = {
    states.RETRY: Counted.RETRIED,
    states.REVOKED: Counted.REVOKED,
    states.REJECTED: Counted.REJECTED,
}
_TASKS, _FAILURES = 100, 100
_WORD = 8
_HEAD = 2 * _WORD  # how many cells there are: of tasks, of failures
_NAMES = struct.Struct("120s64s")
# Where a task's histograms begin in its cell, in words: the sum, the buckets, and one more.
_RUNS = _NAMES.size // _WORD + len(Counted)
_WAITS = _RUNS + len(BUCKETS) + 2
_TASK_SIZE = (_WAITS + len(WAIT_BUCKETS) + 2) * _WORD
_FAILURE_NAMES = struct.Struct("120s64s64s")
_FAILURE_SIZE = _FAILURE_NAMES.size + _WORD
_FAILURES_AT = _HEAD + _TASKS * _TASK_SIZE


Histograms = dict[Names, Histogram]


class Counters:
    """One child's area, of up to 100 tasks (by queue) and 100 failures (by exception); threads share it."""

    def __init__(self, board: Board, number: int) -> None:
        start, size = board.annex("counters", number)
        assert size >= _FAILURES_AT + _FAILURES * _FAILURE_SIZE
        self._bytes = memoryview(board.memory)[start : start + size]
        self._counts = self._bytes.cast("Q")
        self._sums = self._bytes.cast("d")
        self._mutex = threading.Lock()
        self._tasks: dict[Names, int] = {}
        self._failures: dict[Names, int] = {}
        for cell, names in enumerate(self._names(_NAMES, 0, _HEAD, _TASK_SIZE)):
            self._tasks[names] = (_HEAD + cell * _TASK_SIZE) // _WORD
        failures = self._names(_FAILURE_NAMES, 1, _FAILURES_AT, _FAILURE_SIZE)
        for cell, names in enumerate(failures):
            self._failures[names] = (_FAILURES_AT + cell * _FAILURE_SIZE) // _WORD

    # -- counting: by the child --------------------------------------------------------------------------

    def received(self, job: Job) -> None:
        """A child has taken a task up, to run it."""
        self.count(Counted.RECEIVED, job.name, job.delivery.queue)

    def started(self, job: Job) -> None:
        """Its run begins."""
        self.count(Counted.STARTED, job.name, job.delivery.queue)
        waited = None if job.deliveries else _waited(job.context, job.received)
        if waited is not None:
            self._observe(job.name, job.delivery.queue, _WAITS, WAIT_BUCKETS, waited)

    def ended(self, job: Job) -> None:
        """It has ended, with or without a run."""
        task, queue = job.name, job.delivery.queue
        if not job.started:
            self.count(Counted.RECEIVED, task, queue)
        if job.state == states.SUCCESS:
            self.ran(task, queue, job.runtime)
        elif job.state == states.FAILURE:
            self.failed(task, queue, job.error.partition(":")[0])
        elif job.state in _ENDS:
            self.count(_ENDS[job.state], task, queue)

    def unread(self, queue: str, error: Exception, task: str = UNREADABLE) -> None:
        """A message could not be read, or nobody knows its task: it is a dead letter now."""
        self.count(Counted.RECEIVED, task, queue)
        self.failed(task, queue, type(error).__name__)

    def count(self, what: Counted, task: str, queue: str) -> None:
        """One more."""
        with self._mutex:
            self._counts[self._cell(task, queue) + _NAMES.size // _WORD + what] += 1

    def ran(self, task: str, queue: str, seconds: float) -> None:
        """A run has ended well; it took so long."""
        self.count(Counted.SUCCEEDED, task, queue)
        self._observe(task, queue, _RUNS, BUCKETS, seconds)

    def failed(self, task: str, queue: str, exception: str) -> None:
        """A task has failed with an exception of this name."""
        with self._mutex:
            key: Names = (task, queue, exception)
            cell = self._failures.get(key)
            if cell is None:
                key = _fitting(key, _FAILURE_NAMES, len(self._failures) < _FAILURES - 1)
                cell = self._failures.get(key)
            if cell is None:
                cell = self._add(_FAILURE_NAMES, key, 1, _FAILURES_AT, _FAILURE_SIZE)
                self._failures[key] = cell
            self._counts[cell + _FAILURE_NAMES.size // _WORD] += 1

    def _observe(self, task: str, queue: str, place: int, bounds: Sequence[float], value: float) -> None:
        with self._mutex:
            at = self._cell(task, queue) + place
            self._sums[at] += value
            self._counts[at + 1 + bisect_left(bounds, value)] += 1

    def _cell(self, task: str, queue: str) -> int:
        cell = self._tasks.get((task, queue))
        if cell is not None:
            return cell
        key = _fitting((task, queue), _NAMES, len(self._tasks) < _TASKS - 1)
        cell = self._tasks.get(key)
        if cell is None:
            cell = self._tasks[key] = self._add(_NAMES, key, 0, _HEAD, _TASK_SIZE)
        return cell

    def _add(self, names: struct.Struct, key: Names, kind: int, start: int, size: int) -> int:
        """Begin a cell; return its place, in words."""
        at = start + self._counts[kind] * size
        names.pack_into(self._bytes, at, *(name.encode() for name in key))
        self._counts[kind] += 1  # after the names: who reads must not find a cell without them
        return at // _WORD

    # -- reading: by the agent ---------------------------------------------------------------------------

    def add_to(self, totals: Counter[tuple[Names, Counted]], runs: Histograms, waits: Histograms) -> None:
        """Add this child's counts to the node's."""
        for cell, key in enumerate(self._names(_NAMES, 0, _HEAD, _TASK_SIZE)):
            at = (_HEAD + cell * _TASK_SIZE) // _WORD
            for what in Counted:
                totals[key, what] += self._counts[at + _NAMES.size // _WORD + what]
            for place, bounds, seen in ((_RUNS, BUCKETS, runs), (_WAITS, WAIT_BUCKETS, waits)):
                histogram = seen.setdefault(key, Histogram(bounds))
                histogram.total += self._sums[at + place]
                for bucket in range(len(bounds) + 1):
                    histogram.counts[bucket] += self._counts[at + place + 1 + bucket]

    def add_failures_to(self, totals: Counter[Names]) -> None:
        """The same for failures, by task, queue and exception."""
        for cell, key in enumerate(self._names(_FAILURE_NAMES, 1, _FAILURES_AT, _FAILURE_SIZE)):
            at = (_FAILURES_AT + cell * _FAILURE_SIZE + _FAILURE_NAMES.size) // _WORD
            totals[key] += self._counts[at]

    def _names(self, names: struct.Struct, kind: int, start: int, size: int) -> Iterator[Names]:
        for cell in range(self._counts[kind]):
            found = names.unpack_from(self._bytes, start + cell * size)
            yield tuple(name.rstrip(b"\0").decode("utf-8", "replace") for name in found)


def _waited(context: Context, received: float) -> float | None:
    """Seconds from the sending of a task to now that it is ``received``; by the two machines' clocks.

    ``None`` if that says nothing about its queue, for it was to wait (delayed, another attempt), or if its
    sender does not tell (Celery's).
    """
    headers = context.message.headers if context.message is not None else {}
    own = headers.get(OWN_HEADER)
    sent = own.get("sent") if isinstance(own, dict) else None
    if not isinstance(sent, float | int) or headers.get("eta") or headers.get("retries"):
        return None
    return max(0.0, received - sent)


def _fitting(key: Names, names: struct.Struct, room: bool) -> Names:
    """The key as it can be kept: names cut to their room, or all of what there is no room for as one."""
    if not room:
        return (OTHER,) * len(key)
    widths = [int(width) for width in names.format.rstrip("s").split("s")]
    return tuple(
        name.encode()[:width].decode("utf-8", "ignore") for name, width in zip(key, widths, strict=True)
    )
