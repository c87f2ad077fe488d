"""Refusals: the outcomes of messages that do not run, and of runs that were ended from outside.

What cannot be read or is not known becomes a dead letter; a task whose run was killed fails here, with its
hooks and callbacks.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from celeriac import signals, states
from celeriac.app.request import Context
from celeriac.engines.base import Delivery, Outcome, Verdict
from celeriac.engines.groups import ChordPart
from celeriac.exceptions import (
    ContentDisallowed,
    DecodeError,
    NotRegistered,
    SecurityError,
    TimeLimitExceeded,
    WorkerLostError,
)
from celeriac.message import OWN_HEADER, Notes, decode_envelope
from celeriac.worker.job import Job

if TYPE_CHECKING:
    from celeriac.worker.runner import Runner

logger = logging.getLogger("celeriac.worker.strategy")

_AUTHENTICATED = "application/data"
"""The content type of bodies signed with a certificate (``celeriac.security.certificates``)."""


class Refusals:
    """Makes the outcomes of what one runner does not run."""

    def __init__(self, runner: Runner) -> None:
        self.runner = runner

    def undecodable(self, delivery: Delivery, error: Exception) -> Outcome:
        """The dead letter of a message that cannot be read, and its task's failure, if its id can be had."""
        detail = f"{type(error).__name__}: {error}"
        logger.error("Cannot read a message from %r, now a dead letter: %s", delivery.queue, detail)
        if signals.task_rejected.receivers:
            signals.task_rejected.send(sender=self.runner, message=delivery.payload, exc=error)
        outcome = Outcome(delivery.token, delivery.queue, Verdict.DEAD, reason="undecodable", detail=detail)
        if self.runner.counters is not None:
            self.runner.counters.unread(delivery.queue, error)
        if self.runner.attempts is not None:
            outcome.attempt = self.runner.attempts.unread(outcome, error)
        try:
            headers = decode_envelope(delivery.payload).headers
            outcome.task, outcome.task_id = str(headers.get("task", "")), str(headers.get("id", ""))
            outcome.unique = _unique(headers)
        except DecodeError:
            return outcome
        # Nobody vouches for the id in a message whose signature is wrong or missing: its result is not ours
        # to write (and to sign).
        forged = isinstance(error, SecurityError) and (
            not isinstance(error, ContentDisallowed) or _AUTHENTICATED in self.runner.accept
        )
        if outcome.attempt is not None and not forged:
            outcome.attempt.task, outcome.attempt.id = outcome.task, outcome.task_id
        if outcome.task_id and self.runner.app.backend is not None and not forged:
            context = Context(None, None, None, None, id=outcome.task_id)
            outcome.result = self.runner.app.results.record(states.FAILURE, error, context)
            outcome.parts = self._unread_part(headers, error)
        return outcome

    def _unread_part(self, headers: dict[str, Any], error: Exception) -> list[ChordPart]:
        """The part of a chord of a task whose body cannot be read.

        Whether there is a chord stands in the body. The group has to do: if it has none, nobody ever asks
        for the part.
        """
        group, index = headers.get("group"), headers.get("group_index")
        if not (isinstance(group, str) and group):
            return []
        index = index if isinstance(index, int) else None
        return [self.runner.app.chords.part(str(headers["id"]), group, index, states.FAILURE, error)]

    def unknown(self, delivery: Delivery, context: Context, name: str) -> Outcome:
        """The dead letter of a message whose task is not registered here."""
        logger.error(
            "Received unregistered task of type %r (id %s): import its module in the worker "
            "(`include`, `imports` or autodiscover_tasks). The message is kept as a dead letter: "
            "`celeriac dead replay` sends it again.",
            name,
            context.id,
        )
        error = NotRegistered(name)
        if signals.task_unknown.receivers:
            signals.task_unknown.send(
                sender=self.runner, message=context.message, exc=error, name=name, id=context.id
            )
        if self.runner.events is not None:
            self.runner.events.unknown(context, name, error)
        if self.runner.counters is not None:
            self.runner.counters.unread(delivery.queue, error, name)
        record = None
        if self.runner.app.backend is not None and not context.ignore_result:
            record = self.runner.app.results.record(states.FAILURE, error, context)
        outcome = Outcome(
            delivery.token, delivery.queue, Verdict.DEAD, record, reason="unknown",
            detail=f"no task named {name!r} is registered", task=name, task_id=context.id or "",
            unique=_unique(context.message.headers) if context.message else "",
        )  # fmt: skip
        if self.runner.attempts is not None:
            outcome.attempt = self.runner.attempts.unread(outcome, error, context)
        return self.runner.endings.lost(outcome, context, states.FAILURE, error)

    def post_mortem(self, job: Job, own: Notes) -> Outcome:
        """Bring a message to its end whose run was ended from outside; its task is not run again."""
        kind, _, number = (own.lost or "").partition(":")
        if kind == "timeout":
            return self.never_run(job, TimeLimitExceeded(float(number)))
        if kind == "terminated":
            with self._running(job):
                return self.runner.endings.revoked(job, "terminated", terminated=True, signum=int(number))
        if kind == "once":
            lost = WorkerLostError("its worker died while it ran, and acks_late=False forbids a second run")
            return self.never_run(job, lost, "lost")
        if own.deliveries >= self.runner.max_deliveries:
            lost = WorkerLostError(f"its start was the end of {own.deliveries} worker processes")
            return self.never_run(job, lost, "deliveries")
        lost = WorkerLostError("its worker died while it ran, and reject_on_worker_lost is off")
        return self.never_run(job, lost)

    def never_run(self, job: Job, error: Exception, reason: str | None = None) -> Outcome:
        """Let a task fail that is not run (again), with its hooks and callbacks."""
        with self._running(job):
            return self.runner.endings.failed(job, error, reason)

    @staticmethod
    @contextmanager
    def _running(job: Job) -> Iterator[None]:
        """In this block the job's hooks have their request, as in a run."""
        job.started = time.perf_counter()
        job.plan.task.push_request(job.context)
        try:
            yield
        finally:
            job.plan.task.pop_request()
            job.started = job.runtime = 0.0  # it was not run


def _unique(headers: dict[str, Any]) -> str:
    """The unique key that a message's task holds, of headers that may be garbage."""
    own = headers.get(OWN_HEADER)
    key = own.get("unique") if isinstance(own, dict) else None
    return key if isinstance(key, str) else ""
