"""``list bindings``: which queues are tied to which exchanges."""

from __future__ import annotations

import click

from celeriac.cli import output
from celeriac.cli.options import Group, json_option, pass_session
from celeriac.cli.session import Session
from celeriac.routing.queues import Binding


@click.group("list", cls=Group)
def list_() -> None:
    """List what the broker knows."""


@list_.command("bindings", cls=Group.command_class)
@json_option
@pass_session
def bindings(session: Session, /, as_json: bool) -> None:
    """List the bindings of the application's exchanges to queues.

    RabbitMQ does not tell its clients of bindings: there they are listed as the application declares them.
    """
    ties = _ties(session)
    if as_json:
        output.dump([tie._asdict() for tie in ties])
        return
    rows = [(tie.queue, tie.exchange, tie.type, tie.routing_key) for tie in ties]
    output.table(("QUEUE", "EXCHANGE", "TYPE", "ROUTING KEY"), rows)


def _ties(session: Session) -> list[Binding]:
    declared = {tie for queue in session.application.queues.values() for tie in queue.bindings()}
    told = {
        tie
        for exchange in {tie.exchange for tie in declared}
        for tie in session.broker_engine.bindings(exchange)
        if tie.queue
    }
    # What the application declares goes before what a store makes of it.
    known = {(tie.exchange, tie.queue, tie.routing_key) for tie in declared}
    declared |= {tie for tie in told if (tie.exchange, tie.queue, tie.routing_key) not in known}
    return sorted(declared, key=lambda tie: (tie.queue, tie.exchange, tie.routing_key))
