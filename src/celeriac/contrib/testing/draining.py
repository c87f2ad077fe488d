"""Running what is due in the test's own thread, as a worker would."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, NamedTuple

from celeriac.app.eager import run_coroutine
from celeriac.engines.base import Answer, Incarnation, Outcome
from celeriac.worker.job import Job
from celeriac.worker.line import Line
from celeriac.worker.runner import Runner

if TYPE_CHECKING:
    from celeriac.app.base import Celeriac

_numbers = itertools.count(1)


class Drained(NamedTuple):
    """What :func:`drain` did."""

    ran: int
    """How many times a task was run; a retry is a run."""
    next_due: float | None
    """When the next delayed or rate-limited message falls due, epoch seconds by the store's clock."""


def drain(app: Celeriac, queues: Iterable[str] | None = None, limit: int = 100_000) -> Drained:
    """Run every task that is due, and what follows from them, until nothing is ready any more.

    It claims, runs and settles here, one message after the other, by a worker's own code: arguments and
    results go through the serializers, retries and delayed tasks wait for their time, rate limits and
    revokes hold, chords are completed. Time limits are not kept, as in the solo pool. ``queues`` are all
    that the broker knows by default: name yours if others share it.

    Raises ``RuntimeError`` after ``limit`` messages: tasks that send each other for ever.
    """
    app.finalize()
    owner = Incarnation(f"drain@{os.getpid()}.{next(_numbers)}", 1, 1)
    line = Line(app, owner, app.broker.queues() if queues is None else list(queues))
    conf = app.conf
    limits = (conf.task_soft_time_limit or 0.0, conf.task_time_limit or 0.0)
    runner = Runner(app, "drain", owner.name, max_deliveries=conf.task_max_deliveries, limits=limits)
    outcomes: list[Outcome] = []
    ran = 0
    try:
        for _ in range(limit):
            answer = line.exchange(outcomes, 1)
            _obey(app, runner, line, answer)
            if not answer.deliveries and not answer.owed:
                return Drained(ran, answer.next_due)
            outcomes = []
            for delivery in answer.deliveries:
                job = runner.prepare(delivery)
                ran += not isinstance(job, Outcome)
                outcomes += _run(runner, line, job)
        line.exchange(outcomes, 0)
    finally:
        line.close()
    raise RuntimeError(
        f"{limit} messages have been taken and there are still some: do tasks send each other for ever? "
        "Else give drain() a higher limit"
    )


def _obey(app: Celeriac, runner: Runner, line: Line, answer: Answer) -> None:
    coordinator = app.coordinator
    if answer.version != runner.version and coordinator is not None:
        runner.obey(coordinator.control(runner.version))
    if answer.owed:
        line.finish_chords(answer.owed)


def _run(runner: Runner, line: Line, job: Job | Outcome) -> list[Outcome]:
    if isinstance(job, Outcome):
        return [job]
    if job.once and not line.mark_once(job.delivery):
        return []
    return [runner.run(job, _call_async if job.plan.is_async else None)]


def _call_async(job: Job) -> Any:
    return run_coroutine(job.plan.call(*job.context.args, **job.context.kwargs))
