"""Settings of results."""

from __future__ import annotations

import datetime

from celeriac.settings.kinds import (
    BOOLEAN,
    INTEGER,
    LIMIT,
    MAPPING,
    NUMBER,
    REFERENCE,
    SECONDS,
    TEXT,
    TIME_LIMIT,
)
from celeriac.settings.table.rows import own, settled, works

RPC_WAY = "Results by rpc:// go straight to the client's queue, as Celery's do, and it does not read this."
RETRIED = "A result store that is away is tried again, with back-off and jitter, until it is back."

ROWS = (
    works(
        "result_backend",
        REFERENCE,
        None,
        "Where results are kept, as a URL; None means the broker's own store if it can keep them, "
        "disabled:// keeps none. CELERY_RESULT_BACKEND overrides it.",
    ),
    works(
        "result_backend_transport_options",
        MAPPING,
        {},
        "Options of the result store's engine (global_keyprefix, master_name, sentinel_kwargs, ...).",
    ),
    works(
        "result_serializer",
        TEXT,
        "json",
        "Format of results; all but json must be allowed by result_accept_content.",
    ),
    works(
        "result_compression", TEXT, None, "Compression of results: gzip, bzip2, zstd, ...; None means none."
    ),
    works(
        "result_expires",
        TIME_LIMIT,
        datetime.timedelta(days=1).total_seconds(),
        "Seconds after which a result is deleted; None or 0 means never.",
        optional=True,
    ),
    works(
        "result_failure_expires",
        SECONDS,
        None,
        "Seconds after which a failed task's result is deleted; None means as result_expires.",
    ),
    works(
        "result_chord_expires",
        SECONDS,
        None,
        "Seconds after which the state of an unfinished chord is deleted, counted anew with each part "
        "and, at its beginning, from the end of the longest delay; None means as result_expires, 0 never.",
    ),
    works(
        "result_extended",
        BOOLEAN,
        False,
        "Results also hold the task's name, arguments, queue, worker and number of retries.",
    ),
    settled("result_exchange", REFERENCE, "celeryresults", RPC_WAY),
    settled("result_exchange_type", TEXT, "direct", RPC_WAY),
    works(
        "result_persistent",
        BOOLEAN,
        None,
        "Messages of rpc:// results survive a restart of the server; None means no.",
    ),
    settled("result_cache_max", INTEGER, -1, "A result is remembered by its AsyncResult and nowhere else."),
    settled(
        "result_chord_retry_interval",
        SECONDS,
        1.0,
        "The store counts a chord's parts: nothing polls for them.",
    ),
    settled(
        "result_chord_join_timeout", SECONDS, 3.0, "A chord's results are all there when its body is built."
    ),
    settled("result_backend_always_retry", BOOLEAN, False, RETRIED),
    settled("result_backend_max_retries", NUMBER, float("inf"), RETRIED),
    settled("result_backend_base_sleep_between_retries_ms", NUMBER, 10, RETRIED),
    settled("result_backend_max_sleep_between_retries_ms", NUMBER, 10000, RETRIED),
    settled("result_backend_thread_safe", BOOLEAN, None, "Result stores may always be shared by threads."),
    own(
        "result_max_size",
        LIMIT,
        16 * 1024 * 1024,
        "Bytes that a result may have; with a larger one the task fails and says so. None means no limit.",
        optional=True,
        why="Celery knows no limit, and a huge result is a danger to the store.",
    ),
    own(
        "result_tombstone_expires",
        SECONDS,
        7 * 86400.0,
        "Seconds for which AsyncResult.presence can still tell that a result has expired.",
    ),
)
