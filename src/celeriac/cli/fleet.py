"""The nodes that ``celeriac multi`` is about: their names, and each one's command.

``3 -c 4 -Q:1-2 images -Q:3 mail`` names nodes, options for all, and options for some of them.
"""

from __future__ import annotations

import os
import re
import signal
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Final

import click

from celeriac import platforms
from celeriac.cli.errors import Failure
from celeriac.platforms import EX_USAGE

PIDFILE: Final = "/var/run/celery/%n.pid"
LOGFILE: Final = "/var/log/celery/%n%I.log"
"""Celery's own places."""

_WITHOUT_VALUE: Final = {"--nosplash", "--verbose"}
_ABOUT_NAMES: Final = ("--hostname", "--prefix", "--suffix", "--range-prefix", "--cmd", "--append")
OWN_OPTIONS: Final = {*_WITHOUT_VALUE, *_ABOUT_NAMES}
"""What ``multi`` takes beside a worker's options."""


@dataclass
class Words:
    """What stands after ``celeriac multi start``, taken apart. Options are by their long names."""

    names: list[str] = field(default_factory=list)
    options: dict[str, str | None] = field(default_factory=dict)
    """Of all nodes; ``None``: an option without a value."""
    of_some: dict[str, dict[str, str | None]] = field(default_factory=dict)
    """Of the nodes that a name, an index, or a list of these means."""
    rest: list[str] = field(default_factory=list)
    """What follows ``--``."""
    signal: int = 0


@dataclass
class Node:
    """A worker's process: how it is started, and where it left its process id."""

    name: str
    options: dict[str, str | None]
    rest: Sequence[str] = ()
    command: Sequence[str] = ("-m", "celeriac", "worker", "--detach")
    executable: str = sys.executable

    @property
    def argv(self) -> list[str]:
        """The worker's command with its arguments."""
        given = [_written(name, self._value(name)) for name in self.options]
        words = [self.executable, *self.command, f"--hostname={self.name}", *given, *self.rest]
        return [words[0], *(self.expand(word) for word in words[1:])]

    @cached_property
    def pidfile(self) -> str:
        """The path of its pid file."""
        return self._path("--pidfile")

    def make_folders(self) -> None:
        """Make the folders of its pid and log files. Raises ``Failure``."""
        for option in ("--pidfile", "--logfile"):
            folder = os.path.dirname(self._path(option))
            try:
                os.makedirs(folder, exist_ok=True)
            except OSError as error:
                raise Failure(
                    f"{option}: cannot make the folder {folder}: {error.strerror}. Give {option}=PATH",
                    platforms.EX_CANTCREAT,
                ) from None

    def pid(self) -> int:
        """The living process that holds its pid file, or 0."""
        try:
            return platforms.Pidfile(self.pidfile).holder()
        except OSError as error:
            raise Failure(f"--pidfile: cannot read {self.pidfile}: {error.strerror}") from None

    def expand(self, text: str) -> str:
        """Fill in ``%n`` or ``%N`` (the name before the ``@``), ``%h`` or ``%p`` (all), ``%d`` (the host).

        ``%i`` and ``%I`` are left to the worker.
        """
        name, _, host = self.name.partition("@")
        known = {"n": name, "N": name, "h": self.name, "p": self.name, "d": host, "i": "%i", "I": "%I"}
        return platforms.fill(text, known)

    def _path(self, option: str) -> str:
        """Where the worker will find its file, from its own directory."""
        folder = self.expand(self._value("--workdir") or "")
        path = platforms.node_file(self.expand(self._value(option) or ""), self.name)
        return os.path.abspath(os.path.join(folder, path))

    def _value(self, option: str) -> str | None:
        # No shell looks at the value of --pidfile=~/%n.pid
        value = self.options.get(option)
        return os.path.expanduser(value) if value and option in _PATHS else value


_PATHS: Final = ("--pidfile", "--logfile", "--workdir")


def nodes(words: Words) -> list[Node]:
    """The nodes that ``words`` name. Raises ``Failure`` for an option of a node that there is not."""
    common = dict(words.options)
    about = {option: common.pop(option, None) for option in _ABOUT_NAMES}
    counted = len(words.names) == 1 and words.names[0].isdigit()
    if counted:
        short = [str(number) for number in range(1, int(words.names[0]) + 1)]
        prefix = about["--range-prefix"] or "celery"
    else:
        short, prefix = words.names, about["--prefix"] or ""
    suffix = about["--suffix"] or about["--hostname"] or "%h"
    full = [platforms.node_name(one if "@" in one else f"{prefix}{one}@{suffix}") for one in short]
    own = _own_options(words.of_some, short, full, counted)
    return [_node(name, {**common, **own[name]}, words.rest, about) for name in full]


def _node(
    name: str, options: dict[str, str | None], rest: Sequence[str], about: dict[str, str | None]
) -> Node:
    executable = options.pop("--executable", None) or sys.executable
    options.setdefault("--pidfile", PIDFILE)
    options.setdefault("--logfile", LOGFILE)
    command, append = about["--cmd"], about["--append"]
    return Node(
        name,
        options,
        [*rest, *(append.split() if append else ())],
        tuple(command.split()) if command else Node.command,
        os.path.expanduser(executable),
    )


def _own_options(
    of_some: dict[str, dict[str, str | None]], short: list[str], full: list[str], counted: bool
) -> dict[str, dict[str, str | None]]:
    """Each node's own options, by its full name."""
    own: dict[str, dict[str, str | None]] = {name: {} for name in full}
    for whom, options in of_some.items():
        for one in whom.split(","):
            for name in _meant(one, short, full, counted):
                own[name].update(options)
    return own


def _meant(whom: str, short: list[str], full: list[str], counted: bool) -> Iterable[str]:
    """The full names of the nodes that a name, an index from 1, or a range of indices means."""
    if whom in full:
        return [whom]
    if whom in short:
        return [full[short.index(whom)]]
    found = re.fullmatch(r"(\d+)(?:-(\d+))?", whom)
    first, last = (int(found[1]), int(found[2] or found[1])) if found else (0, 0)
    # Celery lets a range be longer than the nodes are many, where these are given as a number
    if first < 1 or last < first or (first > len(full) if counted else last > len(full)):
        raise Failure(f"There is no node {whom!r} among {', '.join(short)}", EX_USAGE)
    return full[first - 1 : last]


def _written(option: str, value: str | None) -> str:
    return option if value is None else f"{option}={value}"


# -- taking the words apart ----------------------------------------------------------------------------------


def parse(arguments: Sequence[str], command: click.Command, signals: bool) -> Words:
    """Take the arguments apart; ``command`` is the worker's, which knows which options have values.

    ``signals``: a word as ``-KILL`` or ``-9`` is a signal. Raises ``Failure``.
    """
    words = Words()
    left = list(arguments)
    while left:
        word = left.pop(0)
        if word == "--":
            words.rest = left
            break
        if number := signals and signal_number(word):
            words.signal = number
        elif word.startswith("-") and len(word) > 1:
            _take(words, word, left, command)
        elif word:
            words.names.append(word)
    if not words.names:
        raise Failure("Which nodes? Give their names, or how many: start w1 w2, start 3", EX_USAGE)
    return words


def _take(words: Words, word: str, left: list[str], command: click.Command) -> None:
    name, equals, value = word.partition("=")
    name, _, whom = name.partition(":")
    if not name.startswith("--") and len(name) > 2:
        # as in -c4 and -Qmail
        name, value, equals = name[:2], name[2:] + (f":{whom}" if whom else "") + equals + value, "="
        whom = ""
    option = _option(name, command)
    long = max(option.opts, key=len) if option else name
    has_value = not option.is_flag if option else long not in _WITHOUT_VALUE and not name.startswith("--")
    given: str | None = value if equals else None
    if not equals and has_value:
        if not left or (option is None and left[0].startswith("-")):
            if option:
                raise Failure(f"{word} needs a value", EX_USAGE)
        else:
            given = left.pop(0)
    (words.of_some.setdefault(whom, {}) if whom else words.options)[long] = given


def _option(name: str, command: click.Command) -> click.Option | None:
    for parameter in command.params:
        if isinstance(parameter, click.Option) and name in parameter.opts:
            return parameter
    return _ABOUT.get(name)


_ABOUT: Final = {name: click.Option([name]) for name in _ABOUT_NAMES if name != "--hostname"}


def signal_number(word: str) -> int:
    """Return the number of a signal written as ``-9``, ``-KILL`` or ``-SIGKILL``; 0 if it is none."""
    if not word.startswith("-") or len(word) < 2:
        return 0
    name = word[1:]
    if name.isdigit():
        return int(name) if int(name) in set(signal.Signals) else 0
    found = signal.Signals.__members__.get(name if name.startswith("SIG") else f"SIG{name}")
    return int(found or 0)
