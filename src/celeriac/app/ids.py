"""Names of things: task ids, and who sent a message."""

from __future__ import annotations

import os
import socket
from uuid import NAMESPACE_OID, uuid3


def uuid() -> str:
    """A new random id, a version-4 UUID as text.

    Written by hand: ``str(uuid.uuid4())`` takes 3 us, a tenth of what a ``delay()`` may cost; this 0.7.
    """
    h = os.urandom(16).hex()
    return f"{h[:8]}-{h[8:12]}-4{h[13:16]}-{_VARIANT[h[16]]}{h[17:20]}-{h[20:]}"


_VARIANT = {digit: "89ab"[int(digit, 16) & 3] for digit in "0123456789abcdef"}


def origin() -> str:
    """This process as messages name it: ``gen<pid>@<host>``."""
    return _origin


def oid() -> str:
    """This process's id for replies, the same until it ends or forks (version-3 UUID as text)."""
    return _oid


def _refresh() -> None:
    global _origin, _oid
    host = socket.gethostname()
    _origin = f"gen{os.getpid()}@{host}"
    _oid = str(uuid3(NAMESPACE_OID, f"{host}-{os.getpid()}-{os.urandom(8).hex()}"))


_origin = ""
_oid = ""
_refresh()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_refresh)
