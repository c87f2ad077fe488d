"""Options: what one call says about its message."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import msgspec


class CallOptions(msgspec.Struct, kw_only=True, gc=False):
    """The options of a call that are written into its message, but those of :data:`PROPERTIES`.

    They are those of ``Task.apply_async`` and mean the same.
    """

    task_id: str | None = None
    countdown: float | None = None
    eta: Any = None
    expires: Any = None
    link: Any = None
    link_error: Any = None
    shadow: str | None = None
    chain: list[Any] | None = None
    chord: Any = None
    group_id: str | None = None
    group_index: int | None = None
    retries: int = 0
    """How many attempts came before: set by the worker."""
    time_limit: float | None = None
    soft_time_limit: float | None = None
    priority: int | None = None
    urgency: str | None = None
    serializer: str = None  # type: ignore[assignment]  # given by the defaults
    compression: str | None = None
    ignore_result: bool | None = None
    headers: Mapping[str, Any] | None = None
    reply_to: str | None = None
    root_id: str | None = None
    parent_id: str | None = None
    delivery_mode: int | str | None = None
    argsrepr: str | None = None
    kwargsrepr: str | None = None
    stamped_headers: list[str] | None = None
    replaced_task_nesting: int = 0
    route_name: str | None = None
    """The task's name for routing, if it is another."""

    def take_stamps(self, others: dict[str, Any]) -> dict[str, Any]:
        """The values of ``stamped_headers``: they are among the ``others``, and taken out, or the headers."""
        headers = self.headers or {}
        return {key: others.pop(key, headers.get(key)) for key in self.stamped_headers or ()}

    def show(self, argsrepr: str, kwargsrepr: str) -> None:
        """Set how the arguments are shown, as far as the call does not say."""
        if self.argsrepr is None:
            self.argsrepr = argsrepr
        if self.kwargsrepr is None:
            self.kwargsrepr = kwargsrepr


def read_options(given: dict[str, Any]) -> tuple[CallOptions, dict[str, Any]]:
    """The options of a call, and the others: where it goes, properties, the application's own.

    The others are taken out of ``given``.
    """
    if _READ.issuperset(given):
        return CallOptions(**given), {}
    others = {key: value for key, value in given.items() if key not in _READ}
    for key in others:
        del given[key]
    return CallOptions(**given), others


def check_others(name: str, others: Mapping[str, Any]) -> None:
    """Raise ``TypeError`` for options that a call of ``name`` cannot have, and for likely misspellings."""
    for key in ("producer", "publisher", "router"):
        if others.get(key) is not None:
            raise TypeError(
                f"{name}: {key}= is not supported: messages go over the application's own connections, "
                "which are shared and thread-safe. Leave it out, or use another Celeriac() for another broker"
            )
    for key in others.keys() - _OPTIONS - PROPERTIES:
        near = _near_miss(key)
        if near:
            raise TypeError(f"{name}: there is no option {key!r} of apply_async; did you mean {near!r}?")


PROPERTIES = frozenset(
    ("expiration", "user_id", "app_id", "message_id", "type", "mandatory", "immediate", "cluster_id",
     "correlation_id", "content_encoding", "timestamp")
)  # fmt: skip
"""Options that become message properties."""

_READ = frozenset(CallOptions.__struct_fields__)

_OPTIONS = _READ.union(
    ("add_to_parent", "confirm_timeout", "connection", "debounce", "exchange", "exchange_type", "queue",
     "retry", "retry_policy", "routing_key", "timeout", "unique_for", "unique_key")
)  # fmt: skip


@lru_cache(maxsize=256)
def _near_miss(option: str) -> str | None:
    # Applications may have options of their own, which their routes and signal receivers read.
    return next(iter(difflib.get_close_matches(option, _OPTIONS, 1, 0.75)), None)
