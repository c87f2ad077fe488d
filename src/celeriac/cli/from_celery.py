"""``migrate-from-celery``: say what changes for a project that runs on Celery."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from celeriac.cli import output
from celeriac.cli.errors import Failure
from celeriac.cli.options import SETTLED, Command, json_option, pass_session
from celeriac.cli.session import Session
from celeriac.exceptions import CeleriacError
from celeriac.platforms import EX_FAILURE, EX_USAGE

if TYPE_CHECKING:
    from celeriac.fromcelery.advice import Advice


@click.command("migrate-from-celery", cls=Command)
@json_option
@pass_session
def migrate_from_celery(session: Session, /, as_json: bool) -> int:
    """Say what changes for a Celery project: -A module:app, or --config with its module of settings.

    The project is looked at as it is, before any import is changed; Celery itself need not be installed. Its
    settings are read by importing its module, and its files are looked through for imports, plug-ins and
    command lines. Nothing is changed, and no server is asked. Status 1 says that something must be changed
    before a worker can start.
    """
    session.enter()
    from celeriac.fromcelery.advice import judge
    from celeriac.fromcelery.project import read
    from celeriac.fromcelery.sources import scan

    try:
        project = read(session.app, session.config)
    except CeleriacError as error:
        raise Failure(str(error), EX_USAGE) from None
    except Exception as error:
        raise Failure(
            f"the project cannot be imported here: {type(error).__name__}: {error}. Start in its directory "
            "and with its environment, or read its settings alone: --config module",
            EX_USAGE,
        ) from error
    advice = judge(project, scan(Path.cwd()), _about_flag)
    if as_json:
        output.dump(advice.as_dict())
    else:
        _tell(advice)
    return EX_FAILURE if advice.blocked else 0


def _about_flag(flag: str) -> str:
    """What a command's flag does here, if that is not what it did."""
    from celeriac.cli import beat, events, fleet, root, worker

    command, _, name = flag.partition(" ")
    if command in root.ABSENT:
        return "" if name else f"it {root.ABSENT[command]}"
    if command == "multi":  # its options are the worker's, and some of its own
        name = name.partition(":")[0]
        if name in fleet.OWN_OPTIONS or fleet.signal_number(name):
            return ""
    commands = {"worker": worker.worker, "multi": worker.worker, "beat": beat.beat, "events": events.events}
    known: click.Command = commands[command]
    options = [*known.params, *root.celeriac.params]
    for one in options:
        short = name[:2] in one.opts and not name.startswith("--")
        if name in (*one.opts, *one.secondary_opts) or short:
            return SETTLED.get(str(one.name), "").partition(": ")[2]
    return "there is no such option here" if name else ""


def _tell(advice: Advice) -> None:
    from celeriac.fromcelery.catalogue import ATTENTION, STEPS

    click.echo(f"{advice.project.how}: {output.count(len(advice.project.tasks), 'task')} seen")
    for note in advice.project.notes:
        click.echo(f"({note})")
    _section("To be changed before a worker can start", {**advice.refused, **advice.wrong})
    if advice.attention:
        _title("To be looked at")
        for key, found in advice.attention.items():
            title, text = ATTENTION[key]
            click.echo(f"* {title}. {text}")
            for each in found:
                click.echo(f"    {each}")
    _section("Accepted, and answered in another way", advice.settled)
    _section("Defaults that differ, where you set nothing", advice.defaults)
    _section("Stays as it is", {name: repr(value) for name, value in advice.stays.items()})
    _title("The order of a move without downtime")
    if not advice.shared:
        click.echo("(The broker cannot be shared with Celery's workers: let these empty it instead.)")
    for number, (title, text) in enumerate(STEPS, 1):
        click.echo(f"{number}. {title}. {text}")


def _section(title: str, lines: dict[str, str]) -> None:
    if lines:
        _title(title)
        for name, text in lines.items():
            click.echo(f"* {name}: {text}")


def _title(text: str) -> None:
    click.echo()
    click.secho(text, bold=True)
