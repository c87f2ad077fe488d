"""Settings of the application as a whole: what is imported, what is accepted, time, security."""

from __future__ import annotations

from celeriac.settings.kinds import BOOLEAN, NAMES, REFERENCE, SECRET, TEXT, TIMEZONE
from celeriac.settings.table.rows import own, works

ROWS = (
    works(
        "accept_content",
        NAMES,
        ("json",),
        "Formats of messages that are accepted, by short name or MIME type; all others are refused.",
    ),
    works(
        "result_accept_content",
        NAMES,
        None,
        "Formats of results that are accepted; None means those of accept_content.",
    ),
    works(
        "enable_utc",
        BOOLEAN,
        True,
        "Dates in messages are written in UTC; off, in the local zone or in timezone.",
    ),
    works(
        "timezone",
        TIMEZONE,
        None,
        "The zone of schedules and of dates without one; None means UTC, or the local zone without "
        "enable_utc. Django's TIME_ZONE is used when it is not set.",
    ),
    works("imports", NAMES, (), "Modules that a worker imports at its start, in this order."),
    works("include", NAMES, (), "More modules that a worker imports at its start, after imports."),
    works(
        "security_certificate",
        TEXT,
        None,
        "File of the X.509 certificate with which messages are signed.",
    ),
    works(
        "security_cert_store",
        REFERENCE,
        None,
        "Files of the certificates whose signatures are trusted, as a glob pattern.",
    ),
    works(
        "security_key",
        TEXT,
        None,
        "File of the private key with which messages are signed.",
        secret=True,
    ),
    works(
        "security_key_password",
        SECRET,
        None,
        "Password of the private key.",
        secret=True,
    ),
    works("security_digest", TEXT, "sha256", "Hash of the signature of a signed message."),
    own(
        "message_signing_keys",
        NAMES,
        None,
        "Secrets with which messages and results are signed (HMAC-SHA256): the first signs, all are "
        "accepted. With them, what is not signed is refused. Read once.",
        secret=True,
    ),
    own(
        "message_signing_required",
        BOOLEAN,
        True,
        "Refuse what is not signed, where message_signing_keys is set; off while signing is being "
        "introduced.",
    ),
    own(
        "redact_patterns",
        NAMES,
        (
            "passw(or)?d",
            "passphrase",
            "pwd",
            "secret",
            "token",
            "api_?key",
            "private_?key",
            "access_?key",
            "credential",
            "authorization",
            "cookie",
        ),
        "Regular expressions; a parameter or key of a dictionary in whose name one is found (in any case) is "
        "shown as '***' in logs, events and extended results. Read once.",
    ),
)
