"""The agent's part in the history: it notes runs that ended with their process, and deletes what is old."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from celeriac import clock
from celeriac.engines.base import Loss
from celeriac.engines.history import Attempt
from celeriac.exceptions import OperationalError
from celeriac.worker.board import Running
from celeriac.worker.recurring import Recurring

if TYPE_CHECKING:
    from celeriac.app.base import Celeriac

INTERVAL = 5.0
"""Seconds between prunings, a fifth more or less: so much later than its bounds say an attempt may go."""
LOST = "LOST"
"""The state of a run that ended with its process. The task itself may run again."""


class History(Recurring):
    """Prunes the history, also where nothing is noted any more: there may be much to delete when a bound was
    lowered."""

    def __init__(self, app: Celeriac) -> None:
        super().__init__("celeriac-history", INTERVAL, "keep the history")
        self.app = app
        self.store = app.history_store
        self._notes: list[Attempt] = []

    def note(self, attempts: Sequence[Attempt]) -> None:
        """Store these attempts now; a store that is away gets them when it is back."""
        if self.store is not None and self.app.conf.task_history:
            self._notes.extend(attempts)
            self.attempt(self._store_notes)

    def run(self) -> None:
        if self.store is not None:
            super().run()

    def step(self) -> None:
        self.attempt(self._store_notes)
        if self.store is not None:
            self.store.prune_history(self.app.history.most, self.app.conf.task_history_expires)

    def _store_notes(self) -> None:
        notes, self._notes = self._notes, []
        try:
            if notes and self.store is not None:
                self.store.note_attempts(notes)
        except OperationalError:
            self._notes[:0] = notes
            raise


def lost(run: Running, loss: Loss, how: str, worker: str, queues: Sequence[str], pid: int) -> Attempt:
    """The attempt of a run whose process died just now. The board keeps 40 characters of its task's id."""
    kind, _, number = (loss.mark or "").partition(":")
    why = {"timeout": f"TimeLimitExceeded: {number} s", "terminated": f"Terminated: signal {number}"}
    ended, seconds = clock.now(), time.monotonic() - run.since
    return Attempt(
        run.task_id,
        run.task,
        LOST,
        queues[run.queue],
        worker,
        ended,
        started=ended - seconds,
        runtime=seconds,
        pid=pid,
        error=why.get(kind, f"WorkerLostError: {how}"),
    )
