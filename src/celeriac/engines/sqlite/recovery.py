"""Lease owners and nodes: beats, ends in order, deaths, and taking over what the dead have held."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import msgspec

from celeriac.engines.base import Incarnation, Loss, NodeInfo, Recovered
from celeriac.engines.envelopes import after_loss
from celeriac.engines.sqlite import clock
from celeriac.engines.sqlite.bindings import unbind
from celeriac.engines.sqlite.step import Place, Step, step
from celeriac.engines.sqlite.store import Store
from celeriac.exceptions import Fenced

DEFAULT_LEASE = 15.0
"""Seconds granted to a lease owner whose node has never beaten."""

_ADD_OWNER = """INSERT OR IGNORE INTO owner (id, name, node, slots, boot, since) VALUES (?, ?, ?, ?, ?, ?)"""
_IS_FENCED = "SELECT EXISTS (SELECT 1 FROM node WHERE id = ? AND fenced)"
_FIND_OWNER = "SELECT id FROM owner WHERE name = ?"
_OWNERS = "SELECT id, name, slots FROM owner WHERE node = ? ORDER BY id"
_DROP_OWNER = "DELETE FROM owner WHERE id = ?"
_TAKE_ALL = "DELETE FROM leased WHERE owner = ? RETURNING token, once, queue, rank, seq, id, since, admitted"
_TAKE_ONE = """DELETE FROM leased WHERE token = ? AND queue = ? AND owner = ?
RETURNING queue, rank, seq, id, since, admitted"""
_BEAT = """INSERT INTO node (id, host, pid, started, lease, boot, beat, seen, info)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (id) DO UPDATE
SET host = excluded.host, pid = excluded.pid, started = excluded.started, lease = excluded.lease,
boot = excluded.boot, beat = excluded.beat, seen = excluded.seen, info = excluded.info"""
_NODES = "SELECT id, host, pid, started, lease, boot, beat FROM node WHERE NOT fenced"
_ORPHANS = """SELECT DISTINCT node, '', 0, 0.0, ?, boot, min(since) FROM owner
WHERE node NOT IN (SELECT id FROM node) GROUP BY node"""
_REFRESH = "UPDATE node SET beat = ? WHERE boot = ? AND lease < ? AND NOT fenced"
_REFRESH_ORPHANS = "UPDATE owner SET since = ? WHERE boot = ? AND node NOT IN (SELECT id FROM node)"
_FENCE = """INSERT INTO node (id, host, pid, started, lease, boot, beat, seen, fenced, info)
VALUES (?, '', 0, 0, 0, '', 0, ?, 1, x'') ON CONFLICT (id) DO UPDATE SET fenced = 1, seen = excluded.seen"""
_DROP_NODE = "DELETE FROM node WHERE id = ? AND NOT fenced"
_LAST_PASS = "SELECT value FROM meta WHERE key = 'pass'"
_NOTE_PASS = "INSERT OR REPLACE INTO meta (key, value) VALUES ('pass', ?)"


class _Overdue(NamedTuple):
    """What recovery must know of a node (or of the node of owners attached before its first beat)."""

    id: str
    host: str
    pid: int
    started: float
    lease: float
    boot: str
    beat: float


def add_owner(work: Step, owner: Incarnation) -> int:
    """Register a lease owner; return its number. Raises ``Fenced``, or ``ValueError`` if it exists."""
    if work.handle.execute(_IS_FENCED, (owner.node,)).fetchone()[0]:
        raise Fenced(_fenced(owner.node))
    number = work.number()
    values = (number, owner.name, owner.node, owner.slots, clock.boot_id(), clock.uptime())
    if not work.handle.execute(_ADD_OWNER, values).rowcount:
        raise ValueError(f"a lease owner {owner.name!r} exists already: attach under the next epoch")
    return number


def end_owner(work: Step, number: int, started: Mapping[int, Loss]) -> int:
    """Give back all that an owner holds, noting the losses of what was started, and forget it."""
    leases = work.handle.execute(_TAKE_ALL, (number,)).fetchall()
    for token, once, _, _, _, id, _, _ in leases:
        loss = started.get(token, Loss(counted=False))
        if once and loss.mark is None:
            loss = Loss(loss.counted, "once")
        if loss.counted or loss.mark is not None:
            work.rewrite(id, after_loss(work.body(id), loss))
    work.restore([work.vacate(Place(*row[2:])) for row in leases])
    work.handle.execute(_DROP_OWNER, (number,))
    return len(leases)


class Recovery:
    """The broker's care for owners and nodes; see :class:`celeriac.engines.base.Broker`."""

    _store: Store

    def give_back(self, owner: str, leases: Sequence[tuple[str, int]]) -> int:
        """Return not-started messages of a living owner to the front of their lines."""
        with step(self._store) as work:
            row = work.handle.execute(_FIND_OWNER, (owner,)).fetchone()
            if row is None:
                return 0
            taken = [
                work.handle.execute(_TAKE_ONE, (token, queue, row[0])).fetchone() for queue, token in leases
            ]
            places = [work.vacate(Place(*lease)) for lease in taken if lease]
            work.restore(places)
        return len(places)

    def release(self, owner: str, started: Mapping[int, Loss]) -> int:
        """End a dead owner; ``started`` says how its started messages were lost."""
        with step(self._store) as work:
            row = work.handle.execute(_FIND_OWNER, (owner,)).fetchone()
            return 0 if row is None else end_owner(work, row[0], started)

    def beat(self, node: NodeInfo) -> float:
        """Register the node and renew its leases; return the store's clock."""
        with step(self._store) as work:
            self._store.check_host(work.handle)
            self._store.touch_host(work.handle)
            if work.handle.execute(_IS_FENCED, (node.id,)).fetchone()[0]:
                raise Fenced(_fenced(node.id))
            info = msgspec.json.encode(node)
            beat = (clock.boot_id(), clock.uptime(), work.now)
            work.handle.execute(_BEAT, (node.id, node.host, node.pid, node.started, node.lease, *beat, info))
        return work.now

    def recover(self, host: str, alive: Callable[[int, float], bool]) -> list[Recovered]:
        """Take over the leases of nodes that stopped beating, and at once of dead ones on this host."""
        with step(self._store) as work:
            uptime, boot = clock.uptime(), clock.boot_id()
            self._refresh_after_absence(work, uptime, boot)
            nodes = [_Overdue(*row) for row in work.handle.execute(_NODES)]
            nodes += [_Overdue(*row) for row in work.handle.execute(_ORPHANS, (DEFAULT_LEASE,))]
            recovered = []
            for node in nodes:
                # Another boot's processes are gone, whatever its clock said.
                gone = node.boot != boot or uptime - node.beat > node.lease
                if gone or (node.pid and node.host == host and not alive(node.pid, node.started)):
                    recovered += _take_over(work, node.id)
        return recovered

    def leave(self, node: str) -> None:
        """Forget a node that stopped in order; what its children still held is given back, uncounted."""
        with step(self._store) as work:
            for number, _, _ in work.handle.execute(_OWNERS, (node,)).fetchall():
                end_owner(work, number, {})
            work.handle.execute(_DROP_NODE, (node,))
            unbind(work.handle, node)

    def _refresh_after_absence(self, work: Step, uptime: float, boot: str) -> None:
        """Give everybody a fresh lease if nobody has looked for long: the machine or the file was away."""
        row = work.handle.execute(_LAST_PASS).fetchone()
        last_boot, _, last = (row[0] if row else "").partition(" ")
        gap = uptime - float(last) if last_boot == boot else float("inf")
        work.handle.execute(_REFRESH, (uptime, boot, 2 * gap))
        if gap > DEFAULT_LEASE / 2:
            work.handle.execute(_REFRESH_ORPHANS, (uptime, boot))
        work.handle.execute(_NOTE_PASS, (f"{boot} {uptime!r}",))


def _take_over(work: Step, node: str) -> list[Recovered]:
    """Fence a node and end its owners; their lowest ``slots`` tokens are taken to be started."""
    recovered = []
    for number, name, slots in work.handle.execute(_OWNERS, (node,)).fetchall():
        tokens = work.handle.execute(
            "SELECT token FROM leased WHERE owner = ? ORDER BY token LIMIT ?", (number, slots)
        ).fetchall()
        started = {token: Loss() for (token,) in tokens}
        recovered.append(Recovered(name, end_owner(work, number, started), len(started)))
    work.handle.execute(_FENCE, (node, work.now))
    unbind(work.handle, node)
    return recovered or [Recovered(node, 0, 0)]


def _fenced(node: str) -> str:
    return (
        f"the node {node} was recovered by others because its beat was too old: start it again under a new id"
    )
