"""Asking Celery's workers on this Redis something, by their remote control (kombu's pidbox).

The question is published to all of them; each pushes its answer onto a list of ours. What they have not
said within a second they do not say.
"""

from __future__ import annotations

import base64
import time
import uuid
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec

from celeriac.engines.redis.address import SEP
from celeriac.engines.redis.connection import Link, Word, pack
from celeriac.engines.redis.keys import Keys

TIMEOUT: Final = 1.0
"""Seconds that workers are given to answer."""
EXCHANGE: Final = "celery.pidbox"
REPLIES: Final = "reply.celery.pidbox"


def active_queues(link: Link, keys: Keys, queues: Sequence[str], timeout: float = TIMEOUT) -> dict[str, int]:
    """How many of Celery's workers take from each of ``queues``."""
    counts: Counter[str] = Counter()
    for answer in ask(link, keys, "active_queues", timeout):
        for told in answer.values():
            if isinstance(told, list):
                counts.update({str(queue.get("name")) for queue in told if isinstance(queue, Mapping)})
    return {queue: counts[queue] for queue in queues if counts[queue]}


def ask(link: Link, keys: Keys, method: str, timeout: float = TIMEOUT) -> list[dict[str, Any]]:
    """Ask all workers ``method`` without arguments; return their answers, ``{node name: answer}`` each."""
    oid, ticket = str(uuid.uuid4()), str(uuid.uuid4())
    replies = f"{oid}.{REPLIES}"
    binding = (keys.bindings(REPLIES), SEP.join((oid, "", replies)))
    before: list[tuple[Word, ...]] = [
        ("SADD", *binding),
        ("PUBLISH", keys.channel(EXCHANGE), _question(method, oid, ticket, timeout)),
    ]
    _, listeners = link.calls(b"".join(map(pack, before)), 2)
    answers: list[dict[str, Any]] = []
    until = time.monotonic() + timeout
    try:
        while len(answers) < listeners and (left := until - time.monotonic()) > 0:
            taken = link.call(pack(("BRPOP", keys.prefix + replies, f"{left:.3f}")))
            if taken is None:
                break
            answer = _answer(taken[1], ticket)
            if answer is not None:
                answers.append(answer)
    finally:
        after = [("SREM", *binding), ("UNLINK", keys.prefix + replies)]
        link.calls(b"".join(map(pack, after)), 2)
    return answers


def _question(method: str, oid: str, ticket: str, timeout: float) -> bytes:
    body = {
        "method": method, "arguments": {}, "destination": None, "pattern": None, "matcher": None,
        "ticket": ticket, "reply_to": {"exchange": REPLIES, "routing_key": oid},
    }  # fmt: skip
    return msgspec.json.encode(
        {
            "body": base64.b64encode(msgspec.json.encode(body)).decode(),
            "content-encoding": "utf-8",
            "content-type": "application/json",
            "headers": {"clock": 1, "expires": time.time() + timeout},
            "properties": {
                "delivery_mode": 2,
                "delivery_info": {"exchange": EXCHANGE, "routing_key": ""},
                "priority": 0,
                "body_encoding": "base64",
                "delivery_tag": str(uuid.uuid4()),
            },
        }
    )


def _answer(envelope: bytes, ticket: str) -> dict[str, Any] | None:
    """The answer in a reply; ``None`` if it is none, or to another question."""
    try:
        reply = msgspec.json.decode(envelope)
        if reply["headers"].get("ticket") != ticket:
            return None
        body = reply["body"]
        if reply["properties"].get("body_encoding") == "base64":
            body = base64.b64decode(body)
        answer = msgspec.json.decode(body)
    except (msgspec.DecodeError, KeyError, TypeError, ValueError):
        return None
    return answer if isinstance(answer, dict) else None
