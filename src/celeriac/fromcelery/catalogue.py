"""What in a Celery project needs somebody's attention, and the order of a move, in sentences.

The command prints those that concern a project, ``docs/migrating.md`` has them all.
"""

from __future__ import annotations

from typing import Final

ATTENTION: Final[dict[str, tuple[str, str]]] = {
    "broker": (
        "A broker URL of a kind that is not here (SQS, Kafka, ZooKeeper, MongoDB, ...)",
        "Use Redis, RabbitMQ, PostgreSQL or SQLite. The old broker cannot be shared or read: let clients "
        "send to the new one, and Celery's workers empty the old one.",
    ),
    "backend": (
        "A result backend of a kind that is not here (a cache, MongoDB, S3, `django-db`, a class of your "
        "own, ...)",
        "Use redis://, postgresql://, sqlite:// or rpc://. Results that are stored already stay where they "
        "are: move when nobody waits for one any more.",
    ),
    "database": (
        "`result_backend` is `db+...`",
        "`db+postgresql://` is an alias for our own tables: Celery's celery_taskmeta is neither read nor "
        "written. Another database is refused. While both fleets run, results need Redis.",
    ),
    "formats": (
        "Formats other than JSON (`pickle`, `yaml`, ...)",
        "Reading them must be allowed by name in accept_content and result_accept_content, in clients and "
        "in workers, before the first worker is exchanged. A format that was registered with kombu is "
        "registered with celeriac.serialization.",
    ),
    "scheduler": (
        "A beat scheduler of another package or of your own",
        "Entries are kept in the store, with `celeriac schedule` to change them: bring them over as "
        "beat_schedule, or by a subclass of celeriac.beat.Scheduler.",
    ),
    "schedule": (
        "Periodic tasks",
        "Celery's beat and ours do not know of each other: stop the one before the other is started. How "
        "far each entry has come is not taken over from celerybeat-schedule.",
    ),
    "pool": (
        "A worker pool or consumer class of your own (`worker_pool`, `worker_consumer`, `--pool custom`)",
        "Processes take their work themselves here, so such classes cannot run. Choose a pool by its name.",
    ),
    "steps": (
        "Bootsteps",
        "Steps of the worker and the consumer run in the node's agent. One that needs Celery's inner parts "
        "(a `ConsumerStep` with `get_consumers`, the pool, the hub) does not: see docs/extending.md.",
    ),
    "loader": (
        "A loader, an application or a base class of tasks of your own",
        "Look through what it overrides: methods of Celery's that are not documented may not be here.",
    ),
    "imports": (
        "Imports that are not here under the new name",
        "Change or remove these lines by hand.",
    ),
    "plugins": (
        "Packages that build on Celery (`django_celery_beat`, `django_celery_results`, `redbeat`, "
        "`celery_once`, ...)",
        "They use Celery's inner parts. Schedules and results are in the store here; unique_for, unique_key"
        " and max_concurrency stand for celery_once and its like.",
    ),
    "kombu": (
        "Use of kombu itself",
        "Queue and Exchange are accepted, from kombu or from celeriac. Connections, producers and consumers"
        " of your own go on with kombu beside Celeriac.",
    ),
    "early": (
        "Tasks that are acknowledged before they run, which is Celery's default",
        "Here a task is acknowledged after its end, so one whose worker dies runs again. A task that must "
        "not (it charges a card) says acks_late=False: it is marked at its start and never repeated.",
    ),
    "rates": (
        "Rate limits (`rate_limit`, `task_default_rate_limit`)",
        "They hold for all workers together: multiply by the number of workers to keep the throughput.",
    ),
    "priorities": (
        "Priorities as numbers",
        "They mean what they mean on the same broker with Celery. A change of brokers may turn them round: "
        "on Redis 0 goes first, on the others 9.",
    ),
    "delays": (
        "Delayed tasks (`countdown`, `eta`, retries) while Celery's workers serve the same queue",
        "Set broker_delay='celery' in our clients until the last of Celery's workers is gone: what our "
        "clients delay otherwise, only our workers bring back.",
    ),
    "flags": (
        "Commands and flags in scripts and service files that are not what they were",
        "The command `celery` becomes `celeriac`; options and their environment variables stay but for "
        "these.",
    ),
    "names": (
        "Names that are nearly a setting's",
        "Celery overlooks a mistyped setting; here it is an error. Correct it, or rename a value of your "
        "own.",
    ),
}
"""Key -> what is meant, and what to do."""

STEPS: Final[tuple[tuple[str, str], ...]] = (
    (
        "Prepare",
        "Change the imports on a branch, run the tests (task_always_eager and celery.contrib.testing's "
        "tools work), settle what this list names, and set broker_delay='celery' for the time of the move.",
    ),
    (
        "First worker",
        "On the same Redis or RabbitMQ, start one worker of ours beside Celery's, on a queue of little "
        "weight. Both take from the same queues and read each other's messages and results.",
    ),
    (
        "Worker by worker",
        "Stop a worker of Celery's in order (SIGTERM, and wait: what it holds unacknowledged is its own) "
        "and start one of ours in its place. The way back is the same: stop ours, start Celery's.",
    ),
    (
        "Clients",
        "Then exchange the clients (web servers, scripts), one by one. Until the last one is done, do not "
        "use what only we have: unique_for, max_concurrency, native schedules.",
    ),
    (
        "Beat last",
        "Stop Celery's beat, then start ours: two at once send everything twice. Do it when nothing is due,"
        " since no last run is taken over. The way back: stop ours, start Celery's.",
    ),
    (
        "Clean up",
        "When Celery's last worker is gone and its unacked is empty, take broker_delay='celery' out, and "
        "uninstall Celery. From here on, the way back needs the queues to be empty of delayed messages of "
        "ours.",
    ),
    (
        "Another broker",
        "If you move to another server as well, do it now: `celeriac migrate OLD NEW -F` beside the old "
        "workers, exchange the configuration everywhere, and end it when nothing comes any more.",
    ),
)
"""The order of a move without downtime."""


def markdown() -> str:
    """The part of ``docs/migrating.md`` that says what the command says."""
    rows = "".join(f"| {title} | {advice} |\n" for title, advice in ATTENTION.values())
    steps = "".join(f"{number}. **{title}.** {text}\n" for number, (title, text) in enumerate(STEPS, 1))
    return f"| found | what to do |\n|---|---|\n{rows}\nThe order of a move without downtime:\n\n{steps}"
