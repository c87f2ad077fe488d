"""Calls as data: signatures."""

from celeriac.canvas.signature import (
    Signature,
    maybe_signature,
    maybe_subtask,
    signature,
    subtask,
)

__all__ = ["Signature", "maybe_signature", "maybe_subtask", "signature", "subtask"]
