"""The scenario ``chords`` between two stores, of messages and of results; test_faults.py has it on one."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.faults.chord_stage import STEPS_APART, Stage
from tests.faults.ledger import Entry
from tests.servers import RedisServer


@pytest.mark.timeout(120)
def test_every_chord_ends_once_whoever_dies_between_two_stores(
    redis_server: RedisServer, tmp_path: Path
) -> None:
    import redis

    redis.Redis.from_url(redis_server.url()).flushall()
    stage = Stage(redis_server.url(), f"sqlite:///{tmp_path}/results.db", tmp_path)
    entry = Entry("chords")
    try:
        stage.play(entry, 2 * len(STEPS_APART))
    finally:
        stage.close()
    assert entry.fine, entry
    assert entry.faults >= 2 * len(STEPS_APART)
