"""``schema``: the version of a store's tables, and bringing them up to date."""

from __future__ import annotations

from typing import Any

import click

from celeriac.cli.errors import Failure
from celeriac.cli.options import Group, pass_session
from celeriac.cli.session import Session


@click.group("schema", cls=Group)
def schema() -> None:
    """Look at and upgrade the tables of a PostgreSQL store."""


@schema.command("show")
@pass_session
def show(session: Session, /) -> None:
    """Print the version of the tables there are, and the one this Celeriac needs."""
    for store in _stores(session):
        found, needed = store.schema_versions()
        click.echo(f"{store.url}: version {found}, needed {needed}")


@schema.command("upgrade")
@pass_session
def upgrade(session: Session, /) -> None:
    """Make the tables, or bring them to the version this Celeriac needs; the user must own them.

    It is safe to repeat, and to run from several places at once. Upgrade the workers soon after: older ones
    refuse to start on newer tables.
    """
    for store in _stores(session):
        found, _ = store.schema_versions()
        click.echo(f"{store.url}: version {found} -> {store.upgrade_schema()}")


def _stores(session: Session) -> list[Any]:
    """The application's broker and result backend, as far as they have tables to upgrade."""
    stores: list[Any] = [session.application.broker, session.application.backend]
    found = [store for store in stores if hasattr(store, "upgrade_schema")]
    if not found:
        raise Failure(
            "neither broker nor result backend is PostgreSQL: others see to their tables themselves"
        )
    return found[:1] if len(found) == 2 and found[0].shares_store(found[1]) else found
