"""The command ``celeriac``: global options, and the commands by name.

The modules of the commands are imported when one of them is used, so that ``celeriac --help`` needs none.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

import click

from celeriac import __version__
from celeriac.cli.errors import Failure, did_you_mean, wants_traceback
from celeriac.cli.options import Group, global_options
from celeriac.cli.session import Session
from celeriac.exceptions import CeleriacError, CeleryCommandException, OperationalError
from celeriac.platforms import EX_FAILURE, EX_UNAVAILABLE

if TYPE_CHECKING:
    from celeriac.app.base import Celeriac

COMMANDS: Final[dict[str, tuple[str, str]]] = {
    "worker": ("worker:worker", "Start a worker."),
    "multi": ("multi:multi", "Start and stop several workers in the background."),
    "beat": ("beat:beat", "Send periodic tasks when they are due."),
    "schedule": ("schedule:schedule", "List, add, pause, resume and run periodic tasks."),
    "call": ("tasks:call", "Send a task by name and print its id."),
    "result": ("tasks:result", "Print a task's result."),
    "history": ("history:history", "Show what became of each attempt to run a task."),
    "revoke": ("tasks:revoke", "Do not run these tasks."),
    "rate-limit": ("tasks:rate_limit", "Change a task's rate limit on all workers."),
    "status": ("nodes:status", "List the workers that are alive."),
    "inspect": ("remote:inspect", "Ask the workers something."),
    "control": ("remote:control", "Order the workers to do something while they run."),
    "list": ("bindings:list_", "List the queues' bindings to exchanges."),
    "events": ("events:events", "Watch what workers and tasks do, as it happens."),
    "queues": ("queues:queues", "Show queues; pause and resume them."),
    "purge": ("queues:purge", "Delete all waiting messages of queues."),
    "dead": ("dead:dead", "List, show, replay and purge dead letters."),
    "amqp": ("amqp:amqp", "Declare, bind, delete, get and publish on RabbitMQ."),
    "migrate": ("migrate:migrate", "Move messages from one store to another."),
    "migrate-from-celery": (
        "from_celery:migrate_from_celery",
        "Say what changes for a project that runs on Celery.",
    ),
    "schema": ("schema:schema", "Look at and upgrade the tables of a PostgreSQL store."),
    "probe": ("probe:probe", "See whether a worker or beat is well; for health checks."),
    "report": ("report:report", "Show what a bug report should contain."),
    "shell": ("shell:shell", "Start a Python shell with the application's tasks."),
    "completion": ("completion:completion", "Print the completion script for a shell."),
}
"""Command -> where it is, and one line of help."""

ABSENT: Final[dict[str, str]] = {
    "graph": "draws Celery's inner parts, which Celeriac does not have",
    "logtool": "does not exist: 'celeriac history' has what became of each task",
    "upgrade": "is not needed: old names of settings are understood as they are",
    "flower": "is a plug-in of Celery's: run it beside, in an environment with Celery and Flower, as 'celery "
    "--broker=URL flower'; it shows these workers and its buttons work (docs/migrating.md)",
}
"""Celery's commands that do not exist here, and what is said about them."""


class RootGroup(Group):
    """Finds commands by :data:`COMMANDS`, importing a module only for a command that is used."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The names, in the order of the table."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import and return the command, or ``None`` if there is none of this name."""
        if cmd_name not in COMMANDS:
            return None
        module, _, attribute = COMMANDS[cmd_name][0].partition(":")
        command: click.Command = getattr(import_module(f"celeriac.cli.{module}"), attribute)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the list of commands without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in COMMANDS.items()])

    def unknown(self, ctx: click.Context, name: str) -> str:
        """What is said about a command that does not exist."""
        if name in ABSENT:
            return f"The command {name!r} {ABSENT[name]}."
        return f"There is no command {name!r}.{did_you_mean(name, COMMANDS)} See 'celeriac --help'."


@click.group(
    "celeriac",
    cls=RootGroup,
    params=list(global_options()),
    context_settings={"help_option_names": ["-h", "--help"], "auto_envvar_prefix": "CELERY"},
)
@click.version_option(__version__, message="celeriac %(version)s")
@click.pass_context
def celeriac(ctx: click.Context, /, **given: Any) -> None:
    """Run workers and look after tasks and queues.

    Global options may stand before or after the command. Each option can also be given by the environment,
    as CELERIAC_<OPTION> or CELERIAC_<COMMAND>_<OPTION> (CELERY_... works too).
    """
    session = ctx.ensure_object(Session)
    for name, value in given.items():
        setattr(session, name, value)
    if session.no_color:
        ctx.color = False


def run(arguments: Sequence[str] | None = None, app: Celeriac | None = None) -> int:
    """Run the command line, for ``app`` unless ``-A`` names another, and return the exit status.

    0 is success, 2 a mistake on the command line, 69 a server or workers that cannot be reached, 130 Ctrl-C,
    1 anything else. A user's mistake is told in a sentence; ``CELERIAC_DEBUG=1`` shows the traceback.
    """
    try:
        status = celeriac(args=arguments, prog_name="celeriac", standalone_mode=False, obj=Session(app))
    except Failure as exc:
        exc.show()
        return exc.status
    except click.ClickException as exc:
        exc.show()
        return exc.exit_code
    except click.Abort as exc:
        click.echo("Aborted.", err=True)
        return 130 if isinstance(exc.__cause__, KeyboardInterrupt) else EX_FAILURE
    except BrokenPipeError:
        # Who read us has enough. Python would complain once more when it flushes at exit.
        sys.stdout = None
        return EX_FAILURE
    except CeleriacError as exc:
        if wants_traceback():
            raise
        Failure(_sentence(exc)).show()
        if isinstance(exc, CeleryCommandException):
            return exc.exit_code
        return EX_UNAVAILABLE if isinstance(exc, OperationalError) else EX_FAILURE
    return status if isinstance(status, int) else 0


def _sentence(exc: CeleriacError) -> str:
    # str() of a KeyError is the repr of its argument
    return str(exc.args[0]) if isinstance(exc, KeyError) and exc.args else str(exc)
