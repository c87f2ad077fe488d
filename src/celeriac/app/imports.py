"""Importing the modules that define an application's tasks."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from celeriac import signals

if TYPE_CHECKING:
    from celeriac.app.base import Celeriac


def import_tasks(app: Celeriac) -> list[Any]:
    """Import the modules of ``imports`` and ``include`` and those found by ``autodiscover_tasks``.

    Return the modules of the settings. Raises what their import raises.
    """
    signals.import_modules.send(sender=app)
    for discover in app.discoveries:
        # Not a receiver of the signal: an import that fails must stop the worker, not be logged.
        discover()
    modules = []
    for name in dict.fromkeys((*(app.conf.imports or ()), *(app.conf.include or ()))):
        modules.append(importlib.import_module(name))
    return modules


def autodiscover(
    app: Celeriac,
    packages: Iterable[str] | Callable[[], Iterable[str]] | None,
    related_name: str | None,
    force: bool,
) -> None:
    """See ``Celeriac.autodiscover_tasks``."""

    def discover() -> None:
        found = packages() if callable(packages) else packages
        for package in _django_packages() if found is None else found:
            find_related_module(package, related_name)

    if force:
        discover()
    else:
        app.discoveries.append(discover)


def find_related_module(package: str, related_name: str | None) -> Any:
    """Import ``package.related_name`` if there is such a module; return it or ``None``.

    Without ``related_name`` the package itself is imported. An error inside the module is raised.
    """
    try:
        module = importlib.import_module(package)
        if not related_name:
            return module
    except ModuleNotFoundError:
        # An entry of Django's INSTALLED_APPS may name a class in a module.
        package, _, _ = package.rpartition(".")
        if not package:
            raise
        importlib.import_module(package)
        if not related_name:
            return None
    name = f"{package}.{related_name}"
    try:
        spec = importlib.util.find_spec(name)
    except ModuleNotFoundError:
        # The "package" is a plain module.
        return None
    return importlib.import_module(name) if spec is not None else None


def _django_packages() -> list[str]:
    """The packages of Django's installed apps, if it is set up; else none."""
    import os
    import sys

    if "DJANGO_SETTINGS_MODULE" not in os.environ and "django" not in sys.modules:
        return []
    apps = importlib.import_module("django.apps").apps
    return [config.name for config in apps.get_app_configs()]
