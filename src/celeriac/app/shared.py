"""shared_task: a task for whatever application there is."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any, Literal, ParamSpec, TypeVar, overload

from celeriac.app import state
from celeriac.local import Proxy

if TYPE_CHECKING:
    from celeriac.app.base import Celeriac
    from celeriac.app.decorators import BindDecorator, Decorator
    from celeriac.task import AsyncTask, Task

P = ParamSpec("P")
R = TypeVar("R")


@overload
def shared_task(fun: Callable[P, Coroutine[Any, Any, R]], /) -> AsyncTask[P, R]: ...
@overload
def shared_task(fun: Callable[P, R], /) -> Task[P, R]: ...
@overload
def shared_task(*, bind: Literal[True], **options: Any) -> BindDecorator: ...
@overload
def shared_task(*, bind: Literal[False] = False, **options: Any) -> Decorator: ...
@overload
def shared_task(*, bind: bool, **options: Any) -> Callable[[Callable[..., Any]], Task[..., Any]]: ...
def shared_task(*args: Any, **options: Any) -> Any:
    """Make a task that every application has, for libraries that do not know the application.

    It takes the options of ``@app.task``. What it returns stands for the current application's task.
    """
    if args and (len(args) > 1 or not callable(args[0])):
        raise TypeError("@shared_task takes the options of the task as keyword arguments")

    def make(function: Callable[..., Any]) -> Any:
        given = options.get("name")

        def name(app: Celeriac) -> str:
            return given or app.gen_task_name(function.__name__, function.__module__)

        def join(app: Celeriac) -> None:
            app.add_task(function, **options)

        def task() -> Any:
            app = state.get_current_app()
            return app.tasks[name(app)]

        state.share(join, function)
        return Proxy(task)

    return make(args[0]) if args else make
