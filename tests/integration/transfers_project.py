"""Transactional tasks whose process is killed once at a step of each task's own."""

from __future__ import annotations

import os
import signal
from typing import Any

from celeriac import Celeriac, signals
from celeriac.engines.postgres.session import Session

STEPS = ("begun", "changed", "before the commit", "after the commit")

app = Celeriac("transfers", broker=os.environ.get("TEST_BROKER"))
doomed: tuple[int, str] | None = None
execute = Session.execute


def die(step: str) -> None:
    """Kill the process, if the task under way is to die at this step and has not yet."""
    if doomed is None or doomed[1] != step:
        return
    try:
        os.close(os.open(f"{os.environ['TEST_JOURNAL']}.{doomed[0]}", os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return
    os.kill(os.getpid(), signal.SIGKILL)


def executed(session: Session, sql: Any, *arguments: Any, **options: Any) -> Any:
    """``execute``, with death on both sides of a commit."""
    if sql != "COMMIT":
        return execute(session, sql, *arguments, **options)
    die("before the commit")
    cursor = execute(session, sql, *arguments, **options)
    die("after the commit")
    return cursor


@signals.worker_process_init.connect
def lay_in_wait(**_: Any) -> None:
    """In the worker's children; whoever else imports this for its names is safe."""
    Session.execute = executed  # type: ignore[method-assign]


@app.task(name="transfer", bind=True, transactional=True)
def transfer(self: Any, number: int, step: str) -> int:
    global doomed
    doomed = (number, step)
    die("begun")
    self.request.connection.execute("INSERT INTO effect VALUES (%s)", (number,))
    die("changed")
    return number
