"""Chord recovery: bodies that are owed and that nobody has sent, because the worker that was to died."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from celeriac.message import new_id
from celeriac.worker.recurring import Recurring

if TYPE_CHECKING:
    from celeriac.app.base import Celeriac

logger = logging.getLogger("celeriac.worker")

INTERVAL = 3.0
"""Seconds between looks, a fifth more or less."""


class ChordRecovery(Recurring):
    """Looks for owed bodies and sends them; a chord's error callbacks may run in its thread."""

    def __init__(self, app: Celeriac, node: str) -> None:
        super().__init__("celeriac-chords", INTERVAL, "finish chords whose worker died")
        self.app = app
        # An agent that is replaced is another taker: what its forerunner took, it must not hold as its own.
        self.taker = f"{node}:agent:{new_id()}"

    def step(self) -> None:
        if count := self.app.chords.recover(self.taker):
            logger.warning("Finished %d chord(s) whose worker had died", count)
