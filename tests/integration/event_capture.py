"""A monitor that prints the events it gets, run with either library: ``EVENTS_LIBRARY`` says which.

``event_capture.py URL COUNT`` prints each event as JSON until ``COUNT`` tasks have ended, then what the
library's ``State`` says.
"""

from __future__ import annotations

import json
import os
import sys

if os.environ["EVENTS_LIBRARY"] == "celery":
    from celery import Celery
else:
    from celeriac import Celery

app = Celery("monitor", broker=sys.argv[1])
state = app.events.State()
left = int(sys.argv[2])
ENDS = ("task-succeeded", "task-failed", "task-revoked", "task-rejected")


def take(event):
    global left
    print(json.dumps({**event}, default=str), flush=True)
    state.event(event)
    if event["type"] in ENDS:
        left -= 1
    if event["type"] == "worker-heartbeat" and not left:
        receiver.should_stop = True


with app.connection() as connection:
    receiver = app.events.Receiver(connection, handlers={"*": take})
    receiver.capture(limit=None, timeout=60, wakeup=True)
tasks = {uuid: [task.name, task.state, task.result, task.exception] for uuid, task in state.tasks_by_time()}
workers = {worker.hostname: [worker.alive, worker.processed is not None] for worker in state.workers.values()}
print(json.dumps({"tasks": tasks, "workers": workers}), flush=True)
