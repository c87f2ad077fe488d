"""Routes that the tests hand to Celeriac and, in its own process, to the real Celery. Imports neither."""

from __future__ import annotations

from typing import Any


def by_name(name: str, args: Any, kwargs: Any, options: Any, task: Any = None, **kw: Any) -> Any:
    return {"queue": "q1", "priority": 4} if name.endswith(".send") else None


def by_argument(name: str, args: Any, kwargs: Any, options: Any, task: Any = None, **kw: Any) -> Any:
    return "q2" if args and args[0] > 5 else None


def by_options(name: str, args: Any, kwargs: Any, options: Any, task: Any = None, **kw: Any) -> Any:
    return {"queue": "urgent"} if options.get("priority") == 9 else None


class ByKeyword:
    def route_for_task(self, task: str, args: Any = None, kwargs: Any = None) -> Any:
        return {"exchange": "media", "routing_key": kwargs["key"]} if kwargs and "key" in kwargs else None
