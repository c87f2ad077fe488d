"""The application: one task, which analyses one file.

No broker is named, so the messages and results are kept in the file ``celeriac.db`` (in
``$CELERIAC_HOME`` if that is set). To use Redis instead, set ``CELERY_BROKER_URL``.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from analysis import analyse

from celeriac import Celeriac

app = Celeriac("stdlib_analysis")

FLAKY = {"antigravity", "asyncio.tasks", "this"}
"""Modules whose first reading fails here on purpose, so that a retry can be watched."""


@app.task
def ping() -> str:
    """Answer: the worker is there."""
    return "pong"


@app.task(bind=True, autoretry_for=(OSError,), retry_backoff=0.5, retry_jitter=False, max_retries=3)
def analyse_file(self: Any, module: str, path: str) -> dict[str, Any]:
    """Read and measure one file; a failed reading is tried again after 0.5 s, 1 s and 2 s."""
    started = time.perf_counter()
    if module in FLAKY and self.request.retries == 0:
        raise OSError(f"could not read {module} (simulated)")
    report = analyse(module, Path(path).read_bytes())
    return {**report, "seconds": time.perf_counter() - started, "retries": self.request.retries}
