"""``report``: what a bug report should contain, with secrets masked."""

from __future__ import annotations

import platform
import sys
from importlib import metadata
from typing import Final

import click

from celeriac import __version__
from celeriac.cli.options import Command, pass_session
from celeriac.cli.session import Session
from celeriac.urls import mask_url

_LIBRARIES: Final = ("click", "redis", "hiredis", "msgspec", "rich", "cronsim", "amqp", "psycopg", "gevent")


@click.command("report", cls=Command)
@pass_session
def report(session: Session) -> None:
    """Show what a bug report should contain.

    Passwords and other secrets are masked; look it over all the same.
    """
    app = session.application
    settings = app.conf.humanize()
    facts = {
        "celeriac": f"{__version__} ({_libraries()})",
        "python": f"{platform.python_version()} {platform.python_implementation()} {sys.executable}",
        "platform": f"{platform.system()} {platform.release()} {platform.machine()}",
        "application": f"{app.main or '(no name)'}, {len(app.tasks)} tasks",
        "broker": mask_url(str(app.broker_url)),
    }
    width = max(map(len, facts))
    for name, value in facts.items():
        click.echo(f"{name.ljust(width)}  {value}")
    click.echo(f"\n{settings}" if settings else "\nNo setting differs from its default.")


def _libraries() -> str:
    found = []
    for name in _LIBRARIES:
        try:
            found.append(f"{name} {metadata.version(name)}")
        except metadata.PackageNotFoundError:
            continue
    return ", ".join(found)
