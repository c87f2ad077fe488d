"""Proxy: a stand-in that forwards everything to an object looked up at each use.

``current_app`` and ``current_task`` are such stand-ins: importing them must not create anything.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator
from typing import Any


class Proxy:
    """Forwards attribute access, calls and operators to ``local()``.

    Raises nothing itself: what the object lacks raises ``AttributeError`` or ``TypeError`` as usual.
    """

    __slots__ = ("__dict__", "__local")

    def __init__(self, local: Callable[[], Any], name: str | None = None, doc: str | None = None) -> None:
        object.__setattr__(self, "_Proxy__local", local)
        if name is not None:
            object.__setattr__(self, "__name__", name)
        if doc is not None:
            object.__setattr__(self, "__doc__", doc)

    def _get_current_object(self) -> Any:
        """The object that this stands for now."""
        return object.__getattribute__(self, "_Proxy__local")()

    @property  # type: ignore[misc]
    def __class__(self) -> Any:  # isinstance() must see the real class
        return self._get_current_object().__class__

    @property
    def __dict__(self) -> Any:  # type: ignore[override]
        return self._get_current_object().__dict__

    def __getattr__(self, name: str) -> Any:
        return getattr(self._get_current_object(), name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self._get_current_object(), name, value)

    def __delattr__(self, name: str) -> None:
        delattr(self._get_current_object(), name)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._get_current_object()(*args, **kwargs)

    def __repr__(self) -> str:
        return repr(self._get_current_object())

    def __str__(self) -> str:
        return str(self._get_current_object())

    def __bool__(self) -> bool:
        return bool(self._get_current_object())

    def __dir__(self) -> list[str]:
        return dir(self._get_current_object())

    def __eq__(self, other: object) -> bool:
        return bool(self._get_current_object() == other)

    def __hash__(self) -> int:
        return hash(self._get_current_object())

    def __len__(self) -> int:
        return len(self._get_current_object())

    def __getitem__(self, key: Any) -> Any:
        return self._get_current_object()[key]

    def __setitem__(self, key: Any, value: Any) -> None:
        self._get_current_object()[key] = value

    def __delitem__(self, key: Any) -> None:
        del self._get_current_object()[key]

    def __contains__(self, item: Any) -> bool:
        return item in self._get_current_object()

    def __iter__(self) -> Iterator[Any]:
        return iter(self._get_current_object())

    def __or__(self, other: Any) -> Any:
        return operator.or_(self._get_current_object(), other)

    def __reduce__(self) -> Any:
        return self._get_current_object().__reduce__()
