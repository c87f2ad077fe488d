"""From a function and the decorator's options to a task."""

from __future__ import annotations

import inspect
import sys
import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from celeriac.app import keys, state
from celeriac.app.autoretry import add_autoretry
from celeriac.exceptions import DuplicateTaskNameWarning, ImproperlyConfigured

if TYPE_CHECKING:
    from celeriac.app.base import Celeriac
    from celeriac.task import Task


_KEYS = ("unique_key", "concurrency_key")


def make_task(
    app: Celeriac,
    function: Callable[..., Any],
    name: str | None = None,
    base: type[Task[..., Any]] | None = None,
    bind: bool = False,
    pydantic: bool = False,
    pydantic_strict: bool = False,
    pydantic_context: dict[str, Any] | None = None,
    pydantic_dump_kwargs: dict[str, Any] | None = None,
    **options: Any,
) -> Task[..., Any]:
    """Make a task of ``function`` and register it; ``options`` become attributes of the task's class."""
    plain_name = getattr(function, "__name__", type(function).__name__)
    module = getattr(function, "__module__", "")
    name = name or app.gen_task_name(plain_name, module)
    # A function given as a key is one of the call's arguments, no method of the task.
    options.update({key: staticmethod(options[key]) for key in _KEYS if inspect.isfunction(options.get(key))})
    body = function
    if pydantic:
        from celeriac.app.pydantic import validated

        body = validated(function, pydantic_strict, pydantic_context or {}, pydantic_dump_kwargs)
    attributes: dict[str, Any] = {
        "_app": app,
        "name": name,
        "run": body if bind else staticmethod(body),
        "pydantic": pydantic,
        "__doc__": function.__doc__,
        "__module__": module,
        "__annotations__": getattr(function, "__annotations__", {}),
        "__wrapped__": function,
        "__qualname__": getattr(function, "__qualname__", plain_name),
        **options,
    }
    made: Task[..., Any] = type(plain_name, (base or app.Task,), attributes)()
    register(app, made)
    return made


def decorated(app: Celeriac, function: Callable[..., Any], options: dict[str, Any]) -> Any:
    """What ``@app.task`` puts in the place of ``function``: its task, or what ``filter`` makes of that."""
    options.pop("lazy", None)  # tasks are made at once: that reads no configuration here
    filtered = options.pop("filter", None)
    shared = options.pop("shared", True)
    made: Any = make_task(app, function, **options)
    if shared:

        def join(other: Celeriac) -> None:
            if other is not app and made.name not in other.registry:
                other.add_task(function, **{**options, "name": made.name})

        state.share_later(join, function)
    return filtered(made) if filtered is not None else made


def register_class(app: Celeriac, task: Any, options: dict[str, Any]) -> Any:
    """Register an instance of a subclass of ``Task``, or the class; ``options`` become its attributes."""
    made = task() if isinstance(task, type) else task
    for key, value in options.items():
        setattr(made, key, value)
    if not made.name:
        made.name = app.gen_task_name(type(made).__name__, type(made).__module__)
    type(made)._app = app
    if type(made).name is None:
        type(made).name = made.name
    register(app, made)
    return made


def register(app: Celeriac, task: Task[..., Any]) -> None:
    """Put a task into the registry; warns if it takes the place of another function's.

    Raises ``ImproperlyConfigured`` for options that contradict each other or its function.
    """
    if task.urgency is not None and _own_priority(task) is not None:
        raise ImproperlyConfigured(
            f"task {task.name} has urgency={task.urgency!r} and priority={_own_priority(task)!r}, which both "
            "say what goes first: give it one of them"
        )
    if task.transactional and inspect.iscoroutinefunction(task.run):
        raise ImproperlyConfigured(
            f"task {task.name} is transactional: its function must not be async, for the connection of its "
            "transaction is not. Make it a plain function"
        )
    keys.check(task)
    existing = app.registry.get(task.name)
    if existing is not None and _source(existing) != _source(task):
        warnings.warn(
            DuplicateTaskNameWarning(
                f"two tasks have the name {task.name!r}: {_shown(existing)} is replaced by {_shown(task)}. "
                "Give one of them a name of its own: @app.task(name=...)"
            ),
            stacklevel=5,
        )
    add_autoretry(task)
    app.registry[task.name] = task
    if app.conf.loaded and app.conf.task_annotations:
        type(task).annotate()
    task.on_bound(app)


def task_name(app: Celeriac, name: str, module: str) -> str:
    """``module.name``; a script's module is called as the application is."""
    if module == "__main__":
        spec = getattr(sys.modules.get("__main__"), "__spec__", None)
        module = app.main or (spec.name if spec is not None else module)
    return ".".join(part for part in (module, name) if part)


def _own_priority(task: Task[..., Any]) -> Any:
    value = inspect.getattr_static(task, "priority", None)
    return None if getattr(value, "reads_setting", False) else value


def _source(task: Task[..., Any]) -> tuple[Any, ...]:
    function = getattr(task, "__wrapped__", None) or type(task).run
    code = getattr(function, "__code__", None)
    if code is None:
        return (type(task).__module__, type(task).__qualname__)
    return (code.co_filename, code.co_firstlineno, code.co_name)


def _shown(task: Task[..., Any]) -> str:
    source = _source(task)
    return f"{source[0]}:{source[1]}" if len(source) == 3 else ".".join(source)
