"""Parts of an application: made of it when they are first used, and kept."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from celeriac.app.names import given_or_default


class Part:
    """An attribute whose value is ``make(owner)``; done once, from then on it is a plain attribute."""

    def __init__(self, make: Callable[[Any], Any] | str) -> None:
        self.make = make

    def __get__(self, owner: Any, kind: type) -> Any:
        if owner is None:
            return self
        return owner.__dict__.setdefault(self._attribute, given_or_default(None, self.make)(owner))

    def __set_name__(self, kind: type, name: str) -> None:
        self._attribute = name


def part(make: Callable[[Any], Any] | str) -> Any:
    """A :class:`Part`, which type checkers take for its value.

    ``make`` is a class or function; ``"module:name"`` keeps its module from being imported before.
    """
    return Part(make)
