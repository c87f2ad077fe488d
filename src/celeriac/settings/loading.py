"""Reading settings from where people write them: dictionaries, objects, modules, the environment, arguments.

Every function returns a dictionary of today's names to converted values, and raises
``ImproperlyConfigured`` for a value of the wrong type and for a name that is nearly one of ours.
"""

from __future__ import annotations

import functools
import json
import os
import re
import sys
from collections.abc import Iterable, Mapping
from importlib import import_module
from types import ModuleType
from typing import Any

from celeriac.exceptions import ImproperlyConfigured
from celeriac.settings.setting import Support
from celeriac.settings.table import OLD_NAMES, SETTINGS

URL_VARIABLES = {
    "CELERY_BROKER_URL": "broker_url",
    "CELERY_BROKER_READ_URL": "broker_read_url",
    "CELERY_BROKER_WRITE_URL": "broker_write_url",
    "CELERY_RESULT_BACKEND": "result_backend",
}
"""Celery's environment variables, which override the code."""

ENVIRONMENT_PREFIX = "CELERIAC_"
"""Any setting can be overridden by the variable with this prefix and its name in capitals."""


def from_object(source: Any, namespace: str | None = None, *, silent: bool = False) -> dict[str, Any]:
    """Read ``source``: a mapping, an object or module with attributes, or the name of one of these.

    A name is ``"package.module"``, ``"package.module:attribute"`` or ``"package.module.attribute"``. With
    ``namespace="CELERY"`` the names carry the prefix ``CELERY_`` (``CELERY_TASK_ACKS_LATE``), and all other
    names are left alone. With ``silent``, a module that is not there counts as empty; otherwise
    ``ImportError`` is raised.
    """
    where = "in the configuration"
    if isinstance(source, str):
        where = f"in {source}"
        try:
            source = _import_source(source)
        except ImportError:
            if silent:
                return {}
            raise
    if isinstance(source, Mapping):
        return from_mapping(source, namespace, where=where)
    values = _attributes(source, namespace)
    # What a module defines or imports for its own use (functions, classes) is never a mistyped setting.
    helpers = {} if namespace else {name: value for name, value in values.items() if _is_helper(name, value)}
    settings = {name: value for name, value in values.items() if name not in helpers}
    return {**helpers, **from_mapping(settings, namespace, where=where)}


def from_mapping(
    values: Mapping[str, Any], namespace: str | None = None, *, where: str = "in the configuration"
) -> dict[str, Any]:
    """Read a dictionary in today's names, in the names before Celery 4, or with a ``namespace``.

    Today's and old names may not be mixed, as in Celery, except with a namespace. Names that are no
    settings are kept, since applications store values of their own; with a namespace only those that
    carry it are. ``where`` is said in errors.
    """
    if namespace:
        found = _take_namespace(values, _prefix(namespace))
    else:
        _refuse_mixture(values, where)
        found = dict(values)
        for name in values:
            if is_old_name(name):
                found.setdefault(OLD_NAMES[name], found.pop(name))
    for name in found:
        refuse_near_miss(name, where)
    result = {name: _convert(name, value, where) for name, value in found.items()}
    zone = values.get("TIME_ZONE")
    if zone and "timezone" not in result:
        result["timezone"] = _convert("timezone", zone, where)
    return result


def from_environment(environ: Mapping[str, str] = os.environ) -> dict[str, Any]:
    """Read the settings that environment variables override: Celery's four URLs and ``CELERIAC_<NAME>``.

    Empty variables count as unset. Other names with the prefix are left alone, unless they are nearly a
    setting's.
    """
    result = {}
    for variable, name in URL_VARIABLES.items():
        if environ.get(variable):
            result[name] = environ[variable]
    for variable, value in environ.items():
        name = variable.removeprefix(ENVIRONMENT_PREFIX).lower()
        if not variable.startswith(ENVIRONMENT_PREFIX) or not value:
            continue
        if name in SETTINGS:
            result[name] = _convert(name, value, f"in the environment variable {variable}")
        else:
            refuse_near_miss(name, f"in the environment variable {variable}")
    return result


def from_arguments(arguments: Iterable[str]) -> dict[str, Any]:
    """Read command-line arguments of the form ``name=value``.

    As in Celery, ``worker.concurrency=4`` is ``worker_concurrency=4``, and ``name=(json)[1, 2]`` says how
    the text is to be read (``json``, ``int``, ``float``, ``bool``, ``string``, ``list``, ``dict``,
    ``tuple``). A name that is not a setting is an error.
    """
    result = {}
    for argument in arguments:
        key, equals, text = argument.partition("=")
        name = key.strip().lower().replace(".", "_")
        if not equals:
            raise ImproperlyConfigured(f"argument {argument!r}: a setting is given as name=value")
        if name not in SETTINGS:
            refuse_near_miss(name, "on the command line")
            raise ImproperlyConfigured(f"argument {argument!r}: there is no setting {name!r}")
        result[name] = _convert(name, _cast(text), "on the command line")
    return result


def is_old_name(name: str) -> bool:
    """Tell whether ``name`` is read as a setting's name from before Celery 4.

    Names of stores that we have not, such as ``S3_BUCKET``, are not: in a settings file that is shared with
    other software they mostly mean something else.
    """
    setting = SETTINGS.get(OLD_NAMES.get(name, ""))
    if setting is None:
        return False
    return setting.support is not Support.REFUSED or name.startswith(("CELERY", "BROKER_"))


def canonical(name: str, namespace: str | None = None) -> str:
    """Return today's name of a setting that is given by its old name or with its namespace."""
    if name in SETTINGS:
        return name
    if namespace and name.startswith(_prefix(namespace)):
        short = name.removeprefix(_prefix(namespace)).lower()
        if short in SETTINGS or not is_old_name(name):
            return short
    return OLD_NAMES[name] if is_old_name(name) else name


def refuse_near_miss(name: str, where: str = "") -> None:
    """Raise ``ImproperlyConfigured`` if ``name`` is no setting but nearly one; ``where`` it was found."""
    suggestion = suggest(name)
    if not suggestion:
        return
    namespace = " (or namespace='CELERY')" if name == f"CELERY_{suggestion.upper()}" else ""
    raise ImproperlyConfigured(
        f"unknown setting {name!r}{where and ' '}{where}: did you mean {suggestion!r}{namespace}? "
        "(A value of your own needs a name less like a setting's.)"
    )


@functools.lru_cache(maxsize=1024)
def suggest(name: str) -> str | None:
    """Return the setting that ``name`` is likely to mean, or ``None`` if it is one or is like none."""
    if name in SETTINGS or is_old_name(name):
        return None
    lowered = name.lower()
    if name != lowered:
        return _suggest_capitals(name, lowered)
    for guess in _close_matches(lowered, SETTINGS, cutoff=0.86):
        # Another word added makes another name (worker_pool_size), no slip of the keyboard.
        if not set(guess.split("_")) < set(lowered.split("_")):
            return guess
    return None


# -- helpers -----------------------------------------------------------------------------------------


def _close_matches(name: str, known: Iterable[str], cutoff: float) -> list[str]:
    # Imported only for names that are no settings: most processes meet none.
    from difflib import get_close_matches

    return get_close_matches(name, list(known), n=3, cutoff=cutoff)


def _suggest_capitals(name: str, lowered: str) -> str | None:
    if name != name.upper():
        return lowered if lowered in SETTINGS else None
    if not name.startswith(("CELERY", "BROKER_")):
        return None
    short = lowered.removeprefix("celery_")
    if short in SETTINGS:
        return short
    old = [old for old in OLD_NAMES if is_old_name(old)]
    return next(iter(_close_matches(name, old, cutoff=0.9)), None)


def _attributes(source: Any, namespace: str | None) -> dict[str, Any]:
    names = [name for name in dir(source) if not name.startswith("_")]
    if namespace:
        # Not every attribute of an object such as Django's settings may be read without a side effect.
        names = [
            name
            for name in names
            if name.startswith(_prefix(namespace))
            or name in SETTINGS
            or name in OLD_NAMES
            or name == "TIME_ZONE"
        ]
    values = {name: getattr(source, name) for name in names}
    return {name: value for name, value in values.items() if not isinstance(value, ModuleType)}


def _is_helper(name: str, value: Any) -> bool:
    return callable(value) and name not in SETTINGS and not is_old_name(name)


def _prefix(namespace: str) -> str:
    return namespace.rstrip("_") + "_"


def _take_namespace(values: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    """Names with the prefix first, then plain and old ones, as Celery looks them up."""
    found = {}
    old = {}
    for name, value in values.items():
        short = name.removeprefix(prefix).lower()
        if name.startswith(prefix) and (short in SETTINGS or not is_old_name(name)):
            found[short] = value
        elif name in SETTINGS or is_old_name(name):
            old[canonical(name)] = value
    return {**old, **found}


def _refuse_mixture(values: Mapping[str, Any], where: str) -> None:
    today = {name: SETTINGS[name].old_name for name in values if name in SETTINGS}
    old = {name: OLD_NAMES[name] for name in values if is_old_name(name)}
    minority: Mapping[str, str | None] = today if len(old) > len(today) else old
    renames = {name: other for name, other in minority.items() if other and other not in values}
    if today and old and renames:
        lines = "".join(f"\n  {name} -> {other}" for name, other in sorted(renames.items()))
        raise ImproperlyConfigured(
            f"old and new names of settings are mixed {where}; "
            f"rename these, so that all are of one kind:{lines}"
        )


def _convert(name: str, value: Any, where: str) -> Any:
    setting = SETTINGS.get(name)
    if setting is None:
        return value
    try:
        return setting.convert(value)
    except ImproperlyConfigured as exc:
        raise ImproperlyConfigured(f"{exc} ({where})") from None


def _cast(text: str) -> Any:
    match = re.match(r"\((json|list|dict|tuple|int|float|bool|string|any)\)", text)
    if not match:
        return text
    rest = text[match.end() :]
    if match[1] in ("json", "list", "dict", "tuple"):
        try:
            return json.loads(rest)
        except ValueError as exc:
            raise ImproperlyConfigured(f"argument {text!r} is not JSON: {exc}") from None
    return rest


def _import_source(path: str) -> Any:
    if path.endswith(".py"):
        raise ImproperlyConfigured(f"configuration {path!r}: give the module's name, without .py")
    module, colon, attribute = path.partition(":")
    if colon:
        return getattr(import_module(module), attribute)
    try:
        return import_module(path)
    except ModuleNotFoundError as exc:
        parent, _, attribute = path.rpartition(".")
        # Only "there is no such module" leads on to an attribute, never an import that fails inside one.
        if exc.name != path or not hasattr(sys.modules.get(parent), attribute):
            raise
        return getattr(sys.modules[parent], attribute)
