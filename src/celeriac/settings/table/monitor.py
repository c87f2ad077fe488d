"""Settings of the scheduler, of events and of remote control."""

from __future__ import annotations

from celeriac.settings.kinds import BOOLEAN, COUNT, MAPPING, REFERENCE, SECONDS, TEXT
from celeriac.settings.setting import Setting
from celeriac.settings.table.rows import refused, settled, works


def _command_line(name: str) -> Setting:
    option = "--" + name.partition("_")[2]
    return refused(name, REFERENCE, None, f"Give it to the command, as {option}.")


ROWS = (
    works(
        "beat_schedule",
        MAPPING,
        {},
        "The periodic tasks: name to a dictionary of task, schedule, args, kwargs and options.",
    ),
    works(
        "beat_scheduler",
        REFERENCE,
        "celery.beat:PersistentScheduler",
        "Class of the scheduler, as pkg.module:Class; Celery's default means ours.",
    ),
    works(
        "beat_max_loop_interval",
        SECONDS,
        0,
        "Seconds that the scheduler sleeps at most; 0 means its own choice.",
    ),
    works(
        "beat_cron_starting_deadline",
        SECONDS,
        None,
        "Seconds after which a missed tick is no longer made up for; None means always.",
    ),
    works(
        "beat_scope",
        TEXT,
        None,
        "Whose schedule it is, where several applications share a store; None means the application's name.",
    ),
    works(
        "beat_enable_remote_control",
        BOOLEAN,
        False,
        "The scheduler answers pings of remote control (celeriac inspect ping).",
    ),
    works(
        "beat_remote_control_max_tick_age",
        SECONDS,
        None,
        "Seconds without a round of its loop after which the scheduler answers no ping; None means 60, or "
        "twice beat_max_loop_interval, and 0 never.",
    ),
    settled(
        "beat_schedule_filename",
        TEXT,
        "celerybeat-schedule",
        "The store keeps when each entry ran last: there is no schedule file.",
    ),
    settled("beat_sync_every", COUNT, 0, "Each tick is recorded in the step that sends its task."),
    *(
        _command_line(f"beat_{option}")
        for option in ("pidfile", "logfile", "uid", "gid", "umask", "executable")
    ),
    works("event_exchange", TEXT, "celeryev", "Exchange of events."),
    works(
        "event_serializer",
        TEXT,
        "json",
        "Format in which events of Celery's workers are read beside JSON; ours are JSON, which all read.",
    ),
    works("event_queue_prefix", TEXT, "celeryev", "Prefix of the names of event queues."),
    works(
        "event_queue_ttl",
        SECONDS,
        5.0,
        "Seconds after which an event that nobody received is deleted; None means never.",
        optional=True,
    ),
    works(
        "event_queue_expires",
        SECONDS,
        60.0,
        "Seconds after which an event queue that nobody reads is deleted; None means never.",
        optional=True,
    ),
    works("event_queue_exclusive", BOOLEAN, True, "Event queues serve one connection."),
    works(
        "event_queue_durable",
        BOOLEAN,
        False,
        "Event queues outlive a restart of the server.",
    ),
    works(
        "control_exchange",
        TEXT,
        "celery",
        "Prefix of the exchanges of remote control.",
    ),
    works(
        "control_queue_ttl",
        SECONDS,
        300.0,
        "Seconds after which a command or answer that nobody fetched is deleted; None means never.",
        optional=True,
    ),
    works(
        "control_queue_expires",
        SECONDS,
        10.0,
        "Seconds after which a queue of commands or answers that nobody reads is deleted; None means never.",
        optional=True,
    ),
    works(
        "control_queue_exclusive",
        BOOLEAN,
        True,
        "The queue of a worker's commands serves one connection (RabbitMQ).",
    ),
    works(
        "control_queue_durable",
        BOOLEAN,
        False,
        "The queue of a worker's commands outlives a restart of the server; then it must not be exclusive.",
    ),
)
