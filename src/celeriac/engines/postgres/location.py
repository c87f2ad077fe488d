"""Where a PostgreSQL is and how to get in: the URL and its options."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import parse_qsl, quote, unquote, urlencode, urlsplit

import msgspec

from celeriac.exceptions import ImproperlyConfigured

CONNECT_TIMEOUT: Final = 5
"""Seconds to wait for a connection, unless the URL says ``connect_timeout``."""
_COMMIT_LEVELS: Final = ("", "off", "local", "remote_write", "on", "remote_apply")
_SCHEMA: Final = re.compile(r"[a-z_][a-z0-9_]{0,39}")
_SECRETS: Final = ("password", "sslpassword", "sslkey", "passfile")
# A peer that has vanished is noticed after some 15 s, in mid-request as well as while idle.
_DEFAULTS: Final = {
    "connect_timeout": str(CONNECT_TIMEOUT),
    "keepalives_idle": "5",
    "keepalives_interval": "3",
    "keepalives_count": "3",
    "tcp_user_timeout": "15000",
    "application_name": "celeriac",
}


class Options(msgspec.Struct, frozen=True):
    """What the URL's query or the transport options may set. Times are seconds."""

    schema: str = "celeriac"
    """The PostgreSQL schema that holds the tables."""
    synchronous_commit: str = ""
    """How workers' exchanges are committed (``off`` may repeat the last ones after a crash of the server);
    empty: as the server does. Publishes and operators' orders are always committed as the server does."""
    prepare: bool = True
    """Whether statements are prepared: not behind PgBouncer before 1.21, or one with
    ``max_prepared_statements=0``."""
    pooled: bool = False
    """The URL leads to a pool in transaction mode: nothing is prepared, and no notification arrives there."""
    listen: str = ""
    """``host:port`` of the server itself, where notifications arrive, if the URL leads to a pool."""
    socket_timeout: float = 15.0
    """How long the server may take to answer a statement before the connection is given up, 0 for ever.
    Counting, looking, purging and moving many messages, and making tables, may take as long as they need."""
    publish_timeout: float = 5.0
    """The same for a publish, and a millisecond more for each message (``broker_publish_timeout``)."""
    poll: float = 1.0
    """How often an idle consumer and a waiting client look by themselves."""
    priority_order: str = "higher"
    """Which priority numbers are more urgent, ``higher`` or ``lower`` (``task_priority_order``)."""
    schedule_scope: str = ""
    """Whose schedule it is: each scope has entries and a leader of its own."""
    vacuum: bool = True
    """Whether workers vacuum the tables whose rows live for seconds, which the server does once a minute."""
    result_tombstone_expires: float = 7 * 86400.0
    """How long to remember that a task had a result which has expired."""
    dead_letters_max: int = 10_000
    """How many dead letters of a queue to keep; the oldest go first."""
    dead_letters_expires: float = 30 * 86400.0
    """How long to keep a dead letter."""


class Location(msgspec.Struct, frozen=True):
    """One database, and a schema in it."""

    conninfo: str
    """For psycopg, with its secrets."""
    url: str
    """The same without them: fit to be shown."""
    options: Options
    listen: str | None
    """Where to listen, as ``conninfo``; ``None`` if nowhere."""

    @classmethod
    def parse(cls, url: str, options: Mapping[str, Any]) -> Location:
        """Read ``postgresql://user:password@host:5432/database?schema=celeriac``.

        Whatever else libpq knows (``sslmode``, ``target_session_attrs``, several hosts, ...) may stand in the
        query. Raises ``ImproperlyConfigured``.
        """
        plain = url.split("+", 1)[1] if url.lower().startswith("db+") else url
        try:
            parts = urlsplit(plain)
            asked = dict(parse_qsl(parts.query, keep_blank_values=True))
            chosen = _options(options, asked)
        except (ValueError, msgspec.ValidationError) as error:
            raise ImproperlyConfigured(
                f"bad PostgreSQL URL or transport option: {error}. "
                "A URL looks like postgresql://user:password@host:5432/database?schema=celeriac"
            ) from None
        libpq = {name: value for name, value in asked.items() if name not in Options.__struct_fields__}
        query = urlencode({**_DEFAULTS, **libpq}, quote_via=quote)
        conninfo = f"postgresql://{parts.netloc}{parts.path}?{query}"
        shown = {name: value for name, value in asked.items() if name not in _SECRETS}
        masked = f"postgresql://{_masked(parts.netloc)}{parts.path}" + (
            f"?{urlencode(shown)}" if shown else ""
        )
        return cls(conninfo, masked, chosen, _listening(chosen, parts.netloc, parts.path, query))

    @property
    def place(self) -> tuple[str, str]:
        """What two engines of one store have in common."""
        parts = urlsplit(self.conninfo)
        host = parts.netloc.rpartition("@")[2].replace("localhost", "127.0.0.1")
        return f"{host}{unquote(parts.path)}", self.options.schema


def _options(given: Mapping[str, Any], asked: Mapping[str, str]) -> Options:
    known = Options.__struct_fields__
    merged = {name: value for name, value in given.items() if name in known}
    merged |= {name: value for name, value in asked.items() if name in known}
    made = msgspec.convert(merged, Options, strict=False)
    if not _SCHEMA.fullmatch(made.schema):
        raise ValueError(f"schema={made.schema!r} is no plain lower-case name of at most 40 characters")
    if made.synchronous_commit not in _COMMIT_LEVELS:
        raise ValueError(
            f"synchronous_commit={made.synchronous_commit}: use one of {', '.join(_COMMIT_LEVELS[1:])}"
        )
    if made.priority_order not in ("higher", "lower"):
        raise ValueError(f"priority_order={made.priority_order}: use higher or lower")
    if made.poll <= 0:
        raise ValueError("poll must be more than 0 seconds")
    return made


def _listening(options: Options, netloc: str, path: str, query: str) -> str | None:
    if options.listen:
        user, at, _ = netloc.rpartition("@")
        return f"postgresql://{user}{at}{options.listen}{path}?{query}"
    return None if options.pooled else f"postgresql://{netloc}{path}?{query}"


def _masked(netloc: str) -> str:
    user, at, host = netloc.rpartition("@")
    name, colon, _ = user.partition(":")
    return f"{name}{':**' if colon else ''}{at}{host}"
