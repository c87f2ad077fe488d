"""What is known of a Celery project: its settings under today's names, its tasks and its extensions."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from celeriac.app.find import find_object
from celeriac.exceptions import ImproperlyConfigured
from celeriac.fromcelery import double
from celeriac.settings import SETTINGS
from celeriac.settings.loading import URL_VARIABLES, canonical, suggest

_PLAIN = ("celery.app.task:Task", "celery.loaders.app:AppLoader", "app", None)


@dataclass
class Project:
    """A project as it was read."""

    how: str
    """Where it was read from, and by what."""
    settings: dict[str, Any] = field(default_factory=dict)
    """What the project sets, by today's names; the values as they were written."""
    unknown: dict[str, str | None] = field(default_factory=dict)
    """Names that are no settings -> the setting that was probably meant."""
    tasks: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Tasks seen -> the options that they set."""
    steps: list[str] = field(default_factory=list)
    """Bootsteps, as ``worker: Name`` or ``consumer: Name``."""
    notes: list[str] = field(default_factory=list)
    """What could not be read, and so is missing here."""
    loader: str = ""
    """A loader or application class of the project's own."""

    def set(self, raw: Mapping[str, Any], namespace: str | None = None) -> None:
        """Take settings by whichever of their names; with ``namespace`` only those that carry it."""
        for name, value in raw.items():
            known = canonical(name, namespace)
            if known in SETTINGS:
                self.settings[known] = value
            elif namespace is None or name.startswith(f"{namespace}_"):
                self.unknown[name] = suggest(name if namespace is None else known)


def read(app: str | None, config: str | None) -> Project:
    """Read the application that ``app`` names (``module:attribute``), or a module of settings.

    With Celery installed the application is Celery's own; without it, a double that takes notes stands in for
    it while the module is imported. Raises ``ImproperlyConfigured`` if there is nothing to read; an error in
    the project's own code comes through.
    """
    if config and not app:
        project = Project(f"settings of the module {config}")
        with double.installed():
            project.set(_public(importlib.import_module(config)))
        return _with_environment(project)
    if not app:
        raise ImproperlyConfigured(
            "name the project: -A module (or module:attribute) of its application, or --config with its "
            "module of settings"
        )
    if importlib.util.find_spec("celery") is not None:
        return _with_environment(_from_celery(find_object(app, _is_application), app))
    with double.installed():
        return _with_environment(_from_double(find_object(app, _is_application), app))


def _with_environment(project: Project) -> Project:
    """Celery's four URL variables override what is written."""
    for variable, name in URL_VARIABLES.items():
        if os.environ.get(variable):
            project.settings[name] = os.environ[variable]
    return project


def _from_double(app: Any, name: str) -> Project:
    project = Project(f"{name}, read without Celery")
    if not isinstance(app, double.Celery):
        return _from_celeriac(app, name)
    for source, namespace in app.sources:
        if source == "django.conf:settings" or getattr(source, "__module__", "") == "django.conf":
            source, namespace = _django_settings(), namespace or "CELERY"
        project.set(_public(source), namespace)
    project.set(app.conf)
    project.tasks = {**double.SHARED, **app.tasks}
    project.steps = _steps(app)
    project.loader = str(app.loader_cls or "")
    return project


def _django_settings() -> str:
    """The module of Django's settings, which can be read where Django is not installed."""
    module = os.environ.get("DJANGO_SETTINGS_MODULE")
    if not module:
        raise ImproperlyConfigured("the project takes its settings from Django: set DJANGO_SETTINGS_MODULE")
    return module


def _from_celery(app: Any, name: str) -> Project:
    """Read an application of Celery's own: what differs from Celery's defaults."""
    if not hasattr(app, "steps"):
        raise ImproperlyConfigured(f"-A {name}: {app!r} is no application")
    if type(app).__module__.startswith("celeriac."):
        return _from_celeriac(app, name)
    project = Project(f"{name}, read with Celery {importlib.import_module('celery').__version__}")
    defaults = importlib.import_module("celery.app.defaults").DEFAULTS
    for setting in SETTINGS:
        if setting in defaults:
            value = app.conf.get(setting)
            if value is not None and value != defaults[setting]:
                project.settings[setting] = value
    own = {key for source in app.conf.maps[:-1] for key in source if isinstance(key, str)}
    names = {canonical(key, (app.conf.prefix or "").rstrip("_") or None) for key in own} - {
        "deprecated_settings"
    }
    project.unknown = {key: suggest(key) for key in sorted(names) if key not in SETTINGS and suggest(key)}
    try:
        app.loader.import_default_modules()
    except Exception as error:
        project.notes.append(f"not all tasks were imported: {type(error).__name__}: {error}")
    # Celery writes into each task what the settings say for all.
    given = {option: app.conf.get(setting) for option, setting in app.Task.from_config}
    for task in app.tasks.values():
        if not task.name.startswith("celery."):
            project.tasks[task.name] = {
                option: getattr(task, option)
                for option in double.TASK_OPTIONS
                if option in vars(type(task)) and getattr(task, option) != given.get(option)
            }
    project.steps = _steps(app)
    for kind in (app.loader_cls, app.task_cls):
        if kind not in _PLAIN:
            project.loader = str(kind)
    return project


def _from_celeriac(app: Any, name: str) -> Project:
    """An application that has been changed to Celeriac already."""
    if not hasattr(app, "conf"):
        raise ImproperlyConfigured(f"-A {name}: {app!r} is no application")
    project = Project(f"{name}, which is Celeriac's already")
    project.settings = {key: app.conf[key] for key in app.conf if app.conf.is_set(key)}
    return project


def _steps(app: Any) -> list[str]:
    return [
        f"{part}: {getattr(step, '__name__', step)}" for part, steps in app.steps.items() for step in steps
    ]


def _is_application(found: object) -> bool:
    if isinstance(found, double.Anything):  # it has whatever it is asked for
        return False
    return hasattr(found, "conf") and hasattr(found, "steps")


def _public(source: Any) -> dict[str, Any]:
    if isinstance(source, str):
        module, _, attribute = source.partition(":")
        source = importlib.import_module(module)
        source = getattr(source, attribute) if attribute else source
    if isinstance(source, Mapping):
        return dict(source)
    values = {name: getattr(source, name) for name in dir(source) if not name.startswith("_")}
    return {name: value for name, value in values.items() if name in SETTINGS or not callable(value)}
