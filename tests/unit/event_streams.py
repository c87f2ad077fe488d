"""A made-up stream of events, and what a ``State`` makes of it; run by Celery's interpreter too."""

from __future__ import annotations

import json
import random
import sys

FIELDS = (
    "uuid", "name", "state", "received", "sent", "started", "succeeded", "failed", "retried", "revoked",
    "rejected", "args", "kwargs", "result", "exception", "timestamp", "runtime", "root_id", "parent_id",
    "client", "clock", "retries", "ready", "id",
)  # fmt: skip
KINDS = ("sent", "received", "started", "succeeded", "failed", "retried", "revoked", "rejected", "progress")


def stream(seed):
    """Events of thirty tasks and two workers, in no order."""
    chance = random.Random(seed)
    ids = [f"t{number}" for number in range(30)]
    now = 1000.0
    for number in range(500):
        now += chance.random()
        kind, host = chance.choice(KINDS), chance.choice(["a@x", "b@x"])
        event = {"hostname": host, "timestamp": now + chance.uniform(-3, 3), "local_received": now, "pid": 3}
        event["clock"] = chance.choice([number, number, number - 3, 0, None])
        if chance.random() < 0.1:
            event.update(type="worker-" + chance.choice(["online", "heartbeat", "heartbeat", "offline"]))
            event.update(freq=2.0, active=1, processed=number, loadavg=[1, 2, 3], sw_ident="x")
        else:
            event.update(type=f"task-{kind}", uuid=chance.choice(ids))
        if event["type"] in ("task-sent", "task-received"):
            event.update(name="n." + event["uuid"][-1], args="(1,)", kwargs="{}", retries=0, eta=None)
            event.update(root_id=event["uuid"], parent_id=chance.choice([*ids, *[None] * 20]))
        if kind == "succeeded":
            event.update(result="1", runtime=0.5)
        if kind in ("failed", "retried"):
            event.update(exception="E()", traceback="...")
        yield event


def told(State, seed):
    """What is known in the end."""
    state = State(max_tasks_in_memory=50)
    for event in stream(seed):
        state.event(event)
    tasks = {uuid: {name: getattr(task, name) for name in FIELDS} for uuid, task in state.itertasks()}
    for uuid, task in state.itertasks():
        tasks[uuid]["worker"] = task.worker and task.worker.hostname
        tasks[uuid]["children"] = sorted(child.uuid for child in task.children)
        tasks[uuid]["info"] = task.info()
        tasks[uuid]["dict"] = sorted(task.as_dict())
    found = {
        "tasks": tasks,
        "newest first": [uuid for uuid, _ in state.tasks_by_time()],
        "oldest first": [uuid for uuid, _ in state.tasks_by_timestamp(reverse=False)],
        "some": [uuid for uuid, _ in state.tasks_by_time(limit=7)],
        "by type": [uuid for uuid, _ in state.tasks_by_type("n.1", limit=3)],
        "types": state.task_types(),
        "workers": {
            name: (worker.pid, worker.freq, worker.active, worker.processed, worker.id, worker.alive)
            for name, worker in state.workers.items()
        },
        "shown": repr(state),
    }
    state.clear_tasks()
    found["left"] = sorted(uuid for uuid, _ in state.itertasks())
    return found


if __name__ == "__main__":
    from celery.events.state import State

    print(json.dumps([told(State, int(seed)) for seed in sys.argv[1:]]))
