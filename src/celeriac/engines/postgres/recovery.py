"""Lease owners and nodes: beats, ends in order, deaths, and taking over what the dead have held.

An owner's row is locked before its leases are touched, a node's name before its owners are: whoever attaches
to a node or beats for it does not pass by one who takes it over.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import msgspec

from celeriac.engines.base import Incarnation, Loss, NodeInfo, Recovered
from celeriac.engines.envelopes import after_loss
from celeriac.engines.postgres.bindings import unbind
from celeriac.engines.postgres.step import ONCE, Lease, Step, step
from celeriac.engines.postgres.store import Store
from celeriac.engines.postgres.upkeep import sweep
from celeriac.exceptions import Fenced

DEFAULT_LEASE = 15.0
"""Seconds granted to a lease owner whose node has never beaten."""

_ADD_OWNER = """INSERT INTO @owner (id, name, node, slots, since) VALUES (nextval('@number'), %s, %s, %s, %s)
ON CONFLICT (name) DO NOTHING RETURNING id"""
_IS_FENCED = "SELECT 1 FROM @node WHERE id = %s AND fenced"
_FIND_OWNER = "SELECT id FROM @owner WHERE name = %s FOR UPDATE"
_OWNERS = "SELECT id, name, slots FROM @owner WHERE node = %s ORDER BY id FOR UPDATE"
_LOCK_OWNER = "SELECT 1 FROM @owner WHERE id = %s FOR UPDATE"
_DROP_OWNER = "DELETE FROM @owner WHERE id = %s"
_DROP_ANSWERS = "DELETE FROM @answer WHERE owner = %s"
_DROP_SLEEPER = """DELETE FROM @waiter
WHERE id = ANY (ARRAY(SELECT id FROM @waiter WHERE owner = %s FOR UPDATE SKIP LOCKED))"""
_LEASES = """SELECT token, owner, id, queue, rank, noted FROM @message
WHERE state = 1 AND owner = %s ORDER BY owner, token"""
_BEAT = """INSERT INTO @node (id, host, pid, started, lease, seen, info) VALUES (%s, %s, %s, %s, %s, %s, %s)
ON CONFLICT (id) DO UPDATE SET host = excluded.host, pid = excluded.pid, started = excluded.started,
lease = excluded.lease, seen = excluded.seen, info = excluded.info"""
_NODES = "SELECT id, host, pid, started, lease, seen FROM @node WHERE NOT fenced ORDER BY id"
_ORPHANS = """SELECT node, '', 0, 0.0::float8, %s::float8, min(since) FROM @owner o
WHERE NOT EXISTS (SELECT 1 FROM @node n WHERE n.id = o.node) GROUP BY node ORDER BY node"""
# A beat in the future is of a clock that was set back.
_REFRESH = "UPDATE @node SET seen = %s WHERE NOT fenced AND (lease < %s OR seen > %s)"
_REFRESH_ORPHANS = """UPDATE @owner o SET since = %s
WHERE NOT EXISTS (SELECT 1 FROM @node n WHERE n.id = o.node)"""
_FENCE = """INSERT INTO @node (id, host, pid, started, lease, seen, fenced, info)
VALUES (%s, '', 0, 0, 0, %s, true, '') ON CONFLICT (id) DO UPDATE SET fenced = true, seen = excluded.seen"""
_DROP_NODE = "DELETE FROM @node WHERE id = %s AND NOT fenced"
_LAST_PASS = "SELECT value FROM @meta WHERE key = 'pass' FOR UPDATE"
_NOTE_PASS = """INSERT INTO @meta (key, value) VALUES ('pass', %s)
ON CONFLICT (key) DO UPDATE SET value = excluded.value"""


class _Overdue(NamedTuple):
    """What recovery must know of a node (or of the node of owners attached before its first beat)."""

    id: str
    host: str
    pid: int
    started: float
    lease: float
    seen: float


def add_owner(work: Step, owner: Incarnation) -> int:
    """Register a lease owner; return its number. Raises ``Fenced``, or ``ValueError`` if it exists."""
    work.lock(f"node:{owner.node}")
    if work.run(_IS_FENCED, (owner.node,)):
        raise Fenced(_fenced(owner.node))
    rows = work.run(_ADD_OWNER, (owner.name, owner.node, owner.slots, work.now))
    if not rows:
        raise ValueError(f"a lease owner {owner.name!r} exists already: attach under the next epoch")
    return int(rows[0][0])


def end_owner(work: Step, number: int, started: Mapping[int, Loss]) -> int:
    """Give back all that an owner holds, noting the losses of what was started, and forget it."""
    work.run(_LOCK_OWNER, (number,))
    leases = [Lease(*row) for row in work.run(_LEASES, (number,))]
    for lease in leases:
        loss = started.get(lease.token, Loss(counted=False))
        if lease.noted & ONCE and loss.mark is None:
            loss = Loss(loss.counted, "once")
        if loss.counted or loss.mark is not None:
            work.rewrite(lease.id, after_loss(work.body(lease.id), loss))
    work.vacate(leases)
    work.restore(leases)
    for statement in (_DROP_OWNER, _DROP_ANSWERS, _DROP_SLEEPER):
        work.run(statement, (number,))
    return len(leases)


class Recovery:
    """The broker's care for owners and nodes; see :class:`celeriac.engines.base.Broker`."""

    _store: Store

    def give_back(self, owner: str, leases: Sequence[tuple[str, int]]) -> int:
        """Return not-started messages of a living owner to the front of their lines."""
        with step(self._store) as work:
            rows = work.run(_FIND_OWNER, (owner,))
            if not rows:
                return 0
            asked = set(leases)
            held = [Lease(*row) for row in work.run(_LEASES, rows[0])]
            held = [lease for lease in held if (lease.queue, lease.token) in asked]
            work.vacate(held)
            work.restore(held)
        return len(held)

    def release(self, owner: str, started: Mapping[int, Loss]) -> int:
        """End a dead owner; ``started`` says how its started messages were lost."""
        with step(self._store) as work:
            rows = work.run(_FIND_OWNER, (owner,))
            return end_owner(work, rows[0][0], started) if rows else 0

    def beat(self, node: NodeInfo) -> float:
        """Register the node and renew its leases; return the store's clock."""
        with step(self._store) as work:
            work.lock(f"node:{node.id}")
            if work.run(_IS_FENCED, (node.id,)):
                raise Fenced(_fenced(node.id))
            info = msgspec.json.encode(node)
            work.run(_BEAT, (node.id, node.host, node.pid, node.started, node.lease, work.now, info))
        return work.now

    def recover(self, host: str, alive: Callable[[int, float], bool]) -> list[Recovered]:
        """Take over the leases of nodes that stopped beating, and at once of dead ones on this host."""
        with step(self._store) as work:
            work.lock("recovery")
            self._refresh_after_absence(work)
            nodes = [_Overdue(*row) for row in work.run(_NODES)]
            nodes += [_Overdue(*row) for row in work.run(_ORPHANS, (DEFAULT_LEASE,))]
        recovered = []
        for node in nodes:
            gone = work.now - node.seen > node.lease
            if gone or (node.pid and node.host == host and not alive(node.pid, node.started)):
                with step(self._store) as work_on_it:
                    recovered += _take_over(work_on_it, node)
        sweep(self._store)
        return recovered

    def leave(self, node: str) -> None:
        """Forget a node that stopped in order; what its children still held is given back, uncounted."""
        with step(self._store) as work:
            work.lock(f"node:{node}")
            for number, _, _ in work.run(_OWNERS, (node,)):
                end_owner(work, number, {})
            work.run(_DROP_NODE, (node,))
            unbind(work, node)

    def _refresh_after_absence(self, work: Step) -> None:
        """Give everybody a fresh lease if nobody has looked for long: the server was away."""
        rows = work.run(_LAST_PASS)
        gap = work.now - float(rows[0][0]) if rows else float("inf")
        if gap < 0:  # its clock was set back
            gap = float("inf")
        work.run(_REFRESH, (work.now, 2 * gap, work.now + 1))
        if gap > DEFAULT_LEASE / 2:
            work.run(_REFRESH_ORPHANS, (work.now,))
        work.run(_NOTE_PASS, (repr(work.now),))


def _take_over(work: Step, node: _Overdue) -> list[Recovered]:
    """Fence a node and end its owners; their lowest ``slots`` tokens are taken to be started."""
    work.lock(f"node:{node.id}")
    current = [_Overdue(*row) for row in work.run(_NODES) if row[0] == node.id]
    if current and current[0].seen != node.seen:
        return []  # it has beaten since
    if not current and work.run(_IS_FENCED, (node.id,)):
        return []  # another was faster
    recovered = []
    for number, name, slots in work.run(_OWNERS, (node.id,)):
        tokens = [row[0] for row in work.run(_LEASES, (number,))[:slots]]
        messages = end_owner(work, number, {token: Loss() for token in tokens})
        recovered.append(Recovered(name, messages, len(tokens)))
    work.run(_FENCE, (node.id, work.now))
    unbind(work, node.id)
    return recovered or [Recovered(node.id, 0, 0)]


def _fenced(node: str) -> str:
    return (
        f"the node {node} was recovered by others because its beat was too old: start it again under a new id"
    )
