"""chord: a group whose results go to one more task, its body."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, Self

from celeriac.app import times
from celeriac.app.state import allow_join_result, worker_frame
from celeriac.canvas import stamping
from celeriac.canvas.chain import chain
from celeriac.canvas.composite import Composite
from celeriac.canvas.group import group
from celeriac.canvas.signature import Signature, listed, maybe_signature, members, plain
from celeriac.canvas.text import shortened
from celeriac.message import new_id

if TYPE_CHECKING:
    from celeriac.app.base import Celeriac
    from celeriac.canvas.stamping import StampingVisitor


@Signature.register_type("chord")
class chord(Composite):
    """``chord(header)(body)`` or ``chord(header, body)``: when all tasks of the header have ended, the body
    is called with the list of their results, in the order of the header.

    If one of them fails, the body is not called: its result becomes a ``ChordError``, and its error
    callbacks are called. An empty header calls the body with an empty list. Needs a result backend.
    Options are those of header and body; ``countdown`` and ``eta`` delay the header, callbacks are the
    body's, and so is the id.
    """

    _visits = "on_chord_header"

    def __init__(
        self,
        header: Any,
        body: Any = None,
        task: str = "celery.chord",
        args: Iterable[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
        app: Celeriac | None = None,
        **options: Any,
    ) -> None:
        """``header`` is a group or an iterable of signatures, ``body`` a signature."""
        options.pop("subtask_type", None)
        parts = {
            **(kwargs or {"kwargs": {}}),
            "header": _members(header, app),
            "body": maybe_signature(body, app),
        }
        super().__init__(task, args, parts, subtask_type="chord", app=app, **options)

    tasks = property(
        lambda self: self["kwargs"]["header"], lambda self, value: self["kwargs"].__setitem__("header", value)
    )
    body = property(
        lambda self: self["kwargs"]["body"], lambda self, value: self["kwargs"].__setitem__("body", value)
    )

    # -- calling ---------------------------------------------------------------------------------------

    def __call__(self, body: Any = None, **options: Any) -> Any:
        """Send the chord, with ``body`` if it is given."""
        return self.apply_async((), {"body": body} if body is not None else {}, **options)

    def apply_async(
        self,
        args: Iterable[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
        route_name: str | None = None,
        task_id: str | None = None,
        add_to_parent: bool = True,
        **options: Any,
    ) -> Any:
        """Send the header, with these arguments before its members' own; return the body's result.

        Its ``parent`` is the ``GroupResult`` of the header. ``kwargs`` may hold another ``body``. Raises
        ``ImproperlyConfigured`` if results are turned off, and ``TypeError`` if arguments do not fit.
        """
        whole = self.clone()
        given = {**(whole["kwargs"].get("kwargs") or {}), **(kwargs or {})}
        other = given.pop("body", None)
        if other is not None:
            whole["kwargs"]["body"] = maybe_signature(other, self._app, clone=True)
        if whole.body is None:
            raise TypeError("a chord needs a body: chord(header)(body) or chord(header, body)")
        args = tuple(args or ())
        _, _, merged = whole._merge((), None, options)
        if route_name is not None:
            merged["route_name"] = route_name
        app = self.app
        if app.conf.task_always_eager:
            with allow_join_result():
                return whole.apply(args, given, task_id=task_id, **options)
        from celeriac.canvas.checking import check

        check(whole, app, args, given)
        args = tuple(self["args"]) if self["immutable"] else (*args, *self["args"])
        return whole._send(app, args, given, merged, task_id, add_to_parent)

    def _send(
        self,
        app: Celeriac,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        options: dict[str, Any],
        task_id: str | None,
        add_to_parent: bool,
    ) -> Any:
        for key in _POLLING:  # how often Celery's stores without chords are asked; here nothing is polled
            options.pop(key, None)
        delay: dict[str, Any] = {key: options.pop(key) for key in ("countdown", "eta") if key in options}
        own = options.pop("task_id", None)
        self["options"] = {} if own is None else {"task_id": own}
        place = {key: options.pop(key, None) for key in ("chord", "group_id", "group_index")}
        for key in ("link", "link_error"):
            for callback in listed(options.pop(key, None)):
                _add_callback(self.body, key, maybe_signature(callback, app, clone=True))
        for_body = {k: v for k, v in options.items() if k != "parent_id"}
        self.body["options"].update(for_body)
        options.pop("chain", None)
        result = self.freeze(
            task_id, root_id=options.get("root_id"), parent_id=options.get("parent_id"), **place
        )
        header: Any = group(self.tasks, app=app, task_id=self["options"]["task_id"])
        body: Any = self.body
        _final(body)["options"].setdefault("group_id", header.id)
        if not header.tasks:
            body.apply_async(([],), add_to_parent=False)
            return result
        wait = _seconds(delay, app) + max(_wait(task, app) for task in header.tasks)
        app.chords.open(header.id, len(header.tasks), body, ttl_extra=wait)
        header.send_members(args, kwargs, {**options, **delay}, plain(body))
        frame = worker_frame() if add_to_parent else None
        if frame is not None:
            frame.task.add_trail(result.parent)
        return result

    def run(self, header: Any, body: Any, partial_args: Iterable[Any] = (), **options: Any) -> Any:
        """Send the chord of this header and body (Celery's inner method, which some code calls)."""
        made = chord(header, body, app=self._app, **self["options"])
        return made.apply_async(partial_args, options.pop("kwargs", None), **options)

    def apply(
        self,
        args: Iterable[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
        propagate: bool = True,
        body: Any = None,
        **options: Any,
    ) -> Any:
        """Run header and body here, and return the body's outcome. A header task's error is raised, or with
        ``propagate=False`` handed to the body in place of its result."""
        from celeriac.canvas.eager import apply_chord

        whole = self.clone()
        if body is not None:
            whole["kwargs"]["body"] = maybe_signature(body, self._app, clone=True)
        return apply_chord(whole, args, kwargs, propagate, {**self["options"], **options})

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
        """Fix the ids of header and body, and return the body's result.

        The chord's own id is then that of the header's group. The body is the member of the group, if any.
        """
        from celeriac.canvas.steps import first_of, synchronised

        app = self.app
        own = self["options"].pop("task_id", None)
        body = maybe_signature(self.body, self._app)
        body_result = None
        if body is not None:
            frozen = body["options"].get("task_id") is not None
            if chord is not None:
                body = synchronised(body, app)
            self["kwargs"]["body"] = body
            # Before it is frozen, an id given to the chord is that of its result.
            body_result = body.freeze(
                _id or (None if frozen else own), root_id=root_id, group_id=group_id, chord=chord,
                group_index=group_index,
            )  # fmt: skip
            own = own if frozen else None
        header = group(self.tasks, app=app, task_id=own or new_id())
        header_result = header.freeze(chord=body, root_id=root_id, parent_id=parent_id)
        for member in header.tasks:
            _forget_body(member)
        self["kwargs"]["header"] = header.tasks
        self["options"]["task_id"] = header.id
        if body_result is None:
            return header_result
        first_of(body_result).parent = header_result
        return body_result

    _freeze = freeze

    # -- the rest --------------------------------------------------------------------------------------

    def link(self, callback: Any) -> Any:
        """Call ``callback`` with the body's result."""
        self.body.link(callback)
        return callback

    def link_error(self, errback: Any) -> Any:
        """Call ``errback`` when the body fails or is not called because of an error in the header.

        With ``task_allow_error_cb_on_chord_header`` it is called for each task of the header that fails, too.
        """
        errback = maybe_signature(errback)
        for task in self.tasks:
            if self.app.conf.task_allow_error_cb_on_chord_header:
                task.link_error(errback.clone())
            if isinstance(task, chord):
                task.link_error(errback)
        self.body.link_error(errback)
        return errback

    def set_immutable(self, immutable: bool) -> None:
        """Whether the tasks of the header keep their own arguments; the body is left as it is."""
        for task in self.tasks:
            task.set_immutable(immutable)

    def stamp(
        self, visitor: StampingVisitor | None = None, append_stamps: bool = False, **headers: Any
    ) -> Self:
        """Stamp header and body; see :meth:`Signature.stamp`."""
        stamps = self._stamp_tasks(visitor, append_stamps, headers)
        if self.body is not None:
            found = None if visitor is None else visitor.on_chord_body(self, **stamps) or {}
            self.body.stamp(visitor, append_stamps, **stamping.add_stamps(stamps, found, append_stamps))
        return self

    @property
    def app(self) -> Celeriac:
        """The application of the chord, else that of its header, else that of its body."""
        if self._app is not None:
            return self._app
        for part in (*self.tasks[:1], self.body):
            if part is not None:
                app: Celeriac = maybe_signature(part).app
                return app
        return super().app

    def __length_hint__(self) -> int:
        return sum(1 for _ in self.tasks)

    def __repr__(self) -> str:
        body = self.body
        if body is None:
            return f"<chord without body: {self.tasks!r}>"
        if isinstance(body, chain) and body.tasks:
            first, *rest = body.tasks
            text = f"%({first.reprcall(self.tasks)} | {chain.of(rest, self._app)!r})"
            return shortened(first["task"], text)
        return "%" + shortened(body["task"], body.reprcall(self.tasks))

    def _parts(self, kwargs: dict[str, Any], clone: bool) -> dict[str, Any]:
        app = self._app
        header = kwargs.get("header")
        tasks = _members(header if header is not None else (), app, clone)
        body = maybe_signature(kwargs.get("body"), app, clone=clone)
        return {**kwargs, "kwargs": dict(kwargs.get("kwargs") or {}), "header": tasks, "body": body}


_POLLING = ("interval", "max_retries")


def _members(header: Any, app: Celeriac | None, clone: bool = True) -> list[Any]:
    """The tasks of a header: those of a group, with its options, or of a chain, or of any iterable."""
    if isinstance(header, Mapping):
        header = maybe_signature(header, app)
        if not isinstance(header, group | chain):
            return [header]
        found = members(header.tasks, app, "chord's header", clone)
        for_all = {k: v for k, v in header["options"].items() if k not in _NOT_FOR_ALL}
        if isinstance(header, group) and for_all:
            for member in found:
                member.set(**for_all)
        return found
    return members(header, app, "chord's header", clone)


_NOT_FOR_ALL = {"task_id", "group_id", "group_index", "chord", "reply_to", "root_id", "parent_id"}


def _forget_body(sig: Any) -> None:
    """Take the chord's body out of a header task's options: until the chord is sent it is there once.

    Every task of a pending header would carry a copy of it otherwise, those of chords in chords copies of
    copies.
    """
    sig["options"].pop("chord", None)
    if isinstance(sig, chain) and sig.tasks:
        _forget_body(sig.tasks[-1])
    elif isinstance(sig, chord):
        _forget_body(sig.body)


def _final(sig: Any) -> Any:
    """The task in which a body ends, or the group."""
    while isinstance(sig, chain | chord):
        sig = sig.tasks[-1] if isinstance(sig, chain) else sig.body
    return sig


def _add_callback(body: Any, key: str, callback: Any) -> None:
    """A callback of the chord, at its body: for a group (which has none) at each of its tasks."""
    if key == "link":
        body.link(callback)
    elif isinstance(body, group):
        for task in body.tasks:
            _add_callback(task, key, callback.clone())
    elif isinstance(body, chord):
        _add_callback(body.body, key, callback)
    else:
        body._append("link_error", callback)


def _wait(sig: Mapping[str, Any], app: Celeriac) -> float:
    """How long the delays in a call may hold up its end, in seconds."""
    parts = sig["kwargs"]
    match sig["subtask_type"]:
        case "chain":
            inner = sum(_wait(step, app) for step in parts["tasks"])
        case "group":
            inner = max((_wait(task, app) for task in parts["tasks"]), default=0.0)
        case "chord":
            inner = max((_wait(task, app) for task in parts["header"]), default=0.0) + _wait(
                parts["body"], app
            )
        case _:
            inner = 0.0
    return inner + _seconds(sig["options"], app)


def _seconds(delay: Mapping[str, Any], app: Celeriac) -> float:
    """How long a call with these options waits."""
    if not (delay.get("countdown") or delay.get("eta")):
        return 0.0
    when = times.when(delay.get("countdown"), delay.get("eta"), app.timezone)
    return when.delay if when.delay is not None else max(0.0, (when.due or 0.0) - time.time())
