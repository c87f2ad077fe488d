"""Reading ``task_routes``: what it may be, and which route it has for a call."""

from __future__ import annotations

import difflib
import fnmatch
import re
from collections.abc import Callable, Iterable, Mapping
from importlib import import_module
from typing import Any, Final, NamedTuple

from celeriac.exceptions import ImproperlyConfigured

PLACE: Final[tuple[str, ...]] = ("queue", "exchange", "routing_key", "exchange_type")
"""The keys of a route that say where a message goes; the others are options of the call."""

OPTIONS: Final = frozenset(
    ("serializer", "compression", "priority", "urgency", "expires", "time_limit", "soft_time_limit",
     "ignore_result", "delivery_mode", "headers")
)  # fmt: skip
"""What else of a call a route can set."""

_CALL_ONLY: Final = frozenset(
    ("retry", "retry_policy", "timeout", "confirm_timeout", "countdown", "eta", "connection")
)


class Call(NamedTuple):
    """A call, as a callable route sees it."""

    name: str
    args: Any = ()
    kwargs: Mapping[str, Any] = {}
    options: Mapping[str, Any] = {}
    task: Any = None


class Routes:
    """The routes of ``task_routes``, asked in order; the first that knows the task decides.

    ``given`` is a dictionary of task name, pattern (``*``, ``?``, ``[..]``) or compiled expression to route,
    a list of such pairs, a callable ``(name, args, kwargs, options, task=None, **kw)``, an object with
    ``route_for_task(name, args, kwargs)``, the dotted path of either, or a list that mixes all of these. A
    route is the name of a queue or a dictionary of ``queue``, ``exchange``, ``routing_key``,
    ``exchange_type`` and options of the call. Raises ``ImproperlyConfigured`` for anything else.
    """

    def __init__(self, given: Any) -> None:
        self._sources = [_source(item) for item in _listed(given)]
        self.dynamic = any(not isinstance(source, Table) for source in self._sources)
        """Whether a route may depend on more than the task's name."""

    def find(self, call: Call) -> tuple[dict[str, Any] | None, bool]:
        """The route of a call, and whether every call of the task has the same."""
        fixed = True
        for source in self._sources:
            if isinstance(source, Table):
                route = source.find(call.name)
            else:
                fixed = False
                route = source(call)
            if route is not None:
                return _expanded(route), fixed
        return None, fixed


class Table:
    """A dictionary (or pairs) of names and patterns. An exact name goes before any pattern."""

    def __init__(self, items: Iterable[tuple[Any, Any]]) -> None:
        self._exact: dict[str, Any] = {}
        self._patterns: list[tuple[re.Pattern[str], Any]] = []
        for key, route in items:
            _check(route, f"the route of {getattr(key, 'pattern', key)!r} in task_routes")
            if isinstance(key, re.Pattern):
                self._patterns.append((key, route))
            elif not isinstance(key, str):
                raise ImproperlyConfigured(
                    f"a key of task_routes is a task's name, a pattern or a compiled expression, not {key!r}"
                )
            elif "*" in key or "?" in key or "[" in key:
                self._patterns.append((re.compile(fnmatch.translate(key)), route))
            else:
                self._exact[key] = route

    def find(self, name: str) -> Any:
        """The route of a task, or ``None``."""
        if name in self._exact:
            return self._exact[name]
        return next((route for pattern, route in self._patterns if pattern.match(name)), None)


class Named:
    """A callable or an object known by its dotted path; imported when it is first asked."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._ask: Callable[[Call], Any] | None = None

    def __call__(self, call: Call) -> Any:
        if self._ask is None:
            self._ask = _asker(_imported(self._path))
        return self._ask(call)


def _listed(given: Any) -> Iterable[Any]:
    """The sources in ``task_routes``; pairs of name and route that follow each other are one table."""
    if given is None or given == "" or (isinstance(given, Mapping | list | tuple) and not given):
        return
    if not isinstance(given, list | tuple):
        yield given
        return
    pairs: list[Any] = []
    for item in given:
        if _is_pair(item):
            pairs.append(item)
            continue
        if pairs:
            yield pairs
            pairs = []
        yield item
    if pairs:
        yield pairs


def _is_pair(item: Any) -> bool:
    return (
        isinstance(item, tuple | list)
        and len(item) == 2
        and isinstance(item[0], str | re.Pattern)
        and (isinstance(item[1], str | Mapping) or hasattr(item[1], "exchange"))
    )


def _source(item: Any) -> Table | Callable[[Call], Any]:
    if isinstance(item, Mapping):
        return Table(item.items())
    if isinstance(item, list | tuple):
        pairs: list[Any] = [item] if _is_pair(item) else list(item)
        if all(_is_pair(pair) for pair in pairs):
            return Table(pairs)
    elif isinstance(item, str):
        if re.fullmatch(r"\w+(\.\w+)*(:\w+(\.\w+)*)?", item):
            return Named(item)
    elif callable(item) or hasattr(item, "route_for_task"):
        return _asker(item)
    raise ImproperlyConfigured(
        "task_routes must be a dictionary of task names, patterns and their routes, pairs of these, a "
        f"callable or the dotted path of one, or a list of such things; it has {item!r}"
    )


def _asker(router: Any) -> Callable[[Call], Any]:
    if hasattr(router, "route_for_task"):
        made = router() if isinstance(router, type) else router
        return lambda call: made.route_for_task(call.name, call.args, dict(call.kwargs))
    if not callable(router):
        raise ImproperlyConfigured(f"task_routes names {router!r}, which is not callable")
    return lambda call: router(call.name, call.args, dict(call.kwargs), dict(call.options), task=call.task)


def _imported(path: str) -> Any:
    module, colon, name = path.partition(":")
    if not colon:
        module, _, name = path.rpartition(".")
    try:
        found: Any = import_module(module)
        for part in name.split("."):
            found = getattr(found, part)
    except (ImportError, AttributeError, ValueError) as error:
        raise ImproperlyConfigured(
            f"task_routes names the router {path!r}, which cannot be imported: {error}"
        ) from error
    return found


def _expanded(route: Any) -> dict[str, Any]:
    if isinstance(route, Mapping):
        if not OPTIONS.issuperset(route.keys() - set(PLACE)):
            _check(route, "a route")
        return dict(route)
    if isinstance(route, str) or hasattr(route, "exchange"):
        return {"queue": route}
    raise ImproperlyConfigured(f"a route is the name of a queue or a dictionary, not {route!r}")


def _check(route: Any, which: str) -> None:
    """Refuse what would be taken for a route's option and have no effect."""
    if not isinstance(route, Mapping):
        return
    if route.get("priority") is not None and route.get("urgency") is not None:
        raise ImproperlyConfigured(f"{which} has both priority and urgency: one of them")
    known = OPTIONS.union(PLACE)
    for key in route.keys() - known:
        if key in _CALL_ONLY:
            raise ImproperlyConfigured(f"{which} has {key!r}, which only a call can set")
        if near := difflib.get_close_matches(str(key), known, 1, 0.75):
            raise ImproperlyConfigured(f"{which} has {key!r}; did you mean {near[0]!r}?")
