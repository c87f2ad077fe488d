"""The scenarios of stores that have no room left."""

from __future__ import annotations

import contextlib
import subprocess
import time
from pathlib import Path

from celeriac.exceptions import StoreFull
from tests.faults.field import Field
from tests.faults.ledger import Entry
from tests.faults.node import await_true
from tests.faults.places import field_on, opened, place
from tests.faults.project import job
from tests.servers import RedisServer

UNCLAIMED = "unclaimed"
DISK_MIB = 48


def memory(engine: str, seed: int, tasks: int) -> Entry:
    """Redis reaches its ``maxmemory`` and has room again later: workers go on, publishes are refused."""
    with field_on(engine, "memory full", seed) as (field, here):
        redis = here.server
        assert isinstance(redis, RedisServer)
        field.produce(tasks)
        met = 0
        while field.await_starts(tasks // 8) or not met:
            field.note("memory full")
            redis.command("CONFIG", "SET", "maxmemory", "1000000")
            await_true(lambda: _publish_fails(field), "a publish at maxmemory fails")
            met += 1
            time.sleep(0.3)
            redis.command("CONFIG", "SET", "maxmemory", "0")
            await_true(lambda: not _publish_fails(field), "a publish succeeds again")
            field.app.broker.purge([UNCLAIMED])
    return field.entry


def disk(engine: str, seed: int, tasks: int) -> Entry:
    """The disk fills up under an SQLite file, and has room again later."""
    with place(engine) as here:  # the journal must not be on the disk that is full
        small = here.folder / "disk"
        small.mkdir()
        if subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={DISK_MIB}m", "tmpfs", small],
                          capture_output=True).returncode:  # fmt: skip
            entry = Entry("disk full")
            entry.notes.append("not run: a small disk cannot be mounted here (it needs root)")
            return entry
        try:
            with opened(here._replace(disk=small), "disk full", seed) as field:
                _fill_again_and_again(field, small, tasks)
        finally:
            subprocess.run(["umount", small], check=True)
    return field.entry


def _fill_again_and_again(field: Field, small: Path, tasks: int) -> None:
    filler = small / "filler"
    field.produce(tasks)
    met = 0
    while field.await_starts(tasks // 5) or not met:
        field.note("disk full")
        # Suppressed around the file: on a full disk closing it, and even making it, fails.
        with contextlib.suppress(OSError), filler.open("wb", buffering=0) as file:
            while True:
                file.write(bytes(1 << 16))
                file.flush()
        await_true(lambda: _publish_fails(field), "a publish on a full disk fails")
        met += 1
        filler.unlink()
        await_true(lambda: _purged(field), "what filled the disk is purged")
        await_true(lambda: not _publish_fails(field), "a publish succeeds again")
        field.app.broker.purge([UNCLAIMED])


def _purged(field: Field) -> bool:
    """Delete what :func:`_publish_fails` could still publish, if anything; whether the store had room to."""
    try:
        field.app.broker.purge([UNCLAIMED])
    except StoreFull:
        return False
    return True


def _publish_fails(field: Field) -> bool:
    """Publish a large message that nobody claims; whether the store said that it is full."""
    try:
        field.app.send_task(job.name, ("x" * 100_000, 0.0), retry=False, queue=UNCLAIMED)
    except StoreFull:
        return True
    except Exception as error:
        if isinstance(error.__cause__, StoreFull):
            return True
        raise
    return False
