"""Settings of tasks: how they are sent, routed and acknowledged, and what becomes of them."""

from __future__ import annotations

from celeriac.settings.kinds import (
    BOOLEAN,
    COUNT,
    DELIVERY_MODE,
    INTEGER,
    LIMIT,
    MAPPING,
    POSITIVE,
    RATE,
    REFERENCE,
    SECONDS,
    STRUCTURE,
    TEXT,
    TIME_LIMIT,
    choice,
)
from celeriac.settings.table.rows import own, refused, settled, works

ROWS = (
    # -- acknowledging and dying ----------------------------------------------------------------------
    works(
        "task_acks_late",
        BOOLEAN,
        True,
        "A message is acknowledged when its task has ended. Off: at its start, so that it never runs twice "
        "and is lost, as FAILURE and a dead letter, with its worker.",
        celery=False,
        why="No task is lost with its worker unless you ask for it.",
    ),
    works(
        "task_reject_on_worker_lost",
        BOOLEAN,
        None,
        "What becomes of a task whose process died: True and None deliver it again (up to "
        "task_max_deliveries), False ends it as FAILURE.",
        why="In Celery, None ends it as FAILURE; here a task is not lost with its process.",
    ),
    works(
        "task_acks_on_failure_or_timeout",
        BOOLEAN,
        True,
        "A message whose task failed or ran into its limit is acknowledged; off, it is refused and becomes a "
        "dead letter.",
    ),
    works(
        "task_acks_on_failure",
        BOOLEAN,
        None,
        "The same for failures only; None means as task_acks_on_failure_or_timeout.",
    ),
    works(
        "task_acks_on_timeout",
        BOOLEAN,
        None,
        "The same for time limits only; None means as task_acks_on_failure_or_timeout.",
    ),
    settled(
        "task_retry_on_worker_lost",
        BOOLEAN,
        False,
        "A task whose worker died is delivered again, at most task_max_deliveries times.",
    ),
    own(
        "task_max_deliveries",
        LIMIT,
        3,
        "How often a message may be started by workers that die of it before it becomes a dead letter; None "
        "means without limit.",
        optional=True,
        why="Celery delivers a message that kills its workers again and again.",
    ),
    own("dead_letter_expires", SECONDS, 30 * 86400.0, "Seconds for which dead letters are kept."),
    own(
        "dead_letter_max",
        COUNT,
        100_000,
        "Dead letters that are kept a queue; beyond it the oldest go first.",
    ),
    own(
        "dead_letter_on_failure",
        BOOLEAN,
        False,
        "A task that failed for good also leaves a dead letter, so that it can be replayed.",
    ),
    own(
        "checkpoint_expires",
        SECONDS,
        7 * 86400.0,
        "Seconds for which a task's checkpoint (Task.checkpoint) is kept for its next run.",
    ),
    # -- running -----------------------------------------------------------------------------------------
    works(
        "task_time_limit",
        TIME_LIMIT,
        None,
        "Seconds after which a running task is killed with its process; None or 0 means no limit.",
    ),
    works(
        "task_soft_time_limit",
        TIME_LIMIT,
        None,
        "Seconds after which SoftTimeLimitExceeded is raised in a running task; None or 0 means never.",
    ),
    works(
        "task_default_rate_limit",
        RATE,
        None,
        'Rate limit of tasks without one, as "10/m" (s, m or h), over all workers; None means no limit.',
    ),
    works("task_track_started", BOOLEAN, False, "Store the state STARTED when a task starts."),
    own(
        "task_track_queued",
        BOOLEAN,
        None,
        "Record at publish that a task is queued, for AsyncResult.presence; None means on where the store is "
        "an SQL one and off elsewhere.",
    ),
    own(
        "task_history",
        BOOLEAN,
        True,
        "Keep a record of each attempt to run a task, for `celeriac history` and app.history.",
    ),
    own(
        "task_history_max",
        POSITIVE,
        None,
        "Attempts that are kept; beyond it the oldest go first. None means 1,000,000 in an SQL store, "
        "100,000 on Redis and 10,000 in memory.",
    ),
    own(
        "task_history_expires",
        SECONDS,
        7 * 86400.0,
        "Seconds for which attempts are kept, if task_history_max lets them.",
    ),
    works("task_ignore_result", BOOLEAN, False, "Do not store results."),
    works(
        "task_store_errors_even_if_ignored", BOOLEAN, False, "Store failures of tasks that ignore results."
    ),
    works(
        "task_always_eager",
        BOOLEAN,
        False,
        "Run tasks at once, in the calling process, instead of sending them.",
    ),
    works(
        "task_eager_propagates", BOOLEAN, False, "Exceptions of tasks run eagerly are raised to the caller."
    ),
    works("task_store_eager_result", BOOLEAN, False, "Store results of tasks run eagerly too."),
    works(
        "task_annotations",
        STRUCTURE,
        None,
        "Changes to attributes of tasks, by task name or '*'.",
    ),
    works(
        "task_allow_error_cb_on_chord_header",
        BOOLEAN,
        False,
        "Error callbacks of a chord are called for tasks of its header too.",
    ),
    works("task_repr_maxlevels", COUNT, 3, "Depth to which the representation of arguments goes."),
    settled("task_remote_tracebacks", BOOLEAN, False, "A failure's traceback is stored and shown as text."),
    # -- sending -----------------------------------------------------------------------------------------
    works(
        "task_serializer",
        TEXT,
        "json",
        "Format of messages: json, or pickle, yaml, msgpack where accept_content allows it.",
    ),
    works(
        "task_compression", TEXT, None, "Compression of messages: gzip, bzip2, zstd, ...; None means none."
    ),
    refused(
        "task_protocol",
        INTEGER,
        2,
        "Messages are written in protocol 2, which every Celery since 4.0 reads; protocol 1 is read only.",
    ),
    works("task_publish_retry", BOOLEAN, True, "Try again when the broker cannot be reached at a publish."),
    works(
        "task_publish_retry_policy",
        MAPPING,
        {"max_retries": 3, "interval_start": 0, "interval_max": 1, "interval_step": 0.2},
        "How often and after how many seconds, within broker_publish_timeout.",
    ),
    works(
        "task_send_sent_event",
        BOOLEAN,
        False,
        "Send the event task-sent when a task is published.",
    ),
    works(
        "task_default_delivery_mode",
        DELIVERY_MODE,
        2,
        'Whether RabbitMQ writes messages to disk: 2 ("persistent") or 1 ("transient").',
    ),
    works(
        "task_default_priority",
        INTEGER,
        None,
        "Priority of messages without one; what a number means is the engine's (task_priority_order).",
    ),
    works(
        "task_inherit_parent_priority",
        BOOLEAN,
        False,
        "Tasks sent by a task have its priority, unless they have their own.",
    ),
    own(
        "task_priority_order",
        choice("higher", "lower"),
        "higher",
        "Which priority comes first on SQLite, PostgreSQL and memory. Redis keeps Celery's order (0 first), "
        "RabbitMQ its own (higher first).",
    ),
    # -- routing -----------------------------------------------------------------------------------------
    works(
        "task_queues",
        STRUCTURE,
        None,
        "The queues, as a list of Queue or a dictionary of name to options; None means task_default_queue.",
    ),
    works(
        "task_routes",
        STRUCTURE,
        None,
        "Where tasks are sent: a dictionary or pairs of name (or pattern) to route, a callable or its dotted "
        "path, or a list of these.",
    ),
    works("task_default_queue", TEXT, "celery", "Queue of tasks without a route."),
    works(
        "task_default_exchange",
        REFERENCE,
        None,
        "Exchange of queues without one; None means the name of task_default_queue.",
    ),
    works("task_default_exchange_type", TEXT, "direct", "Type of exchanges without one."),
    works(
        "task_default_routing_key",
        TEXT,
        None,
        "Routing key of messages without one; None means the name of task_default_queue.",
    ),
    works(
        "task_create_missing_queues",
        BOOLEAN,
        True,
        "A queue that is not in task_queues is declared when it is used; off, using it is an error.",
    ),
    works(
        "task_create_missing_queue_type",
        choice("classic", "quorum"),
        "classic",
        "Type of queues that are declared when used, on RabbitMQ.",
    ),
    works(
        "task_create_missing_queue_exchange_type",
        TEXT,
        None,
        "Exchange type of queues that are declared when used; None means direct.",
    ),
    works(
        "task_default_queue_type",
        choice("classic", "quorum"),
        "classic",
        "Type of task_default_queue, on RabbitMQ, where task_queues does not declare it.",
    ),
    works(
        "task_queue_max_priority",
        COUNT,
        None,
        "Highest priority of queues that do not say, on RabbitMQ; None means queues without priorities.",
    ),
)
