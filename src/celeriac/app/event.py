"""An event: a dictionary that says what happened where and when."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any


def Event(type: str, _fields: Mapping[str, Any] | None = None, **fields: Any) -> dict[str, Any]:
    """An event of this type with these fields, and ``timestamp`` (now, epoch seconds) if they have none."""
    event = {**_fields, **fields} if _fields else fields
    event.setdefault("timestamp", time.time())
    event["type"] = type
    return event


def group_from(type: str) -> str:
    """The group of an event's type: what stands before the first dash (``"task"``, ``"worker"``)."""
    return type.partition("-")[0]


def routing_key(type: str) -> str:
    """Under which key an event of this type is published: ``task-sent`` under ``task.sent``."""
    return type.replace("-", ".")


def utcoffset() -> float:
    """How far local time is behind UTC, in hours: what Celery's events tell (east of Greenwich: negative)."""
    return (time.altzone if time.localtime().tm_isdst else time.timezone) / 3600
