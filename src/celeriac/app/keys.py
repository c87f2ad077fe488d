"""Keys: by what two calls of a task count as the same.

``unique_key`` and ``concurrency_key`` of a task are given as

* text with names of parameters in braces: ``"user:{user_id}"``,
* a list or tuple of names of parameters: ``["user_id", "day"]``,
* a function of the call's arguments that returns text.

Without one, two calls are the same if all their arguments are, defaults filled in.
"""

from __future__ import annotations

import hashlib
import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from string import Formatter
from typing import TYPE_CHECKING, Any

from celeriac.engines.base import Hold, Unique
from celeriac.exceptions import ImproperlyConfigured
from celeriac.serialization import json_dumps

if TYPE_CHECKING:
    from celeriac.task import Task

Key = str | Sequence[str] | Callable[..., Any]
"""How a key is given."""

LONGEST = 200
"""Characters of a key; a longer one is stood in for by its SHA-256."""

UNIQUE_AT_MOST = 86400.0
"""Seconds that a key is held at most, where only ``unique_key`` is given."""

DEBOUNCE_AT_MOST = 7 * 86400.0
"""Seconds that a debounced message may wait for a worker before a new call starts a new one."""

OPTIONS = ("unique_for", "unique_key", "debounce")
"""Options of a call that this module reads."""


def check(task: Task[..., Any]) -> None:
    """Raise ``ImproperlyConfigured`` for an option of a task that no call of it could obey."""
    options = ("unique_for", "unique_key", "debounce", "max_concurrency", "concurrency_key")
    if all(getattr(task, option) is None for option in options):
        return
    try:
        if seconds(task.unique_for, "unique_for") and seconds(task.debounce, "debounce"):
            raise ImproperlyConfigured(
                "unique_for keeps the first call and debounce the last one: give one of the two"
            )
        if task.concurrency_key is not None and places(task.max_concurrency) == 0:
            raise ImproperlyConfigured("concurrency_key needs max_concurrency, the number that it divides")
        places(task.max_concurrency)
        _check_names(task, "unique_key", task.unique_key)
        _check_names(task, "concurrency_key", task.concurrency_key)
    except ImproperlyConfigured as error:
        raise ImproperlyConfigured(f"task {task.name}: {error}") from None


def unique_of(
    name: str,
    task: Task[..., Any] | None,
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    options: Mapping[str, Any],
) -> Unique | None:
    """The condition under which a call may be published, if it has one.

    ``options`` of the call go before the task's attributes; 0 turns a condition off. Raises ``TypeError``
    for a call that would be unique and debounced at once, and for a key that does not fit its arguments.
    """
    given = {key: options.get(key, getattr(task, key, None)) for key in OPTIONS}
    unique_for, debounce = seconds(given["unique_for"], "unique_for"), seconds(given["debounce"], "debounce")
    if unique_for and debounce:
        raise TypeError(
            f"{name}: unique_for keeps the first call and debounce the last one: give one of the two"
        )
    key = given["unique_key"]
    if debounce:
        return Unique(call_key(name, task, key, args, kwargs), debounce + DEBOUNCE_AT_MOST, Hold.DELAYED)
    if unique_for or (key and unique_for is None and debounce is None):
        return Unique(call_key(name, task, key, args, kwargs), unique_for or UNIQUE_AT_MOST)
    return None


def call_key(
    name: str, task: Task[..., Any] | None, key: Key | None, args: Sequence[Any], kwargs: Mapping[str, Any]
) -> str:
    """The key of one call, in the name space of its task.

    Raises ``TypeError`` if ``key`` names a parameter that the call has not, or an argument cannot be
    written as JSON.
    """
    if callable(key):
        text = str(key(*args, **kwargs))
    else:
        bound = _arguments(task, args, kwargs)
        try:
            if key is None:
                text = _digest(bound)
            elif isinstance(key, str):
                text = key.format(*args, **bound)
            else:
                text = _digest({parameter: bound[parameter] for parameter in key})
        except (KeyError, IndexError) as missing:
            raise TypeError(
                f"{name}: the key {key!r} names {missing}, which this call has no argument for; it has "
                f"{', '.join(bound) or 'none'}"
            ) from None
        except (AttributeError, ValueError) as error:
            raise TypeError(f"{name}: the key {key!r} does not fit the call's arguments: {error}") from None
    if len(text) > LONGEST or not _storable(text):
        text = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
    return f"{name}:{text}"


def _storable(text: str) -> bool:
    """Whether every store can keep it as text: PostgreSQL has no NUL, nobody half a surrogate pair."""
    return "\0" not in text and (text.isascii() or not any("\ud800" <= sign <= "\udfff" for sign in text))


def seconds(value: Any, option: str) -> float | None:
    """A number of seconds or a ``timedelta``, in seconds; else raises ``ImproperlyConfigured``."""
    if value is None:
        return None
    if isinstance(value, int | float) and not isinstance(value, bool) and value >= 0:
        return float(value)
    if isinstance(value, timedelta) and value >= timedelta(0):
        return value.total_seconds()
    raise ImproperlyConfigured(f"{option} is a number of seconds or a timedelta, not {value!r}")


def places(limit: Any) -> int:
    """A ``max_concurrency``, 0 for ``None``; else raises ``ImproperlyConfigured``."""
    if limit is None:
        return 0
    if not isinstance(limit, int) or isinstance(limit, bool) or limit < 1:
        raise ImproperlyConfigured(f"max_concurrency is a number from 1, or None, not {limit!r}")
    return limit


def _check_names(task: Task[..., Any], option: str, key: Any) -> None:
    """Whether a key names parameters of the task's function, as far as that can be told without a call."""
    if key is None or callable(key):
        return
    try:
        fields = [field for _, field, _, _ in Formatter().parse(key)] if isinstance(key, str) else list(key)
        parameters = inspect.signature(task.run).parameters.values()
    except (TypeError, ValueError) as error:
        raise ImproperlyConfigured(f"{option}={key!r} cannot be read: {error}") from None
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
        return
    known = [parameter.name for parameter in parameters]
    for field in fields:
        name = field if field is None else re.split(r"[.\[]", str(field), maxsplit=1)[0]
        if name is not None and not name.isdecimal() and name not in known:
            raise ImproperlyConfigured(
                f"{option}={key!r} names {name!r}, which is not a parameter of its function; it has "
                f"{', '.join(known) or 'none'}"
            )


def _arguments(task: Task[..., Any] | None, args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """The call's arguments by parameter; of a task that is only known by name, positions are numbers."""
    if task is not None:
        try:
            bound = inspect.signature(task.run).bind(*args, **kwargs)
        except TypeError:
            pass  # not checked at the call (typing=False): the worker will say what does not fit
        else:
            bound.apply_defaults()
            return dict(bound.arguments)
    return {**{str(position): value for position, value in enumerate(args)}, **kwargs}


def _digest(value: Mapping[str, Any]) -> str:
    return hashlib.sha256(json_dumps(dict(sorted(value.items())))).hexdigest()[:32]
