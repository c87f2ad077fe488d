"""Settings of the broker, of the connections to it, and of the Redis connections."""

from __future__ import annotations

from celeriac.settings.kinds import (
    BOOLEAN,
    INTEGER,
    LIMIT,
    MAPPING,
    REFERENCE,
    SECONDS,
    TEXT,
    TIME_LIMIT,
    TLS,
    URL,
    choice,
)
from celeriac.settings.setting import Setting
from celeriac.settings.table.rows import own, refused, settled, works

POOLED = "A process opens a connection for each thread that needs one just then, and keeps it for reuse."
IN_THE_URL = "Write it into broker_url, as in redis://user:password@host:6379/0."
IN_RESULT_URL = "Write it into result_backend, as in redis://user:password@host:6379/0."


def _in_url(name: str, advice: str, secret: bool = False) -> Setting:
    numeric = name.endswith(("_port", "_db"))
    return refused(name, INTEGER if numeric else TEXT, None, advice, secret=secret)


ROWS = (
    works(
        "broker_url",
        URL,
        None,
        "Where messages are kept; several URLs (a list, or joined by ';') are tried in turn. None means "
        "$CELERIAC_HOME/celeriac.db, or celeriac.db beside the application. CELERY_BROKER_URL overrides it.",
    ),
    works(
        "broker_read_url",
        URL,
        None,
        "The broker that workers read from; None means broker_url. CELERY_BROKER_READ_URL overrides it.",
    ),
    works(
        "broker_write_url",
        URL,
        None,
        "The broker that messages are sent to; None means broker_url. CELERY_BROKER_WRITE_URL overrides it.",
    ),
    works(
        "broker_transport_options",
        MAPPING,
        {},
        "Options of the engine, under Celery's names where Celery has them (global_keyprefix, "
        "priority_steps, sep, master_name, sentinel_kwargs, socket_timeout, ...).",
    ),
    works("broker_use_ssl", TLS, False, "TLS to the broker: True, or a dictionary of ssl_* options."),
    works("broker_connection_timeout", SECONDS, 4, "Seconds to wait for a connection to the broker."),
    settled(
        "broker_connection_retry",
        BOOLEAN,
        True,
        "A worker that loses the broker connects again, with back-off and jitter, for as long as it runs.",
    ),
    works(
        "broker_connection_retry_on_startup",
        BOOLEAN,
        None,
        "A worker that finds no broker at its start waits for it (True, None) or ends with an error (False).",
    ),
    settled(
        "broker_connection_max_retries",
        LIMIT,
        100,
        "A worker waits out an outage of any length: giving up would only need somebody to start it again.",
    ),
    works(
        "broker_failover_strategy",
        REFERENCE,
        None,
        "Order in which several broker URLs are tried: round-robin (None), shuffle, or a callable.",
    ),
    works(
        "broker_heartbeat",
        TIME_LIMIT,
        5,
        "Seconds between AMQP heartbeats; None or 0 means none. After two to three times as long without a "
        "word the server delivers what the connection held to others.",
        optional=True,
        celery=120,
        why="A machine that vanished is noticed within 15 s; a child that is too busy to beat is helped.",
    ),
    works(
        "broker_login_method",
        TEXT,
        None,
        "SASL mechanism of an AMQP login; None means the server's best.",
    ),
    works(
        "broker_native_delayed_delivery_queue_type",
        choice("classic", "quorum"),
        "quorum",
        "Type of the queues in which RabbitMQ keeps delayed messages.",
    ),
    settled(
        "broker_heartbeat_checkrate",
        SECONDS,
        3.0,
        "Missed heartbeats are noticed at the interval that the server agreed to.",
    ),
    settled("broker_pool_limit", LIMIT, 10, POOLED),
    settled("broker_pool_acquire_timeout", SECONDS, None, POOLED),
    settled(
        "broker_channel_error_retry",
        BOOLEAN,
        False,
        "Every error of the broker that may pass is tried again, channel errors included.",
    ),
    _in_url("broker_transport", "The scheme of broker_url names the engine, as in redis:// or sqlite://."),
    _in_url("broker_host", IN_THE_URL),
    _in_url("broker_port", IN_THE_URL),
    _in_url("broker_user", IN_THE_URL),
    _in_url("broker_password", IN_THE_URL, secret=True),
    _in_url("broker_vhost", IN_THE_URL),
    own(
        "broker_publish_timeout",
        SECONDS,
        5.0,
        "Seconds that a publish may take in all, its retries included, before OperationalError.",
        why="In Celery a publish can wait for minutes, or for ever, for a broker that is down.",
    ),
    own(
        "broker_delay",
        choice("store", "celery"),
        "store",
        "Where delayed messages wait: in the store ('store'), or sent at once with an eta as Celery does "
        "('celery'), for queues that only Celery's workers consume.",
        why="Celery keeps delayed tasks in the memory of a worker.",
    ),
    own(
        "message_max_size",
        LIMIT,
        16 * 1024 * 1024,
        "Bytes that a message may have; a larger one is refused where it is sent. None means no limit.",
        optional=True,
        why="Celery knows no limit, and RabbitMQ has this one.",
    ),
    # -- Redis, as a result store ----------------------------------------------------------------------
    works("redis_backend_use_ssl", TLS, None, "TLS to a Redis result store: a dictionary of ssl_* options."),
    works(
        "redis_client_name", TEXT, None, "Name that connections to a Redis result store give to the server."
    ),
    works(
        "redis_socket_timeout",
        SECONDS,
        15.0,
        "Seconds to wait for an answer of a Redis result store.",
        celery=120.0,
        why="A server that is gone is noticed sooner; no request here waits on purpose.",
    ),
    works(
        "redis_socket_connect_timeout",
        SECONDS,
        5.0,
        "Seconds to wait for a connection to a Redis result store.",
        celery=None,
        why="Celery waits as long as the operating system does, which can be minutes.",
    ),
    works(
        "redis_socket_keepalive",
        BOOLEAN,
        True,
        "TCP keep-alive on connections to a Redis result store.",
        celery=False,
        why="A connection that died without a word is noticed.",
    ),
    works(
        "redis_backend_health_check_interval",
        SECONDS,
        None,
        "Seconds of idleness after which a connection to a Redis result store is tested before its use; None "
        "means no such test.",
    ),
    settled("redis_max_connections", LIMIT, None, POOLED),
    settled(
        "redis_retry_on_timeout",
        BOOLEAN,
        False,
        "Reads are tried again after a timeout, writes only where a repetition does no harm.",
    ),
    refused(
        "redis_backend_credential_provider",
        REFERENCE,
        None,
        "Credential providers are not supported: write user and password into result_backend.",
    ),
    _in_url("redis_host", IN_RESULT_URL),
    _in_url("redis_port", IN_RESULT_URL),
    _in_url("redis_db", IN_RESULT_URL),
    _in_url("redis_username", IN_RESULT_URL),
    _in_url("redis_password", IN_RESULT_URL, secret=True),
)
