"""``queues`` and ``purge``: what waits, and where."""

from __future__ import annotations

from collections import Counter
from typing import Any

import click

from celeriac.cli import output
from celeriac.cli.errors import Failure, did_you_mean
from celeriac.cli.options import COMMA_LIST, Command, Group, json_option, option, pass_session
from celeriac.cli.session import Session
from celeriac.platforms import EX_USAGE


@click.group("queues", cls=Group, invoke_without_command=True)
@json_option
@click.pass_context
def queues(ctx: click.Context, /, as_json: bool) -> None:
    """Show all queues: messages by state, age of the oldest ready one, workers."""
    if ctx.invoked_subcommand:
        return
    rows = _rows(ctx.ensure_object(Session))
    if as_json:
        output.dump(rows)
        return
    head = ("QUEUE", "READY", "DELAYED", "LEASED", "PARKED", "DEAD", "OLDEST", "WORKERS", "")
    keys = ("queue", "ready", "delayed", "leased", "parked", "dead")
    output.table(
        head,
        [
            (
                *(row[key] for key in keys),
                output.span(row["oldest_seconds"]),
                row["workers"],
                "paused" if row["paused"] else "",
            )
            for row in rows
        ],
    )


def _rows(session: Session) -> list[dict[str, Any]]:
    app, broker = session.application, session.broker_engine
    coordinator = app.coordinator
    nodes = coordinator.nodes() if coordinator else []
    consumers = Counter(queue for node in nodes for queue in node.queues)
    paused = set(coordinator.control().paused) if coordinator else set()
    names = sorted({*broker.queues(), *app.queues, *consumers, *paused})
    depths = broker.depth(names)
    rows = []
    for name in names:
        depth = depths[name]
        row: dict[str, Any] = {"queue": name, **depth._asdict()}
        row["oldest_seconds"] = row.pop("age")
        rows.append({**row, "workers": consumers[name], "paused": name in paused})
    return rows


@queues.command("pause")
@click.argument("names", nargs=-1, required=True, metavar="QUEUE...")
@pass_session
def pause(session: Session, /, names: tuple[str, ...]) -> None:
    """Let nothing be taken from QUEUE until it is resumed. It is stored and survives restarts."""
    for name in names:
        _hint(session, name)
        session.broker_engine.pause(name)
        session.say(f"Paused {name}. 'celeriac queues resume {name}' ends it.")


@queues.command("resume")
@click.argument("names", nargs=-1, required=True, metavar="QUEUE...")
@pass_session
def resume(session: Session, /, names: tuple[str, ...]) -> None:
    """Let workers take from QUEUE again."""
    for name in names:
        _hint(session, name)
        session.broker_engine.resume(name)
        session.say(f"Resumed {name}.")


def _hint(session: Session, name: str) -> None:
    """A queue need not exist to be paused, but a mistyped name should be noticed."""
    known = {*session.broker_engine.queues(), *session.application.queues}
    if name not in known:
        session.say(f"No queue {name!r} is known so far.{did_you_mean(name, known)}")


@click.command("purge", cls=Command)
@option("-f", "--force", is_flag=True, help="Do not ask.")
@option("-Q", "--queues", "chosen", type=COMMA_LIST, help="Only these queues.")
@option("-X", "--exclude-queues", "excluded", type=COMMA_LIST, help="All but these queues.")
@pass_session
def purge(session: Session, /, force: bool, chosen: list[str] | None, excluded: list[str] | None) -> None:
    """Delete the ready, delayed and parked messages of queues: by default of all that the application uses.

    What runs is not touched, nor are dead letters. There is no way back.
    """
    broker = session.broker_engine
    names = [name for name in chosen or session.application.queues.consumed if name not in (excluded or ())]
    if not names:
        raise Failure("no queue is left to purge", EX_USAGE)
    waiting = sum(d.ready + d.delayed + d.parked for d in broker.depth(names).values())
    shown = ", ".join(names)
    if not force:
        click.confirm(
            f"Delete {output.count(waiting, 'message')} of {shown}? There is no way back.",
            abort=True,
            err=True,
        )
    gone = broker.purge(names)
    click.echo(f"Purged {output.count(gone, 'message')} from {output.count(len(names), 'queue')}.")
