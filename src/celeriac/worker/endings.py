"""Endings: how a job ended, as the one outcome that is stored with its ack.

Result, chain's next step, callbacks, errbacks, the chord's part and the retry's new envelope go out in that
same step; hooks and signals are called here, and cannot change what happened.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from celeriac import signals, states
from celeriac.app.chords import is_ours
from celeriac.app.einfo import ExceptionInfo
from celeriac.app.errbacks import call_errbacks
from celeriac.app.request import Context
from celeriac.canvas import maybe_signature
from celeriac.engines.base import Outcome, Publication, Verdict
from celeriac.engines.groups import ChordPart
from celeriac.exceptions import (
    EncodeError,
    Fenced,
    Ignore,
    Reject,
    Retry,
    SoftTimeLimitExceeded,
    TaskRevokedError,
    Terminated,
    TimeLimitExceeded,
)
from celeriac.message import OWN_HEADER, note_sent_before, notes
from celeriac.saferepr import shown
from celeriac.worker.job import Job
from celeriac.worker.persist import persist

if TYPE_CHECKING:
    from celeriac.app.base import Celeriac
    from celeriac.worker.events import Recorder

logger = logging.getLogger("celeriac.worker.strategy")
trace_logger = logging.getLogger("celeriac.app.trace")


class Endings:
    """Makes the outcomes of one application's jobs."""

    def __init__(self, app: Celeriac) -> None:
        self.app = app
        self.events: Recorder | None = None
        """Writes events while they are asked for."""

    def returned(self, job: Job, value: Any) -> Outcome:
        plan, context = job.plan, job.context
        try:
            # First what follows: the tasks it calls are recorded as this one's children.
            publications = self._follow_ups(job, value) if plan.has_follow_ups(context) else ()
            record = None
            if plan.keeps_result and not context.ignore_result:
                record = self.app.results.record(states.SUCCESS, value, context)
            parts = self._part(context, value) if context.chord is not None else ()
        except EncodeError as error:
            return self.failed(job, error)
        job.end(states.SUCCESS)
        job.value, runtime = value, job.runtime
        self._quietly(plan.on_success, value, context.id, context.args, context.kwargs)
        if signals.task_success.receivers:
            signals.task_success.send(sender=plan.task, result=value, runtime=runtime)
        logs = trace_logger.isEnabledFor(logging.INFO)
        if logs or self.events is not None:
            self._tell_success(job, value, runtime, logs)
        self._after(job, states.SUCCESS, value, None)
        outcome = Outcome(job.delivery.token, job.delivery.queue, Verdict.ACK, record, publications)
        if parts:
            outcome.parts = parts
        return outcome

    def _tell_success(self, job: Job, value: Any, runtime: float, logs: bool) -> None:
        result = job.shown = self.app.redact.result_repr(job.plan.task, value)
        if self.events is not None:
            self.events.succeeded(job, result, runtime)
        if logs:
            self._log(
                logging.INFO,
                job,
                "Task %(name)s[%(id)s] succeeded in %(runtime)ss: %(return_value)s",
                runtime=runtime,
                return_value=result,
            )

    def raised(self, job: Job, error: BaseException) -> Outcome:
        try:
            if isinstance(error, Retry):
                return self._retried(job, error)
            if isinstance(error, Ignore):
                return self._ignored(job, error)
            if isinstance(error, Reject):
                return self._rejected(job, error)
            if isinstance(error, Terminated):
                return self.revoked(job, "terminated", terminated=True)
            return self.failed(job, error)
        finally:
            # The traceback holds the task's frames, and they hold its data.
            del error

    def failed(self, job: Job, error: BaseException, reason: str | None = None) -> Outcome:
        """A failure that ends the task. ``reason`` makes it a dead letter as well."""
        plan, context = job.plan, job.context
        task = plan.task
        job.end(states.FAILURE, error)
        info = ExceptionInfo(error)
        record = None
        if (plan.keeps_result and not context.ignore_result) or plan.keeps_errors:
            record = self.app.results.record(states.FAILURE, error, context, traceback=info.traceback)
        self._quietly(plan.on_failure, error, context.id, context.args, context.kwargs, info)
        if signals.task_failure.receivers:
            signals.task_failure.send(
                sender=task, task_id=context.id, exception=error, args=context.args, kwargs=context.kwargs,
                traceback=info.tb, einfo=info,
            )  # fmt: skip
        self._log_failure(job, error, info)
        if self.events is not None:
            self.events.failed(job, error, info.traceback)
        publications: list[Publication] | tuple[()] = ()
        if context.errbacks:
            with self.app.publisher.collecting() as publications:
                call_errbacks(self.app, context.errbacks, context, error, info.traceback)
        self._after(job, states.FAILURE, error, info)
        timed_out = isinstance(error, TimeLimitExceeded)
        if reason is None and (
            plan.dead_on_failure or not (plan.acks_on_timeout if timed_out else plan.acks_on_failure)
        ):
            reason = "failed"
        outcome = Outcome(job.delivery.token, job.delivery.queue, Verdict.ACK, record, publications)
        if reason is not None:
            outcome.verdict = Verdict.DEAD
            outcome.reason, outcome.detail = reason, f"{type(error).__name__}: {shown(error, str)}"
            outcome.task, outcome.task_id = job.name, context.id or ""
        return self.lost(outcome, context, states.FAILURE, error)

    def revoked(
        self,
        job: Job,
        why: str,
        *,
        expired: bool = False,
        terminated: bool = False,
        signum: int | None = None,
    ) -> Outcome:
        context = job.context
        job.end(states.REVOKED, why)
        logger.info("Discarding %s task: %s[%s]", why, job.name, context.id)
        if signals.task_revoked.receivers:
            signals.task_revoked.send(
                sender=job.plan.task, request=context, terminated=terminated, signum=signum, expired=expired
            )
        if self.events is not None:
            self.events.revoked(job, terminated, signum, expired)
        error = TaskRevokedError(why)
        if self.app.backend is not None:
            # Stored even where results are ignored: a task that never ran must not just vanish.
            record = self.app.results.record(states.REVOKED, error, context)
            outcome = Outcome(job.delivery.token, job.delivery.queue, Verdict.ACK, record)
            return self.lost(outcome, context, states.REVOKED, error)
        return self.dead(job, "expired" if expired else "revoked", why)

    def again(self, job: Job, state: str, value: Any) -> Outcome:
        """The message came back, and its task has a result: what is missing may be its part in a chord."""
        outcome = Outcome(job.delivery.token, job.delivery.queue, Verdict.ACK)
        if state == states.SUCCESS:
            if job.context.chord is not None:
                outcome.parts = self._part(job.context, value)
            return outcome
        return self.lost(outcome, job.context, state, value)

    def lost(self, outcome: Outcome, context: Context, state: str, error: BaseException) -> Outcome:
        """Add to the outcome of a task that did not succeed what this means for others.

        Its part of a chord is an error, and the later steps of its chain will never run: they share its
        state, and their parts of chords are errors too.
        """
        if (context.chord is None and not context.chain) or self.app.backend is None:
            return outcome
        chords = self.app.chords
        ours = is_ours(context.message)
        reply = notes(context.message).reply if context.message is not None else None
        steps = reversed(context.chain or ())
        outcome.records, parts = chords.unreached(steps, state, error, reply=reply, ours=ours)
        own = chords.part_of(context, state, error)
        outcome.parts = parts if own is None else [own, *parts]
        return outcome

    def dead(self, job: Job, reason: str, detail: str) -> Outcome:
        return Outcome(
            job.delivery.token, job.delivery.queue, Verdict.DEAD,
            reason=reason, detail=detail, task=job.name, task_id=job.context.id or "",
        )  # fmt: skip

    def broke(self, job: Job, error: Exception) -> Outcome:
        """Taking down how the task ended failed (a value whose ``repr`` raises, a broken signal handler)."""
        if isinstance(error, Fenced | SoftTimeLimitExceeded):
            raise error
        plan, context = job.plan, job.context
        job.end(states.FAILURE, error)
        info = ExceptionInfo(error)
        logger.critical("Task %s[%s] INTERNAL ERROR: %r", job.name, context.id, error, exc_info=error)
        if signals.task_internal_error.receivers:
            signals.task_internal_error.send(
                sender=plan.task, task_id=context.id, args=context.args, kwargs=context.kwargs,
                request=context, exception=error, traceback=info.tb, einfo=info,
            )  # fmt: skip
        if self.events is not None:
            self.events.failed(job, error, info.traceback)
        outcome = self.dead(job, "failed", f"its outcome could not be taken down: {type(error).__name__}")
        if self.app.backend is not None:
            plain = RuntimeError(
                f"the task ran, but its outcome could not be taken down: {type(error).__name__}"
            )
            outcome.result = self.app.results.record(states.FAILURE, plain, context, traceback=info.traceback)
            self.lost(outcome, context, states.FAILURE, plain)
        return outcome

    def _ignored(self, job: Job, error: Ignore) -> Outcome:
        job.end(states.IGNORED, shown(error, str))
        self._after(job, states.IGNORED, None, None)
        outcome = Outcome(job.delivery.token, job.delivery.queue, Verdict.ACK)
        if error.publications:  # what takes its place goes on with its chain, and is a member of its chord
            outcome.publications = error.publications
            for heir in error.publications:
                if job.unique and heir.message.headers["id"] == job.context.id:  # the task goes on in it
                    heir.message.headers[OWN_HEADER]["unique"] = job.unique
                    job.unique = ""
            return outcome
        self.lost(outcome, job.context, states.FAILURE, error)
        # Whoever ignores a task stops its chain without a word; only a chord must not wait for it.
        outcome.records = ()
        return outcome

    def _part(self, context: Context, value: Any) -> list[ChordPart]:
        part = self.app.chords.part_of(context, states.SUCCESS, value, len(context.chord_additions or ()))
        return [] if part is None else [part]

    def _retried(self, job: Job, retry: Retry) -> Outcome:
        plan, context = job.plan, job.context
        info = ExceptionInfo(retry)
        reason = retry.exc if retry.exc is not None else retry
        job.end(states.RETRY, reason)
        record = None
        if plan.keeps_result and not context.ignore_result:
            record = self.app.results.record(states.RETRY, reason, context, traceback=info.traceback)
        self._quietly(plan.on_retry, reason, context.id, context.args, context.kwargs, info)
        if signals.task_retry.receivers:
            signals.task_retry.send(sender=plan.task, request=context, reason=retry, einfo=info)
        self._log(logging.INFO, job, "Task %(name)s[%(id)s] retry: %(exc)s", exc=shown(retry, str))
        if self.events is not None:
            self.events.retried(job, retry, info.traceback)
        self._after(job, states.RETRY, reason, info)
        publication: Publication = retry.publication
        if signals.before_task_publish.receivers:
            self.app.publisher.announce_before([publication])
        token, queue = job.delivery.token, job.delivery.queue
        if publication.queue == queue:
            return Outcome(
                token,
                queue,
                Verdict.DELAY,
                record,
                message=publication.message,
                delay=publication.delay if publication.due is None else None,
                due=publication.due,
            )
        job.moved = True
        return Outcome(token, queue, Verdict.ACK, record, (publication,))

    def _rejected(self, job: Job, error: Reject) -> Outcome:
        job.end(states.REJECTED, error.reason or "rejected by the task")
        if signals.task_rejected.receivers:
            signals.task_rejected.send(sender=self.app, message=job.context.message, exc=error)
        self._log(logging.INFO, job, "Task %(name)s[%(id)s] reject requeue=%(requeue)s: %(reason)s",
                  requeue=error.requeue, reason=error.reason)  # fmt: skip
        if self.events is not None:
            self.events.rejected(job, error.requeue)
        self._after(job, states.REJECTED, None, None)
        if error.requeue:
            return Outcome(job.delivery.token, job.delivery.queue, Verdict.REQUEUE)
        outcome = self.dead(job, "rejected", str(error.reason or "rejected by the task"))
        plan, context = job.plan, job.context
        if (plan.keeps_result and not context.ignore_result) or plan.keeps_errors:
            # Nobody shall wait for it for ever; a replay that succeeds takes its place.
            outcome.result = self.app.results.record(states.FAILURE, error, context)
        return self.lost(outcome, job.context, states.FAILURE, error)

    def _after(self, job: Job, state: str, value: Any, info: ExceptionInfo | None) -> None:
        plan, context = job.plan, job.context
        task = plan.task
        if state in states.READY_STATES:  # not for a retry: the task has not returned yet, as in Celery
            self._quietly(plan.after_return, state, value, context.id, context.args, context.kwargs, info)
        if signals.task_postrun.receivers:
            signals.task_postrun.send(
                sender=task, task_id=context.id, task=task, args=context.args, kwargs=context.kwargs,
                retval=value, state=state,
            )  # fmt: skip

    def _quietly(self, hook: Callable[..., Any] | None, *args: Any) -> None:
        """Call a user's hook; its own failure must not change how the task ended."""
        if hook is None:
            return
        try:
            hook(*args)
        except Exception:
            logger.exception(
                "The hook %s failed; the task's outcome stands", getattr(hook, "__qualname__", hook)
            )

    def _follow_ups(self, job: Job, value: Any) -> list[Publication]:
        """The callbacks and the chain's next step, to go out with the ack."""
        context = job.context
        called = len(context._children or ())

        def send() -> list[Publication]:
            if context._children:
                del context._children[called:]
            return self._send_follow_ups(context, value)

        # A chord among them is opened in the store at once, and ids are fixed: it can be done again.
        return persist("open a chord", send)

    def _send_follow_ups(self, context: Context, value: Any) -> list[Publication]:
        common = {"parent_id": context.id, "root_id": context.root_id}
        with self.app.publisher.collecting() as batch:
            for callback in context.callbacks or ():
                maybe_signature(callback, app=self.app).apply_async((value,), **common)
            if context.chain:
                *rest, following = context.chain
                maybe_signature(following, app=self.app).apply_async((value,), chain=rest, **common)
            for addition in context.chord_additions or ():
                maybe_signature(addition, app=self.app).apply_async(**common)
        _note_repeats(context, batch)
        return batch

    def _log(self, level: int, job: Job, format: str, **data: Any) -> None:
        if trace_logger.isEnabledFor(level):
            data.update(name=job.name, id=job.context.id)
            trace_logger.log(level, format, data, extra={"data": data})

    def _log_failure(self, job: Job, error: BaseException, info: ExceptionInfo) -> None:
        if isinstance(error, job.plan.task.throws):
            self._log(logging.INFO, job, "Task %(name)s[%(id)s] raised expected: %(exc)s", exc=shown(error))
        elif trace_logger.isEnabledFor(logging.ERROR):
            data = {"name": job.name, "id": job.context.id, "exc": shown(error), "traceback": info.traceback}
            trace_logger.error(
                "Task %(name)s[%(id)s] raised unexpected: %(exc)s\n%(traceback)s", data, extra={"data": data}
            )


def _note_repeats(context: Context, batch: Sequence[Publication]) -> None:
    """Mark what a task sends that came back: an earlier run may have sent it, and who gets the second copy
    looks for the result of the first."""
    own = notes(context.message) if context.message is not None else None
    if own is None or not (context.redelivered or own.returned is not None):
        return
    for publication in batch:
        note_sent_before(publication.message, own.replayed or 0.0)
