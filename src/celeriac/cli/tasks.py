"""``call``, ``result``, ``revoke`` and ``rate-limit``: one task, or a few."""

from __future__ import annotations

import signal as signals
from pprint import pformat
from typing import TYPE_CHECKING, Any

import click

from celeriac import states
from celeriac.cli import output
from celeriac.cli.errors import Failure, did_you_mean, nearest_task
from celeriac.cli.options import (
    ISO_TIME,
    ISO_TIME_OR_SECONDS,
    JSON_ARRAY,
    JSON_OBJECT,
    Command,
    json_option,
    option,
    pass_session,
)
from celeriac.cli.session import Session
from celeriac.exceptions import TimeoutError
from celeriac.platforms import EX_USAGE

if TYPE_CHECKING:
    from celeriac.app.base import Celeriac
    from celeriac.result import AsyncResult


@click.command("call", cls=Command)
@click.argument("name")
@option("-a", "--args", "args", type=JSON_ARRAY, help="Positional arguments: '[2, 3]'.")
@option("-k", "--kwargs", "kwargs", type=JSON_OBJECT, help="Keyword arguments: '{\"x\": 2}'.")
@option("--eta", type=ISO_TIME, help="Not before this time.")
@option("--countdown", type=float, help="Not before this many seconds from now.")
@option("--expires", type=ISO_TIME_OR_SECONDS, help="Not after this time, or this many seconds from now.")
@option("--serializer", help="Format of the arguments.")
@option("--queue", help="Queue, instead of the one it is routed to.")
@option("--exchange", help="Exchange.")
@option("--routing-key", help="Routing key.")
@option("--force", is_flag=True, help="Also send a name that looks like a mistyped one.")
@pass_session
def call(session: Session, /, name: str, args: Any, kwargs: Any, force: bool, **options: Any) -> None:
    """Send the task NAME and print its id.

    A name that the application does not know is sent as it is: a worker may know it.
    """
    if options["eta"] and options["countdown"] is not None:
        raise Failure("--eta and --countdown say the same thing in two ways: give one", EX_USAGE)
    chosen = {key: value for key, value in options.items() if value is not None}
    app = session.application
    task = _find(session, name)
    try:
        if task is not None:
            result = task.apply_async(args or [], kwargs or {}, **chosen)
        else:
            _warn_unknown(session, app, name, force)
            result = app.send_task(name, args or [], kwargs or {}, **chosen)
    except (TypeError, ValueError) as exc:  # a wrong number of arguments, an unknown serializer
        raise Failure(f"{name}: {exc}", EX_USAGE) from None
    click.echo(result.id)


def _find(session: Session, name: str) -> Any:
    tasks = session.application.tasks
    if name not in tasks:
        session.import_tasks()
    return tasks.get(name)


def _warn_unknown(session: Session, app: Celeriac, name: str, force: bool) -> None:
    proposal = nearest_task(name, app.tasks)
    if proposal and not force:
        raise Failure(
            f"the application has no task {name!r}.{proposal} (--force sends it all the same)", EX_USAGE
        )
    if session.app:
        session.say(f"The application has no task {name!r}: sent for workers that know it.")


@click.command("result", cls=Command)
@click.argument("task_id")
@option("-t", "--task", "task_name", help="Name of the task, if its result is read in a special way.")
@option("--traceback", is_flag=True, help="Print the traceback instead.")
@option("--timeout", type=click.FloatRange(min=0), help="Seconds to wait if it is not there yet [no limit].")
@json_option
@pass_session
def result(
    session: Session,
    /,
    task_id: str,
    task_name: str | None,
    traceback: bool,
    timeout: float | None,
    as_json: bool,
) -> int:
    """Print the result of the task TASK_ID, waiting for it if need be.

    The exit status is 1 if the task failed or the result did not come in time.
    """
    app = session.application
    _require_backend(app)
    task = _find(session, task_name) if task_name else None
    outcome = task.AsyncResult(task_id) if task is not None else app.AsyncResult(task_id)
    if not outcome.ready():
        if timeout is None:
            session.say(f"The task is {outcome.state} ({outcome.presence.value}); waiting, Ctrl-C ends it.")
        _wait(outcome, timeout)
    if as_json:
        output.dump(_as_dict(outcome))
    elif traceback:
        click.echo((outcome.traceback or "").rstrip() or f"{outcome.state}, no traceback")
    else:
        value = outcome.result
        if outcome.state in states.PROPAGATE_STATES:
            click.echo(f"{outcome.state}: {type(value).__name__}: {value}")
        else:
            click.echo(value if isinstance(value, str) else pformat(value))
    return 0 if outcome.successful() else 1


def _require_backend(app: Celeriac) -> None:
    if app.backend is None:
        raise Failure("this application keeps no results: its result_backend is disabled")


def _wait(outcome: AsyncResult[Any], timeout: float | None) -> None:
    try:
        outcome.get(timeout=timeout, propagate=False)
    except TimeoutError:
        raise Failure(
            f"no result of {outcome.id} after {timeout:g} s: it is {outcome.state} ({outcome.presence.value})"
        ) from None


def _as_dict(outcome: AsyncResult[Any]) -> dict[str, Any]:
    return {
        "task_id": outcome.id,
        "status": outcome.state,
        "result": outcome.result,
        "traceback": outcome.traceback,
        "date_done": outcome.date_done,
    }


@click.command("revoke", cls=Command)
@click.argument("task_ids", nargs=-1, required=True, metavar="TASK_ID...")
@option("--terminate", is_flag=True, help="Also end those that run already.")
@option("--signal", default="SIGTERM", show_default=True, help="Signal for --terminate.")
@pass_session
def revoke(session: Session, /, task_ids: tuple[str, ...], terminate: bool, signal: str) -> None:
    """Do not run the tasks TASK_ID.

    It is stored, so that workers which start later know it as well.
    """
    name = signal.upper() if signal.upper().startswith("SIG") else f"SIG{signal.upper()}"
    if name not in signals.Signals.__members__:
        raise Failure(
            f"--signal: there is no signal {signal!r}.{did_you_mean(name, signals.Signals.__members__)}",
            EX_USAGE,
        )
    session.application.control.revoke(list(task_ids), terminate=terminate, signal=name)
    session.say(f"Revoked {output.count(len(task_ids), 'task')}.")


@click.command("rate-limit", cls=Command)
@click.argument("task_name")
@click.argument("rate")
@pass_session
def rate_limit(session: Session, /, task_name: str, rate: str) -> None:
    """Limit how often TASK_NAME starts, on all workers together.

    RATE is like 10/s, 10/m or 10/h; 0 means no limit, and "default" the limit that the code gives.
    """
    app = session.application
    if _find(session, task_name) is None:
        proposal = nearest_task(task_name, app.tasks)
        raise Failure(f"the application has no task {task_name!r}.{proposal}", EX_USAGE)
    app.control.rate_limit(task_name, _rate(rate))
    session.say(f"{task_name}: {'the limit in the code' if rate == 'default' else rate}.")


def _rate(text: str) -> str | None:
    """The limit as the store keeps it: ``None`` removes the override, "" is no limit."""
    if text == "default":
        return None
    number, _, unit = text.partition("/")
    try:
        value = float(number)
    except ValueError:
        value = -1.0
    if value < 0 or unit not in ("", "s", "m", "h"):
        raise Failure(f"{text!r} is not a rate such as 10/s, 10/m, 10/h, 0 or default", EX_USAGE)
    return text if value else ""
