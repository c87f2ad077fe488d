"""Finding the application that ``-A`` names, by Celery's rules."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from difflib import get_close_matches
from importlib import import_module
from pkgutil import iter_modules
from types import ModuleType
from typing import Any

from celeriac.app.base import Celeriac
from celeriac.exceptions import ImproperlyConfigured

_ATTRIBUTES = ("app", "celery", "celeriac")


def find_app(name: str | None) -> Celeriac:
    """Return the application that ``name`` means, importing its module from the current directory too.

    ``"proj"`` is the module's attribute ``app``, ``celery`` or ``celeriac``, else the application in
    ``proj.celery`` or ``proj.celeriac``, else the only kind of attribute that is one; ``"proj:name"`` and
    ``"proj.name"`` are that attribute. ``None`` is the current application.

    Raises ``ImproperlyConfigured`` saying what was tried if there is none. An error inside the module comes
    through as it is.
    """
    if not name:
        from celeriac.app.state import get_current_app

        return get_current_app()
    found = find_object(name, lambda one: isinstance(one, Celeriac))
    if not isinstance(found, Celeriac):
        raise ImproperlyConfigured(
            f"-A {name}: {found!r} is not an application but a {type(found).__name__}; "
            "name one that is made by Celeriac(...)"
        )
    return found


def find_object(name: str, is_application: Callable[[object], bool]) -> Any:
    """What ``-A`` names, which need be no application; ``is_application`` tells those of any other name.

    Raises as :func:`find_app`.
    """
    here = os.getcwd()
    if here not in sys.path:
        sys.path.insert(0, here)
    module_name, colon, attribute = name.partition(":")
    if colon:
        module = _import(module_name, name)
        if not attribute:
            return _in_module(module, name, is_application)
        return _attribute(module, attribute, name, is_application)
    try:
        module = import_module(name)
    except ModuleNotFoundError as exc:
        parent, dot, attribute = name.rpartition(".")
        # Only "there is no such module" leads on to an attribute, never a failing import inside one.
        if not dot or not _is_missing(exc, name):
            raise _not_found(exc, name) if _is_missing(exc, name) else exc from None
        return _attribute(_import(parent, name), attribute, name, is_application)
    return _in_module(module, name, is_application)


def _in_module(module: ModuleType, name: str, is_application: Callable[[object], bool]) -> Any:
    for attribute in _ATTRIBUTES:
        found = getattr(module, attribute, None)
        if found is not None and not isinstance(found, ModuleType):
            return found
    if hasattr(module, "__path__"):
        for submodule in ("celery", "celeriac"):
            full_name = f"{module.__name__}.{submodule}"
            try:
                return _in_module(import_module(full_name), full_name, is_application)
            except ModuleNotFoundError as exc:
                if not _is_missing(exc, full_name):
                    raise
            except ImproperlyConfigured:
                continue
    for found in vars(module).values():
        if is_application(found):
            return found
    raise ImproperlyConfigured(
        f"-A {name}: no application in {_shown(module)}: looked for the attributes {', '.join(_ATTRIBUTES)}, "
        f"the modules {module.__name__}.celery and .celeriac, and any other application. "
        "Name it with -A module:attribute"
    )


def _attribute(module: Any, path: str, name: str, is_application: Callable[[object], bool]) -> Any:
    found = module
    for part in path.split("."):
        try:
            found = getattr(found, part)
        except AttributeError:
            raise ImproperlyConfigured(
                f"-A {name}: {_shown(module)} has no attribute {path!r}{_nearest(module, path)}"
            ) from None
    return _in_module(found, name, is_application) if isinstance(found, ModuleType) else found


def _nearest(module: ModuleType, path: str) -> str:
    """A question that proposes what the module has of a name near to ``path``, or nothing."""
    modules = [info.name for info in iter_modules(getattr(module, "__path__", []))]
    near = get_close_matches(path, [*vars(module), *modules], 1, 0.7)
    return f". Did you mean -A {module.__name__}.{near[0]}?" if near else ""


def _import(module_name: str, name: str) -> ModuleType:
    try:
        return import_module(module_name)
    except ModuleNotFoundError as exc:
        if _is_missing(exc, module_name):
            raise _not_found(exc, name) from None
        raise


def _shown(module: ModuleType) -> str:
    return f"{module.__name__} ({getattr(module, '__file__', None) or 'a package without a file'})"


def _is_missing(exc: ModuleNotFoundError, name: str) -> bool:
    """Whether the module ``name`` itself, or a package above it, is what was not found."""
    return exc.name is not None and (name == exc.name or name.startswith(f"{exc.name}."))


def _not_found(exc: ModuleNotFoundError, name: str) -> ImproperlyConfigured:
    return ImproperlyConfigured(
        f"-A {name}: there is no module {exc.name!r} in {os.getcwd()} or on the Python path. "
        "Start in the project's directory, or use --workdir"
    )
