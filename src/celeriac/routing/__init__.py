"""Queues and routes: to which queue, or queues, a task's message goes.

Where a call does not say it, the first of these that does decides: the call's options, the task's
attributes, the route of ``task_routes``, ``task_default_queue``. Kombu's ``Queue``, ``Exchange`` and
``Broadcast`` objects are accepted wherever ours are.
"""

from celeriac.routing.direct import worker_direct
from celeriac.routing.queues import Binding, Broadcast, Exchange, Queue, Queues
from celeriac.routing.router import Router, Target
from celeriac.routing.routes import Routes

__all__ = [
    "Binding", "Broadcast", "Exchange", "Queue", "Queues", "Router", "Routes", "Target", "worker_direct",
]  # fmt: skip
