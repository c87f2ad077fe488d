"""SQLite: the schema's schedules, a full disk, and a leader that dies while it fires."""

from __future__ import annotations

import hashlib
import signal
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from importlib import resources
from pathlib import Path

import pytest

from celeriac.contrib.conformance.helpers import drain, message, pub
from celeriac.engines import create
from celeriac.engines.base import Incarnation
from celeriac.engines.schedule import Entry, Term, Tick
from celeriac.engines.sqlite import SQLiteEngine
from celeriac.engines.sqlite.store import APPLICATION_ID, MIGRATIONS
from celeriac.exceptions import StoreFull
from celeriac.message import encode_envelope
from tests.unit.test_sqlite_faults import integrity, process


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "store.db"


@pytest.fixture
def engine(path: Path) -> Iterator[SQLiteEngine]:
    engine = open_at(path)
    yield engine
    engine.close()


def open_at(path: Path) -> SQLiteEngine:
    engine = create(f"sqlite:///{path}", {})
    assert isinstance(engine, SQLiteEngine)
    return engine


def script(number: int) -> str:
    return resources.files("celeriac.engines.sqlite").joinpath(MIGRATIONS[number]).read_text("utf-8")


def take(engine: SQLiteEngine) -> Term:
    term = engine.lead("one", 1000.0)
    assert term is not None
    return term


def fire(engine: SQLiteEngine, name: str, due: float) -> dict[str, str]:
    return engine.fire(take(engine), [Tick(name, due, f"{name}{due:g}", pub(f"{name}{due:g}"))])


def count(path: Path, table: str) -> int:
    with closing(sqlite3.connect(path)) as handle:
        return int(handle.execute(f"SELECT count(*) FROM {table}").fetchone()[0])


def test_the_second_version_is_never_changed() -> None:
    """Files made by it exist; what comes later is another script."""
    assert hashlib.sha256(script(1).encode()).hexdigest().startswith("725967ac")


def test_a_file_of_version_2_goes_on(path: Path) -> None:
    with closing(sqlite3.connect(path)) as handle:
        handle.executescript(
            f"{script(0)} {script(1)} PRAGMA application_id={APPLICATION_ID}; PRAGMA user_version=2;"
        )
        handle.execute("INSERT INTO queue (name) VALUES ('q')")
        handle.execute("INSERT INTO payload (id, body) VALUES (1, ?)", (encode_envelope(message("old")),))
        handle.execute("INSERT INTO ready VALUES ('q', 0, 1, 1, 0, 0)")
        handle.execute("INSERT INTO held VALUES ('k', 'old', 'ended', 9e9, 1, NULL)")
        handle.execute("UPDATE state SET serial = 1")
        handle.commit()
    engine = open_at(path)
    assert engine.holder("k") == "old"
    assert engine.schedule_version() == 0
    engine.put_entries([Entry("e", b"{}")])
    assert fire(engine, "e", 1.0) == {}
    consumer = engine.attach(Incarnation("n", 1, 1))
    assert drain(consumer) == ["old", "e1"]
    consumer.close()
    engine.close()
    with closing(sqlite3.connect(path)) as handle:
        assert handle.execute("PRAGMA user_version").fetchone() == (len(MIGRATIONS),)
        assert handle.execute("PRAGMA integrity_check").fetchone() == ("ok",)


def test_a_file_of_version_4_goes_on(path: Path) -> None:
    """Its schedule was nobody's in particular."""
    with closing(sqlite3.connect(path)) as handle:
        scripts = " ".join(script(number) for number in range(4))
        handle.executescript(f"{scripts} PRAGMA application_id={APPLICATION_ID}; PRAGMA user_version=4;")
        handle.execute("UPDATE schedule SET version = 7, forgotten = 2")
        handle.execute("INSERT INTO entry VALUES (5, 'e', '{}', 'store', 1, 6, 10.0)")
        handle.execute("INSERT INTO progress VALUES (5, 20.0, 21.0, 'last', 3, 1)")
        handle.execute("INSERT INTO removed VALUES ('gone', 7)")
        handle.execute("UPDATE term SET holder = 'one', token = 4, expires = 2, ttl = 1")
        handle.commit()
    other = create(f"sqlite:///{path}", {"schedule_scope": "other"})
    assert (other.schedule().entries, other.schedule_version(), other.leader()) == ([], 0, None)
    other.close()
    engine = open_at(path)
    assert engine.schedule(6).removed == ["gone"]
    assert engine.schedule(1).complete
    (entry,) = engine.schedule().entries
    assert (entry.name, entry.last_due, entry.runs, entry.version) == ("e", 20.0, 3, 6)
    assert take(engine).token == 5
    assert fire(engine, "e", 20.0) == {"e": "done"}
    engine.close()
    assert integrity(path) == "ok"


def test_removed_entries_leave_no_rows(engine: SQLiteEngine, path: Path) -> None:
    for _ in range(3):
        engine.put_entries([Entry("a", b"{}"), Entry("b", b"{}")])
        fire(engine, "a", 1.0)
        engine.remove_entries(["a", "b"])
    assert (count(path, "entry"), count(path, "progress"), count(path, "removed")) == (0, 0, 2)


def test_ticks_wait_while_workers_live_on_the_reserve(
    engine: SQLiteEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine.put_entries([Entry("e", b"{}"), Entry("missed", b"{}")])
    with monkeypatch.context() as patch:
        patch.setattr(engine._store, "restore_reserve", lambda: False)
        with pytest.raises(StoreFull, match="nothing is published"):
            fire(engine, "e", 1.0)
        assert engine.fire(take(engine), [Tick("missed", 1.0)]) == {}, "it needs no room"
    assert fire(engine, "e", 1.0) == {}


def test_a_leader_killed_while_it_fires_leaves_no_tick_half_done(engine: SQLiteEngine, path: Path) -> None:
    """Each tick is marked and published, or neither; the next leader goes on where it was."""
    engine.put_entries([Entry(f"e{number}", b"{}") for number in range(5)])
    for turn in range(3):
        with process("fire", engine.url, str(turn)) as child:
            assert child.stdout is not None
            for _ in range(3 + turn):
                child.stdout.readline()
            child.send_signal(signal.SIGKILL)
            child.wait()
        engine.resign(f"beat-{turn}")
    entries = {entry.name: entry for entry in engine.schedule().entries}
    consumer = engine.attach(Incarnation("n", 1, 1))
    fired = drain(consumer)
    consumer.close()
    expected = [f"{name}@{due}" for name, entry in entries.items() for due in range(1, entry.runs + 1)]
    assert sorted(fired) == sorted(expected)
    assert {entry.last_due for entry in entries.values()} == {max(entry.runs for entry in entries.values())}
    assert integrity(path) == "ok"
