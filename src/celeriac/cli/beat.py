"""``celeriac beat``: the flags, the daemon's things, and then the beat itself."""

from __future__ import annotations

import os
import signal
import socket
import sys
from typing import TYPE_CHECKING, Any, Final

import click

from celeriac import __version__, platforms
from celeriac.cli.daemon import identity_options, run_with, settle_in
from celeriac.cli.errors import Failure
from celeriac.cli.options import LEVEL, SETTLED, Command, option, pass_session
from celeriac.cli.session import Session
from celeriac.platforms import EX_USAGE

if TYPE_CHECKING:
    from celeriac.beat import Beat

SHOWN: Final = 1000
"""Entries up to which the start-up message looks for the next one that is due."""


@click.command("beat", cls=Command)
@option("-n", "--hostname", help="Name of this beat [celerybeat@%h].")
@option("-l", "--loglevel", type=LEVEL, default="WARNING", show_default=True, help="DEBUG to CRITICAL.")
@option("--max-interval", type=click.FloatRange(min=0, min_open=True), help="Longest sleep, in seconds.")
@option("-S", "--scheduler", metavar="CLASS", help="Scheduler class [setting: beat_scheduler].")
@option("-s", "--schedule", "schedule_filename", metavar="PATH", help="Not needed: the store keeps it.")
@option(
    "--enable-remote-control/--no-enable-remote-control",
    default=None,
    help="Answer 'celeriac inspect ping' [setting: beat_enable_remote_control].",
)
@option("--health", metavar="[HOST:]PORT", help="Answer /livez, /readyz and /metrics there.")
@option("--detach", is_flag=True, help="Run in the background.")
@option("-f", "--logfile", help="Log to this file [standard error]; %n and %h are filled in.")
@option("--pidfile", help="Write the process id here, and start only if no other beat holds the file.")
@identity_options()
@option("--executable", help="Python interpreter to run with.")
@pass_session
def beat(session: Session, /, **flags: Any) -> int:
    """Send periodic tasks when they are due.

    Start as many as you like, on several machines: one leads, the others take over within seconds when it
    dies, and at once when it is stopped.

    \b
    celeriac -A proj beat -l INFO
    """
    if executable := flags.pop("executable"):
        run_with(executable, "beat")
    name = _name(flags["hostname"])
    session.enter()
    ready = settle_in(session, flags, name, "beat's")
    app = session.application
    if flags["schedule_filename"]:
        session.say(SETTLED["schedule_filename"])
    session.import_tasks()
    app.conf.check()
    from celeriac.beat import Beat
    from celeriac.beat.scheduler import find_scheduler

    find_scheduler(app, flags["scheduler"])  # a mistake here is said before standard error becomes a log
    app.log.setup(
        flags["loglevel"],
        flags["logfile"],
        redirect_stdouts=app.conf.worker_redirect_stdouts,
        redirect_level=app.conf.worker_redirect_stdouts_level,
        hostname=name,
    )
    service = Beat(app, flags["max_interval"], flags["scheduler"], name)
    if where := flags["health"] or app.conf.beat_health:
        _answer(service, where)
    if not session.quiet:
        print(_banner(service), file=sys.__stdout__, flush=True)  # sys.stdout may be a log by now
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT):
        if signal.getsignal(number) is not signal.SIG_IGN:  # nohup
            signal.signal(number, lambda *_: service.stop())
    if ready:
        ready()
    asked = flags["enable_remote_control"]
    if app.conf.beat_enable_remote_control if asked is None else asked:
        from celeriac.beat.answering import Answering

        with Answering(service):
            service.run()
    else:
        service.run()
    return 0


def _answer(service: Beat, where: str) -> None:
    from celeriac.beat.health import Health
    from celeriac.exceptions import ImproperlyConfigured
    from celeriac.monitor.listening import listen

    try:
        listening = listen(where)
    except ImproperlyConfigured as error:
        raise Failure(str(error), EX_USAGE) from None
    Health(service, listening).start()


def _name(given: str | None) -> str:
    if given:
        return platforms.node_name(given)
    return f"celerybeat@{socket.gethostname()}"


def _banner(service: Beat) -> str:
    app = service.app
    lines = [
        f"celeriac {__version__}  {service.hostname}",
        "",
        "[config]",
        f"  app:          {app.main or '(unnamed)'}",
        f"  scope:        {service.firing.scope or '(none)'}",
        f"  broker:       {app.broker_shown}",
        f"  time zone:    {app.timezone}",
        f"  process:      {os.getpid()}",
        "",
        "[schedule]",
        *_schedule(service),
    ]
    if service.scheduler is not None and service.scheduler.info:
        lines.append(f"  scheduler:    {service.scheduler.info}")
    return "\n".join([*lines, ""])


def _schedule(service: Beat) -> list[str]:
    """Who leads, how many entries there are, and what is due next, as far as the store can be asked now."""
    from celeriac.exceptions import OperationalError

    try:
        return _found(service)
    except OperationalError:
        return [f"  entries:      {len(service.code)} in the code", "  store:        cannot be reached yet"]


def _found(service: Beat) -> list[str]:
    leader = service.store.leader()
    entries = service.store.schedule().entries
    stored = sum(entry.source != "code" for entry in entries)
    lines = [
        f"  leads:        {leader.holder.partition(':')[2] if leader else 'nobody yet'}",
        f"  entries:      {len(service.code)} in the code, {stored} added at run time",
    ]
    if 0 < len(entries) <= SHOWN and not service.single:
        coming = [(view.next_due, view.name) for view in service.app.schedule.list() if view.next_due]
        if coming:
            due, name = min(coming)
            local = due.astimezone(service.app.timezone)
            lines.append(f"  next due:     {name}, {local:%Y-%m-%d %H:%M:%S %Z}")
    return lines
