"""What is known of messages that came back: our own count of started deliveries.

RabbitMQ returns what a dead process held unchanged, and says only that it was delivered before. A quorum
queue's own count would count neighbours and give-backs too. So the count is kept beside the message: in a
queue for each task that was lost while it ran (``celeriac.note.<task id>``). The dead worker's agent writes
it, whoever claims the message next reads it, and it goes when the task is settled, or after a week.

Most messages that come back have no note, and to ask for a queue that is not there is an error, which ends
the channel and stands in the server's log. To delete a queue that is not there is none, nor does it delete
one that holds something. So that is how it is asked, and a note is there in several copies: while some
reader has one in hand, the queue must not look empty.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any, Final

import msgspec
from amqp.exceptions import NotFound

from celeriac.engines.rabbitmq.session import Parcel, Session
from celeriac.engines.rabbitmq.wire import Content

_EXPIRES: Final = 7 * 86400 * 1000
_LONGEST: Final = 200
_COPIES: Final = 3
_ARGUMENTS: Final = {"x-expires": _EXPIRES, "x-max-length": _COPIES}


class Note(msgspec.Struct, omit_defaults=True):
    """What is known of one task's message."""

    deliveries: int = 0
    """Deliveries that were started and lost with their worker."""
    lost: str | None = None
    """As ``engines.base.Loss.mark``."""
    started: str = ""
    """The owner that is about to start it, when it had come back already: if it comes back once more without
    another word, that owner's whole node died with it."""
    together: bool = False
    """It was handed out with others that had come back: if it comes back once more, it goes alone."""
    once: bool = False
    """It was started and must not run a second time."""

    @property
    def innocent(self) -> bool:
        """Whether it says nothing: no worker is known to have ended with the message."""
        return self == Note()


def read(session: Session, task_id: str) -> Note | None:
    """The note on a task, if there is one."""
    name = _queue(task_id)
    if not session.differs(lambda: session.desk.queue_delete(name, if_empty=True)):
        return None
    try:
        found = session.desk.basic_get(name)
    except NotFound:
        return None
    if found is None:
        return None
    session.desk.basic_reject(found.delivery_info["delivery_tag"], True)
    body: Any = found.body
    try:
        return msgspec.json.decode(body, type=Note)
    except msgspec.DecodeError:
        return None


def write(session: Session, notes: Sequence[tuple[str, Note]], timeout: float) -> None:
    """Keep each note in place of an earlier one on its task; confirmed by the server when it returns."""
    left = {_queue(task_id): Content(msgspec.json.encode(note), delivery_mode=2) for task_id, note in notes}
    while left:
        for name in left:
            session.desk.queue_declare(name, durable=True, auto_delete=False, arguments=_ARGUMENTS)
        parcels = [Parcel("", name, content) for name, content in left.items() for _ in range(_COPIES)]
        # One that was still empty when somebody asked for it is gone again.
        left = {name: left[name] for _, name in session.publish(parcels, timeout)}


def erase(session: Session, task_id: str) -> None:
    """Drop the note on a task, without waiting for the server's word."""
    session.desk.queue_delete(_queue(task_id), nowait=True)


def _queue(task_id: str) -> str:
    if len(task_id.encode()) > _LONGEST:
        task_id = hashlib.sha256(task_id.encode()).hexdigest()
    return f"celeriac.note.{task_id}"
