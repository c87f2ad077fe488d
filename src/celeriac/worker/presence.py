"""Presence: a node is known in the store that workers agree by, where its broker is another one (RabbitMQ).

Elsewhere the beat that renews the leases says it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from celeriac.engines.base import NodeInfo
from celeriac.exceptions import Fenced
from celeriac.worker.node import process_lives

if TYPE_CHECKING:
    from celeriac.app.base import Celeriac


class Presence:
    """Keeps ``node`` known; it holds no leases there."""

    def __init__(self, app: Celeriac, node: NodeInfo) -> None:
        store: Any = app.coordinator
        self._store = None if store is app.broker else store
        self._node = node
        self._id = node.id

    def beat(self) -> None:
        """Say that the node lives, and forget those that do not. Raises ``OperationalError``."""
        if self._store is None:
            return
        while True:
            try:
                self._store.beat(msgspec.structs.replace(self._node, id=self._id))
                break
            except Fenced:
                # We were silent for too long, and others forgot us: nothing hangs on it here but the name. An
                # agent that died may have had such names already.
                self._id += "+"
        self._store.recover(self._node.host, process_lives)

    def leave(self) -> None:
        """Say that the node stops. Raises ``OperationalError``."""
        if self._store is not None:
            self._store.leave(self._id)
