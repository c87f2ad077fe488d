"""The runner: one delivery in, one outcome out.

It decides whether a message may run, runs it, and says what must be stored together with the ack: result,
chain's next step, callbacks, the retry's new envelope. It does no I/O of its own but what a decision needs
(a rate limit's token, a redelivered message's result). How slots are run is the pools' business.
"""

from __future__ import annotations

import datetime
import logging
import os
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from celeriac import signals, states
from celeriac.app.einfo import ExceptionInfo
from celeriac.app.request import Context
from celeriac.engines.base import Control, Delivery, Outcome, Publication, Verdict
from celeriac.exceptions import (
    ContentDisallowed,
    DecodeError,
    EncodeError,
    Ignore,
    InvalidTaskError,
    NotRegistered,
    OperationalError,
    Reject,
    Retry,
    TaskRevokedError,
    Terminated,
    TimeLimitExceeded,
    WorkerLostError,
)
from celeriac.message import Message, Notes, decode_body, decode_envelope, notes
from celeriac.saferepr import shown
from celeriac.worker.persist import persist
from celeriac.worker.plan import Plan

if TYPE_CHECKING:
    from celeriac.app.base import Celeriac

logger = logging.getLogger("celeriac.worker.strategy")
trace_logger = logging.getLogger("celeriac.app.trace")


class Job:
    """A message that may run."""

    __slots__ = ("armed", "context", "cut", "delivery", "name", "once", "plan", "soft_hard", "started")

    def __init__(self, delivery: Delivery, plan: Plan, context: Context) -> None:
        self.delivery = delivery
        self.plan = plan
        self.context = context
        self.name = plan.task.name
        self.once = not plan.acks_late
        self.soft_hard = plan.limits
        self.started = 0.0
        self.armed = False
        """The task's own code runs: a soft limit may be raised now."""
        self.cut: BaseException | None = None
        """What a cancelled coroutine was cancelled for."""
        if context.timelimit:
            self.soft_hard = plan.limits_of(context.timelimit)


class Runner:
    """Runs messages for one child. Safe for use by its slots at once."""

    def __init__(
        self,
        app: Celeriac,
        hostname: str,
        owner: str,
        *,
        max_deliveries: int,
        limits: tuple[float, float] = (0.0, 0.0),
    ) -> None:
        self.app = app
        self.hostname = hostname
        self.owner = owner
        self.max_deliveries = max_deliveries
        self.default_limits = limits
        self.accept = app.accept_content
        self.plans: dict[str, Plan] = {}
        self.revoked: set[str] = set()
        self.rates: dict[str, str] = {}
        self.version = 0
        self.lookup_redelivered = not app.fused or bool(app.conf.worker_deduplicate_successful_tasks)
        self.max_size = app.conf.message_max_size

    def obey(self, control: Control) -> None:
        """Take note of revoked tasks and changed limits."""
        self.version = control.version
        self.revoked.update(control.revoked)
        if control.rate_limits != self.rates:
            self.rates = control.rate_limits
            self.plans.clear()

    # -- may it run? -------------------------------------------------------------------------------

    def prepare(self, delivery: Delivery) -> Job | Outcome:
        """Decode the message and decide: a job to run, or the outcome of one that must not."""
        try:
            if self.max_size and len(delivery.payload) > self.max_size:
                raise DecodeError(
                    f"{len(delivery.payload)} bytes are over message_max_size ({self.max_size})"
                )
            message = decode_envelope(delivery.payload)
            headers = message.headers
            args, kwargs, embed = decode_body(message, self.accept)
            name, task_id = headers["task"], headers["id"]
        except (DecodeError, InvalidTaskError, ContentDisallowed, KeyError) as error:
            return self._undecodable(delivery, error)
        context = Context(
            message,
            args,
            kwargs,
            embed,
            queue=delivery.queue,
            delivery_token=delivery.token,
            redelivered=bool(headers.get("redelivered")),
            hostname=self.hostname,
            lease=(self.owner, delivery.queue, delivery.token),
        )
        plan = self.plans.get(name) or self._plan(name)
        if plan is None:
            return self._unknown(delivery, context, name)
        job = Job(delivery, plan, context)
        if task_id in self.revoked and not notes(message).lost:
            return self._revoked(job, "revoked")
        if logger.isEnabledFor(logging.INFO):
            data = {"name": name, "id": task_id}
            logger.info("Task %(name)s[%(id)s] received", data, extra={"data": data})
        return self._special(job, message) if self._is_special(headers, plan) else job

    @staticmethod
    def _is_special(headers: dict[str, Any], plan: Plan) -> bool:
        """The few messages that need a closer look; most take none."""
        return bool(
            headers.get("expires")
            or headers.get("eta")
            or plan.interval
            or headers.get("redelivered")
            or headers.get("celeriac")
            or not plan.plain
        )

    def _special(self, job: Job, message: Message) -> Job | Outcome:
        own = notes(message)
        if own.lost or own.deliveries >= self.max_deliveries:
            return self._post_mortem(job, own)
        if own.deliveries and job.plan.task.reject_on_worker_lost is False:
            return self._post_mortem(job, own)
        context = job.context
        if context.redelivered and self.lookup_redelivered and self._has_succeeded(context.id):
            logger.info("Task %s[%s] has a result already: only acknowledged", job.name, context.id)
            return self._end(job)
        if context.expires and _epoch(context.expires) <= time.time():
            return self._revoked(job, "expired", expired=True)
        if context.eta and not own.held:
            due = _epoch(context.eta)
            if due > time.time():
                return Outcome(job.delivery.token, job.delivery.queue, Verdict.DELAY, due=due)
        if job.plan.interval and not job.delivery.admitted and not self._admitted(job):
            return Outcome(job.delivery.token, job.delivery.queue, Verdict.PARK, bucket=job.name)
        if context.chord is not None:
            return self._dead(job, "rejected", "this version cannot run tasks of a chord's header yet")
        return job

    def _admitted(self, job: Job) -> bool:
        coordinator = self.app.coordinator
        if coordinator is None:
            return True
        queue, bucket, interval = job.delivery.queue, job.name, job.plan.interval
        return persist("ask for a rate limit's token", lambda: coordinator.admit(queue, bucket, interval))

    def _has_succeeded(self, task_id: str | None) -> bool:
        backend = self.app.backend
        if backend is None or task_id is None:
            return False
        payload = persist("look for a result", lambda: backend.fetch([task_id])).get(task_id)
        return payload is not None and self.app.results.decode(payload)["status"] in states.READY_STATES

    def _plan(self, name: str) -> Plan | None:
        task = self.app.tasks.get(name)
        if task is None:
            return None
        plan = Plan(task, self.app, self.rates.get(name), self.default_limits)
        self.plans[name] = plan
        return plan

    # -- running -----------------------------------------------------------------------------------

    def run(self, job: Job, call: Callable[[Job], Any] | None = None) -> Outcome:
        """Run the task and say how it ended. ``call`` runs the body where the pool has a way of its own."""
        plan, context = job.plan, job.context
        task = plan.task
        job.started = time.perf_counter()
        task.push_request(context)
        try:
            try:
                self._before(job)
                job.armed = True
                value = call(job) if call is not None else plan.call(*context.args, **context.kwargs)
                job.armed = False
            except BaseException as error:
                job.armed = False
                outcome = self._raised(job, error)
            else:
                outcome = self._returned(job, value)
        finally:
            task.pop_request()
            if plan.cleanup is not None:
                plan.cleanup()
        return outcome

    async def arun(self, job: Job) -> Outcome:
        """The same for a coroutine on a running event loop."""
        plan, context = job.plan, job.context
        task = plan.task
        job.started = time.perf_counter()
        task.push_request(context)
        try:
            try:
                self._before(job)
                value = await plan.call(*context.args, **context.kwargs)
            except BaseException as error:
                outcome = self._raised(job, job.cut or error)
            else:
                outcome = self._returned(job, value)
        finally:
            task.pop_request()
        return outcome

    def interrupted(self, job: Job, error: BaseException) -> Outcome:
        """The outcome of a job whose limit was raised in the moment it ended, outside its own code."""
        return self._failed(job, error)

    def _before(self, job: Job) -> None:
        plan, context = job.plan, job.context
        task = plan.task
        if signals.task_prerun.receivers:
            signals.task_prerun.send(
                sender=task, task_id=context.id, task=task, args=context.args, kwargs=context.kwargs
            )
        if plan.track_started:
            self._store_started(job)
        if plan.before_start is not None:
            plan.before_start(context.id, context.args, context.kwargs)

    def _store_started(self, job: Job) -> None:
        backend = self.app.backend
        if backend is not None and not job.context.ignore_result:
            started = {"pid": os.getpid(), "hostname": self.hostname}
            record = self.app.results.record(states.STARTED, started, job.context)
            record.lease = job.context.lease
            try:
                backend.store([record])
            except OperationalError as error:
                logger.warning("Could not note that %s[%s] has started: %s", job.name, job.context.id, error)

    # -- how it ended ------------------------------------------------------------------------------

    def _returned(self, job: Job, value: Any) -> Outcome:
        plan, context = job.plan, job.context
        try:
            # First what follows: the tasks it calls are recorded as this one's children.
            publications = self._follow_ups(job, value) if plan.has_follow_ups(context) else ()
            record = None
            if plan.keeps_result and not context.ignore_result:
                record = self.app.results.record(states.SUCCESS, value, context)
        except EncodeError as error:
            return self._failed(job, error)
        runtime = time.perf_counter() - job.started
        self._quietly(plan.on_success, value, context.id, context.args, context.kwargs)
        if signals.task_success.receivers:
            signals.task_success.send(sender=plan.task, result=value, runtime=runtime)
        if trace_logger.isEnabledFor(logging.INFO):
            self._log(
                logging.INFO,
                job,
                "Task %(name)s[%(id)s] succeeded in %(runtime)ss: %(return_value)s",
                runtime=runtime,
                return_value=_short(value, plan.task.resultrepr_maxsize),
            )
        self._after(job, states.SUCCESS, value, None)
        return Outcome(job.delivery.token, job.delivery.queue, Verdict.ACK, record, publications)

    def _raised(self, job: Job, error: BaseException) -> Outcome:
        try:
            if isinstance(error, Retry):
                return self._retried(job, error)
            if isinstance(error, Ignore):
                self._after(job, states.IGNORED, None, None)
                return self._end(job)
            if isinstance(error, Reject):
                return self._rejected(job, error)
            if isinstance(error, Terminated):
                return self._revoked(job, "terminated", terminated=True)
            return self._failed(job, error)
        finally:
            # The traceback holds the task's frames, and they hold its data.
            del error

    def _retried(self, job: Job, retry: Retry) -> Outcome:
        plan, context = job.plan, job.context
        info = ExceptionInfo(retry)
        reason = retry.exc if retry.exc is not None else retry
        record = None
        if plan.keeps_result and not context.ignore_result:
            record = self.app.results.record(states.RETRY, reason, context, traceback=info.traceback)
        self._quietly(plan.on_retry, reason, context.id, context.args, context.kwargs, info)
        if signals.task_retry.receivers:
            signals.task_retry.send(sender=plan.task, request=context, reason=retry, einfo=info)
        self._log(logging.INFO, job, "Task %(name)s[%(id)s] retry: %(exc)s", exc=shown(retry, str))
        self._after(job, states.RETRY, reason, info)
        publication: Publication = retry.publication
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
        return Outcome(token, queue, Verdict.ACK, record, (publication,))

    def _rejected(self, job: Job, error: Reject) -> Outcome:
        if signals.task_rejected.receivers:
            signals.task_rejected.send(sender=self.app, message=job.context.message, exc=error)
        self._log(logging.INFO, job, "Task %(name)s[%(id)s] reject requeue=%(requeue)s: %(reason)s",
                  requeue=error.requeue, reason=error.reason)  # fmt: skip
        self._after(job, states.REJECTED, None, None)
        if error.requeue:
            return Outcome(job.delivery.token, job.delivery.queue, Verdict.REQUEUE)
        return self._dead(job, "rejected", str(error.reason or "rejected by the task"))

    def _failed(self, job: Job, error: BaseException, reason: str | None = None) -> Outcome:
        """A failure that ends the task. ``reason`` makes it a dead letter as well."""
        plan, context = job.plan, job.context
        task = plan.task
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
        publications = self._errbacks(job, error, info) if context.errbacks else ()
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
        return outcome

    def _after(self, job: Job, state: str, value: Any, info: ExceptionInfo | None) -> None:
        plan, context = job.plan, job.context
        task = plan.task
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

    # -- what follows ------------------------------------------------------------------------------

    def _follow_ups(self, job: Job, value: Any) -> list[Publication]:
        """The callbacks and the chain's next step, to go out with the ack."""
        from celeriac.canvas import maybe_signature

        context = job.context
        common = {"parent_id": context.id, "root_id": context.root_id}
        with self.app.publisher.collecting() as batch:
            for callback in context.callbacks or ():
                maybe_signature(callback, app=self.app).apply_async((value,), **common)
            if context.chain:
                *rest, following = context.chain
                maybe_signature(following, app=self.app).apply_async((value,), chain=rest, **common)
        return batch

    def _errbacks(self, job: Job, error: BaseException, info: ExceptionInfo) -> list[Publication]:
        """Send old-style errbacks ``(task_id)``; run new-style ones ``(request, exc, traceback)`` here."""
        from celeriac.canvas import maybe_signature

        context = job.context
        common = {"parent_id": context.id, "root_id": context.root_id}
        with self.app.publisher.collecting() as batch:
            for item in context.errbacks or ():
                errback = maybe_signature(item, app=self.app)
                task = self.app.tasks.get(errback["task"])
                try:
                    if task is not None and _takes_three(task):
                        errback(context, error, info.traceback)
                    else:
                        errback.apply_async((context.id,), **common)
                except Exception:
                    logger.exception("The errback %s of task %s[%s] failed", errback, job.name, context.id)
        return batch

    # -- messages that do not run ------------------------------------------------------------------

    def _end(self, job: Job) -> Outcome:
        return Outcome(job.delivery.token, job.delivery.queue, Verdict.ACK)

    def _dead(self, job: Job, reason: str, detail: str) -> Outcome:
        return Outcome(
            job.delivery.token, job.delivery.queue, Verdict.DEAD,
            reason=reason, detail=detail, task=job.name, task_id=job.context.id or "",
        )  # fmt: skip

    def _undecodable(self, delivery: Delivery, error: Exception) -> Outcome:
        detail = f"{type(error).__name__}: {error}"
        logger.error("Cannot read a message from %r, now a dead letter: %s", delivery.queue, detail)
        if signals.task_rejected.receivers:
            signals.task_rejected.send(sender=self.app, message=delivery.payload, exc=error)
        outcome = Outcome(delivery.token, delivery.queue, Verdict.DEAD, reason="undecodable", detail=detail)
        try:
            headers = decode_envelope(delivery.payload).headers
            outcome.task, outcome.task_id = str(headers.get("task", "")), str(headers.get("id", ""))
        except DecodeError:
            return outcome
        if outcome.task_id and self.app.backend is not None:
            context = Context(None, None, None, None, id=outcome.task_id)
            outcome.result = self.app.results.record(states.FAILURE, error, context)
        return outcome

    def _unknown(self, delivery: Delivery, context: Context, name: str) -> Outcome:
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
                sender=self.app, message=context.message, exc=error, name=name, id=context.id
            )
        record = None
        if self.app.backend is not None and not context.ignore_result:
            record = self.app.results.record(states.FAILURE, error, context)
        return Outcome(
            delivery.token, delivery.queue, Verdict.DEAD, record,
            reason="unknown", detail=f"no task named {name!r} is registered", task=name, task_id=context.id
        or "", )  # fmt: skip

    def _revoked(
        self,
        job: Job,
        why: str,
        *,
        expired: bool = False,
        terminated: bool = False,
        signum: int | None = None,
    ) -> Outcome:
        context = job.context
        logger.info("Discarding %s task: %s[%s]", why, job.name, context.id)
        if signals.task_revoked.receivers:
            signals.task_revoked.send(
                sender=job.plan.task, request=context, terminated=terminated, signum=signum, expired=expired
            )
        error = TaskRevokedError(why)
        if self.app.backend is not None:
            # Stored even where results are ignored: a task that never ran must not just vanish.
            record = self.app.results.record(states.REVOKED, error, context)
            outcome = self._end(job)
            outcome.result = record
            return outcome
        return self._dead(job, "expired" if expired else "revoked", why)

    def _post_mortem(self, job: Job, own: Notes) -> Outcome:
        """Bring a message to its end whose run was ended from outside; its task is not run again."""
        kind, _, number = (own.lost or "").partition(":")
        job.started = time.perf_counter()
        job.plan.task.push_request(job.context)
        try:
            if kind == "timeout":
                return self._failed(job, TimeLimitExceeded(float(number)))
            if kind == "terminated":
                return self._revoked(job, "terminated", terminated=True, signum=int(number))
            if kind == "once":
                lost = WorkerLostError(
                    "its worker died while it ran, and acks_late=False forbids a second run"
                )
                return self._failed(job, lost, "lost")
            if own.deliveries >= self.max_deliveries:
                lost = WorkerLostError(f"its start was the end of {own.deliveries} worker processes")
                return self._failed(job, lost, "deliveries")
            lost = WorkerLostError("its worker died while it ran, and reject_on_worker_lost is off")
            return self._failed(job, lost)
        finally:
            job.plan.task.pop_request()

    # -- logging -----------------------------------------------------------------------------------

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


def _takes_three(task: Any) -> bool:
    """Whether an errback has the new style's signature ``(request, exc, traceback)``."""
    import inspect

    try:
        parameters = inspect.signature(task.run).parameters.values()
    except (TypeError, ValueError):
        return False
    positional = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    return len(positional) > 1 or any(p.kind is p.VAR_POSITIONAL for p in parameters)


def _epoch(moment: str | float | int) -> float:
    """Epoch seconds of an ISO 8601 time as Celery writes it; without an offset it is UTC."""
    if isinstance(moment, int | float):
        return float(moment)
    parsed = datetime.datetime.fromisoformat(moment)
    if parsed.tzinfo is None:
        parsed = parsed.replace(tzinfo=datetime.UTC)
    return parsed.timestamp()


def _short(value: Any, size: int | None) -> str:
    text = shown(value)
    size = size or 1024
    return text if len(text) <= size else text[: size - 3] + "..."
