"""``dead``: messages that were given up, to be looked at, sent again or deleted."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import click

from celeriac.cli import output
from celeriac.cli.errors import Failure
from celeriac.cli.options import Group, json_option, option, pass_session, yes_option
from celeriac.cli.session import Session
from celeriac.engines.base import Broker, DeadLetter
from celeriac.platforms import EX_USAGE

_PAGE: Final = 200

queue_option = option("--queue", help="Only this queue's.")
all_option = option("--all", "everything", is_flag=True, help="All of them.")


@click.group("dead", cls=Group)
def dead() -> None:
    """List, show, replay and purge dead letters."""


@dead.command("list")
@queue_option
@option("--limit", type=click.IntRange(min=1), default=50, show_default=True, help="How many.")
@option("--offset", type=click.IntRange(min=0), default=0, show_default=True, help="How many to skip.")
@json_option
@pass_session
def list_(session: Session, /, queue: str | None, limit: int, offset: int, as_json: bool) -> None:
    """List dead letters, newest first."""
    # one more than asked for tells whether there is a next page
    found = session.broker_engine.dead_letters(queue, offset, limit + 1)
    letters = found[:limit]
    if as_json:
        output.dump([_summary(letter) for letter in letters])
        return
    if not letters:
        session.say("No dead letters.")
        return
    output.table(
        ("KEY", "QUEUE", "WHEN", "REASON", "TASK", "DETAIL"),
        [(x.key, x.queue, output.moment(x.at), x.reason, x.task or "-", x.detail) for x in letters],
    )
    if len(found) > limit:
        session.say(f"There are more: --offset {offset + limit}")


@dead.command("show", short_help="Show one with its arguments.")
@click.argument("key")
@json_option
@pass_session
def show(session: Session, /, key: str, as_json: bool) -> None:
    """Show the dead letter KEY (a task id does as well) with its arguments."""
    letter = _find(session.broker_engine, key)
    whole = {**_summary(letter), **_message(letter)}
    if as_json:
        output.dump(whole)
        return
    width = max(map(len, whole))
    for name, value in whole.items():
        click.echo(f"{click.style(name.ljust(width), bold=True)}  {value}")


@dead.command("replay", short_help="Put dead letters back in line.")
@click.argument("keys", nargs=-1, metavar="[KEY]...")
@queue_option
@all_option
@yes_option
@pass_session
def replay(
    session: Session, /, keys: tuple[str, ...], queue: str | None, everything: bool, yes: bool
) -> None:
    """Put dead letters back in line: those of KEY (a task id does as well), or a queue's, or all."""
    broker = session.broker_engine
    chosen = _chosen(broker, keys, queue, everything)
    if not chosen and not yes:
        click.confirm(f"Replay {_whose(queue)}?", abort=True, err=True)
    click.echo(f"Replayed {output.count(broker.replay(chosen, queue), 'message')}.")


@dead.command("purge", short_help="Delete dead letters.")
@click.argument("keys", nargs=-1, metavar="[KEY]...")
@queue_option
@all_option
@yes_option
@pass_session
def purge(session: Session, /, keys: tuple[str, ...], queue: str | None, everything: bool, yes: bool) -> None:
    """Delete dead letters for good: those of KEY (a task id does as well), or a queue's, or all."""
    broker = session.broker_engine
    chosen = _chosen(broker, keys, queue, everything)
    if not yes:
        which = output.count(len(chosen), "dead letter") if chosen else _whose(queue)
        click.confirm(f"Delete {which}? There is no way back.", abort=True, err=True)
    click.echo(f"Purged {output.count(broker.purge_dead(chosen, queue), 'dead letter')}.")


def _whose(queue: str | None) -> str:
    return f"all dead letters of {queue}" if queue else "all dead letters of all queues"


def _chosen(broker: Broker, keys: tuple[str, ...], queue: str | None, everything: bool) -> list[str] | None:
    """The keys, or ``None`` for all of a queue or of all queues. Raises ``Failure`` if it is not clear."""
    if bool(keys) + bool(queue) + everything != 1:
        raise Failure("say which dead letters: KEY..., or --queue NAME, or --all", EX_USAGE)
    return [_find(broker, key).key for key in keys] or None


def _find(broker: Broker, key: str) -> DeadLetter:
    """The letter of this key or task id. Raises ``Failure`` if there is none."""
    for letter in _letters(broker):
        if key in (letter.key, letter.task_id):
            return letter
    raise Failure(f"there is no dead letter {key!r}: 'celeriac dead list' shows them")


def _letters(broker: Broker) -> Iterator[DeadLetter]:
    offset = 0
    while letters := broker.dead_letters(None, offset, _PAGE):
        yield from letters
        offset += len(letters)


def _summary(letter: DeadLetter) -> dict[str, Any]:
    return {
        "key": letter.key,
        "queue": letter.queue,
        "at": output.moment(letter.at),
        "reason": letter.reason,
        "detail": letter.detail,
        "task": letter.task,
        "task_id": letter.task_id,
    }


def _message(letter: DeadLetter) -> dict[str, Any]:
    """What can be read of the message itself; its arguments as their sender described them."""
    from celeriac.exceptions import DecodeError
    from celeriac.message import decode_envelope

    try:
        message = decode_envelope(letter.payload)
    except DecodeError as exc:
        return {"undecodable": str(exc), "bytes": repr(letter.payload[:400])}
    headers = message.headers
    return {
        "args": headers.get("argsrepr"),
        "kwargs": headers.get("kwargsrepr"),
        "retries": headers.get("retries"),
        "origin": headers.get("origin"),
        "content_type": message.content_type,
        "size": f"{len(letter.payload)} bytes",
    }
