"""The tests' application with everything hung on it that can be: signals, steps, options."""

from __future__ import annotations

import json
import os
from typing import Any

import click

from celeriac import bootsteps, signals
from tests.integration.project import add, app, note  # noqa: F401

NAMES = [name for name in dir(signals) if isinstance(getattr(signals, name), signals.Signal)]

app.user_options["worker"].add(click.Option(["--shard"], type=int, default=1))
app.user_options["preload"].add(click.Option(["--zone"], default="home"))


def describe(value: Any) -> Any:
    """A value as one word for the journal."""
    if isinstance(value, int | str | bool | type(None)):
        return value
    return type(value).__name__


def listen(name: str) -> None:
    def receive(sender: Any = None, signal: Any = None, **given: Any) -> None:
        sender_name = getattr(sender, "hostname", None) or getattr(sender, "name", None) or describe(sender)
        arguments = {key: describe(value) for key, value in sorted(given.items())}
        note("SIGNAL " + json.dumps([name, os.getpid(), sender_name, arguments]))

    getattr(signals, name).connect(receive, weak=False)


for name in NAMES:
    if name not in ("setup_logging", "heartbeat_sent"):  # the first would take over logging
        listen(name)


@signals.heartbeat_sent.connect(dispatch_uid="once", weak=False)
def beat(sender: Any, **_: Any) -> None:
    note("SIGNAL " + json.dumps(["heartbeat_sent", os.getpid(), sender.hostname, {}]))
    signals.heartbeat_sent.disconnect(dispatch_uid="once")


@signals.worker_process_init.connect
def fail(**_: Any) -> None:
    raise RuntimeError("a receiver that fails harms nobody")


class First(bootsteps.StartStopStep):
    requires = ("celery.worker.components:Timer",)

    def __init__(self, parent: Any, shard: int = 0, **options: Any) -> None:
        note(f"STEP First made {shard} {parent.hostname} {os.getpid()}")

    def start(self, parent: Any) -> None:
        note(f"STEP First start {parent.pool} {parent.concurrency}")
        parent.timer.call_after(0.01, note, ("STEP First timer",))
        self.entry = parent.timer.call_repeatedly(3600, note, ("STEP never",))

    def close(self, parent: Any) -> None:
        note("STEP First close")

    def stop(self, parent: Any) -> None:
        self.entry.cancel()
        note("STEP First stop")


class Second(bootsteps.StartStopStep):
    requires = (First,)

    def start(self, parent: Any) -> None:
        note("STEP Second start")
        parent.connection  # noqa: B018 - Celery's has one

    def stop(self, parent: Any) -> None:
        note("STEP Second stop")


class Late(bootsteps.StartStopStep):
    def start(self, parent: Any) -> None:
        note("STEP Late start")

    def stop(self, parent: Any) -> None:
        note("STEP Late stop")

    def terminate(self, parent: Any) -> None:
        note("STEP Late terminate")


class Off(bootsteps.StartStopStep):
    enabled = False

    def start(self, parent: Any) -> None:
        note("STEP Off start")


app.steps["worker"].update({First, Second, Off})
app.steps["consumer"].add(Late)

if os.environ.get("TEST_CONSUMES"):

    class Eats(bootsteps.ConsumerStep):
        def get_consumers(self, channel: Any) -> Any:
            return []

    app.steps["consumer"].add(Eats)


@app.task(bind=True, max_retries=1)
def again(self: Any) -> str:
    if not self.request.retries:
        raise self.retry(countdown=0)
    return "done"


@app.task
def fails() -> None:
    raise ValueError("no")


@app.task(bind=True)
def breaks(self: Any) -> Any:
    class Odd(Exception):
        @property
        def args(self) -> Any:
            raise RuntimeError("cannot be taken down")

    raise Odd


@app.task
def rejects() -> None:
    from celeriac.exceptions import Reject

    raise Reject("not mine")
