"""Headers and properties of a call's message (protocol 2), and what follows the call in its body."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from celeriac.app import ids, times
from celeriac.app.options import PROPERTIES
from celeriac.message import Embed

if TYPE_CHECKING:
    from celeriac.app.base import Celeriac
    from celeriac.app.options import CallOptions
    from celeriac.routing import Target


def head_of(
    app: Celeriac,
    name: str,
    call: CallOptions,
    target: Target,
    others: Mapping[str, Any],
    eta: str | None,
    stamps: dict[str, Any],
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The headers and properties of a call with complete options, but what its body adds to the headers."""
    headers = {
        "lang": "py",
        "task": name,
        "id": call.task_id,
        "shadow": call.shadow,
        "eta": eta,
        "expires": None,
        "group": call.group_id,
        "group_index": call.group_index,
        "retries": call.retries,
        "timelimit": [call.time_limit, call.soft_time_limit],
        "root_id": call.root_id or call.task_id,
        "parent_id": call.parent_id,
        "argsrepr": call.argsrepr,
        "kwargsrepr": call.kwargsrepr,
        "origin": ids.origin(),
        "ignore_result": call.ignore_result,
        "replaced_task_nesting": call.replaced_task_nesting,
        "stamped_headers": call.stamped_headers,
        "stamps": stamps,
    }
    properties = {
        "correlation_id": call.task_id,
        "reply_to": call.reply_to or ids.oid(),
        "delivery_mode": 1 if call.delivery_mode in _TRANSIENT else 2,
        "delivery_info": {"exchange": target.exchange, "routing_key": target.routing_key},
        "priority": call.priority,
    }
    if call.expires is not None:
        headers["expires"], seconds = times.expiry(call.expires, app.timezone)
        if seconds is not None:
            properties["expiration"] = str(int(seconds * 1000))
    if others:
        properties.update({k: v for k, v in others.items() if k in PROPERTIES and v is not None})
        if "expiration" in others:
            properties["expiration"] = str(int(float(others["expiration"]) * 1000))
    if call.headers or "headers" in target.extra:
        headers.update({**(target.extra.get("headers") or {}), **(call.headers or {})})
    return headers, properties


def embed_of(
    link: list[Any] | None, link_error: list[Any] | None, chain: list[Any] | None, chord: Any
) -> Embed | None:
    """What follows a call, as it stands in the body; ``None`` if nothing does."""
    if link is None and link_error is None and chain is None and chord is None:
        return None
    return {"callbacks": link, "errbacks": link_error, "chain": chain, "chord": chord}


_TRANSIENT = (1, "1", "transient")
