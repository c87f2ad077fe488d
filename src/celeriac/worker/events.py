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
from msgspec import UNSET

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


# Of each event, what it tells beside the time and what all of a child's tell.
_RECEIVED: Final = (
    "uuid", "name", "args", "kwargs", "root_id", "parent_id", "retries", "eta", "expires", "timestamp",
    "queue", ("group_id", Any, UNSET), ("chord", Any, UNSET), ("stamps", Any, UNSET),
)  # fmt: skip
_STARTED: Final = ("uuid", "timestamp")
_SUCCEEDED: Final = ("uuid", "result", "runtime", "timestamp")
_TOLD: Final = (("name", Any, UNSET), ("queue", Any, UNSET))
_FAILED: Final = ("uuid", "exception", "traceback", "timestamp", *_TOLD)
_REVOKED: Final = ("uuid", "terminated", "signum", "expired", "timestamp", *_TOLD)
_REJECTED: Final = ("uuid", "requeue", "timestamp")


class Recorder:
    """Writes one child's task events on its tape. What does not fit is dropped there: it never waits.

    While tasks are short the events of a batch are kept and written together when its outcomes are settled:
    that takes 3 us a task instead of 9, and a process that dies loses the events of what it had not settled.
    """

    def __init__(self, tape: Tape, hostname: str, pid: int) -> None:
        """``hostname`` is the node's name, ``pid`` its main process."""
        self._tape = tape
        self._encode = msgspec.json.Encoder().encode
        self._kept: list[Any] = []
        self._flushing = threading.Lock()
        self.keeping = False
        """Keep events until :meth:`flush`, instead of writing each at once."""
        common = (("hostname", str, hostname), ("utcoffset", float, utcoffset()), ("pid", int, pid))

        def kind(type: str, fields: tuple[Any, ...]) -> Any:
            # What is the same in all are defaults: to pass it to each event took 1 us a task more.
            always = (*common, ("clock", int, 0), ("type", str, type))
            return msgspec.defstruct(type.title().replace("-", ""), [*fields, *always], gc=False)

        self._received = kind("task-received", _RECEIVED)
        self._started = kind("task-started", _STARTED)
        self._succeeded = kind("task-succeeded", _SUCCEEDED)
        self._failed = kind("task-failed", _FAILED)
        self._retried = kind("task-retried", _FAILED)
        self._revoked = kind("task-revoked", _REVOKED)
        self._rejected = kind("task-rejected", _REJECTED)

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
        headers: dict[str, Any] = context.message.headers if context.message is not None else {}
        header = headers.get
        task_id = context.id
        received = self._received(
            task_id, header("shadow") or job.name, header("argsrepr"), header("kwargsrepr"),
            header("root_id"), header("parent_id"), header("retries"), header("eta"), header("expires"),
            job.received, context.queue,
        )  # fmt: skip
        if context.group is not None or context.chord is not None or context.stamps:
            received.group_id = context.group or UNSET
            received.chord = _body_id(context.chord) or UNSET
            received.stamps = context.stamps or UNSET
        self._kept += (received, self._started(task_id, time.time()))
        if not self.keeping:
            self.flush()

    def succeeded(self, job: Job, result: str, runtime: float) -> None:
        """``result`` is the return value as it is shown."""
        if job.plan.sends_events:
            self._kept.append(self._succeeded(job.context.id, result, runtime, time.time()))
            if not self.keeping:
                self.flush()

    def failed(self, job: Job, error: BaseException, traceback: str) -> None:
        """The task has ended in a failure."""
        self._erred(self._failed, job, shown(error), traceback)

    def retried(self, job: Job, retry: Retry, traceback: str) -> None:
        """The task asked for another attempt."""
        why = str(retry) if retry.exc is None else shown(retry.exc)
        self._erred(self._retried, job, why, traceback)

    def unknown(self, context: Context, name: str, error: BaseException) -> None:
        """No task of this name is registered."""
        why = _cut(shown(error), LONGEST_ERROR)
        self._add(self._failed(context.id, why, "", time.time(), name, context.queue))

    def revoked(self, job: Job, terminated: bool, signum: int | None, expired: bool) -> None:
        """The task is not run, or its run was ended, because it was revoked or came too late."""
        if job.plan.sends_events:
            self._add(self._revoked(
                        job.context.id, terminated, signum, expired, time.time(), job.name, job.context.queue
                    ))  # fmt: skip

    def rejected(self, job: Job, requeue: bool) -> None:
        """The task raised ``Reject``."""
        if job.plan.sends_events:
            self._add(self._rejected(job.context.id, requeue, time.time()))

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

    def _erred(self, kind: Any, job: Job, error: str, traceback: str) -> None:
        if job.plan.sends_events:
            event = kind(
                job.context.id,
                _cut(error, LONGEST_ERROR),
                _cut(traceback, LONGEST_TRACEBACK),
                time.time(),
            )
            if not job.told:
                event.name, event.queue = job.name, job.context.queue
            self._add(event)

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
            plain = [
                {name: value for name, value in msgspec.structs.asdict(event).items() if value is not UNSET}
                for event in events
            ]
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
