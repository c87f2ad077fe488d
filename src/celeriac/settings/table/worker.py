"""Settings of the worker."""

from __future__ import annotations

from celeriac.settings.kinds import (
    BOOLEAN,
    COUNT,
    LIMIT,
    MULTIPLIER,
    POSITIVE,
    REFERENCE,
    SECONDS,
    TEXT,
    choice,
)
from celeriac.settings.setting import Setting
from celeriac.settings.table.rows import own, refused, settled, works


def _command_line(name: str) -> Setting:
    option = "--" + name.partition("_")[2]
    return refused(name, REFERENCE, None, f"Give it to the command, as {option}.")


ROWS = (
    works(
        "worker_pool",
        REFERENCE,
        "prefork",
        "How tasks run: prefork, threads, asyncio, gevent, eventlet or solo.",
    ),
    works(
        "worker_concurrency",
        LIMIT,
        None,
        "Tasks that a worker runs at once; None or 0 means the number of processors.",
    ),
    works(
        "worker_pool_start_method",
        choice("fork", "spawn", "forkserver"),
        "fork",
        "How child processes are started; spawn and forkserver both mean a fresh interpreter.",
    ),
    works(
        "worker_max_tasks_per_child",
        LIMIT,
        None,
        "Tasks after which a child process is replaced; None or 0 means never.",
    ),
    works(
        "worker_max_memory_per_child",
        LIMIT,
        None,
        "Resident memory in KiB after which a child process is replaced, at the end of its task; None or 0 "
        "means never.",
    ),
    works(
        "worker_prefetch_multiplier",
        MULTIPLIER,
        "auto",
        'Messages a slot may hold, the running one included. "auto" grows with short tasks up to '
        "worker_prefetch_max, and nothing waits behind a long one; 1 means never more than run; 0 means no "
        "limit but worker_prefetch_max.",
        celery=4,
        why="Long tasks need no tuning to be shared fairly, and short ones travel in batches.",
    ),
    own("worker_prefetch_max", POSITIVE, 64, "Messages that a slot holds at most."),
    works(
        "worker_disable_prefetch",
        BOOLEAN,
        False,
        "Claim a message only when a slot is free; the same as worker_prefetch_multiplier = 1.",
    ),
    works(
        "worker_deduplicate_successful_tasks",
        BOOLEAN,
        False,
        "A message delivered again is not run if its task has succeeded already. Always so where broker and "
        "result store are two servers; where they are one, result and acknowledgement are one step anyway.",
    ),
    works("worker_disable_rate_limits", BOOLEAN, False, "This worker pays no heed to rate limits."),
    works(
        "worker_direct",
        BOOLEAN,
        False,
        "Each worker also has a queue of its own, <hostname>.dq2, to send tasks to it alone.",
    ),
    own(
        "worker_shutdown_grace",
        SECONDS,
        25.0,
        "Seconds that running tasks get at a shutdown before they are killed and given back; None waits for "
        "them without limit, as Celery's warm shutdown does.",
        optional=True,
        why="Celery waits without limit, until the container's runtime kills it with what it runs.",
    ),
    own(
        "worker_lease",
        SECONDS,
        15.0,
        "Seconds without a sign of life after which a worker counts as dead and its tasks run elsewhere.",
    ),
    own(
        "revoke_expires",
        SECONDS,
        30 * 86400.0,
        "Seconds for which a revoked task's id is remembered; make it longer than your longest eta.",
    ),
    own(
        "worker_heartbeat_file",
        TEXT,
        None,
        "File that a worker touches every fifth of worker_lease, for liveness probes; None means none.",
    ),
    own(
        "worker_health",
        TEXT,
        None,
        "Where a worker answers /livez, /readyz and /metrics: [host:]port (--health); None means nowhere.",
    ),
    # -- logging -----------------------------------------------------------------------------------------
    works(
        "worker_hijack_root_logger",
        BOOLEAN,
        True,
        "Handlers of the root logger are replaced by the worker's.",
    ),
    works("worker_log_color", BOOLEAN, None, "Coloured log; None means when it goes to a terminal."),
    works(
        "worker_log_format",
        TEXT,
        "[%(asctime)s: %(levelname)s/%(processName)s] %(message)s",
        "Format of the worker's log lines.",
    ),
    works(
        "worker_task_log_format",
        TEXT,
        "[%(asctime)s: %(levelname)s/%(processName)s] %(task_name)s[%(task_id)s]: %(message)s",
        "Format of log lines written by tasks.",
    ),
    works(
        "worker_log_datefmt", TEXT, None, "Format of dates in worker_log_format; None means logging's own."
    ),
    works(
        "worker_task_log_datefmt",
        TEXT,
        None,
        "Format of dates in worker_task_log_format; None means logging's own.",
    ),
    works("worker_redirect_stdouts", BOOLEAN, True, "What tasks print goes to the log."),
    works("worker_redirect_stdouts_level", REFERENCE, "WARNING", "Level of what tasks print."),
    # -- events and remote control -------------------------------------------------------------------------
    works("worker_send_task_events", BOOLEAN, False, "Send events about tasks (-E)."),
    works(
        "worker_enable_remote_control",
        BOOLEAN,
        True,
        "The worker answers remote control commands.",
    ),
    works(
        "worker_pool_restarts",
        BOOLEAN,
        False,
        "The remote control command pool_restart is allowed.",
    ),
    # -- answered by the design ----------------------------------------------------------------------------
    settled(
        "worker_soft_shutdown_timeout",
        SECONDS,
        0.0,
        "Running tasks get the time of worker_shutdown_grace at every shutdown.",
    ),
    settled(
        "worker_enable_soft_shutdown_on_idle",
        BOOLEAN,
        False,
        "Delayed tasks wait in the store, so an idle worker has nothing to give back at a shutdown.",
    ),
    settled(
        "worker_cancel_long_running_tasks_on_connection_loss",
        BOOLEAN,
        False,
        "A task runs on when the broker is away; it is delivered elsewhere only if its worker's lease ends, "
        "and then its stale result is refused.",
    ),
    settled(
        "worker_lost_wait",
        SECONDS,
        10.0,
        "A child's death is noticed at once, and its task given back in the same moment.",
    ),
    settled(
        "worker_pool_putlocks",
        BOOLEAN,
        True,
        "Children claim their tasks themselves: there is no queue to lock.",
    ),
    settled(
        "worker_proc_alive_timeout",
        SECONDS,
        4.0,
        "A child that does not come up is seen by its end, however long its start takes.",
    ),
    settled(
        "worker_eta_task_limit",
        COUNT,
        None,
        "Delayed tasks wait in the store and not in the worker's memory.",
    ),
    settled(
        "worker_enable_prefetch_count_reduction",
        BOOLEAN,
        True,
        "After a reconnection a worker continues with its leases, so there is nothing to hold back.",
    ),
    settled(
        "worker_state_db", TEXT, None, "Revoked ids are kept in the store, where every worker sees them."
    ),
    settled(
        "worker_timer_precision",
        SECONDS,
        1.0,
        "A worker sleeps until exactly the time at which something is due.",
    ),
    settled(
        "worker_detect_quorum_queues",
        BOOLEAN,
        True,
        "Prefetch is set for each consumer, which quorum and classic queues both take.",
    ),
    # -- not here -------------------------------------------------------------------------------------------
    refused(
        "worker_agent", REFERENCE, None, "Agent classes of your own are not supported; remove the setting."
    ),
    refused(
        "worker_autoscaler",
        REFERENCE,
        "celery.worker.autoscale:Autoscaler",
        "Autoscaler classes of your own are not supported; --autoscale max,min scales by the load.",
    ),
    refused(
        "worker_consumer",
        REFERENCE,
        "celery.worker.consumer:Consumer",
        "There are no consumer blueprints here; use the worker's signals, or app.steps.",
    ),
    refused(
        "worker_timer", REFERENCE, None, "Timer classes of your own are not supported; remove the setting."
    ),
    *(
        _command_line(f"worker_{option}")
        for option in ("pidfile", "logfile", "uid", "gid", "umask", "executable")
    ),
)
