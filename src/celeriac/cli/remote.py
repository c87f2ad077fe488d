"""``inspect`` and ``control``: questions and orders to the workers that run now."""

from __future__ import annotations

import json
import re
import textwrap
from collections.abc import Callable, Mapping, Sequence
from inspect import signature
from typing import TYPE_CHECKING, Any, Final

import click

from celeriac.cli import output
from celeriac.cli.errors import Failure, did_you_mean
from celeriac.cli.options import COMMA_LIST, Command, json_option, option, pass_session
from celeriac.cli.session import Session
from celeriac.platforms import EX_UNAVAILABLE, EX_USAGE

if TYPE_CHECKING:
    from celeriac.worker.control import CommandInfo

Decorated = Callable[..., Any]
NOBODY: Final = "No nodes replied within time constraint"
_KEPT: Final = ("rate_limit", "revoke", "revoke_by_stamped_headers", "terminate")
"""Orders that are stored too, for workers that start later."""


def _options(command: Decorated) -> Decorated:
    decorators = (
        click.argument("name", required=False, metavar="COMMAND"),
        click.argument("values", nargs=-1, metavar="[ARGS]..."),
        option("--list", "as_list", is_flag=True, help="List the commands and exit."),
        option(
            "-t",
            "--timeout",
            type=click.FloatRange(min=0),
            help="Seconds to wait for answers (1, or what the command says).",
        ),
        option("-d", "--destination", type=COMMA_LIST, help="Only these nodes."),
        option("--pattern", help="Only nodes whose names match this."),
        option("--matcher", type=click.Choice(["glob", "pcre"]), default="glob", help="How."),
        json_option,
        pass_session,
    )
    for decorate in reversed(decorators):
        command = decorate(command)
    return command


@click.command("inspect", cls=Command)
@_options
def inspect(session: Session, /, as_json: bool, **given: Any) -> None:
    """Ask the workers COMMAND and print what each answers.

    It ends as soon as all that were reached have answered. The exit status is 69 if nobody has.
    """
    replies = _run(session, "inspect", as_json, **given)
    if given["name"] == "scheduled" and not getattr(session.application.broker, "reaches_delayed", True):
        session.say(
            "Delayed tasks are not among these: the broker keeps them where nobody can look. "
            "They are in the management page of RabbitMQ, in the queues celery_delayed_0 to _27"
        )
    if replies and not as_json and not session.quiet:
        click.echo(f"\n{output.count(len(replies), 'node')} online.")


@click.command("control", cls=Command)
@_options
def control(session: Session, /, as_json: bool, **given: Any) -> None:
    """Order the workers to do COMMAND and print what each answers.

    Revokes and rate limits are stored too, for workers that start later. It ends as soon as all that were
    reached have answered. The exit status is 69 if nobody has.
    """
    _run(session, "control", as_json, **given)


def _run(
    session: Session,
    kind: str,
    as_json: bool,
    name: str | None,
    values: Sequence[str],
    as_list: bool,
    timeout: float | None,
    **options: Any,
) -> dict[str, Any]:
    """List the commands, or send one; return the answers by node. Raises ``Failure``."""
    if as_list:
        _list(session, kind, as_json)
        return {}
    if not name:
        raise click.UsageError(f"Which command? 'celeriac {kind} --list' shows them.")
    name, info = _find(session, kind, name)
    _check_pattern(options["pattern"], options["matcher"])
    options["timeout"] = max(1.0, info.default_timeout) if timeout is None else timeout
    replies = _send(session, name, _arguments(name, info, values), as_json, options)
    if not replies:
        stored = ". The order is stored for those that start" if name in _KEPT and _keeps(session) else ""
        raise Failure(f"{NOBODY}{stored}", EX_UNAVAILABLE)
    if as_json:
        output.dump(replies)
    return replies


def _keeps(session: Session) -> bool:
    return session.application.coordinator is not None


def _check_pattern(pattern: str | None, matcher: str) -> None:
    """Raise ``Failure`` for an expression that is none: workers would not answer it."""
    if pattern and matcher == "pcre":
        try:
            re.compile(pattern)
        except re.error as error:
            raise Failure(f"--pattern: {pattern!r} is no regular expression: {error}", EX_USAGE) from None


def _send(
    session: Session, name: str, arguments: dict[str, Any], as_json: bool, options: dict[str, Any]
) -> dict[str, Any]:
    control = session.application.control
    wanted = {**options, "reply": True, "callback": None if as_json else _say}
    if name in _KEPT:
        try:
            replies = getattr(control, name)(**arguments, **wanted)
        except ValueError as error:  # no signal
            raise Failure(f"{name}: {error}", EX_USAGE) from None
    else:
        replies = control.broadcast(name, arguments, **wanted)
    return {node: answer for reply in replies or () for node, answer in reply.items()}


# -- finding a command ---------------------------------------------------------------------------------------


def _known(session: Session, own: bool) -> Mapping[str, CommandInfo]:
    """All commands by name; with ``own`` those in the modules of the application's tasks too."""
    from celeriac.worker.control import Panel

    if own and session.has_application:
        session.import_tasks()
    return Panel.meta


def _find(session: Session, kind: str, name: str) -> tuple[str, CommandInfo]:
    known = _known(session, own=False)
    if name not in known:
        known = _known(session, own=True)
    real = next((one for one, info in known.items() if name in (one, info.alias)), None)
    if real is None:
        names = [one for one, info in known.items() if info.type == kind and info.visible]
        raise Failure(
            f"There is no {kind} command {name!r}.{did_you_mean(name, names)} 'celeriac {kind} --list' shows "
            "all.",
            EX_USAGE,
        )
    info = known[real]
    if info.type != kind:
        raise Failure(f"{real!r} is a command of 'celeriac {info.type}'.", EX_USAGE)
    return real, info


def _list(session: Session, kind: str, as_json: bool) -> None:
    known = _known(session, own=True).items()
    rows = [(one, info) for one, info in sorted(known) if info.type == kind and info.visible]
    if as_json:
        output.dump({one: {"arguments": info.signature or "", "help": info.help} for one, info in rows})
        return
    formatter = click.HelpFormatter()
    with formatter.section(f"{kind.capitalize()} commands"):
        formatter.write_dl([(f"{one} {info.signature or ''}".strip(), info.help) for one, info in rows])
    click.echo(formatter.getvalue(), nl=False)


def _arguments(name: str, info: CommandInfo, values: Sequence[str]) -> dict[str, Any]:
    """The command's arguments, from the words that were given in order."""
    arguments: dict[str, Any] = {}
    fixed = list(info.args or ())
    for (key, convert), word in zip(fixed, values, strict=False):
        try:
            arguments[key] = convert(word)
        except (TypeError, ValueError):
            raise Failure(f"{word!r} is not a value for {key}: {_usage(name, info)}", EX_USAGE) from None
    rest = list(values[len(fixed) :])
    if info.variadic:
        arguments[info.variadic] = _stamps(rest) if info.variadic == "headers" else rest
    elif rest:
        raise Failure(f"Too many arguments: {_usage(name, info)}", EX_USAGE)
    # An order that is stored must be whole; of others what their functions cannot do without.
    needed = [key for key, _ in fixed] + ([info.variadic] if info.variadic else [])
    whole = all(arguments.get(key) for key in needed) if name in _KEPT else _suffice(name, arguments)
    if not whole:
        raise Failure(f"Something is missing: {_usage(name, info)}", EX_USAGE)
    return arguments


def _suffice(name: str, arguments: dict[str, Any]) -> bool:
    from celeriac.worker.control import Panel

    try:
        signature(Panel.data[name]).bind(None, **arguments)
    except TypeError:
        return False
    return True


def _stamps(words: Sequence[str]) -> dict[str, str]:
    pairs = [word.partition("=") for word in words]
    if not all(equals for _, equals, _ in pairs):
        raise Failure("stamps are given as name=value", EX_USAGE)
    return {key: value for key, _, value in pairs}


def _usage(name: str, info: CommandInfo) -> str:
    return f"{name} takes {info.signature or 'no arguments'}."


# -- showing answers ----------------------------------------------------------------------------------------


def _say(reply: Mapping[str, Any]) -> None:
    for node, answer in reply.items():
        status, text = _shown(answer)
        colour = "green" if status == "OK" else "red"
        arrow, name = click.style("->", bold=True), click.style(f"{node}: ", fg="cyan", bold=True)
        click.echo(f"{arrow}  {name}{click.style(status, fg=colour, bold=True)}")
        if text:
            click.echo(textwrap.indent(text, "    "))


def _shown(answer: Any) -> tuple[str, str]:
    """``OK`` or ``ERROR``, and the answer as text."""
    if isinstance(answer, dict) and ("ok" in answer or "error" in answer):
        status = "OK" if "ok" in answer else "ERROR"
        return status, textwrap.indent(_text(answer.get("ok", answer.get("error"))), "    ")
    return "OK", "" if answer is None else _text(answer)


def _text(value: Any) -> str:
    if isinstance(value, str):
        text = value
    elif isinstance(value, list):
        text = "\n".join(f"* {each if isinstance(each, str) else _json(each)}" for each in value)
        text = text or "- empty -"
    else:
        text = _json(value, indent=4)
    # What a worker says may hold control characters; they must not reach a terminal.
    return "".join(letter if letter.isprintable() or letter == "\n" else "?" for letter in text)


def _json(value: Any, indent: int | None = None) -> str:
    return json.dumps(value, indent=indent, sort_keys=True, ensure_ascii=False, default=str)
