"""Who sent a message: this process's names in messages."""

from __future__ import annotations

import os
import socket
from uuid import NAMESPACE_OID, uuid3


def origin() -> str:
    """This process as messages name it: ``gen<pid>@<host>``."""
    return _origin


def oid() -> str:
    """This process's id for replies, the same until it ends or forks (version-3 UUID as text)."""
    global _oid
    if not _oid:  # hashing costs a forked process 130 KiB of its own, and few are asked
        _oid = str(uuid3(NAMESPACE_OID, _seed))
    return _oid


def _refresh() -> None:
    global _origin, _oid, _seed
    host = socket.gethostname()
    _origin = f"gen{os.getpid()}@{host}"
    _oid, _seed = "", f"{host}-{os.getpid()}-{os.urandom(8).hex()}"


_origin = ""
_oid = ""
_seed = ""
_refresh()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_refresh)
