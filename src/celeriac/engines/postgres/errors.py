"""PostgreSQL's errors in our words: what happened at which server, and what to do."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from celeriac.exceptions import (
    CeleriacError,
    EncodeError,
    Fenced,
    ImproperlyConfigured,
    OperationalError,
    SchemaError,
    StoreFull,
)

if TYPE_CHECKING:
    import psycopg

_REMEDIES: Final[dict[str, tuple[type[CeleriacError], str]]] = {
    "3D000": (OperationalError, "there is no such database. Create it, or name another in the URL"),
    "28P01": (
        OperationalError,
        "the password is wrong or missing. Correct the URL, or the PGPASSWORD it relies on",
    ),
    "28000": (
        OperationalError,
        "this user is unknown or may not connect. Look at its role and at the server's pg_hba.conf",
    ),
    "42501": (
        OperationalError,
        "this user lacks a right. Grant it (the user needs CREATE on the database once, to make the schema, "
        "and the schema's tables for ever after), or let its owner run `celeriac schema upgrade`",
    ),
    "25006": (
        OperationalError,
        "the server is read-only: a standby, most likely. Name the primary, or all servers with "
        "?target_session_attrs=read-write",
    ),
    "25P03": (
        OperationalError,
        "this process stood still in the middle of a step, and nothing was stored. Ask again; if it happens "
        "often, its machine has too much to do",
    ),
    "57P01": (OperationalError, "the server ended the connection: it shuts down, or somebody said so"),
    "57P02": (OperationalError, "the server crashed and starts again"),
    "57P03": (OperationalError, "the server does not accept connections yet: it starts, stops or recovers"),
    "53300": (
        OperationalError,
        "the server has no connection left. Raise its max_connections, or put a pool (PgBouncer) before it",
    ),
    "53100": (StoreFull, "the server's disk is full. Free some space: nothing is lost"),
    "53200": (OperationalError, "the server is out of memory"),
    "40P01": (OperationalError, "two transactions locked one another out; nothing was stored. Ask again"),
    "40001": (OperationalError, "a concurrent change was in the way, and nothing was stored. Ask again"),
    "57014": (
        OperationalError,
        "the server ended the statement: somebody cancelled it, or this user's statement_timeout is too "
        "short (ALTER ROLE ... SET statement_timeout = 0)",
    ),
    "55P03": (
        OperationalError,
        "a lock was not to be had within this user's lock_timeout, and nothing was stored. Ask again, or "
        "ALTER ROLE ... SET lock_timeout = 0",
    ),
    "54000": (
        EncodeError,
        "a name, id or key is too long for an index (some 2,700 bytes). Make it shorter",
    ),
    "42P05": (
        OperationalError,
        "a prepared statement is there already: behind a pool, add ?pooled=true to the URL",
    ),
    "26000": (
        OperationalError,
        "a prepared statement is not there: behind a pool, add ?pooled=true to the URL",
    ),
    "3F000": (SchemaError, "the schema is gone: somebody dropped it. The next process makes it again"),
    "42P01": (SchemaError, "a table is gone. Restore the schema, or drop the rest of it"),
    "42883": (
        SchemaError,
        "a function is missing: the schema is of another version. Run `celeriac schema upgrade`",
    ),
}  # fmt: skip
_CONNECTING: Final = (
    ('role "', "28000"),
    ("does not exist", "3D000"),
    ("password authentication failed", "28P01"),
    ("no password supplied", "28P01"),
    ("no pg_hba.conf entry", "28000"),
    ("not permitted to log in", "28000"),
    ("the database system is", "57P03"),
    ("too many c", "53300"),
    ("connection slots", "53300"),
    ("read-only", "25006"),
    ("permission denied", "42501"),
)
"""What a server says to who connects, where no code comes with it."""
RETRIED: Final = ("40P01", "40001")
"""Nothing was stored, and it may work the next time."""


def translated(error: psycopg.Error, url: str, sent: bool = True) -> CeleriacError:
    """Return the error to raise for ``error``, naming server and remedy.

    With ``sent`` a request was on its way: where no answer came, it may have been carried out
    (``maybe_done``).
    """
    code = error.sqlstate
    if code == "CLF01":
        return Fenced("")
    kind: type[CeleriacError]
    # What the server says without the statement that it says it of: that is ours, and nobody's business.
    told = " ".join((error.diag.message_primary or str(error)).split()) or type(error).__name__
    if code is None and "NUL" in told:
        kind, remedy = (
            EncodeError,
            "a name or key with a NUL character cannot be kept. Leave it out of the text",
        )
    elif code is None:
        kind, remedy = _without_code(told, sent)
    else:
        kind, remedy = _REMEDIES.get(code, (OperationalError, "the server refused the statement"))
    made = kind(f"PostgreSQL at {url}: {remedy} (it says: {told})")
    if isinstance(made, OperationalError):
        # An error of the statement's own was rolled back. A connection that ended in between tells nothing.
        made.maybe_done = sent and (code is None or code in ("57P01", "57P02"))
    return made


def missing_driver() -> ImproperlyConfigured:
    """What to say when psycopg is not installed."""
    return ImproperlyConfigured(
        "postgresql:// URLs need the library psycopg (version 3), which is not installed: "
        "pip install 'celeriac[postgres]'"
    )


def _without_code(told: str, sent: bool) -> tuple[type[CeleriacError], str]:
    """Errors that the library raises before or instead of an answer carry no code."""
    if sent:
        return OperationalError, "the connection broke before the answer came"
    for words, code in _CONNECTING:
        if words in told:
            return _REMEDIES[code]
    for words, remedy in (
        ("SSL", "the two sides do not agree about TLS. Look at sslmode, sslrootcert and the like in the URL"),
        ("FATAL", "the server lets nobody in. See what it says"),  # perhaps in another language
    ):
        if words in told:
            return OperationalError, remedy
    return OperationalError, "cannot be reached. Check that it runs there, and host and port in the URL"
