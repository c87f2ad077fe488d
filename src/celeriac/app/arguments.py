"""Checking that a task's function can be called with some arguments."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any


def argument_check(name: str, function: Callable[..., Any]) -> Callable[[Any, Any], None]:
    """A quick test of calls without keyword arguments, and ``Signature.bind`` (10 us) for the others."""
    signature = inspect.signature(function)
    least = most = 0
    simple = True
    for parameter in signature.parameters.values():
        if parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD):
            most += 1
            least += parameter.default is parameter.empty
        elif parameter.kind is parameter.VAR_POSITIONAL:
            most = 1 << 30
        elif parameter.kind is parameter.KEYWORD_ONLY and parameter.default is parameter.empty:
            simple = False

    def check(args: Any, kwargs: Any) -> None:
        if simple and not kwargs and least <= len(args) <= most:
            return
        try:
            signature.bind(*args, **kwargs)
        except TypeError as exc:
            raise TypeError(f"{name}{signature}: {exc}") from None

    return check
