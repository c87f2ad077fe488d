"""Making answers plain: values of any type as JSON has them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from celeriac.saferepr import shown

_DEEPEST = 30


def plain(value: Any, depth: int = 0) -> Any:
    """``value`` in JSON's types; what JSON has no type for is shown as text."""
    if value is None or isinstance(value, bool | int | float | str):
        return value if type(value) in (bool, int, float, str, type(None)) else _base(value)
    if depth > _DEEPEST:
        return "..."
    if isinstance(value, Mapping):
        return {_key(key): plain(each, depth + 1) for key, each in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(each, depth + 1) for each in value]
    return shown(value, str) if isinstance(value, bytes) else shown(value)


def _key(key: Any) -> str:
    return key if isinstance(key, str) else str(key)


def _base(value: Any) -> Any:
    """A subclass's instance (an enumeration's) as the plain type it is made of."""
    return next(kind(value) for kind in (bool, int, float, str) if isinstance(value, kind))
