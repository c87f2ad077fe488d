"""How long the codec takes: one task message through each step, in microseconds.

Run: python bench/codec.py
"""

from __future__ import annotations

import json
import time
import timeit
import uuid
from collections.abc import Callable

from celeriac.message import Message, decode_body, decode_envelope, encode_body, encode_envelope, new_id
from celeriac.saferepr import repr_args
from celeriac.wire_errors import encode_exception

ACCEPT = frozenset({"application/json"})


def headers(task_id: str) -> dict[str, object]:
    return {
        "lang": "py",
        "task": "shop.tasks.charge",
        "id": task_id,
        "shadow": None,
        "eta": None,
        "expires": None,
        "group": None,
        "group_index": None,
        "retries": 0,
        "timelimit": [None, None],
        "root_id": task_id,
        "parent_id": None,
        "argsrepr": "(2, 3)",
        "kwargsrepr": "{}",
        "origin": "gen10476@host",
        "ignore_result": False,
        "replaced_task_nesting": 0,
        "stamped_headers": None,
        "stamps": {},
        "celeriac": {"reply": "a3c1", "sent": 1795327513.95},
    }


def properties(task_id: str) -> dict[str, object]:
    return {
        "correlation_id": task_id,
        "reply_to": "f153d60b-05ca-3008-bc67-46c1a171a60d",
        "delivery_mode": 2,
        "delivery_info": {"exchange": "", "routing_key": "celery"},
        "priority": 0,
    }


def publish() -> bytes:
    """All that the codec does to publish one task."""
    task_id = new_id()
    made = headers(task_id)
    made["argsrepr"], made["kwargsrepr"] = repr_args((2, 3)), repr_args({})
    body, content_type, encoding, more = encode_body((2, 3), {})
    return encode_envelope(Message({**made, **more}, properties(task_id), body, content_type, encoding))


def receive(payload: bytes) -> None:
    decode_body(decode_envelope(payload), ACCEPT)


def measure(label: str, step: Callable[[], object], number: int = 20_000) -> None:
    best = min(timeit.repeat(step, timer=time.process_time, number=number, repeat=7)) / number * 1e6
    print(f"{label:<48}{best:8.2f} us")


def main() -> None:
    payload = publish()
    message = decode_envelope(payload)
    error = ValueError("boom", 1)
    large = [{"id": n, "name": f"name {n}", "tags": ["x", "y"], "price": 1.5 * n} for n in range(1000)]
    measure("new_id()", new_id)
    measure("str(uuid.uuid4())", lambda: str(uuid.uuid4()))
    measure("repr_args((2, 3))", lambda: repr_args((2, 3)))
    measure("repr_args of nested arguments", lambda: repr_args((2, [1, 2], {"a": "b"})))
    measure("repr_args of text with quotes", lambda: repr_args((2, [1, 2], {"a": "it's"})))
    measure("encode_body((2, 3), {})", lambda: encode_body((2, 3), {}))
    measure("encode_body, 1000 records", lambda: encode_body((large,), {}), 20)
    measure("encode_envelope", lambda: encode_envelope(message))
    measure("the same with json.dumps", lambda: json.dumps({"h": message.headers, "p": message.properties}))
    measure("publish: ids, reprs, body, envelope", publish)
    measure("decode_envelope", lambda: decode_envelope(payload))
    measure("decode_body", lambda: decode_body(message, ACCEPT))
    measure("receive: envelope and body", lambda: receive(payload))
    measure("encode_exception", lambda: encode_exception(error))


if __name__ == "__main__":
    main()
