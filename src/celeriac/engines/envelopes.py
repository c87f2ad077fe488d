"""What losing a lease, replaying and moving write into an envelope, for every engine alike.

Stores move envelopes as bytes; only Python rewrites one, here. What cannot be decoded is left as it is:
its next claimer finds that out for itself and makes it a dead letter.
"""

from __future__ import annotations

from datetime import UTC, datetime

import msgspec

from celeriac import clock
from celeriac.engines.base import Loss
from celeriac.exceptions import DecodeError
from celeriac.message import OWN_HEADER, decode_envelope, encode_envelope, notes, with_notes


def after_loss(payload: bytes, loss: Loss) -> bytes:
    """Return the envelope with the loss noted: one more delivery if counted, and the mark if there is one.

    It is marked as redelivered, where Celery's workers look for it, too.
    """
    if not loss.counted and loss.mark is None:
        return payload
    try:
        message = decode_envelope(payload)
    except DecodeError:
        return payload
    old = notes(message)
    new = msgspec.structs.replace(
        old, deliveries=old.deliveries + loss.counted, lost=old.lost if loss.mark is None else loss.mark
    )
    marked = with_notes(message, new)
    marked.headers["redelivered"] = True
    info = marked.properties.get("delivery_info")
    if isinstance(info, dict):
        info["redelivered"] = True
    return encode_envelope(marked)


def for_replay(payload: bytes) -> bytes:
    """Return the envelope with count and marks cleared, as if it had never been tried; and the time."""
    try:
        message = decode_envelope(payload)
    except DecodeError:
        return payload
    fresh = msgspec.structs.replace(
        notes(message), deliveries=0, lost=None, returned=None, replayed=clock.now()
    )
    return encode_envelope(with_notes(message, fresh))


def brought_forward(payload: bytes, due: float) -> bytes:
    """Return the envelope of a message that waited until ``due`` (epoch second), for when it is ready before.

    Its header ``eta`` tells the time from now on: whoever claims the message puts it off until then.
    """
    try:
        message = decode_envelope(payload)
    except DecodeError:
        return payload
    told = message
    if OWN_HEADER in message.headers:  # another program's message waits in its workers, and keeps doing so
        told = with_notes(message, msgspec.structs.replace(notes(message), held=False, forward=True))
    told.headers["eta"] = datetime.fromtimestamp(due, UTC).isoformat()
    return encode_envelope(told)


def priority_of(payload: bytes) -> int:
    """The priority in an envelope's properties; 0 if it has none or cannot be read."""
    try:
        priority = decode_envelope(payload).properties.get("priority")
    except DecodeError:
        return 0
    return priority if isinstance(priority, int) else 0
