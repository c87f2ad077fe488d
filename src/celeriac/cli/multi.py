"""``celeriac multi``: start and stop several workers on this machine, as Celery's command of this name."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from typing import Final

import click

from celeriac import __version__
from celeriac.cli.errors import Failure, did_you_mean
from celeriac.cli.fleet import Node, Words, nodes, parse
from celeriac.cli.options import pass_session
from celeriac.cli.session import Session
from celeriac.platforms import EX_FAILURE, EX_OK, EX_USAGE

HELP: Final = """\
Start and stop several workers in the background on this machine.

\b
celeriac -A proj multi start w1 w2 -c 4 --pidfile=run/%n.pid --logfile=log/%n%I.log
celeriac -A proj multi restart w1 w2 -c 4 --pidfile=run/%n.pid --logfile=log/%n%I.log
celeriac multi stopwait w1 w2 --pidfile=run/%n.pid

\b
start NODES [worker options]            start them
stop NODES [-SIGNAL]                    send them a signal (TERM)
stopwait NODES [-SIGNAL]                stop, and wait until they have ended
restart NODES [-SIGNAL] [options]       stopwait, each followed by start
kill NODES                              send them SIGKILL
show NODES [options]                    print the commands that start would run
get NODE NODES [options]                print the command of one of them
names NODES                             print their full names
expand TEMPLATE NODES                   print a text with %n, %h, %d filled in

NODES are names (w1 w2@host), or how many: 3 means celery1, celery2 and celery3. An option is for all, or
with a colon for some: -c 2 -c:1-3 10 -Q:w1,w2 images. What follows -- is handed on as it is.

--prefix, --suffix and -n make full names of short ones, --range-prefix those of a number of nodes.
--pidfile and --logfile are /var/run/celery/%n.pid and /var/log/celery/%n%I.log if not given. --executable is
the Python to run, --cmd what it is to run, --append what to add. -q and --verbose write less and more,
--nosplash leaves out the first line.
"""

_PAUSE: Final = 0.1


class MultiCommand(click.Command):
    """Leaves its arguments as they are: they are a worker's, with node names in them."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Take all arguments, unless help is asked for."""
        before = args[: args.index("--")] if "--" in args else args
        if not args or args[0] == "help" or {"-h", "--help"} & set(before):
            click.echo(ctx.get_help())
            ctx.exit(EX_OK if args else EX_USAGE)
        ctx.params["arguments"] = args
        return []


@click.command("multi", cls=MultiCommand, help=HELP)
@pass_session
def multi(session: Session, /, arguments: list[str]) -> int:
    """Do what the first argument says to the nodes that the others name."""
    action, *rest = arguments
    if action not in _ACTIONS and action not in _TELLING:
        known = [*_ACTIONS, *_TELLING]
        raise Failure(
            f"There is no 'multi {action}'.{did_you_mean(action, known)} See 'multi --help'", EX_USAGE
        )
    wanted = rest.pop(0) if action in ("get", "expand") and rest else ""
    words = _words(session, rest, signals=action in _SIGNALLING)
    telling = Telling(words)
    if action in _TELLING:
        return _TELLING[action](nodes(words), wanted)
    if action in ("start", "restart") and not _names_application(words):
        # Celery would start workers that have no task, after it has stopped those that had some
        raise Failure(f"Which application? celeriac -A MODULE multi {action} ...", EX_USAGE)
    return _ACTIONS[action](nodes(words), words.signal or signal.SIGTERM, telling)


def _words(session: Session, arguments: Sequence[str], signals: bool) -> Words:
    """The arguments, and the global options that stood before ``multi``."""
    from celeriac.cli.worker import worker

    words = parse(arguments, worker, signals)
    for name in ("app", "broker", "result_backend", "loader", "config", "workdir"):
        if value := getattr(session, name):
            words.options.setdefault(f"--{name.replace('_', '-')}", value)
    for name in ("quiet", "no_color", "skip_checks"):
        if getattr(session, name):
            words.options.setdefault(f"--{name.replace('_', '-')}", None)
    return words


def _names_application(words: Words) -> bool:
    return any("--app" in given or "--cmd" in given for given in (words.options, *words.of_some.values()))


class Telling:
    """What is written of what happens, as ``--quiet``, ``--verbose`` and ``--nosplash`` want it."""

    def __init__(self, words: Words) -> None:
        self.quiet, self.verbose, silent = (
            words.options.pop(name, "") is None for name in ("--quiet", "--verbose", "--nosplash")
        )
        self._first = "" if silent else f"celeriac multi v{__version__}"

    def say(self, text: str) -> None:
        """Write a line, unless ``--quiet``."""
        if self.quiet:
            return
        if self._first:
            click.echo(self._first)
            self._first = ""
        click.echo(text)

    def say_of(self, node: Node, text: str) -> None:
        """Write what happens to a node."""
        self.say(f"\t> {node.name}: {text}")


# -- what is done ------------------------------------------------------------------------------------------


def _start(fleet: list[Node], number: int, telling: Telling) -> int:
    telling.say("> Starting nodes...")
    return _status([_started(node, telling) for node in fleet])


def _started(node: Node, telling: Telling) -> bool:
    """Start a worker and wait until it has gone to the background; it says itself why it cannot."""
    node.make_folders()
    if telling.verbose:
        telling.say(shlex.join(node.argv))
    try:
        status = subprocess.run(node.argv, check=False).returncode
    except OSError as error:
        raise Failure(f"cannot run {node.executable}: {error.strerror}", EX_USAGE) from None
    telling.say_of(node, "OK" if status == EX_OK else f"FAILED, with status {status}")
    return status == EX_OK


def _stop(fleet: list[Node], number: int, telling: Telling) -> int:
    telling.say("> Stopping nodes...")
    return _status([_signalled(node, number, telling) for node in fleet])


def _stopwait(fleet: list[Node], number: int, telling: Telling) -> int:
    status = _stop(fleet, number, telling)
    if status == EX_OK:
        for node in fleet:
            _wait(node, telling)
    return status


def _restart(fleet: list[Node], number: int, telling: Telling) -> int:
    status = _stop(fleet, number, telling)
    if status != EX_OK:
        return status
    started = []
    for node in fleet:
        _wait(node, telling)
        telling.say(f"> Restarting node {node.name}")
        started.append(_started(node, telling))
    return _status(started)


def _kill(fleet: list[Node], number: int, telling: Telling) -> int:
    telling.say("> Killing nodes...")
    return _status([_signalled(node, signal.SIGKILL, telling) for node in fleet])


def _status(succeeded: list[bool]) -> int:
    return EX_OK if all(succeeded) else EX_FAILURE


def _signalled(node: Node, number: int, telling: Telling) -> bool:
    """Send a signal to a worker that runs. Return false if that is not permitted."""
    pid = node.pid()
    try:
        if pid:
            os.kill(pid, number)
    except ProcessLookupError:
        pid = 0
    except PermissionError:
        click.echo(f"{node.name}: the process {pid} belongs to another user", err=True)
        return False
    telling.say_of(node, f"{signal.Signals(number).name} -> {pid}" if pid else "DOWN")
    return True


def _wait(node: Node, telling: Telling) -> None:
    if pid := node.pid():
        telling.say(f"> Waiting for {node.name} -> {pid}...")
        while node.pid() == pid:
            time.sleep(_PAUSE)
        telling.say_of(node, "OK")


_ACTIONS: Final[dict[str, Callable[[list[Node], int, Telling], int]]] = {
    "start": _start,
    "stop": _stop,
    "stopwait": _stopwait,
    "stop_verify": _stopwait,
    "restart": _restart,
    "kill": _kill,
}
_SIGNALLING: Final = ("stop", "stopwait", "stop_verify", "restart")


# -- what is only told ---------------------------------------------------------------------------------------


def _show(fleet: list[Node], _: str) -> int:
    for node in fleet:
        click.echo(shlex.join(node.argv))
    return EX_OK


def _get(fleet: list[Node], wanted: str) -> int:
    found = [node for node in fleet if wanted in (node.name, node.name.partition("@")[0])]
    return _show(found, wanted) if found else EX_FAILURE


def _names(fleet: list[Node], _: str) -> int:
    for node in fleet:
        click.echo(node.name)
    return EX_OK


def _expand(fleet: list[Node], wanted: str) -> int:
    for node in fleet:
        click.echo(node.expand(wanted))
    return EX_OK


_TELLING: Final[dict[str, Callable[[list[Node], str], int]]] = {
    "show": _show,
    "get": _get,
    "names": _names,
    "expand": _expand,
}
