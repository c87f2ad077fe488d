"""Checkpoint: how far a long task has come, kept for the case that its run does not end."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from celeriac import extended_json
from celeriac.exceptions import ImproperlyConfigured, SecurityError
from celeriac.serialization import json_dumps

if TYPE_CHECKING:
    from celeriac.app.base import Celeriac
    from celeriac.engines.coordinator import Coordinator

logger = logging.getLogger(__name__)


class Checkpoint:
    """A task's own state, as it was kept last."""

    __slots__ = ("state", "stored")

    def __init__(self, state: Any, stored: bool = False) -> None:
        self.state = state
        self.stored = stored
        """Whether the store holds one of this task."""

    @classmethod
    def fetched(cls, app: Celeriac, task_id: str) -> Checkpoint:
        """What the store holds for this task, or ``None`` as its state.

        Raises ``SecurityError`` for one that is not signed as its, where results are signed.
        """
        payload = _coordinator(app).checkpoint(task_id)
        if payload is None:
            return cls(None)
        if app.signing is None:
            return cls(extended_json.loads(payload), stored=True)
        signed = extended_json.loads(app.signing.open_result(payload))
        if not isinstance(signed, dict) or signed.get("id") != task_id:
            raise SecurityError(f"what is stored as the checkpoint of {task_id} is none of its own")
        return cls(signed["checkpoint"], stored=True)

    def store(self, app: Celeriac, task_id: str, lease: tuple[str, str, int] | None) -> bool:
        """Keep it in the store; ``False`` if the lease there is lost. Raises ``EncodeError``."""
        parts = {"checkpoint": self.state}
        if app.signing is None:
            payload = json_dumps(self.state, parts)
        else:
            payload = app.signing.sign_result(json_dumps({"id": task_id, **parts}, parts))
        ttl = float(app.conf.checkpoint_expires)
        self.stored = _coordinator(app).keep_checkpoint(task_id, payload, ttl, lease)
        if not self.stored:
            logger.warning("Task %s: the checkpoint was not kept: the task's lease is lost", task_id)
        return self.stored


def _coordinator(app: Celeriac) -> Coordinator:
    found = app.coordinator
    if found is None:
        raise ImproperlyConfigured(
            f"a checkpoint needs a store that keeps one, which {app.broker_shown} is not: "
            "set result_backend to SQLite, PostgreSQL or Redis"
        )
    return found
