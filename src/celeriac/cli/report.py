"""``report``: what a bug report should contain, with secrets masked."""

from __future__ import annotations

import click

from celeriac.cli.options import Command, pass_session
from celeriac.cli.session import Session


@click.command("report", cls=Command)
@pass_session
def report(session: Session, /) -> None:
    """Show what a bug report should contain.

    Passwords and other secrets are masked; look it over all the same.
    """
    click.echo(session.application.bugreport())
