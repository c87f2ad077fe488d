"""Modules and objects found by name."""

from __future__ import annotations

import sys
from datetime import UTC, tzinfo
from importlib import import_module
from pathlib import Path
from typing import Any


def caller_module() -> str | None:
    """The module from which the application's code was entered."""
    frame = sys._getframe(1)
    while frame is not None:
        name: str = frame.f_globals.get("__name__", "")
        if name not in (__name__, "celeriac.app.base"):
            return name
        if frame.f_back is None:
            return None
        frame = frame.f_back
    return None


def main_module() -> str:
    """What the script that runs is called where it is imported."""
    main = sys.modules.get("__main__")
    spec = getattr(main, "__spec__", None)
    name: str = spec.name if spec is not None else Path(getattr(main, "__file__", None) or "").stem
    return name.removesuffix(".__main__")


def zone(name: str) -> tzinfo:
    """A time zone by its name in the IANA database."""
    from zoneinfo import ZoneInfo

    return UTC if name.upper() == "UTC" else ZoneInfo(name)


def given_or_default(given: Any, default: Any) -> Any:
    """``given``, else ``default``; either may be text, ``"module:name"``."""
    chosen = given or default
    if not isinstance(chosen, str):
        return chosen
    module, _, name = chosen.replace(":", ".").rpartition(".")
    return getattr(import_module(module), name)


def bound(app: object, kind: Any) -> Any:
    """A class, or the one named ``"module:Class"``, with ``app`` as its attribute: for that application."""
    kind = given_or_default(None, kind)
    return type(kind.__name__, (kind,), {"app": app, "__module__": kind.__module__})
