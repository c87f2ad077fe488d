"""How the suite handles an engine: opening, the clock, broken answers, foreign payloads.

A test never asks which engine it runs on; what differs is in the engine's rig.
"""

from __future__ import annotations

import sys
import time
import uuid
from collections.abc import Callable, Mapping
from typing import Any, ClassVar
from unittest import mock

import pytest

from celeriac import message
from celeriac.engines import create, groups
from celeriac.engines.base import Consumer, Engine, Publication
from celeriac.exceptions import OperationalError
from celeriac.message import Message


class Rig:
    """One fresh store of an engine."""

    name: str
    urgent: int
    """A priority that is served before ``lax``."""
    lax: int
    unit: float = 0.15
    """The shortest time the tests let pass, in seconds of the store's clock."""
    drives_clock: bool = False
    """Whether :meth:`advance` costs no time and nothing else moves the clock."""
    shared: bool = True
    """Whether other processes see the same store."""

    marks_apart: bool = False
    """Messages that must not run again, only end, wait in a line of their own, which is served first."""

    cannot: ClassVar[Mapping[str, str]] = {}
    """What the engine does not give -> the reason: ``file::test`` or ``file::test[parameter]``, which must
    fail, or ``file``, which is left out."""

    def __init__(self, request: pytest.FixtureRequest) -> None:
        self._opened: list[Engine] = []
        self.fresh_name = uuid.uuid4().hex
        """A name for the store. No other rig has it, so that each begins with an empty one."""
        self.living: set[str] = set()
        """The names of workers that another store knows to live, for engines that keep no presence."""

    def url(self) -> str:
        """The store's URL: always the same one of this rig, and no other's (a test may make several rigs)."""
        raise NotImplementedError

    def options(self) -> Mapping[str, Any]:
        """Options that every opening needs."""
        return {}

    def open(self, **options: Any) -> Engine:
        """Open the store (again): a further engine, as another process would have it."""
        engine = create(self.url(), {**self.options(), **options})
        self._opened.append(engine)
        return engine

    def advance(self, seconds: float) -> None:
        """Let so much of the store's time pass."""
        time.sleep(seconds)

    def set_back(self, seconds: float) -> None:
        """Set the store's clock back, as the term of who leads sees it (its end is so much further away)."""
        raise NotImplementedError

    def close(self) -> None:
        """Close what was opened."""
        for engine in self._opened:
            engine.close()

    def lose_next_reply(self, consumer: Consumer) -> None:
        """Let the consumer's next round trip reach the store, and its answer get lost."""
        self._break_next(consumer, lambda send, *args, **kwargs: send(*args, **kwargs))

    def lose_next_request(self, consumer: Consumer) -> None:
        """Let the consumer's next round trip not reach the store."""
        self._break_next(consumer, lambda send, *args, **kwargs: None)

    def _break_next(self, consumer: Any, before: Callable[..., object]) -> None:
        """Every engine's consumer has one method ``_roundtrip`` through which its exchanges go."""
        send = consumer._roundtrip

        def broken(*args: Any, **kwargs: Any) -> Any:
            consumer._roundtrip = send
            before(send, *args, **kwargs)
            raise OperationalError("the connection broke: this is a test")

        consumer._roundtrip = broken

    def die(self, consumer: Consumer) -> None:
        """End the consumer's process, as far as the store notices that by itself."""

    def released(self, count: int) -> int:
        """What ``release`` returns for a dead owner's ``count`` messages."""
        return count

    def shorten_owed(self, monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
        """Let an owed body that was taken be taken by another after so many seconds."""
        before = groups.OWED_AGAIN
        for module in list(sys.modules.values()):
            if vars(module).get("OWED_AGAIN") == before:
                monkeypatch.setattr(module, "OWED_AGAIN", seconds)

    def inject(self, engine: Engine, queue: str, payload: bytes) -> None:
        """Put bytes in a queue that no publisher of ours would have made."""
        encode = message.encode_envelope
        patches = [
            mock.patch.object(module, "encode_envelope", lambda message: message.body)
            for module in list(sys.modules.values())
            if vars(module).get("encode_envelope") is encode
        ]
        for patch in patches:
            patch.start()
        try:
            engine.publish([Publication(Message({}, {}, payload), queue)])
        finally:
            for patch in patches:
                patch.stop()
