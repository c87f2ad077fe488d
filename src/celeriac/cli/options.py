"""Commands and options: the types of values, and the global options that every command takes too."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click

from celeriac.cli.errors import Failure, did_you_mean
from celeriac.cli.session import Session, user_options

if TYPE_CHECKING:
    ParamType = click.ParamType[Any]
else:
    ParamType = click.ParamType  # older versions of click do not have it generic

Decorated = TypeVar("Decorated", bound=Callable[..., Any])

SETTLED: Final[dict[str, str]] = {
    "optimization": "-O: children take their work themselves, so it is always dealt out fairly.",
    "statedb": "--statedb: revoked ids are kept in the store, where all workers and restarts find them.",
    "without_gossip": "--without-gossip: workers do not gossip, they agree through the store.",
    "without_mingle": "--without-mingle: workers do not mingle, they agree through the store.",
    "schedule_filename": "-s: there is no schedule file: the store keeps when each periodic task ran last.",
}
"""Flags of the worker and beat that the design answers in another way, and what is said of them at start."""


class Option(click.Option):
    """An option that is also read from ``CELERIAC_<COMMAND>_<OPTION>`` and ``CELERY_<COMMAND>_<OPTION>``."""

    def resolve_envvar_value(self, ctx: click.Context) -> str | None:
        """Return the option's value in the environment, ours before Celery's."""
        prefix = ctx.auto_envvar_prefix
        if prefix and self.allow_from_autoenv and self.name:
            own = prefix.replace("CELERY", "CELERIAC", 1)
            for start in (own, prefix):
                if value := os.environ.get(f"{start}_{self.name.upper()}"):
                    return value
        value = super().resolve_envvar_value(ctx)
        # NO_COLOR and SKIP_CHECKS are set by any text at all, not only by "1" or "yes"
        return "true" if value and self.is_flag else value


def option(*names: str, **settings: Any) -> Callable[[Decorated], Decorated]:
    """Declare an :class:`Option`."""
    return click.option(*names, cls=Option, **settings)


# -- the global options ------------------------------------------------------------------------------------


def global_options() -> list[Option]:
    """The options that stand before the command. The bare names in the environment are Celery's."""
    return [
        Option(["-A", "--app"], envvar="APP", help="The application: module, module:attribute, ..."),
        Option(["-b", "--broker"], envvar="BROKER_URL", metavar="URL", help="Overrides broker_url."),
        Option(
            ["--result-backend"], envvar="RESULT_BACKEND", metavar="URL", help="Overrides result_backend."
        ),
        Option(["--loader"], envvar="LOADER", help="Loader class, if not the application's own."),
        Option(["--config"], envvar="CONFIG_MODULE", metavar="MODULE", help="Module of settings."),
        Option(["--workdir"], type=click.Path(file_okay=False), help="Directory to change to first."),
        Option(["-C", "--no-color"], envvar="NO_COLOR", is_flag=True, default=None, help="No colours."),
        Option(["-q", "--quiet"], is_flag=True, default=None, help="Print only what was asked for."),
        Option(
            ["--skip-checks"],
            envvar="SKIP_CHECKS",
            is_flag=True,
            default=None,
            help="With Django: do not run its system checks at start.",
        ),
    ]


def _take_global_options(command: click.Command) -> None:
    """Let a command take the global options after its name as well; its help does not repeat them."""
    own = {name for parameter in command.params for name in parameter.opts}
    for extra in global_options():
        if own.isdisjoint(extra.opts):
            extra.hidden, extra.expose_value = True, False
            extra.envvar, extra.allow_from_autoenv = None, False
            extra.callback = _to_session
            command.params.append(extra)


def _to_session(ctx: click.Context, parameter: click.Parameter, value: Any) -> None:
    if value is not None and parameter.name:
        setattr(ctx.ensure_object(Session), parameter.name, value)


class Command(click.Command):
    """A command that takes the global options after its name as well."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        _take_global_options(self)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse the arguments; what is not known may be an option of the application's own."""
        session = ctx.ensure_object(Session)
        try:
            # The application is loaded only if it must be: a daemon imports it after it has detached.
            if help_wanted := _asks_for_help(ctx, args):
                raise click.NoSuchOption("--help")
            rest = super().parse_args(ctx, list(args))
        except click.NoSuchOption:
            ctx.meta[_OWN] = _own_options(self, session, args, quiet=help_wanted)
            ctx.params.clear()
            rest = super().parse_args(ctx, args)
            for name in {option.name for option in preload_options(session)} & ctx.params.keys():
                session.preload[str(name)] = ctx.params.pop(str(name))
        session.parsed = True
        return rest

    def get_params(self, ctx: click.Context) -> list[click.Parameter]:
        """Its own parameters, and those that the application adds."""
        return [*super().get_params(ctx), *ctx.meta.get(_OWN, ())]


_OWN = "celeriac.user_options"


def _own_options(
    command: click.Command, session: Session, args: Sequence[str], quiet: bool
) -> list[click.Option]:
    """The options that the application has for the command, if there is an application.

    ``quiet``: help is asked for, which must be had when the application cannot be loaded, too.
    """
    session.app = session.app or _application_named_in(args)
    if not session.has_application:
        return []
    taken = {name for parameter in command.params for name in parameter.opts}
    try:
        found = [*user_options(session.application, command.name or ""), *preload_options(session)]
    except Failure:
        if not quiet:
            raise
        return []
    return [option for option in found if taken.isdisjoint(option.opts)]


def preload_options(session: Session) -> list[click.Option]:
    """The application's own options for all commands (``app.user_options["preload"]``)."""
    return user_options(session.application, "preload") if session.loaded else []


def _asks_for_help(ctx: click.Context, args: Sequence[str]) -> bool:
    before = args[: args.index("--")] if "--" in args else args
    return not set(ctx.help_option_names).isdisjoint(before)


def _application_named_in(args: Sequence[str]) -> str | None:
    """The value of ``-A`` where the arguments could not be parsed."""
    for position, argument in enumerate(args):
        name, given, value = argument.partition("=")
        if argument in ("-A", "--app") and position + 1 < len(args):
            return args[position + 1]
        if name == "--app" and given:
            return value
        if argument.startswith("-A") and len(argument) > 2:
            return argument[2:].removeprefix("=")
    return None


class Group(click.Group):
    """A group that takes them too, and proposes the nearest command for a mistyped one."""

    command_class = Command

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        _take_global_options(self)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command. Raises ``UsageError`` with a proposal."""
        name = args[0] if args else ""
        if name and not name.startswith("-") and self.get_command(ctx, name) is None:
            raise click.UsageError(self.unknown(ctx, name), ctx)
        return super().resolve_command(ctx, args)

    def unknown(self, ctx: click.Context, name: str) -> str:
        """What is said about a command that does not exist."""
        return f"There is no command {name!r}.{did_you_mean(name, self.list_commands(ctx))}"


pass_session = click.make_pass_decorator(Session, ensure=True)


# -- types of values ---------------------------------------------------------------------------------------


class CommaList(ParamType):
    """Names separated by commas."""

    name = "comma separated list"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> list[str]:
        """Split at the commas; blanks around a name do not count."""
        if isinstance(value, list):
            return value
        return [part.strip() for part in str(value).split(",") if part.strip()]


class Json(ParamType):
    """A JSON value of one kind."""

    def __init__(self, kind: type, name: str, example: str) -> None:
        self.kind, self.name, self.example = kind, name, example

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Read the JSON text; fail with an example if it is something else."""
        if isinstance(value, self.kind):
            return value
        import json  # not above: --help does without

        try:
            found = json.loads(value)
        except ValueError as exc:
            self.fail(f"{value!r} is not JSON: {exc}. For example: '{self.example}'", param, ctx)
        if not isinstance(found, self.kind):
            self.fail(f"{value!r} is not a {self.name}. For example: '{self.example}'", param, ctx)
        return found


class Time(ParamType):
    """A point in time in ISO 8601, or a number of seconds from now where ``seconds`` allows it."""

    def __init__(self, seconds: bool = False) -> None:
        self.seconds = seconds
        self.name = "ISO 8601 or seconds" if seconds else "ISO 8601"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> datetime | float:
        """Return a ``datetime``, or seconds."""
        if isinstance(value, int | float | datetime):
            return value
        if self.seconds:
            try:
                return float(value)
            except ValueError:
                pass
        try:
            return datetime.fromisoformat(value)
        except ValueError:
            also = ", nor a number of seconds" if self.seconds else ""
            self.fail(f"{value!r} is not a time as in 2030-12-31T18:00:00+01:00 (ISO 8601){also}", param, ctx)


class Level(ParamType):
    """A log level, in any case."""

    name = "level"
    names = ("DEBUG", "INFO", "WARNING", "WARN", "ERROR", "CRITICAL", "FATAL")

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Return the level's name in capitals."""
        name = str(value).upper()
        if name not in self.names:
            known = ", ".join(self.names)
            self.fail(f"{value!r} is none of {known}.{did_you_mean(name, self.names)}", param, ctx)
        return name


COMMA_LIST = CommaList()
JSON_ARRAY = Json(list, "JSON array", "[2, 3]")
JSON_OBJECT = Json(dict, "JSON object", '{"x": 2}')
ISO_TIME = Time()
ISO_TIME_OR_SECONDS = Time(seconds=True)
LEVEL = Level()

json_option = option("-j", "--json", "as_json", is_flag=True, help="Print JSON.")
yes_option = option("-y", "--yes", is_flag=True, help="Do not ask.")
