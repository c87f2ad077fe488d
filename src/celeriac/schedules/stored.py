"""Schedules as JSON."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from celeriac.schedules.base import BaseSchedule
from celeriac.schedules.crons import cron
from celeriac.schedules.crontabs import crontab
from celeriac.schedules.intervals import schedule
from celeriac.schedules.moments import clocked
from celeriac.schedules.sun import solar

_OURS: tuple[type[BaseSchedule], ...] = (schedule, crontab, cron, solar, clocked)


def to_json(made: BaseSchedule) -> dict[str, Any]:
    """What :func:`from_json` makes the schedule of again: plain data.

    A class of your own is written as its name and what its ``__json__()`` returns, a dictionary. Raises
    ``TypeError`` if it has none, ``ValueError`` if it is not to be found by its name.
    """
    cls = type(made)
    if cls in _OURS:
        written: dict[str, Any] = made.__json__()  # type: ignore[attr-defined]
        return written
    state = getattr(cls, "__json__", None)
    if state is None or state in [getattr(ours, "__json__") for ours in _OURS]:  # noqa: B009
        raise TypeError(
            f"the schedule {made!r} can be used from code, but not be stored: give {cls.__qualname__} a "
            "method __json__() that returns its arguments as a dictionary"
        )
    path = f"{cls.__module__}:{cls.__qualname__}"
    if _loaded(path) is not cls:
        raise ValueError(f"the class of the schedule {made!r} is not found as {path}, so it cannot be stored")
    return {"type": "class", "class": path, "state": state(made)}


def from_json(data: Mapping[str, Any]) -> BaseSchedule:
    """The schedule that :func:`to_json` has written.

    A class of your own gets its state by its class method ``from_json(state)``, else as keyword arguments.
    Its module must have been imported: nothing is imported because stored data says so. Raises
    ``ValueError`` for a type, a class or arguments that there are not.
    """
    kind, rest = data.get("type"), {key: value for key, value in data.items() if key != "type"}
    try:
        match kind:
            case "interval":
                return schedule(rest.pop("seconds"), **rest)
            case "crontab":
                return crontab(**rest)
            case "cron":
                return cron(**rest)
            case "solar":
                return solar(**rest)
            case "clocked":
                return clocked(datetime.fromisoformat(rest.pop("clocked_time")), **rest)
            case "class":
                return _own(rest["class"], rest["state"])
    except (TypeError, KeyError) as error:
        raise ValueError(f"a schedule of the type {kind!r} cannot be made of {rest!r}: {error}") from error
    raise ValueError(f"there is no schedule of the type {kind!r}")


def _own(path: str, state: dict[str, Any]) -> BaseSchedule:
    cls = _loaded(path)
    if not (isinstance(cls, type) and issubclass(cls, BaseSchedule)):
        raise ValueError(
            f"the schedule class {path} is not there, or is no BaseSchedule; import its module where your "
            "application is defined"
        )
    read = getattr(cls, "from_json", None)
    made: BaseSchedule = read(state) if read is not None else cls(**state)
    return made


def _loaded(path: str) -> Any:
    module, _, name = path.partition(":")
    found: Any = sys.modules.get(module)
    for part in name.split("."):
        found = getattr(found, part, None)
    return found
