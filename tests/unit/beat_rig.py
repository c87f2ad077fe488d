"""Beats on a memory store and a clock that the test drives."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

from celeriac import Celeriac
from celeriac.beat import Beat
from celeriac.contrib.testing.clock import Clock, frozen
from celeriac.message import Message, decode_envelope

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)


class Rig:
    """An application with a store of its own, and time."""

    def __init__(self, app: Celeriac, clock: Clock) -> None:
        self.app = app
        self.clock = clock

    def beat(self, **options: Any) -> Beat:
        return Beat(self.app, monotonic=self.clock.time, **options)

    def sent(self, entry: str | None = None) -> list[Message]:
        """The messages of ticks that wait in the queue, in order."""
        found = [decode_envelope(one) for one in self.app.broker.peek("celery", limit=100_000)]
        return [m for m in found if entry in (None, m.headers["celeriac_schedule"]["entry"])]

    def count(self, entry: str | None = None) -> int:
        return len(self.sent(entry))

    def let_pass(self, seconds: float, *beats: Beat, every: float = 0.5) -> None:
        """Let time pass while these beats work."""
        end = self.clock.time() + seconds
        while self.clock.time() < end - 1e-6:
            self.clock.advance(min(every, end - self.clock.time()))
            for beat in beats:
                beat.attempt()


@contextmanager
def rig(at: datetime = NOON, kind: type[Celeriac] = Celeriac, **settings: Any) -> Iterator[Rig]:
    app = kind("beats", broker=f"memory://{uuid.uuid4().hex}", set_as_current=False, **settings)
    app.conf.result_expires = None  # no celery.backend_cleanup

    @app.task(name="add", shared=False)
    def add(x: int = 1, y: int = 1) -> int:
        return x + y

    with frozen(app, at) as clock:
        yield Rig(app, clock)
    app.close()
