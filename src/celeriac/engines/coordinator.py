"""The part of the engine contract on which workers agree: limits, orders of operators, who is there."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

import msgspec

from celeriac.engines.schedule import ScheduleStore

if TYPE_CHECKING:
    from celeriac.engines.base import NodeInfo


class Control(msgspec.Struct):
    """What operators have ordered, as of ``version``."""

    version: int
    revoked: list[str]
    """Task ids revoked since the version asked for."""
    paused: list[str]
    """All paused queues."""
    rate_limits: dict[str, str]
    """All overridden limits: task name -> limit as in ``rate_limit`` ("10/m", "" = none)."""
    terminate: dict[str, str] = msgspec.field(default_factory=dict)
    """Of the revoked ids, those to be killed if they run: id -> signal name ("SIGTERM")."""


class Coordinator(ScheduleStore, Protocol):
    """What workers and schedulers must agree on."""

    def admit(self, queue: str, bucket: str, interval: float) -> bool:
        """Take a token of a rate limit with one token every ``interval`` seconds (no burst), globally.

        ``False`` if none is there or messages of the bucket are parked already: settle with PARK. Parked
        messages are handed out in order, one a token, by later exchanges (``Delivery.admitted``).
        """
        ...

    def enter(self, place: str, limit: int, lease: tuple[str, str, int]) -> bool:
        """Take one of ``limit`` places under the name ``place``, globally, for ``(owner, queue, token)``.

        ``False`` if none is free or messages are parked for one already: settle with PARK. Parked messages
        are handed out in order as places get free (``Delivery.placed``), which idle consumers are woken
        for. A place is free again when its lease ends, in whichever way; the limit is the one last given.
        """
        ...

    def holder(self, key: str) -> str | None:
        """The task id that holds a unique key now."""
        ...

    def keep_checkpoint(
        self, task_id: str, payload: bytes, ttl: float, lease: tuple[str, str, int] | None
    ) -> bool:
        """Keep a running task's checkpoint for its next delivery, in place of an earlier one.

        Returns whether the lease is still held; otherwise nothing is stored. Without a lease, where another
        store keeps it, it is stored in any case; a ``ttl`` of 0 then forgets it.
        """
        ...

    def checkpoint(self, task_id: str) -> bytes | None:
        """What was kept last for this task."""
        ...

    def revoke(self, ids: Sequence[str], expires: float, signal: str = "") -> int:
        """Remember revoked ids for ``expires`` seconds; return the new control version.

        ``signal`` names the signal that is to end those that run already; empty lets them finish.
        """
        ...

    def control(self, since: int = 0) -> Control: ...

    def limit_rate(self, task: str, rate: str | None) -> int:
        """Override a task's rate limit everywhere (``None`` removes the override); return the version."""
        ...

    def nodes(self) -> list[NodeInfo]:
        """The living workers, by their last beat."""
        ...
