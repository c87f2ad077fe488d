"""The types of settings: what each accepts, and how text from the environment becomes a value."""

from __future__ import annotations

import datetime
import json
import math
import os
import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple


class Unfit(ValueError):
    """A value is of the right type and still will not do; the text says why and repeats no value."""


class Kind(NamedTuple):
    """A type of settings."""

    name: str
    """With its article, for messages: "a number of seconds"."""
    convert: Callable[[Any], Any]
    """Return the value in its final form; raises ``ValueError`` or ``TypeError``."""
    plain_text: bool = False
    """Text is a value as it stands, also when it reads "none"."""

    def none_from(self, value: Any) -> bool:
        """Tell whether ``value`` stands for ``None``: ``None`` itself, or its name as text."""
        if isinstance(value, str) and not self.plain_text:
            return value.strip().lower() in ("none", "null")
        return value is None


_TRUE = frozenset(("1", "true", "yes", "on", "y", "t"))
_FALSE = frozenset(("0", "false", "no", "off", "n", "f", ""))


def _boolean(value: Any) -> bool:
    if isinstance(value, str):
        word = value.strip().lower()
        if word in _TRUE or word in _FALSE:
            return word in _TRUE
        raise ValueError
    if value in (0, 1):
        return bool(value)
    raise ValueError


def _number(value: Any) -> int | float:
    if isinstance(value, bool):
        raise ValueError
    if isinstance(value, int):
        return value
    if isinstance(value, str) and re.fullmatch(r"\s*[+-]?\d+\s*", value):
        return int(value)
    number = float(value)
    if math.isnan(number):
        raise ValueError
    return number


def _integer(value: Any) -> int:
    number = _number(value)
    if number != int(number):
        raise ValueError
    return int(number)


def _count(value: Any) -> int:
    number = _integer(value)
    if number < 0:
        raise Unfit("it is negative")
    return number


def _positive(value: Any) -> int:
    number = _integer(value)
    if number < 1:
        raise Unfit("it is below 1")
    return number


def _seconds(value: Any) -> int | float:
    number = value.total_seconds() if isinstance(value, datetime.timedelta) else _number(value)
    if number < 0:
        raise Unfit("it is negative")
    return number


def _limit(value: Any) -> int | None:
    return _count(value) or None


def _time_limit(value: Any) -> int | float | None:
    return _seconds(value) or None


def _text(value: Any) -> str:
    if isinstance(value, os.PathLike):
        return str(os.fspath(value))
    if not isinstance(value, str):
        raise TypeError
    # A lazy object (Django's) says that it is a str and is none; an enum's member is one with another face.
    return str.__str__(value) if issubclass(type(value), str) else str(value)


def _secret(value: Any) -> str | bytes:
    return value if isinstance(value, bytes) else _text(value)


def _url(value: Any) -> str:
    if isinstance(value, list | tuple):
        return ";".join(_text(item) for item in value)
    return _text(value)


def _names(value: Any) -> tuple[str, ...]:
    if isinstance(value, str):
        stripped = value.strip()
        value = json.loads(stripped) if stripped.startswith("[") else stripped.split(",")
        value = [name.strip() for name in value if name.strip()]
    if isinstance(value, Mapping):
        raise TypeError
    return tuple(_text(item) for item in value)


def _mapping(value: Any) -> Mapping[str, Any]:
    if isinstance(value, str):
        value = json.loads(value)
    if not isinstance(value, Mapping):
        raise TypeError
    return value


def _structure(value: Any) -> Any:
    if isinstance(value, str) and value.lstrip()[:1] in ("{", "["):
        return json.loads(value)
    return value


def _tls(value: Any) -> bool | Mapping[str, Any]:
    if isinstance(value, Mapping) or (isinstance(value, str) and value.lstrip().startswith("{")):
        return _mapping(value)
    return _boolean(value)


def _rate(value: Any) -> str | int | float:
    if isinstance(value, str):
        if re.fullmatch(r"\d+(\.\d+)?(/[smh])?", value.strip()):
            return value.strip()
        raise ValueError
    number = _number(value)
    if number < 0:
        raise Unfit("it is negative")
    return number


def _multiplier(value: Any) -> int | str:
    return "auto" if isinstance(value, str) and value.strip().lower() == "auto" else _count(value)


def _timezone(value: Any) -> Any:
    if isinstance(value, datetime.tzinfo):
        return value
    name = _text(value)
    if name.upper() not in ("UTC", "GMT"):
        # zoneinfo is only needed by those who set a zone, and costs a few ms to import.
        from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

        try:
            ZoneInfo(name)
        except (ZoneInfoNotFoundError, ValueError, OSError):
            raise Unfit(
                "no such zone is installed; names are as Europe/Berlin, and the package tzdata brings them"
            ) from None
    return name


def _delivery_mode(value: Any) -> int:
    modes = {"1": 1, "transient": 1, "2": 2, "persistent": 2}
    try:
        return modes[str(value).strip().lower()]
    except KeyError:
        raise ValueError from None


def choice(*words: str) -> Kind:
    """Return the type of a setting that takes one of ``words``."""

    def convert(value: Any) -> str:
        if isinstance(value, str) and value in words:
            return value
        raise ValueError

    return Kind(" or ".join(repr(word) for word in words), convert, plain_text=True)


BOOLEAN = Kind("a boolean", _boolean)
INTEGER = Kind("an integer", _integer)
COUNT = Kind("an integer of at least 0", _count)
POSITIVE = Kind("an integer of at least 1", _positive)
NUMBER = Kind("a number", _number)
SECONDS = Kind("a number of seconds or a timedelta", _seconds)
LIMIT = Kind("an integer of at least 0", _limit)
"""0 and ``None`` both mean no limit, and become ``None``."""
TIME_LIMIT = Kind("a number of seconds or a timedelta", _time_limit)
"""0 and ``None`` both mean no limit, and become ``None``."""
TEXT = Kind("text", _text, plain_text=True)
SECRET = Kind("text or bytes", _secret, plain_text=True)
URL = Kind("a URL or a list of URLs", _url, plain_text=True)
NAMES = Kind("a list of names", _names)
MAPPING = Kind("a dictionary", _mapping)
STRUCTURE = Kind("any value", _structure)
TLS = Kind("a boolean or a dictionary of TLS options", _tls)
RATE = Kind('a rate such as "10/m" (s, m or h) or a number a second', _rate)
MULTIPLIER = Kind('an integer of at least 0 or "auto"', _multiplier)
TIMEZONE = Kind("the name of a time zone or a tzinfo", _timezone)
DELIVERY_MODE = Kind('1 ("transient") or 2 ("persistent")', _delivery_mode)
REFERENCE = Kind("a name or an object", lambda value: value, plain_text=True)
