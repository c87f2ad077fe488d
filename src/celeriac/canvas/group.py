"""group: tasks that run at the same time."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Self

from celeriac.app.state import allow_join_result, worker_frame
from celeriac.canvas.composite import Composite
from celeriac.canvas.signature import Signature, listed, maybe_signature, members
from celeriac.canvas.text import shortened
from celeriac.message import new_id

if TYPE_CHECKING:
    from celeriac.app.base import Celeriac


@Signature.register_type("group")
class group(Composite):
    """``group(a, b, c)``: tasks that run at the same time; its result is a ``GroupResult``, in this order.

    It takes signatures, or one iterable of them. Groups in a group are part of it. Options are those of
    every member. All messages are sent in one step, all or none.
    """

    _visits = "on_group"

    def __init__(self, *tasks: Any, **options: Any) -> None:
        app = options.pop("app", None)
        given: Any = tasks
        if len(tasks) == 1:
            given = maybe_signature(tasks[0], app)
            given = given.tasks if isinstance(given, group) else given
            given = [given.clone()] if isinstance(given, Signature) else given
        parts = {"tasks": members(given, app, "group")}
        super().__init__("celery.group", (), parts, subtask_type="group", app=app, **options)

    # -- calling ---------------------------------------------------------------------------------------

    def __call__(self, *partial_args: Any, **options: Any) -> Any:
        """Send the group with these arguments for every member, and these options."""
        return self.apply_async(partial_args, **options)

    def apply_async(
        self,
        args: Iterable[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
        route_name: str | None = None,
        add_to_parent: bool = True,
        link: Any = None,
        link_error: Any = None,
        **options: Any,
    ) -> Any:
        """Send all members, with these arguments before their own, and return their ``GroupResult``.

        Callbacks are refused with ``TypeError``: those of a group are the body of a chord, or those of its
        members. So are arguments that do not fit a member's task.
        """
        if link is not None or link_error is not None:
            raise TypeError(
                "a group has no callbacks: use a chord, or link them to the group's tasks (group.link_error)"
            )
        app = self.app
        args = tuple(args or ())
        if app.conf.task_always_eager:
            with allow_join_result():
                return self.apply(args, kwargs, **options)
        _, _, options = self._merge((), None, options)
        if route_name is not None:
            options["route_name"] = route_name
        chained = options.pop("chain", None)
        if chained:  # from Celery's clients
            return self._followed_by(chained, app).apply_async(args, kwargs, **options)
        from celeriac.canvas.checking import check

        check(self, app, args, kwargs)
        args = (*args, *self["args"])
        frozen = self.clone()
        for key in ("task_id", "link", "link_error"):
            if key in options:
                frozen["options"][key] = options.pop(key)
        result = frozen.freeze(chord=options.pop("chord", None))
        frozen.send_members(args, kwargs, options)
        frame = worker_frame() if add_to_parent else None
        if frame is not None:
            frame.task.add_trail(result)
        return result

    def send_members(
        self,
        args: Iterable[Any],
        kwargs: Mapping[str, Any] | None,
        options: Mapping[str, Any],
        chord: Any = None,
    ) -> None:
        """Send the members, frozen before, in one step; ``chord`` is the body whose header they are."""
        given = {k: v for k, v in options.items() if k not in _IDS}
        if chord is not None:
            given["chord"] = chord
        with self.app.publisher.together(given):
            for member in self.tasks:
                member.apply_async(args, kwargs, add_to_parent=False, **given)

    def apply(self, args: Iterable[Any] = (), kwargs: Mapping[str, Any] | None = None, **options: Any) -> Any:
        """Run all members here, and return their outcomes as a ``GroupResult``."""
        from celeriac.canvas.eager import apply_group

        return apply_group(self, (*(args or ()), *self["args"]), kwargs, {**self["options"], **options})

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
        """Fix the group's id and those of all members, and return the ``GroupResult``.

        Groups in the group become part of it. With ``chord``, the body of a chord whose header this is, a
        member that ends in a group becomes a chord that gathers that group's results.
        """
        from celeriac.canvas.steps import synchronised

        app = self.app
        options = self["options"]
        gid = options.setdefault("task_id", _id or new_id())
        members = list(self._members())
        for member in members:
            for callback in listed(options.get("link")):
                member.link(maybe_signature(callback, app, clone=True))
            for errback in listed(options.get("link_error")):
                member.link_error(maybe_signature(errback, app, clone=True))
        for key in ("link", "link_error"):
            options.pop(key, None)
        if chord is not None:
            members = [synchronised(member, app) for member in members]
        self["kwargs"]["tasks"] = members
        results = [
            member.freeze(group_id=gid, chord=chord, root_id=root_id, parent_id=parent_id, group_index=index)
            for index, member in enumerate(members)
        ]
        return app.GroupResult(gid, results, app=app)

    _freeze = freeze

    def _members(self) -> Iterator[Any]:
        """The members, with those of groups in it: they also get their group's options."""
        from celeriac.canvas.maps import as_group

        for task in self.tasks:
            member = as_group(maybe_signature(task, self._app))
            if isinstance(member, group):
                inner = {k: v for k, v in member["options"].items() if k not in _IDS}
                for each in member._members():
                    yield each.clone().set(**inner) if inner else each
            elif member["subtask_type"] != "chain" or member.tasks:
                yield member

    def _followed_by(self, chained: list[Any], app: Celeriac) -> Signature:
        from celeriac.canvas.chain import chain

        first = self.clone()
        first["options"].pop("chain", None)
        return chain.of([first, *(maybe_signature(step, app) for step in reversed(chained))], app)

    # -- the rest --------------------------------------------------------------------------------------

    def skew(self, start: float = 1.0, stop: float | None = None, step: float = 1.0) -> Self:
        """Delay the members by ``start``, ``start + step``, ... seconds, ``stop`` at most; return it."""
        seconds = float(start)
        for task in self.tasks:
            task.set(countdown=seconds)
            if not stop or seconds + step <= stop:
                seconds += step
        return self

    def link(self, sig: Any) -> Any:
        """Send ``sig``, without a result, when the first member succeeds (Celery's meaning; use a chord to
        wait for all)."""
        return maybe_signature(self.tasks[0], self._app).link(
            maybe_signature(sig, clone=True).set(immutable=True)
        )

    def link_error(self, sig: Any) -> Any:
        """Call ``sig`` for every member that fails."""
        errback = maybe_signature(sig)
        return tuple(task.link_error(errback.clone()) for task in self.tasks)

    def set_immutable(self, immutable: bool) -> None:
        """Whether the members keep their own arguments."""
        for task in self.tasks:
            task.set_immutable(immutable)

    def __len__(self) -> int:
        return len(self.tasks)

    def __bool__(self) -> bool:
        return True

    def __repr__(self) -> str:
        if not self.tasks:
            return "group(<empty>)"
        return shortened(self.tasks[0]["task"], f"group({self.tasks!r})")


_IDS = {"task_id", "group_id", "group_index", "chord", "reply_to"}
"""Options that are each member's own, also where a group is given them."""
