"""Signature: a call that has been written down but not made.

It is a dictionary, so that it can travel in a message: ``task`` (a name), ``args``, ``kwargs``,
``options`` (as for ``apply_async``), ``subtask_type`` and ``immutable``. The form is Celery's own.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping
from types import GenericAlias
from typing import TYPE_CHECKING, Any, ClassVar, Self, TypeVar

from celeriac.app.state import app_or_default
from celeriac.canvas import stamping
from celeriac.message import new_id

if TYPE_CHECKING:
    from celeriac.app.base import Celeriac
    from celeriac.canvas.stamping import StampingVisitor
    from celeriac.result import AsyncResult
    from celeriac.task import Task


class Signature(dict[str, Any]):
    """A task's name with arguments and options, to be called later or by a worker.

    Arguments given to a call come before the written ones, keyword arguments and options are merged;
    an ``immutable`` signature keeps its own.
    """

    TYPES: ClassVar[dict[str, type[Signature]]] = {}
    """The classes of signatures by their ``subtask_type``."""
    TASKS: ClassVar[dict[str, type[Signature]]] = {}
    """Those that have none (in Celery's form), by the name of their task."""

    _app: Celeriac | None = None
    _type: Task[..., Any] | None = None

    @classmethod
    def register_type(cls, name: str | None = None) -> Callable[[type[S]], type[S]]:
        """A decorator that makes a class known by ``subtask_type`` (``name``, else the class's name)."""

        def register(subclass: type[S]) -> type[S]:
            cls.TYPES[name or subclass.__name__] = subclass
            return subclass

        return register

    @classmethod
    def from_dict(cls, d: Mapping[str, Any], app: Celeriac | None = None) -> Signature:
        """Make a signature of its dictionary form (as found in a message), of the class it names.

        Raises ``ValueError`` for a ``subtask_type`` that nobody has registered.
        """
        kind = d.get("subtask_type")
        target = (
            cls.TYPES.get(kind)
            if kind
            else cls.TASKS.get(d.get("task", ""), cls)
            if cls is Signature
            else cls
        )
        if target is None:
            raise ValueError(
                f"there is no type of signature {kind!r}; Signature.register_type makes one known"
            )
        if target is not cls:
            return target.from_dict(d, app=app)
        made = cls.__new__(cls)
        dict.__init__(made, _normal(d))
        made._app = app
        made["kwargs"] = made._parts(made["kwargs"], clone=False)
        return made

    def __init__(
        self,
        task: Any = None,
        args: Iterable[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        options: Mapping[str, Any] | None = None,
        type: Any = None,
        subtask_type: str | None = None,
        immutable: bool = False,
        app: Celeriac | None = None,
        **ex: Any,
    ) -> None:
        """``task`` is a task, a name, or another signature's dictionary; ``ex`` are more options."""
        self._app = app
        if isinstance(task, Mapping):
            super().__init__(_normal(task))
            return
        if type is None and not isinstance(task, str):
            type = task
        self._type = type
        super().__init__(
            task=task if isinstance(task, str) else getattr(type, "name", None),
            args=tuple(args or ()),
            kwargs=dict(kwargs or {}),
            options=dict(options or {}, **ex),
            subtask_type=subtask_type,
            immutable=immutable,
        )

    # -- calling ---------------------------------------------------------------------------------------

    def __call__(self, *partial_args: Any, **partial_kwargs: Any) -> Any:
        """Run the task here and now, and return what it returns."""
        args, kwargs, _ = self._merge(partial_args, partial_kwargs, None)
        return self.type(*args, **kwargs)

    def delay(self, *partial_args: Any, **partial_kwargs: Any) -> AsyncResult[Any]:
        """Send the task; see :meth:`apply_async`."""
        return self.apply_async(partial_args, partial_kwargs)

    def apply_async(
        self,
        args: Iterable[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
        route_name: str | None = None,
        **options: Any,
    ) -> AsyncResult[Any]:
        """Send the task with these arguments before the written ones, and return its result's handle."""
        merged_args, merged_kwargs, merged_options = self._merge(args, kwargs, options)
        if route_name is not None:
            merged_options["route_name"] = route_name
        if self._known():
            return self.type.apply_async(merged_args, merged_kwargs, **merged_options)
        return self.app.send_task(self["task"], merged_args, merged_kwargs, **merged_options)

    async def adelay(self, *partial_args: Any, **partial_kwargs: Any) -> Any:
        """:meth:`delay` for coroutines: the event loop is not held up by the broker."""
        return await self.aapply_async(partial_args, partial_kwargs)

    async def aapply_async(
        self, args: Iterable[Any] = (), kwargs: Mapping[str, Any] | None = None, **options: Any
    ) -> Any:
        """:meth:`apply_async` for coroutines: it runs in a thread, with this context's current task."""
        import asyncio

        return await asyncio.to_thread(self.apply_async, args, kwargs, **options)

    def apply(
        self, args: Iterable[Any] = (), kwargs: Mapping[str, Any] | None = None, **options: Any
    ) -> AsyncResult[Any]:
        """Run the task here, as a worker would (``Task.apply``)."""
        merged_args, merged_kwargs, merged_options = self._merge(args, kwargs, options)
        return self.type.apply(merged_args, merged_kwargs, **merged_options)

    def __invert__(self) -> Any:
        """``~sig`` sends the task, waits for it and returns its result."""
        return self.apply_async().get()

    # -- changing --------------------------------------------------------------------------------------

    def clone(self, args: Iterable[Any] = (), kwargs: Mapping[str, Any] | None = None, **opts: Any) -> Self:
        """A copy with more arguments and options merged in; only the values of arguments are shared."""
        merged_args, merged_kwargs, merged_options = self._merge(args, kwargs, opts)
        made = self.__class__.__new__(self.__class__)
        dict.__init__(
            made,
            task=self["task"],
            args=merged_args,
            kwargs=self._parts(merged_kwargs, clone=True),
            options={k: v if type(v) in _ATOMS else copy.deepcopy(v) for k, v in merged_options.items()},
            subtask_type=self["subtask_type"],
            immutable=self["immutable"],
        )
        made._app, made._type = self._app, self._type
        return made

    partial = clone

    def freeze(
        self,
        _id: str | None = None,
        group_id: str | None = None,
        chord: Any = None,
        root_id: str | None = None,
        parent_id: str | None = None,
        group_index: int | None = None,
    ) -> AsyncResult[Any]:
        """Fix the id that the task will have, and return its result's handle, without sending.

        An id that was fixed before stays. Callbacks get ids as well. The other arguments become options: the
        group the task is a member of and its place in it, the body of the chord whose header it belongs to,
        and the tasks it descends from.
        """
        options = self["options"]
        task_id = options.setdefault("task_id", _id or new_id())
        options.setdefault("reply_to", self.app.oid)
        for key in ("link", "link_error"):
            if options.get(key):
                options[key] = frozen_links(options[key], self.app)
        for key, value in (
            ("group_id", group_id),
            ("root_id", root_id),
            ("parent_id", parent_id),
            ("chord", chord),
            ("group_index", group_index),
        ):
            if value is not None:
                options[key] = value
        result = self.app.AsyncResult(task_id, task_name=self["task"])
        result.ignored = self._ignores_result()
        return result

    _freeze = freeze

    def replace(
        self,
        args: Iterable[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> Self:
        """A copy with these arguments, keyword arguments or options in place of the written ones."""
        signature = self.clone()
        if args is not None:
            signature["args"] = tuple(args)
        if kwargs is not None:
            signature["kwargs"] = dict(kwargs)
        if options is not None:
            signature["options"] = dict(options)
        return signature

    def set(self, immutable: bool | None = None, **options: Any) -> Self:
        """Set options of ``apply_async``; return the signature itself."""
        if immutable is not None:
            self.set_immutable(immutable)
        self["options"].update(options)
        return self

    def set_immutable(self, immutable: bool) -> None:
        """Whether the signature keeps its own arguments when it is called with others."""
        self["immutable"] = immutable

    # -- stamps ----------------------------------------------------------------------------------------

    def stamp(
        self, visitor: StampingVisitor | None = None, append_stamps: bool = False, **headers: Any
    ) -> Self:
        """Stamp the call, and what is linked to it, with ``headers`` and what ``visitor`` gives.

        A stamp that is there already is replaced, or with ``append_stamps`` made a list of both. Workers
        see stamps in ``request.stamps``; ``app.control.revoke_by_stamped_headers`` revokes by them. Returns
        the signature itself.
        """
        stamping.stamp_task(self, visitor, append_stamps, headers)
        return self

    def stamp_links(
        self, visitor: StampingVisitor | None = None, append_stamps: bool = False, **headers: Any
    ) -> None:
        """Stamp the callbacks and error callbacks only."""
        stamping.stamp_links(self, visitor, append_stamps, headers)

    # -- callbacks -------------------------------------------------------------------------------------

    def link(self, callback: Any) -> Any:
        """Send ``callback`` with the result when the task succeeds; return ``callback``."""
        return self._append("link", callback)

    def link_error(self, errback: Any) -> Any:
        """Send ``errback`` when the task fails; return ``errback``."""
        return self._append("link_error", errback)

    def on_error(self, errback: Any) -> Self:
        """The same as :meth:`link_error`, but return the signature itself."""
        self.link_error(errback)
        return self

    def flatten_links(self) -> list[Signature]:
        """This signature and all its callbacks, theirs included."""
        found: list[Signature] = [self]
        for callback in listed(self["options"].get("link")):
            found.extend(maybe_signature(callback, self._app).flatten_links())
        return found

    def append_to_list_option(self, key: str, value: Any) -> Any:
        """Append ``value`` to the option's list unless it is in it already; return ``value``."""
        return self._append(key, value)

    def extend_list_option(self, key: str, value: Any) -> None:
        """Append each of ``value`` to the option's list."""
        for item in listed(value):
            self._append(key, item)

    # -- what it is ------------------------------------------------------------------------------------

    @property
    def type(self) -> Task[..., Any]:
        """The task; raises ``NotRegistered`` if the application does not know it."""
        return self._type or self.app.tasks[self["task"]]

    @property
    def app(self) -> Celeriac:
        """The application in which the signature is called."""
        if self._app is None and self._type is not None:
            app: Celeriac = self._type.app
            return app
        return app_or_default(self._app)

    @property
    def name(self) -> str:
        """The task's name."""
        name: str = self["task"]
        return name

    @property
    def id(self) -> str | None:
        """The id fixed by :meth:`freeze`, if any."""
        identifier: str | None = self["options"].get("task_id")
        return identifier

    parent_id = property(lambda self: self["options"].get("parent_id"))
    root_id = property(lambda self: self["options"].get("root_id"))
    task = property(lambda self: self["task"], lambda self, value: self.__setitem__("task", value))
    args = property(lambda self: self["args"], lambda self, value: self.__setitem__("args", value))
    kwargs = property(lambda self: self["kwargs"], lambda self, value: self.__setitem__("kwargs", value))
    options = property(lambda self: self["options"], lambda self, value: self.__setitem__("options", value))
    subtask_type = property(lambda self: self["subtask_type"])
    immutable = property(
        lambda self: self["immutable"], lambda self, value: self.__setitem__("immutable", value)
    )

    def reprcall(self, *args: Any, **kwargs: Any) -> str:
        """The call as text: ``tasks.add(2, 2)``."""
        merged_args, merged_kwargs, _ = self._merge(args, kwargs, None, force=True)
        given = [repr(a) for a in merged_args] + [f"{k}={v!r}" for k, v in merged_kwargs.items()]
        return f"{self['task']}({', '.join(given)})"

    def __repr__(self) -> str:
        return self.reprcall()

    def __json__(self) -> dict[str, Any]:
        return dict(self)

    def __deepcopy__(self, memo: dict[int, Any]) -> Signature:
        memo[id(self)] = self
        return self.clone()

    def __reduce__(self) -> tuple[Any, ...]:
        return signature, (dict(self),)

    def __or__(self, other: Any) -> Any:
        """``a | b``: ``b`` follows ``a`` and gets its result."""
        from celeriac.canvas.joining import join

        return join(self, other)

    def __ror__(self, other: Any) -> Any:
        # dict's own "|" would merge two signatures into nonsense.
        return NotImplemented

    def __ior__(self, other: Any) -> Any:
        return self.__or__(other)

    __class_getitem__: Any = classmethod(GenericAlias)

    def _known(self) -> bool:
        return self._type is not None or self["task"] in self.app.tasks

    def _ignores_result(self) -> bool:
        told = self["options"].get("ignore_result")
        if told is None and self._known():
            told = self.type.ignore_result
        return bool(told)

    def _append(self, key: str, value: Any) -> Any:
        items = listed(self["options"].get(key))
        if value not in items:
            items.append(value)
        self["options"][key] = items
        return value

    def _merge(
        self,
        args: Iterable[Any] | None,
        kwargs: Mapping[str, Any] | None,
        options: Mapping[str, Any] | None,
        force: bool = False,
    ) -> tuple[tuple[Any, ...], dict[str, Any], dict[str, Any]]:
        own = self["options"]
        if options:
            # A member of a group must stay one, and a stamp stays what it was when it was stamped.
            kept = own.keys() & _KEPT
            if "stamped_headers" in kept:
                kept |= own.keys() & (own["stamped_headers"] or ())
            merged = {**own, **{k: v for k, v in options.items() if v is not None and k not in kept}}
        else:
            merged = dict(own)
        if self["immutable"] and not force:
            return tuple(self["args"]), dict(self["kwargs"]), merged
        return (*(args or ()), *self["args"]), {**self["kwargs"], **(kwargs or {})}, merged

    def _parts(self, kwargs: dict[str, Any], clone: bool) -> dict[str, Any]:
        """The keyword arguments with what they hold of signatures, made of dictionaries or cloned."""
        return kwargs


S = TypeVar("S", bound=Signature)

_KEPT = {"group_id", "stamped_headers"}
_ATOMS = {str, int, float, bool, type(None)}


def signature(varies: Any, *args: Any, **kwargs: Any) -> Signature:
    """Make a :class:`Signature` of a task, a name, or a signature's dictionary (which is copied)."""
    app = kwargs.get("app")
    if isinstance(varies, Mapping):
        if isinstance(varies, Signature):
            return varies.clone()
        return Signature.from_dict(varies, app=app)
    return Signature(varies, *args, **kwargs)


subtask = signature


def maybe_signature(d: Any, app: Celeriac | None = None, clone: bool = False) -> Any:
    """``d`` as a :class:`Signature` if it is one or a dictionary, else ``d`` itself (also ``None``)."""
    if not isinstance(d, Mapping):
        return d
    if not isinstance(d, Signature):
        return Signature.from_dict(d, app=app)
    result = d.clone() if clone else d
    if app is not None:
        result._app = app
    return result


maybe_subtask = maybe_signature


def members(tasks: Iterable[Any], app: Celeriac | None, kind: str, clone: bool = False) -> list[Any]:
    """``tasks`` as signatures; raises ``TypeError`` for one that is none (``kind`` is what they make)."""
    made = [maybe_signature(task, app, clone=clone) for task in tasks]
    for task in made:
        if not isinstance(task, Signature):
            raise TypeError(f"a {kind} is made of signatures, such as add.s(2, 2), not of {task!r}")
    return made


def _normal(d: Mapping[str, Any]) -> dict[str, Any]:
    """The six keys, from a dictionary that may lack some (other programs' signatures do)."""
    if "task" not in d:
        raise TypeError(f"a signature's dictionary names its task; {dict(d)!r} has no key 'task'")
    return {
        "task": d["task"],
        "args": tuple(d.get("args") or ()),
        "kwargs": dict(d.get("kwargs") or {}),
        "options": dict(d.get("options") or {}),
        "subtask_type": d.get("subtask_type"),
        "immutable": bool(d.get("immutable", False)),
    }


def frozen_links(links: Any, app: Celeriac) -> list[Any]:
    """Copies of callbacks whose ids are fixed: a task that is delivered twice must not call others twice."""
    frozen = []
    for link in listed(links):
        if not isinstance(link, Mapping):
            raise TypeError(f"a callback is a signature, such as add.s(2), not {link!r}")
        if not (link.get("options") or {}).get("task_id"):
            link = maybe_signature(link, app, clone=True)
            link.freeze()
        frozen.append(link)
    return frozen


def plain(value: Any) -> Any:
    """The same with signatures as plain dictionaries, which are written to messages ten times as fast."""
    if isinstance(value, dict):
        return {key: item if type(item) in _ATOMS else plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [item if type(item) in _ATOMS else plain(item) for item in value]
    return value


def listed(value: Any) -> list[Any]:
    """``value`` as a new list: of its items, of itself alone, or empty for ``None``."""
    if value is None:
        return []
    if isinstance(value, list | tuple):
        return list(value)
    return [value]
