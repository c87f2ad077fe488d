"""A double of Celery that takes notes: it stands in while a project's modules are imported without Celery.

Nothing is checked and nothing is done: what the project says to it is kept, to be looked at afterwards. What
Celeriac has under the same path (``schedules``, ``signals``, ``utils.log``, ...) is Celeriac's.
"""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.machinery
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from types import ModuleType
from typing import Any, Final

from celeriac.settings import SETTINGS

TASK_OPTIONS: Final = (
    "acks_late", "acks_on_failure_or_timeout", "autoretry_for", "backend", "base", "compression", "expires",
    "ignore_result", "max_retries", "priority", "queue", "rate_limit", "reject_on_worker_lost", "serializer",
    "soft_time_limit", "time_limit", "track_started",
)  # fmt: skip
"""Options of tasks that are looked at."""

_ROOTS: Final = ("celery", "kombu", "billiard", "vine")
_KOMBU: Final = ("Queue", "Exchange")
_RECORDED: Final = frozenset(("celery", "celery.app", "celery.app.base", "celery.app.task", "celery.task"))


class Anything:
    """Stands for whatever is not known: may be called, looked into, used as a decorator and iterated."""

    def __init__(self, *given: Any, **named: Any) -> None:
        pass

    def __call__(self, *given: Any, **named: Any) -> Any:
        return given[0] if len(given) == 1 and not named and callable(given[0]) else Anything()

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return Anything()

    def __iter__(self) -> Iterator[Any]:
        return iter(())


class Conf(dict[str, Any]):
    """``app.conf``: settings by attribute and by key, as they are written."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        if name not in self and name in SETTINGS:
            value = deepcopy(SETTINGS[name].celery_default)
            if not isinstance(value, dict | list):
                return value
            self[name] = value  # it may be added to in place
        return self.get(name)

    def __setattr__(self, name: str, value: Any) -> None:
        self[name] = value


class Celery:
    """The application's double."""

    def __init__(self, main: str | None = None, **given: Any) -> None:
        self.main = main
        self.conf = Conf()
        self.sources: list[tuple[Any, str | None]] = []
        """What ``config_from_object`` was given, with its namespace."""
        self.tasks: dict[str, dict[str, Any]] = {}
        self.steps: dict[str, set[Any]] = defaultdict(set)
        self.user_options: dict[str, set[Any]] = defaultdict(set)
        self.loader_cls = given.pop("loader", None) or given.pop("task_cls", None)
        if source := given.pop("config_source", None):
            self.sources.append((source, given.pop("namespace", None)))
        for name, setting in (("broker", "broker_url"), ("backend", "result_backend")):
            if given.get(name):
                self.conf[setting] = given.pop(name)
        self.conf.update(given.pop("changes", None) or {})
        self.conf.update({name: value for name, value in given.items() if name in SETTINGS})
        self.Task = Task

    def config_from_object(self, source: Any, *about: Any, namespace: str | None = None, **more: Any) -> None:
        """Note where the settings are."""
        self.sources.append((source, namespace))

    def task(self, *given: Any, **options: Any) -> Any:
        """Note a task, and return its function."""
        return _recorder(self.tasks, self.main)(*given, **options)

    def register_task(self, task: Any) -> Any:
        """Note a task that is a class."""
        kind = task if isinstance(task, type) else type(task)
        self.tasks[getattr(task, "name", None) or f"{kind.__module__}.{kind.__name__}"] = _options(kind)
        return task

    def add_periodic_task(self, schedule: Any, signature: Any, *about: Any, **more: Any) -> str:
        """Note an entry of the schedule."""
        name = str(more.get("name") or len(self.conf.beat_schedule))
        self.conf.beat_schedule[name] = {"schedule": schedule}
        return name

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return Anything()


class Task:
    """The base of the project's own classes of tasks."""

    @classmethod
    def bind(cls, app: Any) -> None:
        """Nothing."""


SHARED: dict[str, dict[str, Any]] = {}
"""What ``shared_task`` was used for."""


@contextmanager
def installed() -> Iterator[None]:
    """Let imports of Celery and its libraries, as far as they are not installed, lead here."""
    finder = _Finder()
    SHARED.clear()
    before = set(sys.modules)
    sys.meta_path.append(finder)  # last: what is installed is found before
    try:
        yield
    finally:
        sys.meta_path.remove(finder)
        for name in set(sys.modules) - before:
            if name.partition(".")[0] in _ROOTS:
                del sys.modules[name]


class _Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if name.partition(".")[0] not in _ROOTS:
            return None
        return importlib.machinery.ModuleSpec(name, self, is_package=True)

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType:
        return _Double(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        """Nothing: names are made up as they are asked for."""


class _Double(ModuleType):
    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        full = self.__name__
        if full in _RECORDED and name in ("Celery", "Task", "shared_task"):
            return {"Celery": Celery, "Task": Task, "shared_task": _recorder(SHARED, None)}[name]
        if full.startswith("kombu") and name in _KOMBU:
            return getattr(importlib.import_module("celeriac"), name)
        if full.startswith("celery") and (found := _ours(f"celeriac{full.removeprefix('celery')}", name)):
            return found
        # A name that begins with a capital is mostly a class, which may be a base of another.
        return type(name, (Anything,), {}) if name[:1].isupper() else Anything()


def _ours(module: str, name: str) -> Any:
    """Celeriac's thing of this name, which may be a module; ``None`` if there is none."""
    try:
        return getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError):
        pass
    try:
        return importlib.import_module(f"{module}.{name}")
    except ImportError:
        return None


def _recorder(tasks: dict[str, dict[str, Any]], main: str | None) -> Callable[..., Any]:
    def decorator(*given: Any, **options: Any) -> Any:
        def note(function: Any) -> Any:
            module = function.__module__
            module = main if module == "__main__" and main else module
            tasks[options.get("name") or f"{module}.{function.__name__}"] = {
                name: options[name] for name in TASK_OPTIONS if name in options
            }
            function.delay = function.apply_async = function.s = function.si = Anything()
            return function

        return note(given[0]) if given and callable(given[0]) else note

    return decorator


def _options(kind: type) -> dict[str, Any]:
    return {name: getattr(kind, name) for name in TASK_OPTIONS if getattr(kind, name, None) is not None}
