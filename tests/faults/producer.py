"""A producer process: ``python -m tests.faults.producer PREFIX SEED COUNT FILE``.

It publishes, one by one and in batches, until ``COUNT`` tasks are acknowledged, and appends their keys to
``FILE`` once they are. What it was sending when it was killed, or when the answer got lost, is in no list: it
may run or not. A key is never sent twice.
"""

from __future__ import annotations

import os
import random
import sys
import time

from celeriac.exceptions import OperationalError
from tests.faults.project import app, job

SLOW = 0.05
"""The share of tasks that sleep, for 50 to 150 ms; the rest take no time at all."""


def main() -> int:
    """Publish; return the exit code."""
    prefix, seed, count, path = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
    rng = random.Random(seed)
    acknowledged = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    sent = done = 0
    while done < count:
        size = min(rng.choice((1, 1, 1, 10, 50)), count - done)
        keys = [f"{prefix}-{number:06d}" for number in range(sent, sent + size)]
        sent += size
        seconds = [rng.uniform(0.05, 0.15) if rng.random() < SLOW else 0.0 for _ in keys]
        batch = [
            app.publisher.build(job.name, (key, pause), task=job, task_id=key)
            for key, pause in zip(keys, seconds, strict=True)
        ]
        try:
            app.publisher.send(batch)
        except OperationalError as error:
            print(f"not acknowledged (maybe_done={error.maybe_done}): {error}", flush=True)
            time.sleep(0.05)
            continue
        os.write(acknowledged, "".join(f"{key}\n" for key in keys).encode())
        done += size
    return 0


if __name__ == "__main__":
    sys.exit(main())
