"""chain: tasks that run one after another, each with the result of the one before."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, Self

from celeriac.app.state import allow_join_result
from celeriac.canvas.composite import Composite
from celeriac.canvas.signature import Signature, listed, maybe_signature, plain
from celeriac.canvas.text import shortened

if TYPE_CHECKING:
    from celeriac.app.base import Celeriac


@Signature.register_type("chain")
class chain(Composite):
    """``chain(a, b, c)``, the same as ``a | b | c``: ``b`` gets the result of ``a``, ``c`` that of ``b``.

    It takes signatures, or one iterable of them. Its result is that of the last step; the others are
    reached by ``result.parent``. A group that another step follows becomes a chord; if the first step is a
    group, that chord is what ``chain(...)`` returns.

    Options of the chain are those of its first step, but ``link`` and ``task_id`` are those of the last, and
    ``link_error`` is that of all.
    """

    _visits = "on_chain"

    def __new__(cls, *tasks: Any, **options: Any) -> Any:
        if options or not tasks:
            return super().__new__(cls)
        if len(tasks) == 1 and isinstance(tasks[0], Mapping):
            return cls.of([maybe_signature(tasks[0])], None)
        from celeriac.canvas.joining import fold

        made = fold(tasks[0] if len(tasks) == 1 else tasks)
        return cls.of(made.tasks, made._app) if type(made) is chain and cls is not chain else made

    def __init__(self, *tasks: Any, **options: Any) -> None:
        if self:
            return  # it comes ready from __new__
        given = tasks[0] if len(tasks) == 1 and not isinstance(tasks[0], Mapping) else tasks
        app = options.pop("app", None)
        steps = [maybe_signature(task, app) for task in given]
        super().__init__("celery.chain", (), {"tasks": steps}, subtask_type="chain", app=app, **options)

    @classmethod
    def of(cls, steps: list[Any], app: Celeriac | None = None) -> Self:
        """A chain of exactly these steps, none of them joined."""
        made: Self = Signature.__new__(cls)
        Signature.__init__(made, "celery.chain", (), {"tasks": steps}, subtask_type="chain", app=app)
        return made

    # -- calling ---------------------------------------------------------------------------------------

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Send the chain with these arguments for its first step."""
        return self.apply_async(args, kwargs)

    def apply_async(
        self,
        args: Iterable[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
        route_name: str | None = None,
        **options: Any,
    ) -> Any:
        """Send the first step, with these arguments before its own; the others follow by themselves.

        Returns the result of the last step (``None`` for an empty chain). Raises ``TypeError`` if the
        arguments of any step do not fit its task.
        """
        if not self.tasks:
            return None
        app = self.app
        if app.conf.task_always_eager:
            with allow_join_result():
                return self.apply(args, kwargs, **options)
        from celeriac.canvas.checking import check

        args = tuple(args or ())
        check(self, app, args, kwargs)
        args, kwargs = self._for_first(args, kwargs)
        _, _, options = self._merge((), None, options)
        if route_name is not None:
            options["route_name"] = route_name
        frozen = self.clone()
        frozen["options"] = {key: options.pop(key) for key in _OWN if key in options}
        chained = options.pop("chain", None) or []
        result = frozen.freeze(
            root_id=options.get("root_id"), parent_id=options.get("parent_id"),
            **{key: frozen.options.get(key) for key in ("group_id", "chord", "group_index")},
        )  # fmt: skip
        first, *rest = frozen.tasks
        applied = first.apply_async(args, kwargs, chain=[*chained, *plain(rest[::-1])], **options)
        return result if rest else applied

    def apply(self, args: Iterable[Any] = (), kwargs: Mapping[str, Any] | None = None, **options: Any) -> Any:
        """Run all steps here, one after another, and return the last one's outcome."""
        from celeriac.canvas.eager import apply_chain

        args, kwargs = self._for_first(args, kwargs)
        return apply_chain(self, args, kwargs, {**self["options"], **options})

    def run(self, args: Iterable[Any] = (), kwargs: Mapping[str, Any] | None = None, **options: Any) -> Any:
        """The same as :meth:`apply_async`."""
        return self.apply_async(args, kwargs, **options)

    # -- freezing --------------------------------------------------------------------------------------

    def freeze(
        self,
        _id: str | None = None,
        group_id: str | None = None,
        chord: Any = None,
        root_id: str | None = None,
        parent_id: str | None = None,
        group_index: int | None = None,
    ) -> Any:
        """Fix the ids of all steps, and return the last one's result.

        The steps get the form in which they are sent: groups that are followed become chords, callbacks of
        the chain those of its last step, and so on. The last step is the member of the group, if any.
        """
        from celeriac.canvas.steps import freeze_steps, prepared, synchronised

        steps = prepared(self.unchained(clone=False), self.app)
        if not steps:
            return super().freeze(_id, group_id, chord, root_id, parent_id, group_index)
        if chord is not None:
            steps[-1] = synchronised(steps[-1], self.app)
        result = freeze_steps(
            steps,
            {"_id": self["options"].get("task_id") or _id, "group_id": group_id, "chord": chord,
             "group_index": group_index},
            root_id,
            parent_id,
        )  # fmt: skip
        self["kwargs"]["tasks"] = steps
        for key in ("link", "link_error"):
            self["options"].pop(key, None)
        self["options"]["task_id"] = result.id
        return result

    _freeze = freeze

    def unchained(self, clone: bool = True) -> list[Any]:
        """The steps, with the chain's callbacks at the last one and its error callbacks at all."""
        app = self._app
        steps = [maybe_signature(task, app, clone=clone) for task in self.tasks]
        options = self["options"]
        if steps:
            for callback in listed(options.get("link")):
                steps[-1].link(callback)
            for errback in listed(options.get("link_error")):
                for step in steps:
                    step.link_error(errback)
        return steps

    unchain_tasks = unchained

    # -- the rest --------------------------------------------------------------------------------------

    def __repr__(self) -> str:
        if not self.tasks:
            return f"<{type(self).__name__}@{id(self):#x}: empty>"
        return shortened(self.tasks[0]["task"], " | ".join(repr(task) for task in self.tasks))

    def _for_first(
        self, args: Iterable[Any], kwargs: Mapping[str, Any] | None
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The arguments that go to the first step."""
        if self["immutable"]:
            return tuple(self["args"]), {}
        return (*(args or ()), *self["args"]), dict(kwargs or {})


_OWN = ("task_id", "group_id", "group_index", "chord", "link", "link_error")
"""Options that are not the first step's."""
