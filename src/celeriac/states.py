"""The states of a task, as results and clients see them.

The names, sets and order are Celery's, because results are shared with its clients.
"""

from __future__ import annotations

PENDING = "PENDING"
"""Nothing is known of the task: not sent, waiting, or its result has expired."""
RECEIVED = "RECEIVED"
STARTED = "STARTED"
"""A worker runs the task (stored only with ``task_track_started``)."""
SUCCESS = "SUCCESS"
FAILURE = "FAILURE"
REVOKED = "REVOKED"
REJECTED = "REJECTED"
RETRY = "RETRY"
"""The task failed and waits for its next attempt."""
IGNORED = "IGNORED"

READY_STATES = frozenset({SUCCESS, FAILURE, REVOKED})
"""States that end a task: its result will not change any more."""
UNREADY_STATES = frozenset({PENDING, RECEIVED, STARTED, REJECTED, RETRY})
EXCEPTION_STATES = frozenset({RETRY, FAILURE, REVOKED})
"""States whose result is an exception."""
PROPAGATE_STATES = frozenset({FAILURE, REVOKED})
"""States in which ``AsyncResult.get`` raises the stored exception."""
ALL_STATES = READY_STATES | UNREADY_STATES | {IGNORED}

PRECEDENCE = (SUCCESS, FAILURE, None, REVOKED, STARTED, RECEIVED, REJECTED, RETRY, PENDING)
"""Most advanced first; ``None`` stands for states of the user's own."""


def precedence(name: str) -> int:
    """Return the rank of a state, 0 the most advanced; unknown names rank as custom states."""
    try:
        return PRECEDENCE.index(name)
    except ValueError:
        return PRECEDENCE.index(None)
