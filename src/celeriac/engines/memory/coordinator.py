"""The memory engine as a coordinator: rate limits, orders to workers, who lives."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from celeriac.engines.base import NodeInfo
from celeriac.engines.coordinator import Control
from celeriac.engines.memory.state import Bucket, Place, Store


class MemoryCoordinator:
    """The part of the engine that is a :class:`celeriac.engines.coordinator.Coordinator`."""

    state: Store

    def admit(self, queue: str, bucket: str, interval: float) -> bool:
        """Take a token of a rate limit, unless others have waited for it longer."""
        with self.state.lock:
            now = self.state.clock()
            tokens = self.state.buckets.setdefault(bucket, Bucket(interval))
            tokens.interval = interval
            if self.state.parked.get(queue, {}).get(bucket) or tokens.next > now:
                return False
            tokens.taken = now
            return True

    def enter(self, place: str, limit: int, lease: tuple[str, str, int]) -> bool:
        """Take a place for a lease, unless others have waited for it longer."""
        with self.state.lock:
            held = self.state.held(*lease)
            if held is None:
                return False
            places = self.state.places.setdefault(place, Place())
            if limit > places.limit:
                self.state.wake_waiting(place)
            places.limit = limit
            if held.token in places.inside:
                return True
            if self.state.waiting.get(held.entry.queue, {}).get(place) or not places.free:
                return False
            self.state.occupy(place, held)
            return True

    def holder(self, key: str) -> str | None:
        """The task id that holds a unique key now."""
        with self.state.lock:
            return self.state.holder(key, self.state.clock())

    def keep_checkpoint(
        self, task_id: str, payload: bytes, ttl: float, lease: tuple[str, str, int] | None
    ) -> bool:
        """Keep a running task's checkpoint; return whether its lease is still held."""
        with self.state.lock:
            if lease is not None and self.state.held(*lease) is None:
                return False
            self.state.checkpoints[task_id] = (payload, self.state.clock() + ttl)
            return True

    def checkpoint(self, task_id: str) -> bytes | None:
        """What was kept last for this task, unless it has expired."""
        with self.state.lock:
            payload, until = self.state.checkpoints.get(task_id, (None, 0.0))
            return payload if until > self.state.clock() else None

    def revoke(self, ids: Sequence[str], expires: float, signal: str = "") -> int:
        """Remember revoked ids, and the signal for those that run; return the new control version."""
        with self.state.lock:
            version = self.state.order()
            until = self.state.clock() + expires
            self.state.revoked.update(dict.fromkeys(ids, (version, until, signal)))
            return version

    def control(self, since: int = 0) -> Control:
        """What operators have ordered."""
        with self.state.lock:
            now = self.state.clock()
            revoked = {task_id: order for task_id, order in self.state.revoked.items() if order[1] > now}
            self.state.revoked = revoked
            new = {task_id: order[2] for task_id, order in revoked.items() if order[0] > since}
            return Control(
                self.state.version,
                list(new),
                sorted(self.state.paused),
                dict(self.state.rate_limits),
                {task_id: signal for task_id, signal in new.items() if signal},
            )

    def limit_rate(self, task: str, rate: str | None) -> int:
        """Override a task's rate limit everywhere; return the new control version."""
        with self.state.lock:
            if rate is None:
                self.state.rate_limits.pop(task, None)
            else:
                self.state.rate_limits[task] = rate
            return self.state.order()

    def nodes(self) -> list[NodeInfo]:
        """The nodes whose leases last, the latest beat first."""
        with self.state.lock:
            now = self.state.clock()
            living = [node for node in self.state.nodes.values() if now - (node.seen or 0.0) <= node.lease]
            living.sort(key=lambda node: -(node.seen or 0.0))
            return [msgspec.structs.replace(node) for node in living]
