"""Sizing: how many child processes a prefork node is to have, by its options, the work and operators."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

from celeriac.worker.board import Board
from celeriac.worker.options import Options

if TYPE_CHECKING:
    from celeriac.worker.supervisor import Child

logger = logging.getLogger("celeriac.worker")

AUTOSCALE_KEEPALIVE = float(os.environ.get("AUTOSCALE_KEEPALIVE", 30))
"""Seconds a surplus process stays idle before it is let go (Celery's variable)."""


class Sizing:
    """The supervisor's decision; it stands on the board, where the agent reads it."""

    def __init__(self, board: Board, options: Options) -> None:
        self.board = board
        board.wanted = options.concurrency if options.pool == "prefork" else 1
        board.used = board.wanted
        board.autoscale = options.autoscale

    @property
    def wanted(self) -> int:
        """How many children there are to be: the first ones."""
        return int(self.board.wanted)

    def resize(self, by: int) -> None:
        """Grow or shrink by so many, within the room there is and not below one."""
        self._set(self.wanted + by, "ordered")

    def set_range(self, high: int, low: int) -> None:
        """Let the number follow the work between these bounds from now on."""
        high = max(1, min(high, self.board.children))
        low = max(1, min(low, high))
        self.board.autoscale = high, low
        logger.info("Autoscaling between %d and %d processes: ordered", low, high)
        self._set(max(low, min(self.wanted, high)), "ordered")

    def follow(self, children: Sequence[Child], now: float) -> None:
        """Autoscaling: one more while all are busy and messages wait, one less when the last one idles."""
        bounds = self.board.autoscale
        if bounds is None:
            return
        high, low = bounds
        active = children[: self.wanted]
        for child in active:
            child.idle_since = 0.0 if child.record.busy else (child.idle_since or now)
        last = active[-1]
        if self.wanted < high and self.board.backlog and all(child.record.busy for child in active):
            self._set(self.wanted + 1, f"all are busy, and {self.board.backlog} wait")
        elif self.wanted > low and last.idle_since and now - last.idle_since > AUTOSCALE_KEEPALIVE:
            self._set(self.wanted - 1, "one is idle")

    def settle(self, children: Sequence[Child]) -> list[Child]:
        """The children that are more than wanted and have not been told to leave; notes how many are used."""
        used = max((child.record.number + 1 for child in children if child.alive), default=0)
        if self.board.used != max(used, self.wanted):
            self.board.used = max(used, self.wanted)
        return [child for child in children[self.wanted : used] if child.alive and not child.record.quitting]

    def _set(self, number: int, why: str) -> None:
        number = max(1, min(number, self.board.children))
        if number != self.wanted:
            self.board.wanted = number
            logger.info("The pool is to have %d process(es): %s", number, why)
