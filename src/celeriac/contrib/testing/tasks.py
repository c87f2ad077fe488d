"""The task by which :func:`celeriac.contrib.testing.worker.start_worker` sees that its worker works."""

from __future__ import annotations

from celeriac.app.shared import shared_task


def answer() -> str:
    """Answer ``"pong"``."""
    return "pong"


ping = shared_task(name="celery.ping")(answer)
