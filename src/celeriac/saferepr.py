"""A short ``repr`` that cannot blow up: what ``argsrepr`` and ``kwargsrepr`` hold.

The text equals Celery's, so that events and logs read the same whoever sent the task: strings in single
quotes with nothing escaped but the quote, containers below the third level as ``[...]``, and at most
about ``limit`` characters, after which the open brackets are closed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from decimal import Decimal
from numbers import Number
from typing import Any, Final

_SIMPLE: Final = frozenset({float, bool, type(None)})


def repr_args(
    value: Any, limit: int | None = 1024, levels: int = 3, secret: Mapping[Any, bool] | None = None
) -> str:
    """Return ``value`` (task arguments: a tuple, list or dict) as text for people.

    ``limit`` is in characters, ``None`` for no limit; ``levels`` is how deep containers are shown,
    0 for all the way. ``secret[key]`` says whether a dictionary's value is shown as ``'***'``; it must know
    every key. It never raises.
    """
    if (limit is None or limit >= 1024) and levels == 3:
        # An eighth of the time for (2, 3): most arguments are a few numbers and short strings.
        short = _repr_simple(value, secret)
        if short is not None:
            return short
    writer = _Writer(limit, levels, secret)
    try:
        writer.write(value)
    except _Full:
        pass
    return "".join(writer.parts)


def shown(value: Any, show: Callable[[Any], str] = repr) -> str:
    """Return ``repr(value)``, or ``str`` with ``show=str``; never raises, whatever a user's class does."""
    try:
        return show(value)
    except Exception as error:  # user code may raise anything
        return f"<Unrepresentable {type(value)!r}: {type(error).__name__}>"


def _repr_simple(value: Any, secret: Mapping[Any, bool] | None) -> str | None:
    """Return ``repr(value)`` where it is sure to be the right text, else ``None``."""
    if not _is_simple(value, 16, secret):
        return None
    text = repr(value)
    # Python turns to double quotes or backslashes exactly where Celery's text differs from its own.
    return text if len(text) < 1000 and '"' not in text and "\\" not in text else None


def _is_simple(value: Any, most: int, secret: Mapping[Any, bool] | None) -> bool:
    """Tell whether ``value`` is a small container of numbers, short texts and smaller containers.

    One with a secret is not simple.
    """
    kind = type(value)
    if kind is dict:
        if secret is not None and value and True in map(secret.__getitem__, value):
            return False
        items = [*value, *value.values()]
    elif kind is tuple or kind is list:
        items = value
    else:
        return False
    if len(value) > most:
        return False
    for item in items:
        kind = type(item)
        if kind is str:
            if len(item) > 256:
                return False
        elif kind is int:
            if item.bit_length() > 1024:
                return False
        # 16, 8 and 4 items: three levels, as many as are shown.
        elif kind not in _SIMPLE and (most == 4 or not _is_simple(item, most // 2, secret)):
            return False
    return True


class _Full(Exception):
    """The text has reached its limit."""


class _Writer:
    """Writes one value; ``parts`` holds the text, ``left`` the characters that may follow."""

    def __init__(self, limit: int | None, levels: int, secret: Mapping[Any, bool] | None) -> None:
        self.parts: list[str] = []
        self.left = limit
        self.levels = levels
        self.secret = secret
        self.open: list[int] = []

    def write(self, value: Any) -> None:
        if isinstance(value, str):
            self.put("'" + _shorten(value, self.room()).replace("'", "\\'") + "'")
        elif type(value) in _SIMPLE or (isinstance(value, Number) and not isinstance(value, Decimal)):
            self.put(_shorten(_text_of(str, value), self.room()))
        elif isinstance(value, bytes):
            self.put(_quote_bytes(value, self.room()))
        elif isinstance(value, set | frozenset) and not value:
            self.put(_shorten(f"{type(value).__name__}()", self.room()))
        elif isinstance(value, tuple | list | dict | set | frozenset):
            self.write_container(value)
        else:
            self.put(_shorten(_text_of(repr, value), self.room()))

    def write_container(self, value: Any) -> None:
        left = self.room()
        start, end = _brackets(value)
        if self.levels and len(self.open) >= self.levels:
            return self.put(f"{start}...{end}")
        if id(value) in self.open:
            return self.put(_shorten(f"<Recursion on {type(value).__name__} with id={id(value)}>", left))
        self.put(start)
        self.open.append(id(value))
        try:
            self.write_items(value)
        finally:
            # Closed in every case, and beyond the limit too, so that the text stays balanced.
            self.open.pop()
            self.put(end)

    def write_items(self, value: Any) -> None:
        entries = value.items() if isinstance(value, dict) else value
        for position, item in enumerate(entries):
            if position:
                self.room()
                self.put(", ")
            if isinstance(value, dict):
                self.put(repr_args(item[0], self.room(), self.levels))
                self.room()
                self.put(": ")
                hidden = self.secret is not None and self.secret[item[0]]
                self.write("***" if hidden else item[1])
            else:
                self.write(item)

    def room(self) -> int | None:
        """Return the characters left; if there are none, write that more was there, and end."""
        if self.left is not None and self.left <= 0:
            self.parts.append(", ...")
            raise _Full
        return self.left

    def put(self, text: str) -> None:
        self.parts.append(text)
        if self.left is not None:
            self.left -= len(text)


def _brackets(value: Any) -> tuple[str, str]:
    if isinstance(value, tuple):
        return "(", ",)" if len(value) == 1 else ")"
    if isinstance(value, dict):
        return "{", "}"
    if isinstance(value, list):
        return "[", "]"
    return ("{", "}") if type(value) is set else (f"{type(value).__name__}({{", "})")


def _shorten(text: str, left: int | None) -> str:
    """Cut at the last blank before ``left`` characters."""
    if left and len(text) >= left:
        return text[:left].rsplit(" ", 1)[0] + "..."
    return text


def _quote_bytes(value: bytes, left: int | None) -> str:
    cut = left is not None and len(value) > left
    part = value[:left] if cut else value
    try:
        text = part.decode("utf-8")
    except UnicodeDecodeError:
        text = part.hex()
    return f"b'{text}{'...' if cut else ''}'"


def _text_of(form: Callable[[Any], str], value: Any) -> str:
    try:
        return form(value)
    except Exception as error:  # an object's own __repr__ may raise anything
        return f"<Unrepresentable {type(value)!r}{id(value):#x}: {type(error).__name__}>"
