"""Exchanges in memory: which queues are tied to them, and a fanout's copies."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from celeriac.engines.base import Hold
from celeriac.engines.memory.state import Store
from celeriac.routing.queues import Binding


class MemoryBindings:
    """The part of the engine that knows exchanges (:class:`celeriac.engines.base.Broker`)."""

    state: Store

    def bind(self, bindings: Sequence[Binding], node: str = "") -> None:
        """Tie queues to exchanges; with ``node`` they are its own."""
        with self.state.lock:
            self.state.bindings.update(dict.fromkeys(bindings, node))

    def bindings(self, exchange: str) -> list[Binding]:
        """The queues tied to an exchange."""
        with self.state.lock:
            return [binding for binding in self.state.bindings if binding.exchange == exchange]

    def ties(self) -> list[Binding]:
        """All bindings of queues that are no node's own."""
        with self.state.lock:
            return [binding for binding, node in self.state.bindings.items() if not node]

    def consumers(self, queues: Sequence[str]) -> dict[str, int]:
        """None: all who take from a memory store are nodes."""
        return {}


def fanned(store: Store, exchange: str) -> Iterator[str]:
    """The queues tied to a fanout exchange. The store's lock is held."""
    ties = [tie for tie in store.bindings if tie.exchange == exchange and tie.type == "fanout"]
    yield from dict.fromkeys(tie.queue for tie in ties)


def unbind(store: Store, node: str) -> None:
    """Forget a node's own queues with what waits in them; dead letters stay. The lock is held."""
    owned = {tie.queue for tie, owner in store.bindings.items() if owner == node}
    store.bindings = {tie: owner for tie, owner in store.bindings.items() if owner != node}
    for queue in owned:
        doomed = [*store.ready_entries(queue), *store.parked_entries(queue)]
        doomed += [entry for _, _, entry in store.delayed.get(queue, [])]
        for lines in (store.ready, store.delayed, store.parked, store.waiting):
            lines.pop(queue, None)
        store.free_of([entry.task_id for entry in doomed], Hold.ENDED, Hold.DELAYED)
