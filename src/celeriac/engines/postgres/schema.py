"""The store's tables in their versions: making them, bringing them up to date, and refusing newer ones."""

from __future__ import annotations

from importlib import resources
from typing import TYPE_CHECKING

from celeriac.exceptions import SchemaError

if TYPE_CHECKING:
    import psycopg

    Handle = psycopg.Connection[tuple[object, ...]]

MIGRATIONS = (
    "0001_tables.sql",
    "0002_functions.sql",
    "0003_remote.sql",
    "0004_history.sql",
    "0005_marks.sql",
    "0006_shorter.sql",
)
"""What brings a schema from version i to i + 1; append, never change."""

_VERSION = "SELECT value FROM {prefix}meta WHERE key = 'schema'"
_NOTE = """INSERT INTO {prefix}meta VALUES ('schema', '{version}')
ON CONFLICT (key) DO UPDATE SET value = excluded.value"""
_EXISTS = "SELECT to_regclass('{prefix}meta') IS NOT NULL"
_LOCK = "SELECT pg_advisory_xact_lock(hashtextextended('celeriac schema {prefix}', 0))"


def version(handle: Handle, schema: str) -> int:
    """The version of the schema's tables; 0 if there are none."""
    prefix = f"{schema}."
    if not handle.execute(_EXISTS.format(prefix=prefix)).fetchall()[0][0]:
        return 0
    rows = handle.execute(_VERSION.format(prefix=prefix)).fetchall()
    return int(str(rows[0][0])) if rows else 0


def check(handle: Handle, schema: str, shown: str) -> None:
    """See that the tables are of our version, and make them if there are none.

    Raises ``SchemaError``, which names the server by ``shown``.
    """
    found = version(handle, schema) or upgrade(handle, schema, only_new=True)
    if found > len(MIGRATIONS):
        raise SchemaError(
            f"PostgreSQL at {shown}: the schema {schema} has version {found}, written by a newer "
            f"Celeriac; this one knows {len(MIGRATIONS)}. Upgrade Celeriac here too"
        )
    if found < len(MIGRATIONS):
        raise SchemaError(
            f"PostgreSQL at {shown}: the schema {schema} has version {found}, this Celeriac needs "
            f"{len(MIGRATIONS)}. Run `celeriac schema upgrade` once"
        )


def upgrade(handle: Handle, schema: str, only_new: bool = False) -> int:
    """Bring the tables to our version, in one transaction under a lock; return the version there is then.

    With ``only_new`` tables that are there are left as they are.
    """
    prefix = f"{schema}."
    with handle.transaction():
        handle.execute(_LOCK.format(prefix=prefix))
        found = version(handle, schema)
        if found >= len(MIGRATIONS) or (found and only_new):
            return found
        if not handle.execute("SELECT 1 FROM pg_namespace WHERE nspname = %s", (schema,)).fetchall():
            handle.execute(f"CREATE SCHEMA {schema}".encode())
        for script in MIGRATIONS[found:]:
            text = resources.files(__package__).joinpath("migrations", script).read_text("utf-8")
            handle.execute(text.replace("@", prefix).encode())
        handle.execute(_NOTE.format(prefix=prefix, version=len(MIGRATIONS)).encode())
    return len(MIGRATIONS)
