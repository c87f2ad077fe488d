"""``completion``: the script by which a shell completes commands and options."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

from celeriac.cli.errors import Failure
from celeriac.cli.options import Command


@click.command("completion", cls=Command)
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(ctx: click.Context, /, shell: str) -> None:
    """Print the completion script for SHELL.

    \b
    bash: eval "$(celeriac completion bash)"            in ~/.bashrc
    zsh:  eval "$(celeriac completion zsh)"             in ~/.zshrc
    fish: celeriac completion fish > ~/.config/fish/completions/celeriac.fish
    """
    kind = get_completion_class(shell)
    if kind is None:
        raise Failure(f"no completion for {shell}")
    script = kind(ctx.find_root().command, {}, "celeriac", "_CELERIAC_COMPLETE")
    # source() would start bash to look at its version, which fails where bash is not installed
    click.echo(script.source_template % script.source_vars())
