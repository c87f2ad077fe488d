"""Task events as a child writes them: Celery's types and fields, and a few more that help.

Beside Celery's, ``task-received`` has ``queue`` and, where there are such, ``group_id``, ``chord`` (the id of
the chord's body) and ``stamps``; events of tasks that did not start have ``name`` and ``queue``, because
nothing else has told them. Arguments are shown as the message's headers show them: redacted by its sender.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

import msgspec

from celeriac.app.event import utcoffset
from celeriac.exceptions import Retry
from celeriac.extended_json import dumps
from celeriac.saferepr import shown
from celeriac.worker.job import Job
from celeriac.worker.tape import Tape

if TYPE_CHECKING:
    from celeriac.app.request import Context

LONGEST_ERROR: Final = 4096
LONGEST_TRACEBACK: Final = 32 * 1024
"""Characters of an exception and of a traceback that are sent; more is cut out of the middle."""


class Common(msgspec.Struct, omit_defaults=True, gc=False):
    """What every event tells first, in Celery's order."""

    hostname: str
    utcoffset: float
    pid: int
    clock: int
    uuid: Any


class Received(Common, omit_defaults=True, gc=False):
    """``task-received``."""

    name: str
    args: Any
    kwargs: Any
    root_id: Any
    parent_id: Any
    retries: Any
    eta: Any
    expires: Any
    timestamp: float
    type: str
    queue: str | None
    group_id: Any = None
    chord: Any = None
    stamps: Any = None


class Started(Common, omit_defaults=True, gc=False):
    """``task-started``."""

    timestamp: float
    type: str


class Succeeded(Common, omit_defaults=True, gc=False):
    """``task-succeeded``."""

    result: str
    runtime: float
    timestamp: float
    type: str


class Failed(Common, omit_defaults=True, gc=False):
    """``task-failed`` and ``task-retried``."""

    exception: str
    traceback: str
    timestamp: float
    type: str
    name: str | None = None
    queue: str | None = None


class Revoked(Common, omit_defaults=True, gc=False):
    """``task-revoked``."""

    terminated: bool
    signum: Any
    expired: bool
    timestamp: float
    type: str
    name: str | None = None
    queue: str | None = None


class Rejected(Common, omit_defaults=True, gc=False):
    """``task-rejected``."""

    requeue: bool
    timestamp: float
    type: str


class Recorder:
    """Writes one child's task events on its tape. What does not fit is dropped there: it never waits.

    While tasks are short the events of a batch are kept and written together when its outcomes are settled:
    that takes 4 us a task instead of 9, and a process that dies loses the events of what it had not settled.
    """

    def __init__(self, tape: Tape, hostname: str, pid: int) -> None:
        """``hostname`` is the node's name, ``pid`` its main process."""
        self._tape = tape
        self._hostname = hostname
        self._pid = pid
        self._offset = utcoffset()
        self._encode = msgspec.json.Encoder().encode
        self._kept: list[Any] = []
        self._flushing = threading.Lock()
        self.keeping = False
        """Keep events until :meth:`flush`, instead of writing each at once."""

    def flush(self) -> None:
        """Write what has been kept. Any thread may do it."""
        if not self._kept:
            return
        with self._flushing:
            events = self._kept[:]
            del self._kept[: len(events)]  # others may have come meanwhile
            for clock, event in enumerate(events, self._tape.tick(len(events))):
                event.clock = clock
            self._write(events)

    def began(self, job: Job) -> None:
        """``task-received`` and ``task-started``, in one record: a message is taken just before it is run."""
        if not job.plan.sends_events:
            return
        job.told = True
        context = job.context
        headers = context.message.headers if context.message is not None else {}
        task_id = context.id
        received = Received(
            self._hostname, self._offset, self._pid, 0, task_id,
            headers.get("shadow") or job.name, headers.get("argsrepr"), headers.get("kwargsrepr"),
            context.root_id, context.parent_id, context.retries, context.eta, context.expires,
            job.received, "task-received", context.queue,
        )  # fmt: skip
        if context.group is not None or context.chord is not None or context.stamps is not None:
            received.group_id = context.group
            received.chord = _body_id(context.chord)
            received.stamps = context.stamps or None
        started = Started(self._hostname, self._offset, self._pid, 0, task_id, time.time(), "task-started")
        self._kept += (received, started)
        if not self.keeping:
            self.flush()

    def succeeded(self, job: Job, result: str, runtime: float) -> None:
        """``result`` is the return value as it is shown."""
        if job.plan.sends_events:
            self._add(Succeeded(
                        self._hostname, self._offset, self._pid, 0, job.context.id,
                        result, runtime, time.time(), "task-succeeded",
                    ))  # fmt: skip

    def failed(self, job: Job, error: BaseException, traceback: str) -> None:
        """The task has ended in a failure."""
        self._erred("task-failed", job, shown(error), traceback)

    def retried(self, job: Job, retry: Retry, traceback: str) -> None:
        """The task asked for another attempt."""
        why = str(retry) if retry.exc is None else shown(retry.exc)
        self._erred("task-retried", job, why, traceback)

    def unknown(self, context: Context, name: str, error: BaseException) -> None:
        """No task of this name is registered."""
        self._add(self._failure("task-failed", context, shown(error), "", name))

    def revoked(self, job: Job, terminated: bool, signum: int | None, expired: bool) -> None:
        """The task is not run, or its run was ended, because it was revoked or came too late."""
        if job.plan.sends_events:
            context = job.context
            self._add(Revoked(
                        self._hostname, self._offset, self._pid, 0, context.id,
                        terminated, signum, expired, time.time(), "task-revoked", job.name, context.queue,
                    ))  # fmt: skip

    def rejected(self, job: Job, requeue: bool) -> None:
        """The task raised ``Reject``."""
        if job.plan.sends_events:
            self._add(Rejected(
                        self._hostname, self._offset, self._pid, 0, job.context.id,
                        requeue, time.time(), "task-rejected",
                    ))  # fmt: skip

    def put(self, event: dict[str, Any]) -> bool:
        """Write a complete event, of the user's own or ``task-sent``; ``False`` if it is too long.

        Raises ``TypeError`` or ``ValueError`` for what JSON cannot carry.
        """
        self.flush()
        record = dumps({**event, "clock": self._tape.tick()})
        if len(record) > self._tape.longest:
            return False
        self._tape.append(record)
        return True

    def _erred(self, type: str, job: Job, error: str, traceback: str) -> None:
        if job.plan.sends_events:
            name = None if job.told else job.name
            self._add(self._failure(type, job.context, error, traceback, name))

    def _failure(self, type: str, context: Context, error: str, traceback: str, name: str | None) -> Failed:
        event = Failed(
            self._hostname, self._offset, self._pid, 0, context.id,
            _cut(error, LONGEST_ERROR), _cut(traceback, LONGEST_TRACEBACK), time.time(), type,
        )  # fmt: skip
        if name is not None:
            event.name, event.queue = name, context.queue
        return event

    def _add(self, event: Any) -> None:
        self._kept.append(event)
        if not self.keeping:
            self.flush()

    def _write(self, events: list[Any]) -> None:
        record = self._written(events)
        if len(record) > self._tape.longest and len(events) > 1:
            half = len(events) // 2
            self._write(events[:half])
            self._write(events[half:])
        else:
            self._tape.append(record, len(events))

    def _written(self, events: list[Any]) -> bytes:
        try:
            return self._encode(events)[1:-1]
        except Exception:  # lone surrogates, or what a foreign header may hold: nothing to lose a task for
            plain = [msgspec.structs.asdict(event) for event in events]
            return json.dumps(plain, default=shown)[1:-1].encode()


def _body_id(chord: Any) -> str | None:
    """The id of a chord's body, by which people know the chord."""
    options = chord.get("options") if isinstance(chord, Mapping) else None
    found = options.get("task_id") if isinstance(options, Mapping) else None
    return found if isinstance(found, str) else None


def _cut(text: str, most: int) -> str:
    """The text with its middle left out, if it is longer than ``most`` characters."""
    if len(text) <= most:
        return text
    half = most // 2
    return f"{text[:half]}\n... {len(text) - 2 * half} characters left out ...\n{text[-half:]}"
