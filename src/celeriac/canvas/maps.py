"""map, starmap and chunks: one task for many items, in one message or a few."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import islice
from typing import TYPE_CHECKING, Any, ClassVar

from celeriac.canvas.group import group as group_of
from celeriac.canvas.signature import Signature, maybe_signature
from celeriac.canvas.text import cut

if TYPE_CHECKING:
    from celeriac.app.base import Celeriac
    from celeriac.canvas.group import group


class _OfTask(Signature):
    """A signature with another one as its argument ``task``."""

    def _parts(self, kwargs: dict[str, Any], clone: bool) -> dict[str, Any]:
        return {**kwargs, "task": maybe_signature(kwargs.get("task"), self._app, clone=clone)}


class _Map(_OfTask):
    """A message that runs a task for each of its items, one after another in one worker."""

    name_of_task: ClassVar[str]

    def __init__(self, task: Any, it: Iterable[Any], app: Celeriac | None = None, **options: Any) -> None:
        kwargs = {"task": _signature(task, app), "it": list(it)}
        super().__init__(self.name_of_task, (), kwargs, immutable=True, app=app, **options)

    def apply_async(
        self,
        args: Iterable[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
        route_name: str | None = None,
        **options: Any,
    ) -> Any:
        """Send the message, to the queue of the task that it runs."""
        task = self["kwargs"]["task"]
        return super().apply_async(args, kwargs, route_name=route_name or task["task"], **options)


@Signature.register_type()
class xmap(_Map):
    """``add.map(it)``: ``[add(x) for x in it]`` in one message."""

    name_of_task = "celery.map"

    def __repr__(self) -> str:
        return f"[{self['kwargs']['task']['task']}(x) for x in {cut(repr(self['kwargs']['it']))}]"


@Signature.register_type()
class xstarmap(_Map):
    """``add.starmap(it)``: ``[add(*x) for x in it]`` in one message."""

    name_of_task = "celery.starmap"

    def __repr__(self) -> str:
        return f"[{self['kwargs']['task']['task']}(*x) for x in {cut(repr(self['kwargs']['it']))}]"


@Signature.register_type()
class chunks(_OfTask):
    """``add.chunks(it, n)``: a group of messages, each of which runs the task for ``n`` items."""

    def __init__(
        self, task: Any, it: Iterable[Any], n: int, app: Celeriac | None = None, **options: Any
    ) -> None:
        if n < 1:
            raise ValueError(f"chunks need a size of at least 1, not {n}")
        kwargs = {"task": _signature(task, app), "it": list(it), "n": n}
        super().__init__("celery.chunks", (), kwargs, immutable=True, app=app, **options)

    def __call__(self, **options: Any) -> Any:
        """Send the group."""
        return self.apply_async(**options)

    def apply_async(
        self,
        args: Iterable[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
        route_name: str | None = None,
        **options: Any,
    ) -> Any:
        """Send the group, and return its ``GroupResult``."""
        return self.group().apply_async(args, kwargs, route_name=route_name, **options)

    def apply(self, args: Iterable[Any] = (), kwargs: Mapping[str, Any] | None = None, **options: Any) -> Any:
        """Run the group here."""
        return self.group().apply(args, kwargs, **options)

    def group(self) -> group:
        """The group of messages."""
        task, size = self["kwargs"]["task"], self["kwargs"]["n"]
        items = iter(self["kwargs"]["it"])
        parts = iter(lambda: list(islice(items, size)), [])
        return group_of(
            [xstarmap(task, part, app=self._app) for part in parts], app=self._app, **self["options"]
        )

    @classmethod
    def apply_chunks(cls, task: Any, it: Iterable[Any], n: int, app: Celeriac | None = None) -> Any:
        """Send chunks at once."""
        return cls(task, it, n, app=app)()


def as_group(sig: Any) -> Any:
    """Chunks as the group that they send; anything else as it is."""
    return sig.group() if isinstance(sig, chunks) else sig


Signature.TASKS.update({"celery.map": xmap, "celery.starmap": xstarmap, "celery.chunks": chunks})


def _signature(task: Any, app: Celeriac | None) -> Signature:
    if isinstance(task, Mapping):
        made: Signature = maybe_signature(task, app)
        return made
    return Signature(task, app=app)
