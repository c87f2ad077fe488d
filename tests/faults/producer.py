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
from typing import Any

from celeriac.engines.base import Publication
from celeriac.exceptions import OperationalError
from tests.faults.project import again, app, job, once

SLOW = 0.05
"""The share of tasks that sleep, for 50 to 150 ms; the rest take no time at all."""
KINDS = {"-": 0.82, "!": 0.05, "d": 0.05, "r": 0.04, "c": 0.04}
"""What a key ends in, and the share of it: a plain task, one that must run only once (``acks_late=False``), a
delayed one, one that succeeds at its second try, one with a callback (whose key has a ``+`` more)."""


def main() -> int:
    """Publish; return the exit code."""
    prefix, seed, count, path = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
    rng = random.Random(seed)
    acknowledged = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    sent = done = 0
    while done < count:
        size = min(rng.choice((1, 1, 1, 10, 50)), count - done)
        kinds = rng.choices(list(KINDS), list(KINDS.values()), k=size)
        keys = [f"{prefix}-{number:06d}{kind}" for number, kind in enumerate(kinds, sent)]
        sent += size
        batch = [publication(key, rng.uniform(0.05, 0.15) if rng.random() < SLOW else 0.0) for key in keys]
        try:
            app.publisher.send(batch)
        except OperationalError as error:
            print(f"not acknowledged (maybe_done={error.maybe_done}): {error}", flush=True)
            time.sleep(0.05)
            continue
        promised = keys + [f"{key}+" for key in keys if key.endswith("c")]
        os.write(acknowledged, "".join(f"{key}\n" for key in promised).encode())
        done += size
    return 0


def publication(key: str, seconds: float) -> Publication:
    """The message of the task ``key``."""
    task = {"!": once, "r": again}.get(key[-1], job)
    options: dict[str, Any] = {}
    if key.endswith("d"):
        options["countdown"] = 0.2
    elif key.endswith("c"):
        options["link"] = job.si(key + "+", 0.0).set(task_id=key + "+")
    return app.publisher.build(task.name, (key, seconds), task=task, task_id=key, **options)


if __name__ == "__main__":
    sys.exit(main())
