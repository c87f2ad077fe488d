"""The runner: one delivery in, one outcome out.

It decides whether a message may run, and runs it; how it ended is written up by ``Endings``, and what does
not run by ``Refusals``. It does no I/O of its own but what a decision needs (a rate limit's token, a
redelivered message's result). How slots are run is the pools' business.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from celeriac import clock, signals, states
from celeriac.app.request import Context
from celeriac.app.stamps import marks
from celeriac.engines.base import Delivery, Outcome, Publication, Verdict
from celeriac.engines.coordinator import Control
from celeriac.exceptions import DecodeError, Fenced, InvalidTaskError, OperationalError
from celeriac.message import OWN_HEADER, Message, Notes, decode_body, decode_envelope, notes
from celeriac.worker import transaction
from celeriac.worker.attempts import Attempts
from celeriac.worker.counters import Counters
from celeriac.worker.endings import Endings
from celeriac.worker.job import Job
from celeriac.worker.persist import persist
from celeriac.worker.plan import Plan
from celeriac.worker.refusals import Refusals

if TYPE_CHECKING:
    from celeriac.app.base import Celeriac
    from celeriac.worker.events import Recorder

logger = logging.getLogger("celeriac.worker.strategy")


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
        self.endings = Endings(app)
        self.refusals = Refusals(self)
        self.counters: Counters | None = None
        """Counts for the node's metrics, if anybody may ask for them."""
        self.attempts = Attempts(app, hostname) if app.conf.task_history and app.history_store else None
        self.accept = app.accept_content
        self.signing = app.signing
        self.plans: dict[str, Plan] = {}
        self.revoked: set[str] = set()
        self.rates: dict[str, str] = {}
        self._unlimited: set[str] = set()
        self.version = 0
        coordinator: object = app.coordinator
        self.leased = coordinator is not None and coordinator is app.broker
        """Whether the store that others ask about leases is the one that keeps them."""
        self._looks_back = app.looks_back
        self.max_size = app.conf.message_max_size
        self._tells_sent = bool(app.conf.task_send_sent_event)
        self.events: Recorder | None = None
        """Writes events while they are asked for (:meth:`record`)."""

    def record(self, events: Recorder | None) -> None:
        """Write task events there from now on; ``None``: none."""
        self.events = self.endings.events = events

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
            return self._prepare(delivery)
        except Fenced:
            raise
        except Exception as error:
            # Whatever a message may hold (a foreign program wrote it), it must not end the process.
            return self.refusals.undecodable(delivery, error)

    def _prepare(self, delivery: Delivery) -> Job | Outcome:
        if self.max_size and len(delivery.payload) > self.max_size:
            raise DecodeError(f"{len(delivery.payload)} bytes are over message_max_size ({self.max_size})")
        message = decode_envelope(delivery.payload)
        if self.signing is not None:
            message = self.signing.open(message)
        args, kwargs, embed = decode_body(message, self.accept)
        headers = message.headers
        try:
            name, task_id = headers["task"], headers["id"]
        except KeyError as missing:
            raise InvalidTaskError(f"the message has no header {missing}") from None
        context = Context(
            message,
            args,
            kwargs,
            embed,
            queue=delivery.queue,
            delivery_token=delivery.token,
            redelivered=bool(headers.get("redelivered")),
            hostname=self.hostname,
            lease=(self.owner, delivery.queue, delivery.token) if self.leased else None,
        )
        if not (isinstance(name, str) and isinstance(task_id, str) and name and task_id):
            raise InvalidTaskError(f"task name {name!r} and id {task_id!r} must be text")
        plan = self.plans.get(name) or self._plan(name)
        if plan is None:
            return self.refusals.unknown(delivery, context, name)
        job = Job(delivery, plan, context)
        stamps = headers.get("stamps")
        revoked = task_id in self.revoked or (stamps and self._revoked_by(stamps))
        if revoked and not (own := notes(message)).lost:
            job.unique = own.unique or ""
            job.deliveries = own.deliveries
            return self._freed(job, self._noted(job, self.endings.revoked(job, "revoked")))
        if logger.isEnabledFor(logging.INFO):
            data = {"name": name, "id": task_id}
            logger.info("Task %(name)s[%(id)s] received", data, extra={"data": data})
        result = self._special(job, message) if self._is_special(headers, plan) else job
        if self.counters is not None and result is job:
            self.counters.received(job)
        if signals.task_received.receivers and result is job:
            signals.task_received.send(sender=self, request=context)
        return result

    def _revoked_by(self, stamps: Any) -> bool:
        return isinstance(stamps, dict) and not self.revoked.isdisjoint(marks(stamps))

    @staticmethod
    def _is_special(headers: dict[str, Any], plan: Plan) -> bool:
        """Whether a message needs a closer look (0.5 us): ours do, for their notes; of Celery's, a few."""
        return bool(
            headers.get("expires")
            or headers.get("eta")
            or plan.interval
            or headers.get("redelivered")
            or headers.get(OWN_HEADER)
            or not plan.plain
        )

    def _special(self, job: Job, message: Message) -> Job | Outcome:
        own = notes(message)
        if own.unique:
            job.unique = own.unique
        job.deliveries = own.deliveries
        decided = self._decide(job, own)
        return decided if isinstance(decided, Job) else self._freed(job, self._noted(job, decided))

    def _decide(self, job: Job, own: Notes) -> Job | Outcome:
        if own.lost or own.deliveries >= self.max_deliveries:
            return self.refusals.post_mortem(job, own)
        if own.deliveries and job.plan.task.reject_on_worker_lost is False:
            return self.refusals.post_mortem(job, own)
        context = job.context
        if self._looks_back and (context.redelivered or own.returned is not None):
            meta = self._result_of(context, own)
            if meta is not None:
                return self._done_before(job, meta)
        if context.expires and clock.epoch(context.expires) <= clock.now():
            return self.endings.revoked(job, "expired", expired=True)
        if context.eta and not own.held:
            due = clock.epoch(context.eta)
            if due > clock.now():
                return Outcome(job.delivery.token, job.delivery.queue, Verdict.DELAY, due=due)
        if job.plan.places and (turned_away := self._turned_away(job)) is not None:
            return turned_away
        # A place goes back when the message is parked, a rate limit's token would be lost: so it comes last.
        if job.plan.interval and not job.delivery.admitted and not self._admitted(job):
            return Outcome(job.delivery.token, job.delivery.queue, Verdict.PARK, bucket=job.name)
        return job

    def _admitted(self, job: Job) -> bool:
        coordinator = self.app.coordinator
        if coordinator is None:
            return True
        queue, bucket, interval = job.delivery.queue, job.name, job.plan.interval
        return persist("ask for a rate limit's token", lambda: coordinator.admit(queue, bucket, interval))

    def _turned_away(self, job: Job) -> Outcome | None:
        """Take a place under the task's concurrency limit; the outcome if there is none, or no key for one.

        A message that comes with a place asks as well: it keeps its own, and the store learns the limit of
        the code that runs now, which may be another than when the message was parked.
        """
        coordinator, context = self.app.coordinator, job.context
        if coordinator is None or context.lease is None:
            if job.name not in self._unlimited:
                self._unlimited.add(job.name)
                logger.warning(
                    "max_concurrency of %s is not kept: %s cannot count across workers. "
                    "Use SQLite, Redis or PostgreSQL as broker", job.name, self.app.broker_shown,
                )  # fmt: skip
            return None
        try:
            place = job.plan.place(context)
        except Exception as error:
            return self.refusals.never_run(job, error, "failed")
        limit, lease = job.plan.places, context.lease
        if not persist("ask for a place", lambda: coordinator.enter(place, limit, lease)):
            return Outcome(job.delivery.token, job.delivery.queue, Verdict.PARK, place=place)
        job.place = place
        return None

    def _noted(self, job: Job, outcome: Outcome) -> Outcome:
        """The outcome with its attempt, if the job has ended with it."""
        if job.state:
            if self.counters is not None:
                self.counters.ended(job)
            if self.attempts is not None:
                outcome.attempt = self.attempts.of(job)
        job.value = None  # an idle worker does not hold on to its last result
        return outcome

    def _freed(self, job: Job, outcome: Outcome) -> Outcome:
        """The outcome with what the run held: freed in the same step."""
        context = job.context
        outcome.task_id = outcome.task_id or context.id or ""
        if job.place and outcome.verdict is not Verdict.PARK:
            outcome.place = job.place
        if job.moved or outcome.verdict not in (Verdict.ACK, Verdict.DEAD):
            return outcome
        outcome.unique = job.unique
        # A dead letter that is replayed goes on from where it was.
        outcome.forget_checkpoint = context.has_checkpoint and outcome.verdict is Verdict.ACK
        return outcome

    def _done_before(self, job: Job, meta: dict[str, Any]) -> Outcome:
        """What becomes of a message that came back when there is nothing to run any more."""
        context = job.context
        if meta["status"] == states.RETRY:
            logger.info("Task %s[%s] is at a later attempt already: only acknowledged", job.name, context.id)
            job.moved = True
            return Outcome(job.delivery.token, job.delivery.queue, Verdict.ACK)
        logger.info("Task %s[%s] has a result already: only acknowledged", job.name, context.id)
        return self.endings.again(job, meta["status"], meta["result"])

    def _result_of(self, context: Context, own: Notes) -> dict[str, Any] | None:
        """What is stored of a message that came back, or of which there is another copy, and says that there
        is nothing to run: the task's result, or the word that it is to be tried again.

        That word is of another copy's run if it is of a later attempt than this one's, or if this one has
        not been delivered before. The run of the same message may have ended before it had sent the next
        attempt; that of another copy has sent it, or comes back itself.
        """
        backend, task_id = self.app.backend, context.id
        if backend is None or task_id is None:
            return None
        payload = persist("look for a result", lambda: backend.fetch([task_id])).get(task_id)
        meta = None if payload is None else self.app.results.decode(payload, task_id)
        if meta is None:
            return None
        if meta["status"] == states.RETRY:
            told, least = meta.get("retries"), context.retries + (context.redelivered or not own.returned)
            if not isinstance(told, int) or told < least:
                return None
            ended = meta.get("retried", 0.0)
        elif meta["status"] in states.READY_STATES:
            ended = clock.epoch(meta.get("date_done") or 0.0)
        else:
            return None
        returned = None if context.redelivered else own.returned
        return meta if ended >= max(own.replayed or 0.0, returned or 0.0) else None

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
        outcome = self._noted(job, self._run(job, call))
        if self._tells_sent:
            self._tell_sent(outcome)
        holds = job.unique or job.place or job.context._checkpoint
        if job.transaction is not None:
            return transaction.conclude(self.app, job, self._freed(job, outcome))
        return self._freed(job, outcome) if holds else outcome

    def _run(self, job: Job, call: Callable[[Job], Any] | None) -> Outcome:
        plan, context = job.plan, job.context
        if self.events is not None:
            self.events.began(job)
        if self.counters is not None:
            self.counters.started(job)
        job.started = time.perf_counter()
        plan.task.push_request(context)
        try:
            try:
                self._before(job)
                if plan.transactional:
                    transaction.begin(self.app, job)
                job.armed = True
                value = call(job) if call is not None else plan.call(*context.args, **context.kwargs)
                job.armed = False
                if job.transaction is not None:
                    job.transaction.check()
            except BaseException as error:
                job.armed = False
                return self.endings.raised(job, error)
            return self.endings.returned(job, value)
        except Exception as error:
            return self.endings.broke(job, error)
        finally:
            plan.task.pop_request()

    async def arun(self, job: Job) -> Outcome:
        """The same for a coroutine on a running event loop."""
        outcome = self._noted(job, await self._arun(job))
        if self._tells_sent:
            self._tell_sent(outcome)
        holds = job.unique or job.place or job.context._checkpoint
        return self._freed(job, outcome) if holds else outcome

    async def _arun(self, job: Job) -> Outcome:
        plan, context = job.plan, job.context
        if self.events is not None:
            self.events.began(job)
        if self.counters is not None:
            self.counters.started(job)
        job.started = time.perf_counter()
        plan.task.push_request(context)
        try:
            try:
                self._before(job)
                value = await plan.call(*context.args, **context.kwargs)
            except BaseException as error:
                return self.endings.raised(job, job.cut or error)
            return self.endings.returned(job, value)
        except Exception as error:
            return self.endings.broke(job, error)
        finally:
            plan.task.pop_request()

    def _tell_sent(self, outcome: Outcome) -> None:
        """Events for the tasks that go out with the outcome, the next attempt among them."""
        sent = list(outcome.publications)
        if outcome.verdict is Verdict.DELAY and outcome.message is not None:
            place = outcome.message.properties["delivery_info"]
            sent.append(
                Publication(outcome.message, outcome.queue, exchange=place["exchange"],
                            routing_key=place["routing_key"])
            )  # fmt: skip
        if sent:
            self.app.events.sent(sent)

    def interrupted(self, job: Job, error: BaseException) -> Outcome:
        """The outcome of a job whose limit was raised in the moment it ended, outside its own code."""
        outcome = self._freed(job, self._noted(job, self.endings.failed(job, error)))
        return outcome if job.transaction is None else transaction.abandon(job, outcome)

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
