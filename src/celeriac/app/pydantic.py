"""Pydantic models as task arguments and return values (``@app.task(pydantic=True)``)."""

from __future__ import annotations

import functools
import inspect
import types
import typing
from collections.abc import Callable, Mapping
from typing import Any

from celeriac.exceptions import ImproperlyConfigured

try:
    from pydantic import BaseModel
except ImportError as error:
    raise ImproperlyConfigured("pydantic=True needs a library: pip install 'celeriac[pydantic]'") from error


def validated(
    function: Callable[..., Any], strict: bool, context: dict[str, Any], dump: dict[str, Any] | None
) -> Callable[..., Any]:
    """``function``, whose arguments annotated with a model are made models, and a returned model plain data.

    An argument that does not validate raises pydantic's ``ValidationError`` in the task.
    """
    signature = inspect.signature(function)
    hints = _hints(function)
    models = {key: model for key in signature.parameters if (model := _model(hints.get(key)))}
    returned = _model(hints.get("return"))
    how = {"mode": "json"} if dump is None else dump

    def bind(args: Any, kwargs: Any) -> inspect.BoundArguments:
        call = signature.bind(*args, **kwargs)
        for key, model in models.items():
            value = call.arguments.get(key)
            if key in call.arguments and value is not None and not isinstance(value, model):
                call.arguments[key] = model.model_validate(value, strict=strict, context=context)
        return call

    def plain(value: Any) -> Any:
        if returned is not None and isinstance(value, returned):
            return value.model_dump(**how)
        return value

    if inspect.iscoroutinefunction(function):

        @functools.wraps(function)
        async def run_async(*args: Any, **kwargs: Any) -> Any:
            call = bind(args, kwargs)
            return plain(await function(*call.args, **call.kwargs))

        return run_async

    @functools.wraps(function)
    def run(*args: Any, **kwargs: Any) -> Any:
        call = bind(args, kwargs)
        return plain(function(*call.args, **call.kwargs))

    return run


def dumped(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Arguments for a message: models as plain data."""
    return (
        tuple(_dump(value) for value in args),
        {key: _dump(value) for key, value in kwargs.items()},
    )


def _dump(value: Any) -> Any:
    return value.model_dump(mode="json") if isinstance(value, BaseModel) else value


def _hints(function: Callable[..., Any]) -> dict[str, Any]:
    try:
        return typing.get_type_hints(function)
    except NameError:
        # A name that only type checkers import cannot be a model to validate with.
        return {k: v for k, v in function.__annotations__.items() if not isinstance(v, str)}


def _model(annotation: Any) -> type[BaseModel] | None:
    """The model class of an annotation ``Model``, ``Optional[Model]`` or ``Model | None``."""
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        rest = [part for part in typing.get_args(annotation) if part is not type(None)]
        annotation = rest[0] if len(rest) == 1 else None
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return None
