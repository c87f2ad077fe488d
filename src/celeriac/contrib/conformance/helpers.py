"""Words for the conformance tests: making messages, claiming, settling, telling which is which."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from celeriac.engines.base import (
    Consumer,
    Delivery,
    Incarnation,
    NodeInfo,
    Outcome,
    Publication,
    Verdict,
)
from celeriac.engines.results import ResultRecord
from celeriac.message import Message, Notes, decode_envelope, notes

BODY = b'[[2, 3], {}, {"callbacks": null, "errbacks": null, "chain": null, "chord": null}]'


def message(task_id: str, **headers: Any) -> Message:
    """A protocol-2 message of the task ``t.add``."""
    return Message(
        headers={"lang": "py", "task": "t.add", "id": task_id, "retries": 0, "root_id": task_id, **headers},
        properties={"correlation_id": task_id, "delivery_mode": 2, "priority": 0, "delivery_tag": task_id},
        body=BODY,
    )


def pub(task_id: str, queue: str = "q", **options: Any) -> Publication:
    """A publication of :func:`message`."""
    return Publication(message(task_id), queue, **options)


def pubs(task_ids: Iterable[str], queue: str = "q", **options: Any) -> list[Publication]:
    """One publication an id (a string is an id a letter)."""
    return [pub(task_id, queue, **options) for task_id in task_ids]


def incarnation(node: str = "n", child: int = 1, epoch: int = 1, slots: int = 1) -> Incarnation:
    """A lease owner."""
    return Incarnation(node, child, epoch, slots)


def node(node_id: str = "n", host: str = "host", pid: int = 1, lease: float = 1000.0) -> NodeInfo:
    """A node that beats."""
    return NodeInfo(node_id, f"celery@{node_id}", host, pid, 1.0, lease, ["q"], {"pool": "solo"})


def claim(consumer: Consumer, limit: int = 100, queues: Sequence[str] = ("q",)) -> list[Delivery]:
    """Claim, settling nothing."""
    return consumer.exchange([], queues, limit).deliveries


def settle(consumer: Consumer, *outcomes: Outcome) -> list[int]:
    """Settle, claiming nothing; return the refused tokens."""
    return consumer.exchange(list(outcomes), ["q"], 0).refused


def outcome(delivery: Delivery, verdict: Verdict = Verdict.ACK, **fields: Any) -> Outcome:
    """How ``delivery`` ended."""
    return Outcome(delivery.token, delivery.queue, verdict, **fields)


def claim_all(consumer: Consumer) -> list[Delivery]:
    """Claim until nothing more comes: what was lost may be handed out by itself."""
    found: list[Delivery] = []
    while deliveries := claim(consumer):
        found += deliveries
    return found


def drain(consumer: Consumer, queues: Sequence[str] = ("q",)) -> list[str]:
    """Claim and acknowledge all that is ready; return the ids in claim order."""
    ids: list[str] = []
    outcomes: list[Outcome] = []
    while True:
        answer = consumer.exchange(outcomes, queues, 100)
        if not answer.deliveries:
            return ids
        ids += ids_of(answer.deliveries)
        outcomes = [outcome(delivery) for delivery in answer.deliveries]


def id_of(payload: bytes) -> str:
    """The task id in an envelope."""
    return str(decode_envelope(payload).headers["id"])


def ids_of(deliveries: Iterable[Delivery]) -> list[str]:
    """The task ids, in order."""
    return [id_of(delivery.payload) for delivery in deliveries]


def notes_of(delivery: Delivery) -> Notes:
    """Our notes in the delivered envelope."""
    return notes(decode_envelope(delivery.payload))


def record(task_id: str, state: str = "SUCCESS", value: Any = 1, **fields: Any) -> ResultRecord:
    """A task's state as it is stored."""
    payload = json.dumps({"task_id": task_id, "status": state, "result": value}).encode()
    return ResultRecord(task_id, state, payload, **fields)


def always(alive: bool) -> Callable[[int, float], bool]:
    """An answer to "does this process live"."""
    return lambda pid, started: alive


def eventually(condition: Callable[[], object], timeout: float = 5.0) -> None:
    """Wait for something that another thread or process brings about."""
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.002)
