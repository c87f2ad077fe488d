"""``status``: which workers are alive, by their presence in the store; Celery's by their answers."""

from __future__ import annotations

import time
from collections.abc import Collection
from typing import Any, Final, NamedTuple

import click

from celeriac.app.watch import unserved_queues
from celeriac.cli import output
from celeriac.cli.errors import Failure
from celeriac.cli.options import COMMA_LIST, Group, json_option, option, pass_session
from celeriac.cli.session import Session
from celeriac.engines.base import NodeInfo
from celeriac.platforms import EX_UNAVAILABLE

timeout_option = option(
    "-t",
    "--timeout",
    type=click.FloatRange(min=0),
    default=1.0,
    show_default=True,
    help="Seconds to wait for a worker to appear.",
)
destination_option = option("-d", "--destination", type=COMMA_LIST, help="Only these nodes.")

_PAUSE: Final = 0.1


class Alive(NamedTuple):
    """The workers that are alive."""

    nodes: list[NodeInfo]
    """Those that the store knows, by name."""
    others: list[str]
    """Those that only have answered: Celery's."""

    @property
    def names(self) -> list[str]:
        """All of them."""
        return sorted({*self.others, *(node.name for node in self.nodes)})


@click.command("status", cls=Group.command_class)
@timeout_option
@destination_option
@json_option
@pass_session
def status(session: Session, /, timeout: float, destination: list[str] | None, as_json: bool) -> None:
    """List the workers that are alive, and the queues with messages that nobody takes from.

    Celery's workers are asked, where there may be some. The exit status is 69 if there is no worker.
    """
    try:
        alive = _alive(session, timeout, destination)
    except Failure:
        if not as_json:
            _show_unserved(session)
        raise
    if as_json:
        output.dump({name: {"ok": "pong"} for name in alive.names})
        return
    now = time.time()
    rows: list[tuple[Any, ...]] = [
        (
            node.name,
            "OK",
            node.pid,
            output.span(now - node.seen if node.seen is not None else None),
            ", ".join(node.queues),
        )
        for node in alive.nodes
    ]
    rows += [(name, "OK", None, None, "") for name in alive.others]
    output.table(("NODE", "STATE", "PID", "LAST BEAT", "QUEUES"), sorted(rows, key=lambda row: str(row[0])))
    if not session.quiet:
        click.echo(f"\n{output.count(len(rows), 'node')} online.")
    _show_unserved(session)


def _alive(session: Session, timeout: float, destination: list[str] | None) -> Alive:
    """The living workers; waits for the first one. Raises ``Failure`` if there is none."""
    wanted = set(destination or ())
    until = time.monotonic() + timeout
    while True:
        alive = _look(session, max(0.0, until - time.monotonic()), wanted)
        missing = wanted.difference(alive.names)
        if (alive.names and not missing) or time.monotonic() + _PAUSE > until:
            break
        time.sleep(_PAUSE)
    if not alive.names:
        which = f" called {', '.join(sorted(wanted))}" if wanted else ""
        raise Failure(f"No worker{which} is alive.", EX_UNAVAILABLE)
    if missing:
        session.say(f"Not alive: {', '.join(sorted(missing))}")
    return alive


def _look(session: Session, timeout: float, wanted: Collection[str]) -> Alive:
    app = session.application
    asks = getattr(app.broker, "foreign_workers", False)
    known = session.coordinator.nodes() if app.coordinator is not None or not asks else []
    nodes = [node for node in known if not wanted or node.name in wanted]
    answered: set[str] = set()
    if asks:
        replies = app.control.ping(sorted(wanted) or None, timeout)
        answered = {name for reply in replies for name in reply}
    others = answered.difference(node.name for node in nodes)
    return Alive(sorted(nodes, key=lambda node: node.name), sorted(others))


MIGRATING = "celeriac.migrating"
"""How the queues begin in which ``celeriac migrate`` keeps what it needs."""


def _show_unserved(session: Session) -> None:
    """Name the queues in which messages wait for nobody."""
    app, broker = session.application, session.broker_engine
    depths = broker.depth(sorted({*broker.queues(), *app.queues}))
    waiting = {queue: sum(depth[:2]) + depth.parked for queue, depth in depths.items()}
    lost = unserved_queues(app, [queue for queue, count in waiting.items() if count])
    if moving := [queue for queue in lost if queue.startswith(MIGRATING)]:
        lost = [queue for queue in lost if queue not in moving]
        click.echo(
            f"\nA move by 'celeriac migrate' to this broker has not come to its end ({', '.join(moving)}): "
            "run it again."
        )
    if not lost:
        return
    click.echo("\nMessages wait in these queues, and no worker takes from them:")
    output.table(("QUEUE", "WAITING"), [(queue, waiting[queue]) for queue in lost])
    click.echo(f"\nStart a worker with -Q {','.join(lost)}, or correct the route that leads there.")
