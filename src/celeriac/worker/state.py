"""What a worker runs and holds, where its control commands and signals look for it.

As in Celery these names can be read in the worker's own process, by control commands and by receivers of
signals such as ``worker_ready``; elsewhere nothing runs. They are answered anew each time, so read them as
attributes of the module::

    from celeriac.worker import state

    ids = [request.id for request in state.active_requests]

``active_requests``: what runs; ``reserved_requests``: what children have claimed and not started;
``scheduled_requests``: none, for what is delayed waits in the store (``inspect scheduled``); ``total_count``:
how many tasks of each name were started; ``revoked``: the ids of revoked tasks. Celery's functions by which
its own parts write this down have no meaning here.
"""

from __future__ import annotations

import platform
import weakref
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from celeriac import __version__

if TYPE_CHECKING:
    from celeriac.worker.control.state import State

__all__ = ["SOFTWARE_INFO", "Request"]

SOFTWARE_INFO: Final = {"sw_ident": "py-celeriac", "sw_ver": __version__, "sw_sys": platform.system()}
"""How workers call themselves in their events."""

_workers: weakref.WeakSet[State] = weakref.WeakSet()


@dataclass(frozen=True)
class Request:
    """A task that a child holds. Its secrets are masked in its arguments."""

    id: str
    name: str
    args: Any
    kwargs: Any
    hostname: str
    worker_pid: int | None
    time_start: float | None
    """Epoch seconds; ``None``: it does not run."""

    @property
    def task_id(self) -> str:
        """The id."""
        return self.id

    @property
    def task_name(self) -> str:
        """The name."""
        return self.name


def tell_of(worker: State) -> None:
    """Answer for this worker, as long as it is there."""
    _workers.add(worker)


def __getattr__(name: str) -> Any:
    from celeriac.worker.control import requests, statistics, tasks

    workers = list(_workers)
    if name == "active_requests":
        return [_request(each) for worker in workers for each in requests.active(worker.agent)]
    if name == "reserved_requests":
        return [_request(each) for worker in workers for each in requests.reserved(worker.agent)]
    if name == "scheduled_requests":
        return []
    if name == "total_count":
        return dict(sum((statistics.totals(worker.agent) for worker in workers), Counter()))
    if name == "revoked":
        return {task_id for worker in workers for task_id in tasks.revoked_ids(worker)}
    raise AttributeError(
        f"module {__name__!r} has no {name!r}: it tells of active_requests, reserved_requests, total_count "
        "and revoked. Use app.control to change something, and signals (task_prerun, ...) to follow tasks"
    )


def _request(record: dict[str, Any]) -> Request:
    return Request(**{field: record[field] for field in Request.__dataclass_fields__})
