"""The application of the chord faults: its processes die once at each step that a chord is named for.

A group is named ``<step>.<outcome>.<number>``. A process that comes to the step for this group kills itself,
unless one has done so before (a marker file says so).
"""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from celeriac import Celeriac
from celeriac.app import chords
from celeriac.engines import groups

AGAIN = 1.0
groups.OWED_AGAIN = chords.OWED_AGAIN = AGAIN  # before the engines read it: nobody wants to wait ten seconds

from celeriac.engines.postgres.chords import PostgresGroups  # noqa: E402
from celeriac.engines.redis.groups import RedisGroups  # noqa: E402
from celeriac.engines.sqlite.chords import SQLiteGroups  # noqa: E402
from celeriac.worker import chord_recovery, line  # noqa: E402

chord_recovery.INTERVAL = 0.3

app = Celeriac(
    "chords", broker=os.environ.get("FAULTS_BROKER", "memory://"), backend=os.environ.get("FAULTS_BACKEND")
)
app.conf.update(json.loads(os.environ.get("FAULTS_CONF", "{}")))


def note(text: str) -> None:
    """Append a line to the journal in one write."""
    with open(os.environ["FAULTS_JOURNAL"], "ab", buffering=0) as journal:
        journal.write(text.encode() + b"\n")


def reach(step: str, group: str | None) -> None:
    """Die here, if the group is named for this step and nobody has died for it before."""
    if group is None or group.partition(".")[0] != step:
        return
    try:
        (Path(os.environ["FAULTS_JOURNAL"] + f".{group}.{step}")).touch(exist_ok=False)
    except FileExistsError:
        return
    note(f"die {step} {group}")
    os.kill(os.getpid(), signal.SIGKILL)


@app.task(bind=True)
def part(self: Any, value: int, fails: bool = False) -> int:
    """A header task."""
    if value == 1:
        reach("in_header", self.request.group)
    if fails:
        raise ValueError(value)
    return value


@app.task(bind=True)
def body(self: Any, values: list[int]) -> int:
    """The body, whose id is the group's with a suffix."""
    reach("in_end", self.request.id.removesuffix("-body"))
    note(f"body {self.request.id} {values}")
    return sum(values)


@app.task
def errback(task_id: str) -> None:
    """The error callback, of the old style."""
    reach("in_end", task_id.removesuffix("-body"))
    note(f"error {task_id}")


# -- the steps -----------------------------------------------------------------------------------------


def _around(
    owner: Any, name: str, before: Callable[..., None], after: Callable[..., None] | None = None
) -> None:
    """Call ``before`` with the arguments of a method and ``after`` with its value and them, at each call."""
    inner = getattr(owner, name)

    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        before(*args)
        value = inner(self, *args, **kwargs)
        if after is not None:
            after(value, *args)
        return value

    setattr(owner, name, call)


def _exchange(outcomes: Sequence[Any], limit: int) -> None:
    for outcome in outcomes:
        for each in outcome.parts:
            if each.index == 2:  # mostly the last one
                reach("before_exchange", each.group)


def _record(parts: Sequence[Any], by: str) -> None:
    for each in parts:
        reach("before_parts", each.group)


def _finish(groups: Sequence[str]) -> None:
    for group in groups:
        if group.startswith(("in_recovery", "recovery_settle")):
            os.kill(os.getpid(), signal.SIGKILL)  # leave it to the agents
        reach("after_exchange", group)


def _take(owed: Any, by: str, written: bytes) -> None:
    reach("in_recovery" if ":agent:" in by else "after_take", owed.group)


def _settle(group: str, by: str, *rest: Any) -> None:
    reach("recovery_settle" if ":agent:" in by else "before_settle", group)


def _settled(owed: Any, group: str, *rest: Any) -> None:
    if owed is not None:
        note(f"settled {group}")
    reach("after_settle", group)


_around(line.Line, "exchange", _exchange)
_around(line.Line, "finish_chords", _finish)
_around(chords.Chords, "_end_of", _take)
for engine in (RedisGroups, SQLiteGroups, PostgresGroups):
    _around(engine, "record_parts", _record)
    _around(engine, "settle_owed", _settle, _settled)
