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


CLOCK: Final = "~clock~"
"""What the field ``clock`` is called on the tape. It is the first one, and where the agent puts in what all
events of its node tell (:func:`completed`): they are a quarter shorter so, until somebody listens."""
_MARK: Final = b'{"~clock~":'


def _kind(type: str, *fields: Any) -> Any:
    """A type of event. Plain structures without what all tell: they take a third of a dictionary's time."""
    always = (("type", str, type),)
    name = type.title().replace("-", "")
    return msgspec.defstruct(name, ["clock", *fields, *always], rename={"clock": CLOCK}, gc=False)


_PLACE: Final = (("name", Any, UNSET), ("queue", Any, UNSET))
Received: Final = _kind(
    "task-received", "uuid", "name", "args", "kwargs", "root_id", "parent_id", "retries", "eta", "expires",
    "timestamp", "queue", ("group_id", Any, UNSET), ("chord", Any, UNSET), ("stamps", Any, UNSET),
)  # fmt: skip
Started: Final = _kind("task-started", "uuid", "timestamp")
Succeeded: Final = _kind("task-succeeded", "uuid", "result", "runtime", "timestamp")
Failed: Final = _kind("task-failed", "uuid", "exception", "traceback", "timestamp", *_PLACE)
Retried: Final = _kind("task-retried", "uuid", "exception", "traceback", "timestamp", *_PLACE)
Revoked: Final = _kind("task-revoked", "uuid", "terminated", "signum", "expired", "timestamp", *_PLACE)
Rejected: Final = _kind("task-rejected", "uuid", "requeue", "timestamp")


def completed(records: bytes, hostname: str, pid: int) -> bytes:
    """Records of a tape with what all events of a node tell: ``pid`` is that of its main process."""
    common = dumps({"hostname": hostname, "utcoffset": utcoffset(), "pid": pid})
    return records.replace(_MARK, common[:-1] + b',"clock":')


class Recorder:
    """Writes one child's task events on its tape. What does not fit is dropped there: it never waits.

    While tasks are short the events of a batch are kept and written together when its outcomes are settled:
    that takes 3 us a task instead of 9, and a process that dies loses the events of what it had not settled.
    """

    def __init__(self, tape: Tape) -> None:
        self._tape = tape
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
        headers: dict[str, Any] = context.message.headers if context.message is not None else {}
        header = headers.get
        task_id = context.id
        received = Received(
            0, task_id, header("shadow") or job.name, header("argsrepr"), header("kwargsrepr"),
            header("root_id"), header("parent_id"), header("retries"), header("eta"), header("expires"),
            job.received, context.queue,
        )  # fmt: skip
        if context.group is not None or context.chord is not None or context.stamps:
            received.group_id = context.group or UNSET
            received.chord = _body_id(context.chord) or UNSET
            received.stamps = context.stamps or UNSET
        self._kept += (received, Started(0, task_id, time.time()))
        if not self.keeping:
            self.flush()

    def succeeded(self, job: Job, result: str, runtime: float) -> None:
        """``result`` is the return value as it is shown."""
        if job.plan.sends_events:
            self._kept.append(Succeeded(0, job.context.id, result, runtime, time.time()))
            if not self.keeping:
                self.flush()

    def failed(self, job: Job, error: BaseException, traceback: str) -> None:
        """The task has ended in a failure."""
        self._erred(Failed, job, shown(error), traceback)

    def retried(self, job: Job, retry: Retry, traceback: str) -> None:
        """The task asked for another attempt."""
        why = str(retry) if retry.exc is None else shown(retry.exc)
        self._erred(Retried, job, why, traceback)

    def unknown(self, context: Context, name: str, error: BaseException) -> None:
        """No task of this name is registered."""
        why = _cut(shown(error), LONGEST_ERROR)
        self._add(Failed(0, context.id, why, "", time.time(), name, context.queue))

    def revoked(self, job: Job, terminated: bool, signum: int | None, expired: bool) -> None:
        """The task is not run, or its run was ended, because it was revoked or came too late."""
        if job.plan.sends_events:
            self._add(Revoked(
                        0, job.context.id, terminated, signum, expired, time.time(),
                        job.name, job.context.queue,
                    ))  # fmt: skip

    def rejected(self, job: Job, requeue: bool) -> None:
        """The task raised ``Reject``."""
        if job.plan.sends_events:
            self._add(Rejected(0, job.context.id, requeue, time.time()))

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
                0,
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
            plain = [_plain(event) for event in events]
            return json.dumps(plain, default=shown, separators=(",", ":"))[1:-1].encode()


def _plain(event: Any) -> dict[str, Any]:
    told = {name: value for name, value in msgspec.structs.asdict(event).items() if value is not UNSET}
    return {CLOCK: told.pop("clock"), **told}


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
