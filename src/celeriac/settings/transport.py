"""Options inside ``broker_transport_options`` that are answered by the design in another way."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_LEASES = "A message is delivered again when its worker is dead, and not when a time is over."
_ADOPTION = f"{_LEASES} Only what Celery's workers left behind on Redis is put back by this time."

SETTLED_OPTIONS: dict[str, str] = {
    "visibility_timeout": _ADOPTION,
    "unacked_restore_interval": _ADOPTION,
    "unacked_restore_throttle": _ADOPTION,
    "unacked_restore_limit": _LEASES,
    "unacked_mutex_expire": _LEASES,
    "polling_interval": "Workers wait for a message to arrive, and do not poll.",
    "ack_emulation": "Messages are always acknowledged.",
    "retry_on_timeout": "Requests are repeated only where that does no harm.",
}
"""The option, and the sentence that a worker says at its start."""


def transport_notes(setting: str, options: Mapping[str, Any]) -> list[str]:
    """Return one line for each option in use that does not do here what it does in Celery."""
    return [
        f"{setting}[{name!r}]: {sentence}" for name, sentence in SETTLED_OPTIONS.items() if name in options
    ]
