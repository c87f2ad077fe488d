"""The panel: the commands that workers answer, by name."""

from __future__ import annotations

from collections import UserDict
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, NamedTuple, TypeVar

Command = TypeVar("Command", bound=Callable[..., Any])


class CommandInfo(NamedTuple):
    """What is known of a command besides its function."""

    alias: str | None
    """A second name for it."""
    type: str
    """``"inspect"`` (it only looks) or ``"control"`` (it changes something)."""
    visible: bool
    """Whether lists show it."""
    default_timeout: float
    """Seconds that a sender waits for answers, if it does not say."""
    help: str
    """One line about it."""
    signature: str | None
    """Its arguments on the command line, for people."""
    args: Sequence[tuple[str, Callable[[str], Any]]] | None
    """Those of the command line: name, and what makes a value of the text."""
    variadic: str | None
    """The argument that gets, as a list, what the command line has beyond ``args``."""


class Panel(UserDict[str, Callable[..., Any]]):
    """All commands of this process: ``Panel.data`` the functions, ``Panel.meta`` what is known of them."""

    data: ClassVar[dict[str, Callable[..., Any]]] = {}  # type: ignore[misc]
    meta: ClassVar[dict[str, CommandInfo]] = {}

    @classmethod
    def register(cls, *args: Any, **kwargs: Any) -> Any:
        """Add a command: a decorator, with the options of :func:`control_command` or bare."""
        return cls._register(**kwargs)(*args) if args else cls._register(**kwargs)

    @classmethod
    def _register(
        cls,
        name: str | None = None,
        alias: str | None = None,
        type: str = "control",
        visible: bool = True,
        default_timeout: float = 1.0,
        help: str | None = None,
        signature: str | None = None,
        args: Sequence[tuple[str, Callable[[str], Any]]] | None = None,
        variadic: str | None = None,
    ) -> Callable[[Command], Command]:
        def add(function: Command) -> Command:
            named = name or function.__name__
            about = help or (function.__doc__ or "").strip().partition("\n")[0]
            cls.data[named] = function
            cls.meta[named] = CommandInfo(
                alias, type, visible, default_timeout, about, signature, args, variadic
            )
            if alias:
                cls.data[alias] = function
            return function

        return add


def control_command(**options: Any) -> Callable[[Command], Command]:
    """Make a function a command that changes something in the worker.

    Options: ``name`` (the function's), ``alias``, ``visible`` (in lists), ``default_timeout`` (seconds, 1.0),
    ``help`` (the docstring's first line), ``signature`` (shown to people), ``args`` (those of the command
    line: pairs of a name and what makes a value of text), ``variadic`` (the argument that takes the rest).
    """
    made: Callable[[Command], Command] = Panel.register(type="control", **options)
    return made


def inspect_command(**options: Any) -> Callable[[Command], Command]:
    """Make a function a command that only looks; options as for :func:`control_command`."""
    made: Callable[[Command], Command] = Panel.register(type="inspect", **options)
    return made


def ok(value: Any) -> dict[str, Any]:
    """The answer of a command that has done what it was told."""
    return {"ok": value}


def nok(value: Any) -> dict[str, Any]:
    """The answer of a command that could not."""
    return {"error": value}
