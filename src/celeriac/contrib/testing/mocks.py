"""Task messages without a sender."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from celeriac.message import Message, new_id

if TYPE_CHECKING:
    from celeriac.app.base import Celeriac


def TaskMessage(
    name: str,
    id: str | None = None,
    args: Sequence[Any] = (),
    kwargs: Mapping[str, Any] | None = None,
    callbacks: Any = None,
    errbacks: Any = None,
    chain: Any = None,
    shadow: str | None = None,
    utc: bool | None = None,
    **options: Any,
) -> Message:
    """A message of the task ``name``, as a client would send it; ``options`` are further headers.

    ``utc`` is Celery's; times carry their offset and it has no meaning.
    """
    task_id = id or new_id()
    embed = {"callbacks": callbacks, "errbacks": errbacks, "chain": chain, "chord": None}
    headers = {"id": task_id, "task": name, "shadow": shadow, "lang": "py", **options}
    return Message(
        headers, {"correlation_id": task_id}, json.dumps([list(args), dict(kwargs or {}), embed]).encode()
    )


def task_message_from_sig(app: Celeriac, sig: Any, utc: bool = True, TaskMessage: Any = TaskMessage) -> Any:
    """The message that a signature would send."""
    options = dict(sig.options)
    sig.freeze()
    return TaskMessage(
        sig.task,
        id=sig.id,
        args=sig.args,
        kwargs=sig.kwargs,
        callbacks=options.pop("link", None),
        errbacks=options.pop("link_error", None),
        utc=utc,
    )
