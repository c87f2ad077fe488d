"""``status`` and ``inspect ping``: which workers are alive, by their presence in the store."""

from __future__ import annotations

import time
from typing import Final

import click

from celeriac.app.watch import unserved_queues
from celeriac.cli import output
from celeriac.cli.errors import Failure, did_you_mean
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


@click.command("status", cls=Group.command_class)
@timeout_option
@destination_option
@json_option
@pass_session
def status(session: Session, /, timeout: float, destination: list[str] | None, as_json: bool) -> None:
    """List the workers that are alive, and the queues with messages that nobody takes from.

    The exit status is 69 if there is no worker.
    """
    try:
        nodes = _alive(session, timeout, destination)
    except Failure:
        if not as_json:
            _show_unserved(session)
        raise
    if as_json:
        output.dump({node.name: {"ok": "pong"} for node in nodes})
        return
    now = time.time()
    rows = [
        (
            node.name,
            "OK",
            node.pid,
            output.span(now - node.seen if node.seen is not None else None),
            ", ".join(node.queues),
        )
        for node in nodes
    ]
    output.table(("NODE", "STATE", "PID", "LAST BEAT", "QUEUES"), rows)
    _count(session, nodes)
    _show_unserved(session)


def _show_unserved(session: Session) -> None:
    """Name the queues in which messages wait for nobody."""
    app, broker = session.application, session.broker_engine
    depths = broker.depth(sorted({*broker.queues(), *app.queues}))
    waiting = {queue: sum(depth[:2]) + depth.parked for queue, depth in depths.items()}
    lost = unserved_queues(app, [queue for queue, count in waiting.items() if count])
    if not lost:
        return
    click.echo("\nMessages wait in these queues, and no worker takes from them:")
    output.table(("QUEUE", "WAITING"), [(queue, waiting[queue]) for queue in lost])
    click.echo(f"\nStart a worker with -Q {','.join(lost)}, or correct the route that leads there.")


class InspectGroup(Group):
    """Says of Celery's other commands what they need."""

    LATER: Final = (
        *("active", "active_queues", "clock", "conf", "memdump", "memsample", "objgraph", "query_task"),
        *("registered", "report", "reserved", "revoked", "scheduled", "stats"),
    )

    def unknown(self, ctx: click.Context, name: str) -> str:
        """What is said about a command that does not exist, or not yet."""
        if name in self.LATER:
            return f"'inspect {name}' comes with remote control; 'inspect ping', 'status' and 'queues' work."
        return f"There is no command {name!r}.{did_you_mean(name, [*self.list_commands(ctx), *self.LATER])}"


@click.group("inspect", cls=InspectGroup)
def inspect() -> None:
    """Ask the workers something."""


@inspect.command("ping")
@timeout_option
@destination_option
@json_option
@pass_session
def ping(session: Session, /, timeout: float, destination: list[str] | None, as_json: bool) -> None:
    """See which workers are alive, by the beat that they keep up in the store.

    The exit status is 69 if there is none.
    """
    nodes = _alive(session, timeout, destination)
    if as_json:
        output.dump({node.name: {"ok": "pong"} for node in nodes})
        return
    for node in nodes:
        click.echo(f"->  {node.name}: OK\n        pong")
    _count(session, nodes)


def _alive(session: Session, timeout: float, destination: list[str] | None) -> list[NodeInfo]:
    """The living nodes, by name; waits for the first one. Raises ``Failure`` if there is none."""
    wanted = set(destination or ())
    until = time.monotonic() + timeout
    while True:
        nodes = [node for node in session.coordinator.nodes() if not wanted or node.name in wanted]
        missing = wanted.difference(node.name for node in nodes)
        if nodes and not missing:
            break
        if time.monotonic() + _PAUSE > until:
            break
        time.sleep(_PAUSE)
    if not nodes:
        which = f" called {', '.join(sorted(wanted))}" if wanted else ""
        raise Failure(f"No worker{which} is alive.", EX_UNAVAILABLE)
    if missing:
        session.say(f"Not alive: {', '.join(sorted(missing))}")
    return sorted(nodes, key=lambda node: node.name)


def _count(session: Session, nodes: list[NodeInfo]) -> None:
    if not session.quiet:
        click.echo(f"\n{output.count(len(nodes), 'node')} online.")
