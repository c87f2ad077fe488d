"""What a node says of itself, and by what other nodes of its machine know whether it lives."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from celeriac import __version__
from celeriac.engines.base import NodeInfo
from celeriac.worker.board import Board, ChildRecord
from celeriac.worker.holdings import Holdings
from celeriac.worker.options import Options

if TYPE_CHECKING:
    from celeriac.app.base import Celeriac


def new_node(app: Celeriac, options: Options, life: str) -> NodeInfo:
    """The node of this process; ``life`` tells its lives apart."""
    pid = os.getpid()
    started = process_start(pid)
    return NodeInfo(
        id=f"{options.name}/{pid}.{int(started)}.{life}",
        name=options.name,
        host=host_identity(),
        pid=pid,
        started=started,
        lease=options.lease,
        queues=options.queues,
        details=_details(app, options),
    )


def process_lives(pid: int, started: float) -> bool:
    """Whether the process ``pid`` that began at ``started`` (clock ticks since boot) still runs."""
    try:
        return process_start(pid) == started
    except OSError:
        return False


def process_start(pid: int) -> float:
    """When a process began, in clock ticks since boot (``/proc/<pid>/stat``, field 22).

    Raises ``OSError`` if there is none, or it is a zombie. Without ``/proc`` (macOS) a live pid is 0.0.
    """
    if not os.path.isdir("/proc/self"):
        os.kill(pid, 0)
        return 0.0
    with open(f"/proc/{pid}/stat", "rb") as file:
        fields = file.read().rpartition(b")")[2].split()
    if fields[0] in (b"Z", b"X"):
        raise ProcessLookupError(f"process {pid} has ended")
    return float(fields[19])


def host_identity() -> str:
    """Names this machine's boot and process namespace; pids can be compared only within the same."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot}/{os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return socket.gethostname()


def refresh(node: NodeInfo, board: Board, records: Sequence[ChildRecord], queues: list[str]) -> None:
    """Bring up to date what a node tells of itself with the next beat."""
    details = node.details
    node.queues = queues
    details["processed"] = sum(sum(holdings.totals().values()) for holdings in _holdings(board, records))
    details["active"] = sum(1 for record in records for _ in record.running())
    details.update(_size(node, board))
    details["loadavg"] = load_average()


def is_outdated(node: NodeInfo, board: Board) -> bool:
    """Whether the pool has another size than the node has told of."""
    return any(node.details[name] != value for name, value in _size(node, board).items())


def _size(node: NodeInfo, board: Board) -> dict[str, Any]:
    if node.details["pool"] != "prefork":
        return {}
    return {"concurrency": board.wanted, "autoscale": board.autoscale and list(board.autoscale)}


def load_average() -> list[float]:
    """How many processes of this machine wanted a processor in the last 1, 5 and 15 minutes."""
    try:
        return [round(number, 2) for number in os.getloadavg()]
    except OSError:
        return [0.0, 0.0, 0.0]


def _holdings(board: Board, records: Sequence[ChildRecord]) -> Iterator[Holdings]:
    return (Holdings(board, record.number) for record in records)


def _details(app: Celeriac, options: Options) -> dict[str, Any]:
    """What a node tells of itself to people (``NodeInfo.details``)."""
    return {
        "hostname": socket.gethostname(),
        "pool": options.pool,
        "concurrency": options.concurrency,
        "autoscale": list(options.autoscale) if options.autoscale else None,
        "version": __version__,
        "python": sys.version.split()[0],
        "app": app.main,
        "tasks": sorted(app.tasks),
        "exchanges": sorted({tie.exchange for tie in options.own_bindings}),
        "processed": 0,
        "active": 0,
        "loadavg": load_average(),
    }
