"""Stamps as orders: how a stamp is written down among the revoked ids."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any


def marks(stamps: Mapping[str, Any]) -> Iterator[str]:
    """One text for each stamp and value; a list is several values.

    Revoking by a stamp keeps this text as if it were a task's id (none begins like it), so that the stores
    need not tell them apart.
    """
    for name, value in stamps.items():
        for each in value if isinstance(value, list | tuple | set | frozenset) else (value,):
            yield "stamp:" + json.dumps([name, each], default=str, sort_keys=True)
