"""Vacuuming the tables whose rows live for seconds: the server's own daemon comes once a minute."""

from __future__ import annotations

from typing import Final

from celeriac.engines.postgres.store import Store

PERIOD: Final = 4.0
"""Seconds between two rounds of all nodes together."""
WORTH: Final = 2000
"""Ids given out since the last round, for it to be worth while."""
LONGEST: Final = 600.0
"""Seconds after which the server is taken to be stuck."""

# One node at a time, and seldom: the row is the lock.
_TURN = """UPDATE @meta SET value = (@now())::text || ' ' || (SELECT last_value FROM @serial)
WHERE key = 'vacuum' AND @now() NOT BETWEEN split_part(value, ' ', 1)::float8
    AND split_part(value, ' ', 1)::float8 + %s
AND (SELECT last_value FROM @serial) - split_part(value, ' ', 2)::bigint > %s RETURNING 1"""
_FIRST = "INSERT INTO @meta (key, value) VALUES ('vacuum', '0 0') ON CONFLICT DO NOTHING"
_VACUUM = "VACUUM (TRUNCATE OFF, SKIP_LOCKED ON) @message, @payload, @answer, @waiter, @owner"


def sweep(store: Store) -> None:
    """Vacuum, if it is time and worth while."""
    if not store.options.vacuum:
        return
    with store.borrowed() as connection:
        if connection.run(_TURN, (PERIOD, WORTH)):
            connection.patience = LONGEST
            connection.run(_VACUUM)
        else:
            connection.run(_FIRST)
