"""The tasks of an application, by name."""

from __future__ import annotations

from typing import Any

from celeriac.exceptions import NotRegistered
from celeriac.task import Task


class TaskRegistry(dict[str, Task[..., Any]]):
    """A dictionary whose missing names raise ``NotRegistered`` (a ``KeyError``)."""

    def __missing__(self, name: str) -> Task[..., Any]:
        raise NotRegistered(name)

    def register(self, task: Any) -> None:
        """Add a task, or a task class."""
        made = task() if isinstance(task, type) else task
        if not made.name:
            raise ValueError(f"task {made!r} has no name: give its class the attribute name")
        self[made.name] = made

    def unregister(self, name: Any) -> None:
        """Remove a task, given itself or by its name; raises ``NotRegistered``."""
        key = getattr(name, "name", name)
        if key not in self:
            raise NotRegistered(key)
        del self[key]
