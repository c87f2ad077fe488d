"""The direct queue of each worker (``worker_direct``)."""

from __future__ import annotations

from typing import Final

from celeriac.routing.queues import Exchange, Queue

EXCHANGE: Final = "C.dq2"
"""Celery's name for the exchange that leads to workers' direct queues."""


def worker_direct(hostname: str | Queue) -> Queue:
    """The direct queue of the worker ``hostname`` (``celery@host``): ``<hostname>.dq2``.

    A queue is returned as it is. The queue is reached by its name, or by the exchange ``C.dq2`` with the
    hostname as routing key; only a worker with the setting ``worker_direct`` takes from it.
    """
    if isinstance(hostname, Queue):
        return hostname
    return Queue(f"{hostname}.dq2", Exchange(EXCHANGE), hostname)
