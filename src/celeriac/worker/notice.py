"""The notice: what the agent tells all children of its node, by the board.

It holds what operators have changed in the running worker, whole: a child that starts later, and an agent
that takes over from one that died, read the same.
"""

from __future__ import annotations

import threading
from typing import Any

import msgspec

from celeriac.exceptions import ImproperlyConfigured
from celeriac.routing.queues import Binding
from celeriac.worker.board import NOTICE_SIZE, Board


class Notice(msgspec.Struct, omit_defaults=True):
    """What was changed since the worker started."""

    limits: dict[str, tuple[float | None, float | None]] = msgspec.field(default_factory=dict)
    """Task name -> soft and hard time limit, seconds; ``None`` is the worker's own."""
    added: list[str] = msgspec.field(default_factory=list)
    """Queues beyond those of the start. It only grows: processes know queues by their place in it."""
    cancelled: list[str] = msgspec.field(default_factory=list)
    """Queues that nothing is taken from any more."""
    bindings: list[Binding] = msgspec.field(default_factory=list)
    """The ties of the added queues to exchanges."""
    own_bindings: list[Binding] = msgspec.field(default_factory=list)
    """Those of the node's own ones (copies of broadcasts)."""
    modules: list[str] = msgspec.field(default_factory=list)
    """Modules that a child imports when it starts (``pool_restart``)."""
    reload: bool = False
    """Whether it imports them anew if they are imported already."""
    events: bool | None = None
    """Whether events are sent about tasks; ``None``: as the worker was started."""

    def sends_events(self, first: bool) -> bool:
        """Whether events are sent about tasks; ``first``: when it started."""
        return first if self.events is None else self.events

    def queues(self, first: list[str]) -> list[str]:
        """All queues of the node, those of the start ``first``: their places never change."""
        return [*first, *self.added]

    def consumed(self, first: list[str]) -> list[str]:
        """Those that messages are taken from."""
        return [queue for queue in self.queues(first) if queue not in self.cancelled]


def read(board: Board) -> Notice:
    """The notice on the board; an empty one if there is none yet."""
    text = board.notice()
    return msgspec.json.decode(text, type=Notice) if text else Notice()


class Posting:
    """The agent's side: the last notice, and how it is changed. Safe for use by threads."""

    def __init__(self, board: Board) -> None:
        self.last = read(board)
        self._board = board
        self._lock = threading.Lock()

    def change(self, **fields: Any) -> None:
        """Post the notice with these fields changed. Raises ``ImproperlyConfigured`` if it gets too long."""
        with self._lock:
            changed = msgspec.structs.replace(self.last, **fields)
            text = msgspec.json.encode(changed)
            try:
                self._board.post_notice(text)
            except ValueError:
                raise ImproperlyConfigured(
                    f"too much has been changed in this worker while it ran ({len(text)} bytes of at most "
                    f"{NOTICE_SIZE}): put it into its settings and start it again"
                ) from None
            self.last = changed
