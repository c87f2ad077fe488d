"""Settling statement by statement: outcomes that are more than an acknowledgement with its result."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from celeriac.engines.base import Outcome, Verdict
from celeriac.engines.groups import ChordPart
from celeriac.engines.history import Attempt
from celeriac.engines.postgres import chords, unique
from celeriac.engines.postgres.dead import bury
from celeriac.engines.postgres.history import NOTE, notes
from celeriac.engines.postgres.parcels import Parcel, pack, plain
from celeriac.engines.postgres.step import Lease, Step
from celeriac.engines.results import ResultRecord
from celeriac.message import encode_envelope

# One by one: see the function settle.
_HELD = """SELECT h.* FROM unnest(%s::bigint[]) u, LATERAL (
    SELECT token, owner, id, queue, rank, noted FROM @message
    WHERE state = 1 AND owner = %s AND token = u OFFSET 0) h"""
_SETTLE = "SELECT @settle(%s, %s::bigint[], %s::text[])"
_FORGET_CHECKPOINT = "DELETE FROM @checkpoint WHERE task_id = %s"


class Settlement(NamedTuple):
    """An outcome with every envelope encoded: nothing of ours can fail once the transaction has begun."""

    outcome: Outcome
    body: bytes | None
    parcels: list[Parcel]
    simple: bool
    """It can be carried out by the one statement."""


def prepare(outcome: Outcome) -> Settlement:
    """Encode an outcome."""
    body = None if outcome.message is None else encode_envelope(outcome.message)
    parcels = pack(outcome.publications)
    special = outcome.parts or outcome.records or outcome.unique or outcome.forget_checkpoint
    simple = outcome.verdict is Verdict.ACK and not special and (not parcels or plain(parcels))
    return Settlement(outcome, body, parcels, simple)


def settle(
    work: Step, number: int, name: str, settlements: Sequence[Settlement]
) -> tuple[list[int], list[str]]:
    """End leases of the owner ``number``, whose row is locked.

    Return the refused tokens, and the chords that are owed now, taken by ``name``.
    """
    rows = work.run(_HELD, ([settlement.outcome.token for settlement in settlements], number))
    held = {row[0]: Lease(*row) for row in rows}
    refused: list[int] = []
    done: list[Lease] = []
    records: list[ResultRecord] = []
    parts: list[ChordPart] = []
    parcels: list[Parcel] = []
    attempts: list[tuple[int, Attempt]] = []
    for settlement in settlements:
        outcome = settlement.outcome
        lease = held.pop(outcome.token, None)
        if lease is None or lease.queue != outcome.queue:
            refused.append(outcome.token)
            continue
        _let_go(work, outcome)
        parts += outcome.parts
        records += outcome.records
        if outcome.verdict is Verdict.ACK:
            done.append(lease)
        else:
            work.vacate([lease])
            _put_aside(work, settlement, lease)
        if outcome.result is not None:
            records.append(outcome.result)
        parcels += settlement.parcels
        if outcome.attempt is not None:
            attempts.append((outcome.token, outcome.attempt))
    if done:
        work.run(_SETTLE, (number, [one.token for one in done], [one.queue for one in done]))
    if parcels:
        work.publish(parcels)
    work.keep_all(records)
    for arguments in notes(attempts):
        work.run(NOTE, arguments)
    return refused, chords.record(work, parts, name) if parts else []


def _let_go(work: Step, outcome: Outcome) -> None:
    """Free the unique key of a task that has ended, and delete a checkpoint that is not needed any more."""
    if outcome.unique and outcome.verdict in (Verdict.ACK, Verdict.DEAD):
        unique.free(work, outcome.unique, outcome.task_id)
    if outcome.forget_checkpoint:
        work.run(_FORGET_CHECKPOINT, (outcome.task_id,))


def _put_aside(work: Step, settlement: Settlement, lease: Lease) -> None:
    """Carry out a verdict that keeps the message."""
    outcome = settlement.outcome
    if settlement.body is not None:
        work.rewrite(lease.id, settlement.body)
    verdict = outcome.verdict
    if verdict is Verdict.GIVE_BACK:
        work.restore([lease])
    elif verdict is Verdict.REQUEUE:
        work.requeue(lease)
    elif verdict is Verdict.DEAD:
        bury(work, outcome, lease)
    else:
        task_id = outcome.task_id or work.task_id(lease.id)
        if verdict is Verdict.DELAY:
            due = work.due(outcome.delay, outcome.due)
            work.put_off(lease, work.now if due is None else due, task_id)
        elif outcome.bucket:
            work.park(lease, outcome.bucket, task_id)
        else:
            work.wait(lease, outcome.place, task_id)
