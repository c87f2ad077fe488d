"""``celeriac worker``: the flags, the daemon's things, and then the worker itself."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

import click

from celeriac import platforms
from celeriac.cli.daemon import identity_options, run_with, settle_in
from celeriac.cli.errors import Failure
from celeriac.cli.options import (
    COMMA_LIST,
    LEVEL,
    SETTLED,
    Command,
    Decorated,
    Option,
    ParamType,
    pass_session,
)
from celeriac.cli.session import Session, default_of, user_options
from celeriac.platforms import EX_USAGE

if TYPE_CHECKING:
    from celeriac.app.base import Celeriac

POOLS: Final = ("prefork", "threads", "asyncio", "solo", "gevent", "eventlet", "processes", "custom")


class WorkerCommand(Command):
    """Writes its options in sections."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write each section's options."""
        sections: dict[str, list[tuple[str, str]]] = {}
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx)
            if record:
                sections.setdefault(getattr(parameter, "section", "Other options"), []).append(record)
        for title, records in sections.items():
            with formatter.section(title):
                formatter.write_dl(records)


class SectionOption(Option):
    """An option that stands in a section of the help."""

    def __init__(self, *args: Any, section: str, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.section = section


class _Section:
    """Declares the options of one section."""

    def __init__(self, title: str) -> None:
        self.title = title

    def __call__(self, *names: str, **settings: Any) -> Callable[[Decorated], Decorated]:
        return click.option(*names, cls=SectionOption, section=self.title, **settings)


class Concurrency(ParamType):
    """A number of processes, threads or coroutines, or ``auto``."""

    name = "number or auto"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Return the number; for ``auto`` that of the processors this process may use."""
        if str(value).lower() == "auto":
            return platforms.cpu_count()
        return click.IntRange(min=1).convert(value, param, ctx)


class Prefetch(ParamType):
    """A prefetch multiplier, or ``auto``."""

    name = "number or auto"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int | str:
        """Return the number or ``"auto"``."""
        return "auto" if str(value).lower() == "auto" else click.IntRange(min=0).convert(value, param, ctx)


class Autoscale(ParamType):
    """``MAX,MIN`` processes."""

    name = "max,min"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Check the form and return the text."""
        parts = str(value).split(",")
        if len(parts) > 2 or not all(part.strip().isdigit() for part in parts) or not int(parts[0]):
            self.fail(f"{value!r} is not of the form MAX,MIN, for example 10,3", param, ctx)
        return ",".join(part.strip() for part in parts)


class Grace(ParamType):
    """Seconds, or ``none`` for no limit; returned in a tuple, because ``None`` means "not given"."""

    name = "seconds or none"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[float | None]:
        """Return ``(seconds,)`` or ``(None,)``."""
        if isinstance(value, tuple):
            return value
        if str(value).lower() in ("none", "inf", "unlimited"):
            return (None,)
        return (click.FloatRange(min=0).convert(value, param, ctx),)


_SECONDS: Final = click.FloatRange(min=0, min_open=True)
_COUNT: Final = click.IntRange(min=1)
_worker, _pool, _queue = _Section("Worker options"), _Section("Pool options"), _Section("Queue options")
_features, _beat, _daemon = (
    _Section("Accepted from Celery"),
    _Section("Embedded beat"),
    _Section("Daemon options"),
)


@click.command("worker", cls=WorkerCommand)
@_worker("-n", "--hostname", help="Name of this node, e.g. w1@%h (%h host, %n its first part, %d domain).")
@_worker("-l", "--loglevel", type=LEVEL, default="WARNING", show_default=True, help="DEBUG to CRITICAL.")
@_worker("-I", "--include", type=COMMA_LIST, help="Modules to import as well.")
@_worker("--prefetch-multiplier", type=Prefetch(), help="Messages held a slot; 1: none beyond what runs.")
@_worker("--disable-prefetch", is_flag=True, default=None, help="Hold no message that does not run.")
@_worker("--shutdown-grace", type=Grace(), help="How long SIGTERM waits for running tasks [setting: 25].")
@_worker("--health", metavar="[HOST:]PORT", help="Answer /livez, /readyz and /metrics there.")
@_worker("--purge", "--discard", is_flag=True, default=None, help="First delete all waiting messages.")
@_worker("-E", "--task-events", "--events", is_flag=True, default=None, help="Send events about tasks.")
@_worker("--heartbeat-interval", type=_SECONDS, metavar="SECONDS", help="Between events of the worker [2].")
@_worker("--without-heartbeat", is_flag=True, default=None, help="Send no events about the worker.")
@_pool("-c", "--concurrency", type=Concurrency(), help="How many tasks run at once [processors].")
@_pool("-P", "--pool", type=click.Choice(POOLS, case_sensitive=False), help="How tasks run [prefork].")
@_pool("--autoscale", type=Autoscale(), help="Most and fewest processes.")
@_pool("--time-limit", type=_SECONDS, metavar="SECONDS", help="Seconds after which a task is killed.")
@_pool(
    "--soft-time-limit",
    type=_SECONDS,
    metavar="SECONDS",
    help="Seconds after which an exception is raised in a task.",
)
@_pool(
    "--max-tasks-per-child", type=_COUNT, metavar="NUMBER", help="Tasks after which a process is replaced."
)
@_pool("--max-memory-per-child", type=_COUNT, metavar="KIB", help="Memory after which a process is replaced.")
@_pool("--pool-start-method", type=click.Choice(["fork", "spawn"]), help="How processes are started.")
@_queue("-Q", "--queues", type=COMMA_LIST, help="Take from these queues only.")
@_queue("-X", "--exclude-queues", type=COMMA_LIST, help="Take from all but these queues.")
@_features("-O", "--optimization", type=click.Choice(["default", "fair"]), help="Always fair.")
@_features("-S", "--statedb", metavar="PATH", help="Not needed: the store keeps revoked ids.")
@_features("--without-gossip", is_flag=True, default=None, help="There is no gossip.")
@_features("--without-mingle", is_flag=True, default=None, help="There is no mingling.")
@_beat("-B", "--beat", is_flag=True, default=None, help="Send periodic tasks too; one of all beats leads.")
@_beat("-s", "--schedule-filename", "--schedule", metavar="PATH", help="Not needed: the store keeps it.")
@_beat("--scheduler", metavar="CLASS", help="Scheduler class for -B [setting: beat_scheduler].")
@_daemon("-D", "--detach", is_flag=True, help="Run in the background.")
@_daemon("-f", "--logfile", help="Log to this file [standard error]; %n, %h, %i, %I are filled in.")
@_daemon("--pidfile", help="Write the process id here, and start only if no other worker holds the file.")
@identity_options(_daemon)
@_daemon("--executable", help="Python interpreter to run with.")
@click.argument("settings", nargs=-1, metavar="[NAME=VALUE]...")
@pass_session
def worker(session: Session, /, settings: tuple[str, ...], **flags: Any) -> int:
    """Start a worker.

    NAME=VALUE changes a setting for this worker: worker.prefetch_multiplier=1.

    \b
    celeriac -A proj worker -l INFO
    celeriac -A proj worker -Q email,default -c 4
    celeriac -A proj worker -P threads -c 50
    """
    _refuse(flags)
    if executable := flags.pop("executable"):
        run_with(executable, "worker")
    node = platforms.node_name(flags["hostname"])
    session.enter()
    ready = settle_in(session, flags, node, "the worker's")
    for name in ("detach", "uid", "gid", "umask", "pidfile"):
        del flags[name]
    app = session.application
    overrides = _settings(settings)
    app.conf.override(overrides)
    for name, sentence in SETTLED.items():
        if flags[name] is not None:
            session.say(sentence)
    options = {name: value for name, value in flags.items() if value is not None}
    options.update(_own_options(app, flags))
    if "shutdown_grace" in options:
        (options["shutdown_grace"],) = options["shutdown_grace"]
    options["hostname"] = node
    node_worker = app.Worker(
        app_spec=session.app,
        workdir=session.workdir and os.getcwd(),
        quiet=bool(session.quiet),
        overrides=overrides,
        **options,
    )
    if ready:
        ready()
    return int(node_worker.start() or 0)


def _own_options(app: Celeriac, flags: dict[str, Any]) -> dict[str, Any]:
    """The options that the application itself has for its workers, given or by default."""
    context = click.get_current_context()
    return {
        option.name: flags[option.name] if option.name in flags else default_of(option, context)
        for option in user_options(app, "worker")
        if option.name
    }


# -- what is refused, before anything is done --------------------------------------------------------------


def _refuse(flags: dict[str, Any]) -> None:
    pool = flags["pool"]
    if pool == "custom":
        raise Failure(
            "--pool=custom: Celery's pool classes cannot run here, because Celeriac's processes take their "
            f"work themselves. Use one of {', '.join(POOLS[:6])}.",
            EX_USAGE,
        )
    if pool in ("gevent", "eventlet") and importlib.util.find_spec(pool) is None:
        raise Failure(f"--pool={pool} needs the library {pool}: pip install 'celeriac[{pool}]'", EX_USAGE)
    if flags["scheduler"] and not flags["beat"]:
        raise Failure("--scheduler is about the embedded beat: give -B as well", EX_USAGE)
    soft, hard = flags["soft_time_limit"], flags["time_limit"]
    if soft and hard and soft > hard:
        raise Failure("--soft-time-limit must be shorter than --time-limit", EX_USAGE)


def _settings(arguments: tuple[str, ...]) -> dict[str, Any]:
    from celeriac.exceptions import ImproperlyConfigured
    from celeriac.settings import from_arguments

    try:
        return from_arguments(arguments)
    except ImproperlyConfigured as exc:
        raise Failure(str(exc), EX_USAGE) from None
