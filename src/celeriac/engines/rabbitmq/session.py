"""A session: one connection with its channels, and what has been declared over it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final, NamedTuple

from amqp.exceptions import AMQPError, NotFound, PreconditionFailed

from celeriac.engines.rabbitmq.connection import Link
from celeriac.engines.rabbitmq.errors import FAILURES, Blocked, Unroutable, translate
from celeriac.engines.rabbitmq.frames import address_frame, content_frames
from celeriac.engines.rabbitmq.wire import Content
from celeriac.exceptions import OperationalError

_PIECE: Final = 1 << 16
"""Bytes after which a long batch looks for confirms, so that neither side's buffers fill up."""
_LOOK_EVERY: Final = 60.0
"""Seconds after which who sits out an alarm makes sure that the connection is there."""
_AROUND: Final = 800
"""Bytes that a task's message takes beside its body, about."""


class Parcel(NamedTuple):
    """A message with its address."""

    exchange: str
    routing_key: str
    content: Content
    mandatory: bool = True
    """It is an error if no queue gets it."""


class Session:
    """A connection in use. One thread at a time."""

    def __init__(self, link: Link, patient: bool = False) -> None:
        """``patient``: an alarm's end is waited for, however long it takes. That is for who holds messages
        and has to send something before they are done: to give up would bring them back, and what had been
        sent so far would be taken by the server later on, each time."""
        self.link = link
        self.patient = patient
        self.declared: set[str] = set()
        """What is known to be there: the topology's business."""
        self._outlet: Any = None
        self._desk: Any = None
        self._sent = 0
        self._waiting: set[int] = set()
        self._refused: set[int] = set()
        self._returned: list[tuple[str, str]] = []

    @property
    def shown(self) -> str:
        return self.link.shown

    @property
    def desk(self) -> Any:
        """The channel for declarations and single questions: an error closes and reopens it, and no more."""
        if self._desk is None:
            self._desk = self.link.channel()
            self._desk.auto_decode = False
        return self._desk

    def missing(self, question: Callable[[], Any]) -> bool:
        """Ask on the desk; whether the server answered that the thing is not there."""
        try:
            question()
        except NotFound:
            return True
        return False

    def differs(self, declaration: Callable[[], Any]) -> str:
        """Declare on the desk; the server's words if the thing is there with other properties, else ""."""
        try:
            declaration()
        except PreconditionFailed as error:
            return str(error.reply_text)
        return ""

    def alive(self) -> None:
        """Ask the server for a sign of life. Raises py-amqp's errors and ``TimeoutError``."""
        self.desk.basic_qos(0, 0, False)

    # -- publishing --------------------------------------------------------------------------------

    def publish(self, parcels: Sequence[Parcel], timeout: float) -> list[tuple[str, str]]:
        """Send messages and wait until the server has confirmed every one.

        Returns the addresses (exchange, routing key) of those that no queue took. Raises
        ``OperationalError`` if a confirm does not come within ``timeout`` seconds or the server refuses one,
        and at once while an alarm is on (``Blocked``), unless the session is patient;
        ``maybe_done`` says whether some may have been stored. The session must then be given up.
        """
        if not parcels:
            return []
        self._returned, self._refused = [], set()
        sent = False
        try:
            if self.link.blocked:
                self.link.pump()
            channel = self._confirming()
            for piece in self._pieces(channel.channel_id, parcels):
                if sent:
                    self.link.pump()
                self._check_alarm(sent)
                sent = True
                self.link.send(piece)
            self._await_confirms(timeout)
        except FAILURES as error:
            raise translate(error, self.shown, "publish", maybe_done=sent) from error
        if self._refused:
            failed = OperationalError(
                f"{len(self._refused)} of {len(parcels)} message(s) were refused at {self.shown}: "
                "a queue is full (x-max-length with reject-publish) or has lost its majority"
            )
            failed.maybe_done = len(self._refused) < len(parcels)
            raise failed
        return self._returned

    def _pieces(self, channel: int, parcels: Sequence[Parcel]) -> Iterator[bytes]:
        """The frames of a batch, in pieces between which to look for confirms."""
        most = self.link.frame_max
        places = {(parcel.exchange, parcel.routing_key, parcel.mandatory) for parcel in parcels}
        addresses = {place: address_frame(channel, *place) for place in places}
        frames: list[bytes] = []
        size = 0
        for exchange, routing_key, content, mandatory in parcels:
            frames.append(addresses[exchange, routing_key, mandatory])
            frames += content_frames(channel, content, most)
            self._sent += 1
            self._waiting.add(self._sent)
            size += len(content.body) + _AROUND
            if size > _PIECE:
                yield b"".join(frames)
                frames, size = [], 0
        if frames:
            yield b"".join(frames)

    def _await_confirms(self, timeout: float) -> None:
        deadline = time.monotonic() + timeout
        while self._waiting:
            if self._check_alarm(sent=True):
                deadline = time.monotonic() + timeout
            self.link.blocking_read(max(0.0, deadline - time.monotonic()))

    def _check_alarm(self, sent: bool) -> bool:
        """Whether there was an alarm, which is over. Raises ``Blocked`` while it is on, if not patient."""
        if not self.link.blocked:
            return False
        if not self.patient:
            failed = Blocked(_ALARM.format(self.shown))
            failed.maybe_done = sent
            raise failed
        while self.link.blocked:
            self.link.await_bytes(_LOOK_EVERY)
            self.link.pump()
        return True

    def _confirming(self) -> Any:
        if self._outlet is None:
            channel = self.link.channel()
            channel.auto_decode = False
            channel.confirm_select()
            channel.events["basic_ack"].add(self._acked)
            channel.events["basic_nack"].add(self._nacked)
            channel.events["basic_return"].add(self._back)
            self._outlet = channel
        return self._outlet

    def _acked(self, tag: int, multiple: bool) -> None:
        if multiple:
            self._waiting = {waiting for waiting in self._waiting if waiting > tag}
        else:
            self._waiting.discard(tag)

    def _nacked(self, tag: int, multiple: bool) -> None:
        self._refused |= {
            waiting for waiting in self._waiting if waiting == tag or (multiple and waiting < tag)
        }
        self._acked(tag, multiple)

    def _back(self, error: AMQPError, exchange: str, routing_key: str, content: Any) -> None:
        self._returned.append((exchange, routing_key))


def unroutable(returned: Sequence[tuple[str, str]], shown: str) -> Unroutable:
    """The error for messages that came back."""
    places = ", ".join(sorted({f"exchange {exchange!r}, routing key {key!r}" for exchange, key in returned}))
    return Unroutable(
        f"{len(returned)} message(s) reached no queue at {shown} ({places}): bind a queue to it "
        "(task_queues), start a worker that declares one, or name a queue with queue=..."
    )


_ALARM: Final = (
    "RabbitMQ at {} takes no messages now: a memory or disk alarm is on (connection.blocked). "
    "'rabbitmqctl status' tells which; free memory or disk space there"
)
