"""What it costs a child to write down what it has claimed and to count what it starts.

``python -m bench.holdings``: microseconds of CPU time a task, by the size of the batch, for an envelope of a
usual task. The best of many rounds, so that others on the machine do not count.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from celeriac.engines.base import Delivery
from celeriac.message import Message, encode_envelope
from celeriac.worker.board import Board
from celeriac.worker.holdings import Holdings

ROUNDS = 200


def main() -> None:
    """Print the table."""
    headers = {
        "lang": "py", "task": "shop.tasks.send_receipt", "id": "5d1be0e4-8f0e-4a70-8f1e-7f6d2f1b8a55",
        "root_id": "5d1be0e4-8f0e-4a70-8f1e-7f6d2f1b8a55", "retries": 0, "argsrepr": "(12345, 'mail')",
        "kwargsrepr": "{'copy': True}", "origin": "gen1@host", "timelimit": [None, None],
    }  # fmt: skip
    payload = encode_envelope(Message(headers, {"priority": 0}, b'[[12345, "mail"], {"copy": true}, {}]'))
    holdings = Holdings(Board(1, 1), 0)
    print(f"an envelope of {len(payload)} bytes; us of CPU a task")
    for batch in (1, 8, 32, 64):
        deliveries = [Delivery(token, "celery", payload) for token in range(1, batch + 1)]
        print(f"batch {batch:2}: hold {_best(lambda: holdings.hold(0, deliveries)) / batch:.2f}")  # noqa: B023
    print(f"count one start: {_best(lambda: holdings.count('shop.tasks.send_receipt')):.2f}")


def _best(step: Callable[[], None]) -> float:
    best = float("inf")
    for _ in range(ROUNDS):
        began = time.process_time()
        for _ in range(200):
            step()
        best = min(best, (time.process_time() - began) / 200)
    return best * 1e6


if __name__ == "__main__":
    main()
