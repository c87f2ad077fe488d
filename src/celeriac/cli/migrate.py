"""``migrate``: move messages from one store to another."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

import click

from celeriac.cli import output
from celeriac.cli.errors import Failure
from celeriac.cli.options import COMMA_LIST, Command, json_option, option, pass_session
from celeriac.cli.session import Session
from celeriac.platforms import EX_FAILURE, EX_USAGE

if TYPE_CHECKING:
    from celeriac.moving.mover import Mover
    from celeriac.moving.report import Report
    from celeriac.routing.queues import Binding

_TELL_EVERY: Final = 5.0
"""Seconds between two lines of progress where there is no terminal."""


@click.command("migrate", cls=Command)
@click.argument("source", metavar="SOURCE")
@click.argument("destination", metavar="DESTINATION")
@option("-n", "--limit", type=click.IntRange(min=1), help="Move so many messages at most.")
@option(
    "-t",
    "--timeout",
    type=click.FloatRange(min=0),
    default=1.0,
    show_default=True,
    help="Once everything is moved, wait so many seconds for more.",
)
@option(
    "-a",
    "--ack-messages",
    "acks",
    is_flag=True,
    help="For Celery's sake: there, messages are copied without it. Here they are always moved, for a "
    "message in both places would run twice.",
)
@option("-T", "--tasks", type=COMMA_LIST, help="Only messages of these tasks (names with commas).")
@option("-Q", "--queues", type=COMMA_LIST, help="Only these queues; NAME:OTHER gives one another name there.")
@option("-F", "--forever", is_flag=True, help="Go on moving what arrives, until Ctrl-C.")
@json_option
@pass_session
def migrate(
    session: Session,
    /,
    source: str,
    destination: str,
    limit: int | None,
    timeout: float,
    acks: bool,
    tasks: Sequence[str] | None,
    queues: Sequence[str] | None,
    forever: bool,
    as_json: bool,
) -> int:
    """Move ready, delayed, parked and dead messages from SOURCE to DESTINATION, both URLs of brokers.

    Priorities, due times, order, unique keys, bindings, revoked ids and the dead letters' reasons go along.
    What workers hold stays and is named: stop them in order before, or run this again afterwards. Results,
    groups, counted chords and schedules stay as well.

    It may be stopped or killed at any moment and run again: nothing is lost, and what has arrived is not sent
    twice. (RabbitMQ stores a batch message by message: a kill may leave one message in both places there.)
    Ctrl-C ends it after the current step. Status 1 says that something stayed in SOURCE.
    """
    del acks  # settled by design: see its help
    if not session.has_application:
        session.enter()
    goals = _goals(queues)
    with _opened(session, source, "SOURCE") as here, _opened(session, destination, "DESTINATION") as there:
        from celeriac.moving.mover import Mover, Wanted
        from celeriac.worker.node import process_lives

        ties = _ties(session)
        if not goals and not getattr(here, "lists_queues", True):
            goals = {name: name for name in _names(session)}
        wanted = Wanted(goals, frozenset(tasks or ()), limit, timeout, forever, ties)
        progress = Progress(bool(session.quiet))
        mover = Mover(here, there, _node(), process_lives, wanted, progress)
        with _stopping(mover, session):
            report = mover.run()
        progress.end()
    _tell(session, report, as_json)
    return EX_FAILURE if report.left else 0


class Progress:
    """Says on standard error how far it is: one line that changes on a terminal, else one now and then."""

    def __init__(self, quiet: bool) -> None:
        self._quiet = quiet
        self._terminal = sys.stderr.isatty()
        self._told = self._begun = time.monotonic()

    def __call__(self, report: Report) -> None:
        """Show it, if it is time."""
        now = time.monotonic()
        if self._quiet or now - self._told < (0.1 if self._terminal else _TELL_EVERY):
            return
        self._told = now
        rate = report.total / max(now - self._begun, 0.001)
        counts = (f"{report.ready.total():,} ready", f"{report.delayed.total():,} delayed")
        text = f"Moved {', '.join(counts)}, {report.dead.total():,} dead ({rate:,.0f}/s)"
        click.echo(f"\r{text:70}" if self._terminal else text, err=True, nl=not self._terminal)

    def end(self) -> None:
        """Leave the line that changes."""
        if self._terminal and not self._quiet:
            click.echo("", err=True)


def _tell(session: Session, report: Report, as_json: bool) -> None:
    if as_json:
        output.dump(report.as_dict())
        return
    moved = report.as_dict()["moved"]
    if moved:
        rows = [(name, row["ready"], row["delayed"], row["dead"]) for name, row in moved.items()]
        output.table(("QUEUE", "READY", "DELAYED", "DEAD"), rows)
    click.echo(f"Moved {output.count(report.total, 'message')}.")
    if report.repeated:
        session.say(f"{output.count(report.repeated, 'message')} had been moved by an earlier run.")
    for queue, sentences in report.left.items():
        for sentence in sentences:
            click.echo(f"Left in {queue}: {sentence}", err=True)


def _goals(queues: Sequence[str] | None) -> dict[str, str]:
    goals = {}
    for text in queues or ():
        name, _, other = text.partition(":")
        if not name:
            raise Failure(f"-Q: {text!r} names no queue: write NAME or NAME:OTHER", EX_USAGE)
        goals[name] = other or name
    return goals


@contextmanager
def _opened(session: Session, url: str, which: str) -> Iterator[Any]:
    """The engine at a URL, with the application's options if one is named."""
    from celeriac import engines

    if "://" not in url:
        raise Failure(f"{which}: {url!r} is no URL: write sqlite:///celeriac.db or redis://...", EX_USAGE)
    if url.startswith("memory:"):
        raise Failure(f"{which}: the memory of another process cannot be reached", EX_USAGE)
    # Of RabbitMQ: no more is fetched than is asked for, so that an empty answer means an empty queue.
    options = {"exact_prefetch": True} if url.startswith(("amqp", "pyamqp")) else {}
    if session.has_application:
        from celeriac.app.stores import Stores

        engine: Any = Stores(session.application).open_at(url, **options)
    else:
        engine = engines.create(url, options)
    try:
        yield engine
    finally:
        engine.close()


def _names(session: Session) -> list[str]:
    return list(session.application.queues) if session.has_application else []


def _ties(session: Session) -> list[Binding]:
    if not session.has_application:
        return []
    queues = session.application.queues
    return [tie for name, queue in queues.items() for tie in queue.bindings(name)]


def _node() -> Any:
    """Who this process is at both ends: their workers see it, and know when it has died."""
    from celeriac import __version__
    from celeriac.engines.base import NodeInfo
    from celeriac.message import new_id
    from celeriac.platforms import node_name
    from celeriac.worker.node import host_identity, process_start

    pid = os.getpid()
    started = process_start(pid)
    name = node_name("migrate@%h")
    return NodeInfo(
        f"{name}/{pid}.{int(started)}.{new_id()[:8]}",
        name,
        host_identity(),
        pid,
        started,
        details={"version": __version__},
    )


@contextmanager
def _stopping(mover: Mover, session: Session) -> Iterator[None]:
    """Let the first Ctrl-C (or SIGTERM) end the work after its step, the second one at once."""

    def stop(number: int, frame: object) -> None:
        for one in before:
            signal.signal(one, signal.SIG_DFL if one == signal.SIGTERM else signal.default_int_handler)
        session.say("Stopping after this step. Once more breaks off; then run the command again.")
        mover.stop()

    before = {one: signal.signal(one, stop) for one in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
