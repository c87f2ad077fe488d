"""Attributes of tasks whose values are elsewhere: in the settings, or in the process."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from celeriac.app import state

if TYPE_CHECKING:
    from celeriac.app.base import Celeriac
    from celeriac.task import Task


class Setting:
    """A class attribute that reads a setting until a task gives it a value of its own."""

    reads_setting = True
    """How routes, which go before settings but not before tasks, tell the two apart."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __get__(self, task: Task[..., Any] | None, owner: type[Task[..., Any]]) -> Any:
        conf = (owner._app or state.get_current_app()).conf
        try:
            return conf.__dict__[self.name]
        except KeyError:
            # Reading the settings annotates the tasks, and then this attribute may be the task's own.
            conf.load()
            return getattr(owner if task is None else task, self._attribute)

    def __set_name__(self, owner: type, name: str) -> None:
        self._attribute = name


def setting(name: str) -> Any:
    """A :class:`Setting`, which type checkers take for its value."""
    return Setting(name)


class OwnApp:
    """The attribute ``app`` of tasks and task classes: their own application, else the current one."""

    def __get__(self, task: Task[..., Any] | None, owner: type[Task[..., Any]]) -> Celeriac:
        return owner._app or state.get_current_app()
