"""What losing a lease and replaying a dead letter write into an envelope, for every engine alike.

Stores move envelopes as bytes; only Python rewrites one, here. What cannot be decoded is left as it is:
its next claimer finds that out for itself and makes it a dead letter.
"""

from __future__ import annotations

import msgspec

from celeriac.engines.base import Loss
from celeriac.exceptions import DecodeError
from celeriac.message import decode_envelope, encode_envelope, notes, with_notes


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
    """Return the envelope with count and mark cleared, as if it had never been tried."""
    try:
        message = decode_envelope(payload)
    except DecodeError:
        return payload
    fresh = msgspec.structs.replace(notes(message), deliveries=0, lost=None)
    return encode_envelope(with_notes(message, fresh))
