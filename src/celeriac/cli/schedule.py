"""``schedule``: periodic tasks, to be looked at, paused, run now, added and removed while beats run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import click
import msgspec

from celeriac.cli import output
from celeriac.cli.errors import Failure, nearest_task
from celeriac.cli.options import (
    ISO_TIME,
    JSON_ARRAY,
    JSON_OBJECT,
    Group,
    json_option,
    option,
    pass_session,
    yes_option,
)
from celeriac.cli.session import Session
from celeriac.exceptions import EntryNotFound, ImproperlyConfigured
from celeriac.platforms import EX_USAGE

if TYPE_CHECKING:
    from celeriac.app.schedule import Entries, EntryView
    from celeriac.schedules import BaseSchedule

OVERDUE: Final = 1.0
"""Seconds from which a tick that is not sent is shown as overdue."""


@click.group("schedule", cls=Group)
def schedule() -> None:
    """List, show, add, pause, resume, run and remove periodic tasks.

    Beats follow a change within a second. What stands in the code can be paused, resumed and run here, and is
    changed there.
    """


@schedule.command("list")
@json_option
@pass_session
def list_(session: Session, /, as_json: bool) -> None:
    """List periodic tasks with their next and last runs."""
    entries = _entries(session).list()
    if as_json:
        output.dump([msgspec.structs.asdict(entry) for entry in entries])
        return
    _say_who_leads(session)
    if not entries:
        session.say("No periodic tasks. Those of the code are here once a beat has led.")
        return
    now = datetime.now(UTC)
    late = [entry.overdue for entry in entries if entry.overdue >= OVERDUE]
    if late:
        session.say(f"{len(late)} overdue, by up to {output.span(max(late))}.")
    output.table(
        ("NAME", "TASK", "WHEN", "NEXT", "LAST", "OUTCOME", "LATE", "RUNS", "SKIPPED", "SOURCE"),
        [_row(entry, now) for entry in entries],
    )


@schedule.command("show", short_help="Show one with all that is known of it.")
@click.argument("name")
@json_option
@pass_session
def show(session: Session, /, name: str, as_json: bool) -> None:
    """Show the periodic task NAME."""
    entry = _checked(lambda: _entries(session).get(name))
    whole = msgspec.structs.asdict(entry)
    if as_json:
        output.dump(whole)
        return
    definition = whole.pop("definition")
    more = sorted(key for key in definition.keys() - whole.keys() if definition[key] not in (None, [], {}))
    whole.update((key, definition[key]) for key in more)
    width = max(map(len, whole))
    for key, value in whole.items():
        said = _local(value) if isinstance(value, datetime) else "-" if value is None else value
        click.echo(f"{click.style(key.ljust(width), bold=True)}  {said}")


@schedule.command("add", short_help="Add one.")
@click.argument("name")
@click.argument("task")
@option("--every", type=float, metavar="SECONDS", help="At this interval.")
@option("--cron", metavar="TEXT", help="As unix cron says: '*/5 * * * *', '@daily'.")
@option("--crontab", metavar="TEXT", help="As Celery's crontab: days of week and month must both fit.")
@option("--at", type=ISO_TIME, help="Once, at this time.")
@option("--zone", help="Time zone of --cron and --crontab: 'Europe/Berlin'.")
@option("-a", "--args", "args", type=JSON_ARRAY, help="Positional arguments: '[2, 3]'.")
@option("-k", "--kwargs", "kwargs", type=JSON_OBJECT, help="Keyword arguments: '{\"x\": 2}'.")
@option("--options", type=JSON_OBJECT, help='Options of apply_async: \'{"queue": "slow"}\'.')
@option("--jitter", type=float, metavar="SECONDS", help="Send each up to so much later.")
@option("--start", type=ISO_TIME, help="Not before this time.")
@option("--end", type=ISO_TIME, help="Not after this time.")
@option("--expires", type=float, metavar="SECONDS", help="Do not start the task later than this.")
@option("--missed", type=click.Choice(["once", "skip", "all"]), help="What becomes of missed ticks.")
@option("--no-overlap", is_flag=True, help="Leave a tick out while the task before still runs.")
@option("--force", is_flag=True, help="Also take a task name that looks like a mistyped one.")
@pass_session
def add(session: Session, /, name: str, task: str, no_overlap: bool, force: bool, **given: Any) -> None:
    """Add the periodic task NAME, which sends TASK (by its name)."""
    session.import_tasks()
    known = session.application.tasks
    proposal = "" if task in known or force else nearest_task(task, known)
    if proposal:
        raise Failure(
            f"the application has no task {task!r}.{proposal} (--force takes it all the same)", EX_USAGE
        )
    when = _schedule(**{key: given.pop(key) for key in ("every", "cron", "crontab", "at", "zone")})
    fields = {key: value for key, value in given.items() if value is not None}
    if no_overlap:
        fields["overlap"] = False
    entry = _checked(lambda: _entries(session).add(name, task, when, **fields))
    click.echo(f"Added {name}: {_when(entry)}, next {_soon(entry.next_due, datetime.now(UTC))}.")
    _say_who_leads(session)


@schedule.command("pause", short_help="Send it no more until it is resumed.")
@click.argument("names", nargs=-1, required=True, metavar="NAME...")
@pass_session
def pause(session: Session, /, names: tuple[str, ...]) -> None:
    """Do not send the periodic tasks NAME any more until they are resumed; also over restarts."""
    _each(names, _entries(session).pause, "Paused")


@schedule.command("resume", short_help="Send a paused one again.")
@click.argument("names", nargs=-1, required=True, metavar="NAME...")
@pass_session
def resume(session: Session, /, names: tuple[str, ...]) -> None:
    """Send the paused periodic tasks NAME again; what fell due meanwhile is not made up for."""
    _each(names, _entries(session).resume, "Resumed")


@schedule.command("run", short_help="Send its task now.")
@click.argument("name")
@pass_session
def run(session: Session, /, name: str) -> None:
    """Send the task of NAME now, out of turn, and print its id."""
    result = _checked(lambda: _entries(session).run(name))
    if result.duplicate:
        session.say(f"{name} waits or runs already, and its runs must not overlap: nothing was sent.")
    click.echo(result.id)


@schedule.command("remove", short_help="Remove one.")
@click.argument("names", nargs=-1, required=True, metavar="NAME...")
@yes_option
@pass_session
def remove(session: Session, /, names: tuple[str, ...], yes: bool) -> None:
    """Remove the periodic tasks NAME for good."""
    if not yes:
        click.confirm(f"Remove {', '.join(names)}?", abort=True, err=True)
    _each(names, _entries(session).remove, "Removed")


def _entries(session: Session) -> Entries:
    session.import_tasks()
    found: Entries = session.application.schedule
    return found


def _checked(step: Callable[[], Any]) -> Any:
    """Do it; what is wrong with the arguments is the user's mistake, and said without a traceback."""
    try:
        return step()
    except EntryNotFound as error:
        raise Failure(str(error.args[0])) from None
    except (TypeError, ValueError, ImproperlyConfigured) as error:
        raise Failure(str(error), EX_USAGE) from None


def _each(names: Sequence[str], step: Callable[[str], None], done: str) -> None:
    for name in names:
        _checked(partial(step, name))
        click.echo(f"{done} {name}.")


def _schedule(
    every: float | None, cron: str | None, crontab: str | None, at: datetime | None, zone: str | None
) -> BaseSchedule:
    from celeriac import schedules

    if sum(value is not None for value in (every, cron, crontab, at)) != 1:
        raise Failure("say when: one of --every, --cron, --crontab and --at", EX_USAGE)
    if zone and (every is not None or at is not None):
        raise Failure("--zone belongs to --cron and --crontab", EX_USAGE)
    try:
        if every is not None:
            return schedules.schedule(every)
        if at is not None:
            return schedules.clocked(at if at.tzinfo else at.astimezone())
        if cron is not None:
            return schedules.cron(cron, tz=zone)
        return schedules.crontab.from_string(str(crontab), tz=zone)
    except (ValueError, TypeError, schedules.ParseException) as error:
        raise Failure(str(error), EX_USAGE) from None


def _say_who_leads(session: Session) -> None:
    from celeriac.app.stores import schedule_scope

    coordinator = session.application.coordinator
    term = coordinator.leader() if coordinator is not None else None
    if term is not None:
        session.say(f"Beat {term.holder} leads.")
    else:
        scope = schedule_scope(session.application)
        whose = f" of the scope {scope!r}" if scope else ""
        session.say(f"No beat{whose} leads: nothing is sent. Start one: celeriac beat, or a worker with -B.")


def _row(entry: EntryView, now: datetime) -> tuple[Any, ...]:
    last = "-" if entry.last_run is None else f"{output.span((now - entry.last_run).total_seconds())} ago"
    return (
        entry.name,
        entry.task,
        _when(entry),
        _coming(entry, now),
        last,
        entry.last_state or "-",
        output.span(entry.lateness) or "-",
        entry.runs,
        entry.skipped,
        entry.source,
    )


def _when(entry: EntryView) -> str:
    """The schedule for people, with its own zone if it has one."""
    written = entry.definition.get("schedule")
    zone = written.get("tz") if isinstance(written, dict) else None
    said = entry.schedule.removeprefix("<").removesuffix(">")
    return f"{said} ({zone})" if zone else said


def _coming(entry: EntryView, now: datetime) -> str:
    if not entry.enabled:
        return "paused"
    if entry.overdue >= OVERDUE:
        return f"overdue {output.span(entry.overdue)}"
    return _soon(entry.next_due, now)


def _soon(due: datetime | None, now: datetime) -> str:
    if due is None:
        return "-"
    seconds = (due - now).total_seconds()
    return "now" if seconds <= 0 else f"in {output.span(seconds)}"


def _local(moment: datetime) -> str:
    return output.moment(moment.timestamp())
