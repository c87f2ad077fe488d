"""Periodic tasks added in code: entries of ``conf.beat_schedule``, for the scheduler to take up."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from celeriac.canvas.signature import Signature
from celeriac.schedules import maybe_schedule

if TYPE_CHECKING:
    from celeriac.app.base import Celeriac


class PeriodicTasks:
    """Takes entries for one application; those that come before its settings are read wait for them."""

    def __init__(self, app: Celeriac) -> None:
        self._app = app
        self._waiting: list[tuple[str, dict[str, Any], bool]] = []

    def add(
        self,
        schedule: Any,
        sig: Any,
        args: Iterable[Any],
        kwargs: Mapping[str, Any] | None,
        name: str | None,
        options: Mapping[str, Any],
    ) -> str:
        """See ``Celeriac.add_periodic_task``. Raises ``TypeError`` for what is neither task nor schedule."""
        signature = self._signature(sig, tuple(args), dict(kwargs or {}))
        made = maybe_schedule(schedule)
        if isinstance(made, str | bytes | bool | type(None)):
            raise TypeError(
                f"add_periodic_task: {schedule!r} is not a schedule: give seconds, a timedelta, crontab(...) "
                "or crontab.from_string(...)"
            )
        entry = {
            "schedule": made,
            "task": signature["task"],
            "args": signature["args"],
            "kwargs": signature["kwargs"],
            "options": {**signature["options"], **options},
        }
        key = name or repr(signature)
        self._waiting.append((key, entry, name is not None))
        if self._app.conf.loaded:
            self.settle()
        return key

    def settle(self) -> None:
        """Put the entries that wait into the settings."""
        waiting, self._waiting = self._waiting, []
        entries = dict(self._app.conf.beat_schedule)
        for key, entry, named in waiting:
            if key in entries and not named:
                warnings.warn(
                    f"add_periodic_task: a second entry {key} replaces the first; give each a name= of its "
                    "own to keep both",
                    stacklevel=4,
                )
            entries[key] = entry
        self._app.conf.beat_schedule = entries

    def _signature(self, sig: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Signature:
        if isinstance(sig, Signature):
            return sig.clone(args, kwargs)
        if not isinstance(getattr(sig, "name", None), str):
            raise TypeError(f"add_periodic_task takes a signature or a task, not {sig!r}")
        return self._app.signature(sig.name, args, kwargs)
