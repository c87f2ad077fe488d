"""Becoming a daemon: what ``worker``, ``beat`` and the camera of ``events`` have in common."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Mapping
from typing import Any

from celeriac import platforms
from celeriac.cli.errors import Failure
from celeriac.cli.options import Decorated, option
from celeriac.cli.session import Session
from celeriac.platforms import EX_CANTCREAT, EX_USAGE


def identity_options(declare: Callable[..., Any] = option) -> Callable[[Decorated], Decorated]:
    """Declare ``--uid``, ``--gid`` and ``--umask``, by ``declare``."""
    declared = (
        declare("--uid", help="Become this user."),
        declare("--gid", help="Become this group."),
        declare("--umask", help="Umask of files it makes, octal."),
    )

    def decorate(command: Decorated) -> Decorated:
        for one in reversed(declared):
            command = one(command)
        return command

    return decorate


def settle_in(session: Session, flags: Mapping[str, Any], node: str, whose: str) -> Callable[[], None] | None:
    """Go to the background, become another user, and take the pid file, as the flags say.

    Returns what is to be called when the command is ready, if a process waits for that. ``whose`` messages
    may go nowhere.
    """
    if flags["detach"] and not flags["logfile"]:
        session.say(f"--detach without --logfile: {whose} messages will go nowhere.")
    ready = platforms.detach() if flags["detach"] else None
    _become(flags["uid"], flags["gid"], flags["umask"])
    _check_logfile(flags["logfile"], node)
    if flags["pidfile"]:
        _hold(platforms.node_file(flags["pidfile"], node))
    return ready


def run_with(executable: str, command: str) -> None:
    """Start ``command`` anew with another interpreter; ``--executable`` itself is left out."""
    rest = []
    arguments = iter(sys.argv[1:])
    for argument in arguments:
        if argument == "--executable":
            next(arguments, None)
        elif not argument.startswith("--executable="):
            rest.append(argument)
    for prefix in ("CELERY", "CELERIAC"):
        os.environ.pop(f"{prefix}_{command.upper()}_EXECUTABLE", None)
    try:
        os.execv(executable, [executable, "-m", "celeriac", *rest])
    except OSError as exc:
        raise Failure(f"--executable: cannot run {executable}: {exc.strerror}", EX_USAGE) from None


def _become(uid: str | None, gid: str | None, umask: str | None) -> None:
    """Set the umask and drop privileges."""
    if umask is not None:
        try:
            os.umask(platforms.parse_umask(umask))
        except (ValueError, OverflowError):
            raise Failure(f"--umask: {umask!r} is not an octal number such as 022", EX_USAGE) from None
    try:
        platforms.drop_privileges(uid, gid)
    except KeyError as exc:
        raise Failure(f"--uid, --gid: {exc.args[0]}", EX_USAGE) from None
    except (PermissionError, OverflowError):
        raise Failure("--uid, --gid: only root may become another user or group") from None
    except RuntimeError as exc:
        raise Failure(str(exc)) from None


def _check_logfile(pattern: str | None, node: str) -> None:
    """Open the log file once, while the terminal can still be told that this fails."""
    if pattern:
        path = platforms.node_file(pattern, node)
        try:
            with open(path, "a", encoding="utf-8"):
                pass
        except OSError as exc:
            raise Failure(f"--logfile: cannot write {path}: {exc.strerror}", EX_CANTCREAT) from None


def _hold(path: str) -> None:
    """Take the pid file, for as long as this process lives."""
    pidfile = platforms.Pidfile(path)

    def leave(number: int, frame: object) -> None:
        """Whoever reads the file may signal before the command listens: the file goes with us then, too."""
        pidfile.release(os.getpid())
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)

    signal.signal(signal.SIGTERM, leave)
    try:
        pidfile.acquire()
    except platforms.LockFailed as exc:
        raise Failure(f"--pidfile: {exc}", EX_CANTCREAT) from None
    except OSError as exc:
        raise Failure(f"--pidfile: cannot write {path}: {exc.strerror}", EX_CANTCREAT) from None
