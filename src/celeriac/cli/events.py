"""``celeriac events``: what workers and tasks do, as it happens."""

from __future__ import annotations

import sys
from typing import Any

import click

from celeriac import platforms
from celeriac.cli.daemon import identity_options, settle_in
from celeriac.cli.errors import Failure
from celeriac.cli.options import LEVEL, Command, json_option, option, pass_session
from celeriac.cli.session import Session
from celeriac.exceptions import ImproperlyConfigured
from celeriac.platforms import EX_USAGE


@click.command("events", cls=Command)
@option("-d", "--dump", is_flag=True, help="Write each event as a line.")
@json_option
@option("-c", "--camera", metavar="CLASS", help="Take snapshots with this class, module.Class.")
@option(
    "-F",
    "--frequency",
    "--freq",
    "frequency",
    type=click.FloatRange(min=0, min_open=True),
    default=1.0,
    show_default=True,
    help="Seconds between snapshots.",
)
@option("-r", "--maxrate", metavar="RATE", help="Most snapshots, for example 10/m.")
@option("-l", "--loglevel", type=LEVEL, default="WARNING", show_default=True, help="DEBUG to CRITICAL.")
@option("-f", "--logfile", help="Log of the camera [standard error].")
@option("--pidfile", help="Write the process id here, and start only if no other holds the file.")
@option("--detach", is_flag=True, help="Run the camera in the background.")
@identity_options()
@pass_session
def events(session: Session, /, dump: bool, as_json: bool, camera: str | None, **flags: Any) -> None:
    """Watch what workers and tasks do: as a table in the terminal, as lines, or by a camera of your own.

    Workers tell about tasks when they are started with -E, or by 'celeriac control enable_events'. Where the
    broker carries no events, --dump and --json tell of each attempt from the history, when it has ended.

    \b
    celeriac -A proj events
    celeriac -A proj events --dump
    celeriac -A proj events --camera myapp.Camera --freq 2.0
    """
    if flags["detach"] and not camera:
        raise Failure("--detach is about a camera: give --camera as well", EX_USAGE)
    session.enter()
    ready = settle_in(session, flags, platforms.node_name(None), "the camera's")
    app = session.application
    try:
        app.events.Receiver()  # says so if the broker carries no events
    except ImproperlyConfigured as error:
        if camera or not (dump or as_json) or app.history_store is None:
            raise Failure(str(error)) from None
    if ready:
        ready()
    if camera:
        _take_pictures(app, camera, flags)
    elif as_json:
        _dump_json(session, app)
    elif dump:
        from celeriac.monitor.events.dumper import evdump

        evdump(app)
    else:
        _watch(app)


def _take_pictures(app: Any, camera: str, flags: dict[str, Any]) -> None:
    from celeriac.monitor.events.snapshot import evcam, seconds_between

    try:
        seconds_between(flags["maxrate"])
    except ValueError as error:
        raise Failure(f"--maxrate: {error}", EX_USAGE) from None
    try:
        evcam(
            camera,
            flags["frequency"],
            flags["maxrate"],
            flags["loglevel"],
            flags["logfile"],
            app=app,
        )
    except (ImportError, AttributeError) as error:
        if isinstance(error, AttributeError) and camera.rpartition(".")[2] not in str(error):
            raise
        raise Failure(f"--camera {camera}: {error}", EX_USAGE) from None


def _dump_json(session: Session, app: Any) -> None:
    """An event a line, as JSON."""
    import json

    from celeriac.monitor.events.dumper import listen

    def write(event: dict[str, Any]) -> None:
        print(json.dumps(event, default=str, ensure_ascii=False), flush=True)

    try:
        listen(app, {"*": write}, session.say)
    except KeyboardInterrupt:
        return


def _watch(app: Any) -> None:
    if not sys.stdout.isatty():
        raise Failure("The table needs a terminal: use --dump or --json", EX_USAGE)
    from celeriac.cli.live import watch

    watch(app)
