"""Dead letters: messages in a queue of ours, ``celeriac.dead``, bounded in number and age by the server."""

from __future__ import annotations

import logging
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final

from amqp.exceptions import NotFound, ResourceLocked

from celeriac.engines.base import DeadLetter, Outcome
from celeriac.engines.rabbitmq.session import Parcel, Session
from celeriac.engines.rabbitmq.wire import Content, body_of
from celeriac.exceptions import OperationalError

logger = logging.getLogger("celeriac.rabbitmq")

QUEUE: Final = "celeriac.dead"
_LOCK: Final = "celeriac.dead.reading"
_HEADER: Final = "celeriac_dead"
_PATIENCE: Final = 5.0
"""Seconds to wait for another reader."""
_told: Final[set[str]] = set()
"""The servers of whose other bounds this process has warned."""
_FEW: Final = 500
"""Dead letters that are counted as often as their number changes; that takes a quarter of a second."""
_TALLY_EVERY: Final = 60.0


def declare(session: Session, most: int, expires: float) -> None:
    """Make sure that the queue is there. It keeps the bounds that it was first declared with."""
    if QUEUE in session.declared:
        return
    other = session.differs(
        lambda: session.desk.queue_declare(
            QUEUE,
            durable=True,
            auto_delete=False,
            arguments={"x-max-length": most, "x-message-ttl": min(int(expires * 1000), (1 << 32) - 1)},
        )
    )
    if other and session.shown not in _told:
        _told.add(session.shown)
        logger.warning(
            "The queue %s at %s keeps the bounds it was made with, whatever dead_letter_max and "
            "dead_letter_expires say now: %s. To change them, delete it when nothing in it is wanted any "
            "more ('celeriac amqp queue.delete %s')", QUEUE, session.shown, other, QUEUE,
        )  # fmt: skip
    session.declared.add(QUEUE)


def parcel(outcome: Outcome, payload: bytes) -> Parcel:
    """The message that a dead letter becomes."""
    about = {
        "key": uuid.uuid4().hex,
        "queue": outcome.queue,
        "reason": outcome.reason,
        "detail": outcome.detail,
        "at": time.time(),
        "task": outcome.task,
        "task_id": outcome.task_id,
    }
    content = Content(payload, delivery_mode=2, application_headers={_HEADER: about})
    return Parcel("", QUEUE, content)


def moved(letter: DeadLetter) -> Parcel:
    """The message that a dead letter of another store becomes."""
    about = {name: getattr(letter, name) for name in ("queue", "reason", "detail", "at", "task", "task_id")}
    headers = {_HEADER: {"key": uuid.uuid4().hex, **about}}
    return Parcel("", QUEUE, Content(letter.payload, delivery_mode=2, application_headers=headers))


def letters(session: Session) -> list[DeadLetter]:
    """All dead letters, the oldest first."""
    with _reading(session) as channel:
        return [letter for letter, _ in _taken(channel)]


def count(session: Session) -> int:
    """How many dead letters there are."""
    try:
        return int(session.desk.queue_declare(QUEUE, passive=True).message_count)
    except NotFound:
        return 0


class Tally:
    """How many dead letters each queue has. To know that, all have to be read, one after the other: so it is
    done when their number has changed, and where there are many once a minute at most."""

    def __init__(self) -> None:
        self._number = 0
        self._by_queue: Counter[str] = Counter()
        self._read_at = -_TALLY_EVERY

    def of(self, session: Session) -> Counter[str]:
        """The numbers by queue, as far as they are known."""
        number = count(session)
        due = time.monotonic() - self._read_at >= _TALLY_EVERY
        if number and (due or (number != self._number and number <= _FEW)):
            self._by_queue = Counter(letter.queue for letter in letters(session))
            self._number, self._read_at = number, time.monotonic()
        return self._by_queue if number else Counter()


def take(
    session: Session,
    wanted: Callable[[DeadLetter], bool],
    then: Callable[[Sequence[DeadLetter]], None],
) -> int:
    """Take the wanted ones out, after ``then`` has done with them what is to be done; return how many."""
    with _reading(session) as channel:
        found = [(letter, tag) for letter, tag in _taken(channel) if wanted(letter)]
        then([letter for letter, _ in found])
        for _, tag in found:
            channel.basic_ack(tag)
        if found:
            channel.basic_qos(0, 0, False)  # an answer: the acks before it have arrived
        return len(found)


@contextmanager
def _reading(session: Session) -> Iterator[Any]:
    """A channel for reading the whole queue; what was not acked returns to its place when it is closed.

    One reader at a time: to another the queue would seem shorter than it is.
    """
    deadline = time.monotonic() + _PATIENCE
    while True:
        try:
            session.desk.queue_declare(_LOCK, exclusive=True, auto_delete=False)
            break
        except ResourceLocked:
            if time.monotonic() > deadline:
                raise OperationalError(
                    f"the dead letters at {session.shown} are being read by another process: try again"
                ) from None
            time.sleep(0.02)
    channel = session.link.channel()
    channel.auto_decode = False
    try:
        yield channel
    finally:
        if session.link.usable:
            channel.close()
            session.desk.queue_delete(_LOCK)


def _taken(channel: Any) -> Iterator[tuple[DeadLetter, int]]:
    try:
        found = channel.basic_get(QUEUE)
    except NotFound:
        return
    while found is not None:
        about = (found.properties.get("application_headers") or {}).get(_HEADER)
        if isinstance(about, dict):
            yield DeadLetter(payload=body_of(found), **about), found.delivery_info["delivery_tag"]
        found = channel.basic_get(QUEUE)
