"""The memory engine as a broker: publishing, losing leases, looking, dead letters."""

from __future__ import annotations

import uuid
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec

from celeriac.engines.base import (
    DeadLetter,
    Depth,
    Hold,
    Incarnation,
    Loss,
    NodeInfo,
    Outcome,
    Publication,
    Recovered,
)
from celeriac.engines.envelopes import brought_forward, for_replay, priority_of
from celeriac.engines.memory.bindings import MemoryBindings, unbind
from celeriac.engines.memory.parcels import pack, post_all
from celeriac.engines.memory.state import Entry, Owner, Store
from celeriac.exceptions import Fenced

DEFAULT_LEASE = 15.0
"""The lease of an owner whose node has never beaten, seconds."""


def bury(store: Store, entry: Entry, outcome: Outcome, now: float, most: int) -> None:
    """Make a message a dead letter; the oldest of its queue make room when there are more than ``most``."""
    letter = DeadLetter(
        uuid.uuid4().hex,
        entry.queue,
        outcome.reason,
        outcome.detail,
        now,
        outcome.task,
        outcome.task_id,
        entry.payload,
    )
    store.dead[letter.key] = (letter, entry.lane)
    of_queue = [key for key, (other, _) in store.dead.items() if other.queue == entry.queue]
    for key in of_queue[:-most]:
        del store.dead[key]


class MemoryBroker(MemoryBindings):
    """The part of the engine that is a :class:`celeriac.engines.base.Broker`."""

    state: Store
    dead_max: int
    dead_expires: float

    def publish(self, batch: Sequence[Publication]) -> dict[int, str]:
        """Store messages, all or none but those whose unique key is held; return who holds theirs."""
        parcels = [pack(publication) for publication in batch]
        with self.state.lock:
            return post_all(self.state, parcels, self.state.clock())

    # -- losing leases -------------------------------------------------------------------------------

    def register(self, owner: Incarnation) -> None:
        """Make a lease owner known."""
        with self.state.lock:
            if owner.name in self.state.owners:
                raise ValueError(f"a lease owner {owner.name!r} exists already: attach under the next epoch")
            self._refuse_fenced(owner.node)
            self.state.owners[owner.name] = Owner(owner, self.state.clock())

    def give_back(self, owner: str, leases: Sequence[tuple[str, int]]) -> int:
        """Return not-started messages of a living owner to the front of their lines."""
        with self.state.lock:
            held = [self.state.held(owner, queue, token) for queue, token in dict.fromkeys(leases)]
            found = [lease for lease in held if lease]
            self.state.give_back(found, {})
            return len(found)

    def release(self, owner: str, started: Mapping[int, Loss]) -> int:
        """End a dead owner."""
        with self.state.lock:
            return self.state.end_owner(owner, started)

    def beat(self, node: NodeInfo) -> float:
        """Register the node and renew its leases."""
        with self.state.lock:
            self._refuse_fenced(node.id)
            now = self.state.clock()
            self.state.nodes[node.id] = msgspec.structs.replace(node, seen=now)
            return now

    def recover(self, host: str, alive: Callable[[int, float], bool]) -> list[Recovered]:
        """Take over the leases of nodes that stopped beating or are dead."""
        with self.state.lock:
            now = self.state.clock()
            self._refresh_after_absence(now)
            lost = [
                node.id
                for node in self.state.nodes.values()
                if _overdue(node, now) or (node.host == host and not alive(node.pid, node.started))
            ]
            # An owner may die before its node's first beat: it has the default lease from its attachment.
            lost += {
                owner.incarnation.node
                for owner in self.state.owners.values()
                if owner.incarnation.node not in self.state.nodes and now - owner.attached > DEFAULT_LEASE
            }
            return [recovered for node in lost for recovered in self._take_over(node)]

    def leave(self, node: str) -> None:
        """Forget a node that stopped in order."""
        with self.state.lock:
            for name, _ in self.state.owners_of(node):
                self.state.end_owner(name, {})
            self.state.nodes.pop(node, None)
            unbind(self.state, node)

    def _refuse_fenced(self, node: str) -> None:
        if node in self.state.fenced:
            raise Fenced(
                f"node {node} was taken for dead and its messages were given to others: "
                "start again under a new node id"
            )

    def _refresh_after_absence(self, now: float) -> None:
        """If nobody passed here for long, the store was away: nobody could beat, so nobody is overdue."""
        last, self.state.last_pass = self.state.last_pass, now
        for node in self.state.nodes.values():
            if last is None or now - last > node.lease / 2:
                node.seen = now

    def _take_over(self, node: str) -> list[Recovered]:
        recovered = []
        for name, owner in self.state.owners_of(node):
            started = [lease.token for lease in self.state.held_by(name)][: owner.incarnation.slots]
            messages = self.state.end_owner(name, dict.fromkeys(started, Loss(counted=True)))
            recovered.append(Recovered(name, messages, len(started)))
        self.state.nodes.pop(node, None)
        self.state.fenced.add(node)
        unbind(self.state, node)
        return recovered or [Recovered(node, 0, 0)]

    # -- looking and ordering ------------------------------------------------------------------------

    def cancel(self, ids: Sequence[str]) -> list[str]:
        """Remove delayed and parked messages of these ids, and free their unique keys."""
        wanted = set(ids)
        with self.state.lock:
            found = self.state.pull_delayed(wanted)
            for line in self._parked_lines():
                hit = [entry for entry in line if entry.task_id in wanted]
                found |= {entry.task_id for entry in hit}
                for entry in hit:
                    line.remove(entry)
            self.state.free_of(found, Hold.ENDED, Hold.DELAYED)
        return [task_id for task_id in dict.fromkeys(ids) if task_id in found]

    def find(self, ids: Sequence[str]) -> dict[str, bytes]:
        """The envelopes of the delayed and parked messages of these ids."""
        wanted = set(ids)
        with self.state.lock:
            entries = [entry for delayed in self.state.delayed.values() for _, _, entry in delayed]
            entries += [entry for line in self._parked_lines() for entry in line]
            return {entry.task_id: entry.payload for entry in entries if entry.task_id in wanted}

    def bring_forward(self, queue: str, limit: int, ids: Sequence[str] | None = None) -> int:
        """Make delayed and parked messages ready before their time."""
        store, count = self.state, 0
        with store.lock:
            for lines in (store.parked.get(queue, {}), store.waiting.get(queue, {})):
                for line in lines.values():
                    for entry in [one for one in line if ids is None or one.task_id in ids][: limit - count]:
                        line.remove(entry)
                        store.append(entry)
                        count += 1
            delayed = store.delayed.get(queue, [])
            for item in [one for one in delayed if ids is None or one[2].task_id in ids][: limit - count]:
                due, _, entry = item
                delayed.remove(item)
                entry.payload = brought_forward(entry.payload, due)
                store.append(entry)
                store.free_of([entry.task_id], Hold.DELAYED)
                count += 1
        return count

    def _parked_lines(self) -> list[deque[Entry]]:
        queues = [*self.state.parked.values(), *self.state.waiting.values()]
        return [line for lines in queues for line in lines.values()]

    def queues(self) -> list[str]:
        """The queues that were ever used."""
        with self.state.lock:
            return sorted({*self.state.ready, *self.state.paused})

    def depth(self, queues: Sequence[str]) -> dict[str, Depth]:
        """How many messages of each queue are in which state."""
        with self.state.lock:
            self._expire_dead()
            return {queue: self._depth(queue) for queue in queues}

    def _depth(self, queue: str) -> Depth:
        store = self.state
        ready = store.ready_entries(queue)
        oldest = min((entry.since for entry in ready), default=None)
        return Depth(
            ready=len(ready),
            delayed=len(store.delayed.get(queue, [])),
            leased=sum(lease.entry.queue == queue for lease in store.leases.values()),
            parked=len(store.parked_entries(queue)),
            dead=sum(letter.queue == queue for letter, _ in store.dead.values()),
            age=None if oldest is None else max(0.0, store.clock() - oldest),
        )

    def peek(self, queue: str, offset: int = 0, limit: int = 50, state: str = "ready") -> list[bytes]:
        """Envelopes in order, without claiming."""
        store = self.state
        with store.lock:
            match state:
                case "ready":
                    entries = store.ready_entries(queue)
                case "delayed":
                    entries = [entry for _, _, entry in store.delayed.get(queue, [])]
                case "leased":
                    leases = sorted(store.leases.items())
                    entries = [lease.entry for _, lease in leases if lease.entry.queue == queue]
                case "parked":
                    entries = store.parked_entries(queue)
                case _:
                    raise ValueError(f"no state {state!r} to peek at: ready, delayed, leased or parked")
            return [entry.payload for entry in entries[offset : offset + limit]]

    def purge(self, queues: Sequence[str]) -> int:
        """Delete ready, delayed and parked messages, and free their unique keys."""
        count = 0
        with self.state.lock:
            store = self.state
            for queue in dict.fromkeys(queues):
                doomed = [*store.ready_entries(queue), *store.parked_entries(queue)]
                doomed += [entry for _, _, entry in store.delayed.get(queue, [])]
                lines: list[Any] = [store.delayed.get(queue, [])]
                for place in (store.ready, store.parked, store.waiting):
                    lines += place.get(queue, {}).values()
                for line in lines:
                    line.clear()
                store.free_of([entry.task_id for entry in doomed], Hold.ENDED, Hold.DELAYED)
                count += len(doomed)
        return count

    def pause(self, queue: str) -> None:
        """Let nothing be claimed from the queue."""
        with self.state.lock:
            self.state.paused.add(queue)
            self.state.order()

    def resume(self, queue: str) -> None:
        """Let it be claimed from again."""
        with self.state.lock:
            self.state.paused.discard(queue)
            self.state.order()
            self.state.wake(queue)

    # -- dead letters --------------------------------------------------------------------------------

    def dead_letters(self, queue: str | None = None, offset: int = 0, limit: int = 50) -> list[DeadLetter]:
        """Dead letters, newest first."""
        with self.state.lock:
            self._expire_dead()
            letters = [letter for letter, _ in self.state.dead.values() if queue in (None, letter.queue)]
        return letters[::-1][offset : offset + limit]

    def replay(self, keys: Sequence[str] | None = None, queue: str | None = None) -> int:
        """Put dead letters back in line, the oldest first."""
        with self.state.lock:
            taken = self._take_dead(keys, queue)
            now = self.state.clock()
            for letter, lane in taken:
                payload = for_replay(letter.payload)
                self.state.append(Entry(payload, letter.queue, lane, letter.task_id, now))
        return len(taken)

    def purge_dead(self, keys: Sequence[str] | None = None, queue: str | None = None) -> int:
        """Delete dead letters; return how many."""
        with self.state.lock:
            return len(self._take_dead(keys, queue))

    def bury(self, letters: Sequence[DeadLetter]) -> None:
        """Store dead letters of another store."""
        with self.state.lock:
            for letter in letters:
                entry = Entry(
                    letter.payload, letter.queue, priority_of(letter.payload), letter.task_id, letter.at
                )
                outcome = Outcome(0, letter.queue, reason=letter.reason, detail=letter.detail)
                outcome.task, outcome.task_id = letter.task, letter.task_id
                bury(self.state, entry, outcome, letter.at, self.dead_max)
                self.state.ready.setdefault(letter.queue, {})

    def _take_dead(self, keys: Sequence[str] | None, queue: str | None) -> list[tuple[DeadLetter, int]]:
        self._expire_dead()
        wanted = [
            key
            for key, (letter, _) in self.state.dead.items()
            if (keys is None or key in keys) and queue in (None, letter.queue)
        ]
        return [self.state.dead.pop(key) for key in wanted]

    def _expire_dead(self) -> None:
        oldest = self.state.clock() - self.dead_expires
        for key in [key for key, (letter, _) in self.state.dead.items() if letter.at < oldest]:
            del self.state.dead[key]


def _overdue(node: NodeInfo, now: float) -> bool:
    return node.seen is not None and now - node.seen > node.lease
