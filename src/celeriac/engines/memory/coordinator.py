"""The memory engine as a coordinator: rate limits, orders to workers, who lives."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from celeriac.engines.base import Control, NodeInfo
from celeriac.engines.memory.state import Bucket, Store


class MemoryCoordinator:
    """The part of the engine that is a :class:`celeriac.engines.base.Coordinator`."""

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
