"""Redaction: arguments and results made fit to be shown.

What people and monitors see of a call (``argsrepr`` and ``kwargsrepr``, hence logs, events and pages; the
``args`` and ``kwargs`` of extended results; results in the log) has its secrets replaced by ``'***'``. A
value is secret by the name it goes by: a parameter named in the task's ``sensitive``, or a parameter or key
of a dictionary, however deep, that matches one of the patterns in ``redact_patterns``.

The message itself is not touched: a task gets its real arguments, and who can read the broker can read them.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from celeriac.exceptions import ImproperlyConfigured
from celeriac.saferepr import repr_args

if TYPE_CHECKING:
    from celeriac.app.base import Celeriac
    from celeriac.task import Task

MASK = "***"
"""What stands in a secret value's place."""

_SHORT = 1 << 64
_CACHED = 4096
"""Names whose verdict is kept; more come only from programs that use data as keys."""


class Redaction:
    """Knows what is secret in the calls of one application. ``redact_patterns`` is read once, at first
    use."""

    def __init__(self, app: Celeriac) -> None:
        self._app = app
        self._secret = _Secret(_compile(app.conf.redact_patterns), ())
        self._levels: int = app.conf.task_repr_maxlevels

    def args_repr(
        self, task: Task[..., Any] | None, args: Sequence[Any], kwargs: Mapping[str, Any]
    ) -> tuple[str, str]:
        """The arguments of a call as text for people; of an unknown task (``None``) only keys are judged."""
        if task is None:
            secret = self._secret
        else:
            rule = task._redaction or self._rule(task)
            secret = rule.secret
            if rule.positions:
                args = rule.masked(args)
        shown = repr_args(args, 1024, self._levels, secret) if args else "()"
        return shown, repr_args(kwargs, 1024, self._levels, secret) if kwargs else "{}"

    def arguments(
        self, task: Task[..., Any] | None, args: Sequence[Any] | None, kwargs: Mapping[str, Any] | None
    ) -> tuple[Any, Any]:
        """Copies of the arguments with their secrets replaced, for an extended result."""
        secret = self._secret
        if task is not None:
            rule = task._redaction or self._rule(task)
            secret = rule.secret
            if rule.positions and args:
                args = rule.masked(args)
        return _mask(args, secret), _mask(kwargs, secret)

    def result_repr(self, task: Task[..., Any], value: Any) -> str:
        """A result as the log shows it: ``'***'`` for a task with ``sensitive_result=True``."""
        if task.sensitive_result:
            return repr(MASK)
        if (
            value is None
            or value is True
            or value is False
            or (type(value) is int and -_SHORT < value < _SHORT)
        ):
            return repr(value)  # most results: a tenth of the time
        secret = (task._redaction or self._rule(task)).secret
        return repr_args(value, limit=task.resultrepr_maxsize or 1024, levels=self._levels, secret=secret)

    def hides_positions(self, task: Task[..., Any]) -> bool:
        """Whether a positional argument of the task's may be secret."""
        return (task._redaction or self._rule(task)).positions

    def _rule(self, task: Task[..., Any]) -> Rule:
        rule = task._redaction = Rule(task, self._secret)
        return rule


class Rule:
    """Which arguments of one task are secret, worked out once."""

    def __init__(self, task: Task[..., Any], common: _Secret) -> None:
        names = _names(task)
        self.secret = _Secret(common.pattern, names) if names else common
        positions, self._rest = _positions(task, self.secret)
        self._positions = positions
        self.positions = bool(positions or self._rest is not None)
        """Whether positional arguments have to be looked at."""

    def masked(self, args: Sequence[Any]) -> tuple[Any, ...]:
        """The positional arguments, those that are secret replaced."""
        rest = len(args) if self._rest is None else self._rest
        return tuple(
            MASK if index in self._positions or index >= rest else value for index, value in enumerate(args)
        )


class _Secret(dict[Any, bool]):
    """Whether a name is that of a secret; a dictionary, because it is asked on every publish."""

    def __init__(self, pattern: re.Pattern[str] | None, names: Iterable[str]) -> None:
        super().__init__(dict.fromkeys(names, True))
        self.pattern = pattern

    def __missing__(self, name: Any) -> bool:
        if not isinstance(name, str) or self.pattern is None:
            return False
        found = self.pattern.search(name) is not None
        if len(self) < _CACHED:
            self[name] = found
        return found


def _compile(patterns: Iterable[str]) -> re.Pattern[str] | None:
    parts = []
    for pattern in patterns:
        try:
            re.compile(pattern)
        except re.error as error:
            raise ImproperlyConfigured(
                f"setting redact_patterns: {pattern!r} is not a regular expression: {error}"
            ) from None
        parts.append(f"(?:{pattern})")
    return re.compile("|".join(parts), re.IGNORECASE) if parts else None


def _names(task: Task[..., Any]) -> tuple[str, ...]:
    given = task.sensitive
    names = (given,) if isinstance(given, str) else tuple(given)
    known = _parameters(task)
    if any(p.kind is p.VAR_KEYWORD for p in known):
        return names
    for name in names:
        if name not in {p.name for p in known}:
            raise ImproperlyConfigured(
                f"task {task.name}: sensitive names {name!r}, which is not a parameter of its function"
            )
    return names


def _positions(task: Task[..., Any], secret: _Secret) -> tuple[frozenset[int], int | None]:
    """Numbers of the positional parameters that are secret, and from where on ``*args`` are."""
    found, rest = set(), None
    for index, parameter in enumerate(_parameters(task)):
        if not secret[parameter.name]:
            continue
        if parameter.kind is parameter.VAR_POSITIONAL:
            rest = index
        elif parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD):
            found.add(index)
    return frozenset(found), rest


def _parameters(task: Task[..., Any]) -> list[inspect.Parameter]:
    try:
        return list(inspect.signature(task.run).parameters.values())
    except (TypeError, ValueError):  # a function written in C
        return []


def _mask(value: Any, secret: _Secret, depth: int = 0) -> Any:
    if depth > 50:
        return MASK  # deeper than the serialisers go, or a circle: they say so
    if isinstance(value, Mapping):
        return {k: MASK if secret[k] else _mask(v, secret, depth + 1) for k, v in value.items()}
    if type(value) in (list, tuple):
        return type(value)(_mask(item, secret, depth + 1) for item in value)
    return value
