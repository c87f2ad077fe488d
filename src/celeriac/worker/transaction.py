"""Transactional tasks: what a task does in the broker's own database commits with its result and its ack.

The task runs in an open transaction. When it has succeeded, its outcome is carried out in this transaction,
the lease first: if others have taken it over, everything is rolled back. Then one commit decides about all of
it. Any other end (an error, a retry, a limit) rolls the task's part back and is settled as always.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from celeriac import states
from celeriac.engines.base import Outcome, Verdict
from celeriac.exceptions import CeleriacError, LeaseLost
from celeriac.worker.persist import persist

if TYPE_CHECKING:
    from celeriac.app.base import Celeriac
    from celeriac.worker.job import Job

logger = logging.getLogger(__name__)


def begin(app: Celeriac, job: Job) -> None:
    """Open the transaction. Raises ``LeaseLost`` if others have taken the message over."""
    lease = job.context.lease
    assert lease is not None
    job.transaction = persist(
        "open a task's transaction",
        lambda: app.broker.transaction(lease),  # type: ignore[attr-defined]
    )
    if job.transaction is None:
        raise LeaseLost("others have taken the message over: it is not run here")
    job.context.connection = job.transaction.connection


def conclude(app: Celeriac, job: Job, outcome: Outcome) -> Outcome:
    """Commit what the task has done together with its outcome; return what is left to be settled."""
    transaction = job.transaction
    if job.state != states.SUCCESS or outcome.verdict is not Verdict.ACK:
        return abandon(job, outcome)
    try:
        owed = transaction.commit(outcome)
    except CeleriacError as error:
        logger.warning(
            "Task %s[%s] could not be committed, and runs again: %s", job.name, job.context.id, error
        )
        return Outcome(outcome.token, outcome.queue, Verdict.GIVE_BACK, place=job.place)
    finally:
        job.context.connection = None
    if owed is None:
        logger.warning(
            "Task %s[%s] was rolled back: others have taken the message over", job.name, job.context.id
        )
        outcome.publications = ()
    outcome.settled = True
    for group in owed or ():
        app.chords.finish(group, job.context.lease[0] if job.context.lease else "")
    return outcome


def abandon(job: Job, outcome: Outcome) -> Outcome:
    """Roll back what the task has done; its outcome is settled as any other."""
    job.context.connection = None
    job.transaction.roll_back()
    return outcome
