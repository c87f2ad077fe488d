"""Composite: what chain, group and chord have in common as signatures made of others."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Self

from celeriac.canvas import stamping
from celeriac.canvas.signature import Signature, maybe_signature

if TYPE_CHECKING:
    from celeriac.app.base import Celeriac
    from celeriac.canvas.stamping import StampingVisitor


class Composite(Signature):
    """A signature made of others, its ``tasks``."""

    _visits: ClassVar[str]
    """How a visitor's methods for the tasks begin: ``on_chain`` for ``on_chain_start``, ``on_chain_end``."""

    tasks = property(
        lambda self: self["kwargs"]["tasks"], lambda self, value: self["kwargs"].__setitem__("tasks", value)
    )

    @property
    def app(self) -> Celeriac:
        """The application of the whole, else that of its first part."""
        if self._app is None and self.tasks:
            app: Celeriac = maybe_signature(self.tasks[0]).app
            return app
        return super().app

    def stamp(
        self, visitor: StampingVisitor | None = None, append_stamps: bool = False, **headers: Any
    ) -> Self:
        """Stamp all parts, and the callbacks of the whole; see :meth:`Signature.stamp`."""
        self._stamp_tasks(visitor, append_stamps, headers)
        return self

    def _stamp_tasks(
        self, visitor: StampingVisitor | None, append: bool, headers: Mapping[str, Any]
    ) -> dict[str, Any]:
        """Stamp the tasks and the callbacks; return the stamps that all of them have got."""
        found = None
        if visitor is not None:
            found = getattr(visitor, f"{self._visits}_start")(self, **headers) or {}
        stamps = stamping.add_stamps(headers, found, append, self["options"])
        self.stamp_links(visitor, append, **stamps)
        self.tasks = tasks = [maybe_signature(task, self._app) for task in self.tasks]
        for task in tasks:
            task.stamp(visitor, append, **stamps)
        if visitor is not None:
            getattr(visitor, f"{self._visits}_end")(self, **stamps)
        return stamps

    def _parts(self, kwargs: dict[str, Any], clone: bool) -> dict[str, Any]:
        tasks = [maybe_signature(task, self._app, clone=clone) for task in kwargs.get("tasks") or ()]
        return {**kwargs, "tasks": tasks}
