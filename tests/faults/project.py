"""The application of the fault suite: a journal has every run, whatever becomes of its process."""

from __future__ import annotations

import json
import logging
import os
import signal
import time
from typing import Any

from celeriac import Celeriac

app = Celeriac(
    "faults", broker=os.environ.get("FAULTS_BROKER", "memory://"), backend=os.environ.get("FAULTS_BACKEND")
)
app.conf.update(json.loads(os.environ.get("FAULTS_CONF", "{}")))
# Lines for every task would only load the disk; what ran is in the journal.
if "FAULTS_BROKER" in os.environ:  # in a worker, not where the suite imports the tasks
    for name in ("celeriac.app.trace", "celeriac.worker.strategy"):
        logging.getLogger(name).setLevel(logging.WARNING)

_journals: dict[int, int] = {}


def note(kind: str, key: str, token: int) -> None:
    """Append a line to the journal in one write: what happened to which task, in which process, when."""
    pid = os.getpid()
    if pid not in _journals:
        path = os.environ["FAULTS_JOURNAL"]
        _journals[pid] = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(_journals[pid], f"{kind} {key} {pid} {token} {time.monotonic():.6f}\n".encode())


@app.task(bind=True)
def job(self: Any, key: str, seconds: float) -> dict[str, Any]:
    """Take ``seconds`` and return which run this was."""
    return _run(self, key, seconds)


@app.task(bind=True, acks_late=False)
def once(self: Any, key: str, seconds: float) -> dict[str, Any]:
    """The same, and never a second time: if its process dies, it ends as a failure and a dead letter."""
    return _run(self, key, seconds)


@app.task(bind=True, max_retries=1)
def again(self: Any, key: str, seconds: float) -> dict[str, Any]:
    """The same at the second try; the first is in the journal as ``key~``."""
    if not self.request.retries:
        _run(self, key + "~", seconds)
        raise self.retry(countdown=0.05)
    return _run(self, key, seconds)


def _run(task: Any, key: str, seconds: float) -> dict[str, Any]:
    token = task.request.delivery_token
    note("S", key, token)
    if seconds:
        time.sleep(seconds)
    note("E", key, token)
    return {"key": key, "token": token}


@app.task(bind=True)
def poison(self: Any, key: str) -> None:
    """Kill the process that runs it."""
    note("S", key, self.request.delivery_token)
    os.kill(os.getpid(), signal.SIGKILL)
