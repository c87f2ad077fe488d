"""``history``: what became of each attempt to run a task, as its workers noted it."""

from __future__ import annotations

import re
from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

import click

from celeriac.cli import output
from celeriac.cli.errors import Failure
from celeriac.cli.options import COMMA_LIST, ISO_TIME, Command, ParamType, json_option, option, pass_session
from celeriac.cli.session import Session
from celeriac.exceptions import ImproperlyConfigured
from celeriac.platforms import EX_USAGE

if TYPE_CHECKING:
    from celeriac.engines.history import Attempt

_UNITS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_LAST: Final = 50
_PAGE: Final = 1000


class Ago(ParamType):
    """A point in time, or how long ago it was."""

    name = "ISO 8601, or ago: 30s, 15m, 2h, 7d"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return a ``datetime`` or a ``timedelta``."""
        if not isinstance(value, str):
            return value
        ago = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([smhd])", value.strip())
        if ago:
            return timedelta(seconds=float(ago[1]) * _UNITS[ago[2]])
        try:
            return ISO_TIME.convert(value, param, ctx)
        except click.BadParameter:
            self.fail(
                f"{value!r} is neither a time as in 2030-12-31T18:00:00 nor so long ago as in 15m or 2h",
                param,
                ctx,
            )


AGO: Final = Ago()


@click.command("history", cls=Command)
@click.argument("task_id", required=False)
@option("--id", "id_", help="All attempts of the task with this id; the same as the argument.")
@option("--task", help="Of this task.")
@option("--state", "states", type=COMMA_LIST, help="That ended so: FAILURE,RETRY,LOST,...")
@option("--worker", help="Of this node.")
@option("--queue", help="From this queue.")
@option("--since", type=AGO, help="That ended then or later.")
@option("--until", type=AGO, help="That ended then or earlier.")
@option("--limit", type=click.IntRange(min=1), default=_LAST, show_default=True, help="The last so many.")
@option("--follow", is_flag=True, help="Go on with those that come, until Ctrl-C.")
@json_option
@pass_session
def history(
    session: Session,
    /,
    task_id: str | None,
    id_: str | None,
    states: list[str] | None,
    limit: int,
    follow: bool,
    as_json: bool,
    **wanted: Any,
) -> None:
    """Show what became of each attempt to run a task, the newest last.

    With TASK_ID all attempts of that task: how each ended, where, and why.
    """
    if task_id and id_ and task_id != id_:
        raise Failure("two ids are given: one as argument, one with --id", EX_USAGE)
    if follow and wanted["until"] is not None:
        raise Failure("--follow has no end: leave --until out", EX_USAGE)
    criteria = {name: value for name, value in wanted.items() if value is not None}
    criteria |= {"id": task_id or id_ or "", "states": [state.upper() for state in states or ()]}
    try:
        if follow:
            _follow(session, criteria, limit, as_json)
        else:
            _show(session, criteria, limit, as_json)
    except ImproperlyConfigured as error:
        raise Failure(str(error)) from None


def _show(session: Session, criteria: dict[str, Any], limit: int, as_json: bool) -> None:
    read = session.application.history
    page = read(**criteria, limit=min(limit, _PAGE))
    attempts: list[Attempt] = [*page]
    while page.next and len(attempts) < limit:
        page = read(**criteria, limit=min(limit - len(attempts), _PAGE), before=page.next)
        attempts += page
    attempts.reverse()
    if as_json:
        output.dump([_as_dict(attempt) for attempt in attempts])
    elif not attempts:
        session.say(_nothing(session, criteria))
    elif criteria["id"]:
        _explain(attempts)
    else:
        output.table(_HEAD, [_row(attempt) for attempt in attempts])
    if page.next and not as_json:
        session.say(f"These are the last {len(attempts)}; --limit shows more.")


def _follow(session: Session, criteria: dict[str, Any], limit: int, as_json: bool) -> None:
    import json

    for number, attempt in enumerate(session.application.history.follow(past=limit, **criteria)):
        if as_json:
            click.echo(json.dumps(_as_dict(attempt), ensure_ascii=False))
            continue
        if not number:
            click.secho(_line(_HEAD), bold=True)
        click.echo(_line([output.text(value) for value in _row(attempt)]))


def _nothing(session: Session, criteria: dict[str, Any]) -> str:
    conf = session.application.conf
    if not conf.task_history:
        return "No attempts: task_history is off."
    kept = f"the last {session.application.history.most:,}, for {output.span(conf.task_history_expires)}"
    fit = " that fit" if any(criteria.values()) else ""
    return f"No attempts{fit}. Kept are {kept}."


# -- as text -----------------------------------------------------------------------------------------

_HEAD: Final = ("ENDED", "STATE", "TASK", "ID", "WORKER", "TRY", "RUNTIME", "CALL AND OUTCOME")
_WIDTHS: Final = (19, 8, 24, 36, 20, 3, 10)


def _row(attempt: Attempt) -> tuple[Any, ...]:
    call = f"({_call(attempt)})"
    told = attempt.error or attempt.result
    return (
        output.moment(attempt.ended),
        attempt.state,
        attempt.task,
        attempt.id,
        attempt.worker,
        attempt.retries + attempt.deliveries + 1 if attempt.started else None,
        _length(attempt),
        f"{call} {'!' if attempt.error else '->'} {told}" if told else call,
    )


def _line(cells: Iterable[str]) -> str:
    """A line of a table whose rows are not known yet."""
    *first, last = cells
    return "  ".join([*(cell.ljust(width) for cell, width in zip(first, _WIDTHS, strict=True)), last])


def _explain(attempts: list[Attempt]) -> None:
    """All attempts of one task: each with its reason."""
    newest = attempts[-1]
    click.echo(f"{output.text(newest.task)}({output.text(_call(newest))})")
    tries: list[int] = []
    for attempt in attempts:  # a run that died did not know of those before it
        tries.append(max(attempt.retries + attempt.deliveries + 1, max(tries, default=0) + 1))
    rows = [
        (
            number if attempt.started else None,
            attempt.state,
            output.moment(attempt.started) if attempt.started else "not run",
            _length(attempt),
            attempt.queue,
            attempt.worker,
            attempt.pid or None,
            attempt.error or attempt.result,
        )
        for number, attempt in zip(tries, attempts, strict=True)
    ]
    output.table(("TRY", "STATE", "STARTED", "RUNTIME", "QUEUE", "WORKER", "PID", "OUTCOME"), rows, True)


def _call(attempt: Attempt) -> str:
    """The arguments without their outer brackets."""
    parts = (attempt.args, attempt.kwargs)
    bare = [part[1:-1].rstrip(",") if part[:1] in ("(", "[", "{") else part for part in parts]
    return ", ".join(part for part in bare if part)


def _length(attempt: Attempt) -> str:
    if not attempt.started:
        return "-"
    seconds = attempt.runtime
    return f"{seconds * 1000:.3g} ms" if seconds < 1 else str(output.span(seconds))


# -- as JSON -----------------------------------------------------------------------------------------


def _as_dict(attempt: Attempt) -> dict[str, Any]:
    """By names, times in ISO 8601."""
    import msgspec

    found = msgspec.structs.asdict(attempt)
    for name in ("ended", "received", "started"):
        moment: float = found[name]
        found[name] = datetime.fromtimestamp(moment).astimezone().isoformat() if moment else None
    return found
