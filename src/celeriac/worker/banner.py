"""What a worker says of itself when it starts."""

from __future__ import annotations

import platform
from typing import TYPE_CHECKING

from celeriac import __version__
from celeriac.worker.options import Options

if TYPE_CHECKING:
    from celeriac.app.base import Celeriac


def banner(app: Celeriac, options: Options) -> str:
    """Name, stores, pool, queues and tasks, aligned; passwords masked."""
    pool = f"{options.concurrency} ({options.pool})"
    if options.autoscale:
        pool = f"{options.autoscale[1]} to {options.autoscale[0]} ({options.pool}, autoscaled)"
    prefetch = str(options.prefetch) if options.prefetch else f"auto (up to {options.prefetch_max})"
    grace = "waits for running tasks" if options.grace is None else f"{options.grace:g} s grace"
    results = app.backend.url if app.backend is not None else "disabled"
    lines = [
        f"celeriac {__version__}  {options.name}",
        f"{platform.platform(terse=True)}, Python {platform.python_version()}",
        "",
        "[config]",
        f"  app:          {app.main or '(unnamed)'}",
        f"  broker:       {app.broker.url}",
        f"  results:      {results}",
        f"  concurrency:  {pool}",
        f"  prefetch:     {prefetch}",
        f"  shutdown:     {grace}",
        "",
        "[queues]",
        *(f"  {queue}" for queue in options.queues),
        "",
        "[tasks]",
        *(f"  {name}" for name in sorted(app.tasks) if not name.startswith("celery.")),
        "",
    ]
    return "\n".join(lines)
