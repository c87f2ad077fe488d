"""Taking delayed messages out of Celery's levels of delay before their time, to move them elsewhere."""

from __future__ import annotations

import time
from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

from celeriac.engines.envelopes import brought_forward
from celeriac.engines.rabbitmq.session import Parcel, Session
from celeriac.engines.rabbitmq.topology import LEVELS, exists
from celeriac.engines.rabbitmq.wire import Content, envelope, task_id_of, to_wire
from celeriac.exceptions import DecodeError
from celeriac.message import decode_envelope

if TYPE_CHECKING:
    from celeriac.engines.rabbitmq.broker import RabbitBroker

_BITS: Final = 2 * LEVELS - 1


def bring_forward(
    broker: RabbitBroker, session: Session, queue: str, limit: int, ids: Sequence[str] | None
) -> int:
    """Send up to ``limit`` of a queue's delayed messages to it now; return how many.

    Messages go down the levels as time passes, so they are looked through from the highest on. Those of other
    queues are held meanwhile, and back in their places when the channel is closed.
    """
    keys = {queue, *(tie.routing_key for tie in broker.topology.queue(queue).bindings(queue))}
    wanted = None if ids is None else set(ids)
    moved = 0
    channel = session.link.channel()
    channel.auto_decode = False
    try:
        for level in reversed(range(LEVELS)):
            name = f"celery_delayed_{level}"
            if exists(session, name) is None:
                break
            while moved < limit and (content := channel.basic_get(name)) is not None:
                if content.delivery_info["routing_key"][_BITS + 1 :] not in keys:
                    continue
                if wanted is not None and task_id_of(content) not in wanted:
                    continue
                broker.post(session, [_ready(content, queue, level)])
                channel.basic_ack(content.delivery_info["delivery_tag"])
                moved += 1
        if moved:
            channel.basic_qos(0, 0, False)  # an answer: the acks before it have arrived
    finally:
        if session.link.usable:
            channel.close()
    return moved


def _ready(content: Any, queue: str, level: int) -> Parcel:
    """The message as one that is ready, which says itself when it is due."""
    payload = brought_forward(envelope(content, queue, False), _due(content, level))
    try:
        return Parcel("", queue, to_wire(decode_envelope(payload)))
    except DecodeError:
        return Parcel("", queue, Content(payload, delivery_mode=2))


def _due(content: Any, level: int) -> float:
    """When a message is due: as it says itself; else by the time that the levels from this one on take.

    The server tells when a message left its last level, but of the first one nothing: it is counted from now
    on then, which is late rather than early.
    """
    headers = content.properties.get("application_headers") or {}
    try:
        return datetime.fromisoformat(headers["eta"]).timestamp()
    except (KeyError, TypeError, ValueError):
        pass
    bits = content.delivery_info["routing_key"][:_BITS].replace(".", "")
    left = int(bits[LEVELS - 1 - level :], 2)
    deaths = headers.get("x-death") or ()
    entered = max((death["time"].timestamp() for death in deaths if "time" in death), default=time.time())
    return float(entered) + left
