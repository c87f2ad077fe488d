"""``probe``, where it is reached by way of the other commands: its work is in :mod:`celeriac.probe`."""

from __future__ import annotations

import click

from celeriac import probe as probing
from celeriac.cli.options import Command


class ProbeCommand(Command):
    """Leaves the arguments as they are, and shows the usage that the quick way shows."""

    def get_help(self, ctx: click.Context) -> str:
        """The usage."""
        return probing.USAGE


@click.command("probe", cls=ProbeCommand, context_settings={"ignore_unknown_options": True})
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def probe(arguments: tuple[str, ...]) -> int:
    """See whether a worker or beat on this machine is well."""
    return probing.main(list(arguments))
