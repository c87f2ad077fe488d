"""Headers and properties of a call's message (protocol 2), and what follows the call in its body."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from celeriac.app import ids, times
from celeriac.app.options import PROPERTIES
from celeriac.message import Embed

if TYPE_CHECKING:
    from datetime import tzinfo

    from celeriac.app.options import CallOptions
    from celeriac.routing import Target


def headers_of(name: str, call: CallOptions, eta: str | None, stamps: dict[str, Any]) -> dict[str, Any]:
    """The headers of a call with complete options; without ``expires``, and those of its own."""
    return {
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


def properties_of(call: CallOptions, target: Target) -> dict[str, Any]:
    """The properties of a call with complete options."""
    return {
        "correlation_id": call.task_id,
        "reply_to": call.reply_to or ids.oid(),
        "delivery_mode": 1 if call.delivery_mode in _TRANSIENT else 2,
        "delivery_info": {"exchange": target.exchange, "routing_key": target.routing_key},
        "priority": call.priority,
    }


def expire(headers: dict[str, Any], properties: dict[str, Any], expires: Any, zone: tzinfo) -> None:
    """Write down when a call expires."""
    headers["expires"], seconds = times.expiry(expires, zone)
    if seconds is not None:
        properties["expiration"] = str(int(seconds * 1000))


def add_properties(properties: dict[str, Any], others: Mapping[str, Any]) -> None:
    """Add those options of a call that are properties."""
    properties.update({k: v for k, v in others.items() if k in PROPERTIES and v is not None})
    if "expiration" in others:
        properties["expiration"] = str(int(float(others["expiration"]) * 1000))


def embed_of(
    link: list[Any] | None, link_error: list[Any] | None, chain: list[Any] | None, chord: Any
) -> Embed | None:
    """What follows a call, as it stands in the body; ``None`` if nothing does."""
    if link is None and link_error is None and chain is None and chord is None:
        return None
    return {"callbacks": link, "errbacks": link_error, "chain": chain, "chord": chord}


_TRANSIENT = (1, "1", "transient")
