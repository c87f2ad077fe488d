"""Presence: who is there, kept beside the results where the broker cannot keep it.

The leases of such a broker are its own business (RabbitMQ's connections). The other store only knows which
workers live, for ``celeriac status`` and for clients that look for a queue's workers.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import msgspec

from celeriac.engines.base import NodeInfo
from celeriac.exceptions import Fenced

if TYPE_CHECKING:
    from celeriac.app.base import Celeriac


class Presence:
    """One worker's beat in a store that holds none of its leases."""

    def __init__(self, store: Any, node: NodeInfo) -> None:
        self._store = store
        self._node = node

    def beat(self) -> None:
        """Say that the worker is there, and forget others that are not. Raises ``OperationalError``."""
        try:
            self._store.beat(self._node)
        except Fenced:
            # It was out of touch with this store for long. No lease is lost by that: it goes on as another.
            self._node = msgspec.structs.replace(self._node, id=f"{self._node.id}.{uuid.uuid4().hex[:8]}")
            self._store.beat(self._node)

    def forget_dead(self, alive: Callable[[int, float], bool]) -> None:
        """Take workers off the list that stopped. Raises ``OperationalError``."""
        self._store.recover(self._node.host, alive)

    def leave(self) -> None:
        """Say that the worker has gone. Raises ``OperationalError``."""
        self._store.leave(self._node.id)


def presence_of(app: Celeriac, node: NodeInfo) -> Presence | None:
    """The node's presence beside the results; ``None`` where the broker keeps it, or nothing can."""
    store: Any = app.coordinator
    return None if store is None or store is app.broker else Presence(store, node)
