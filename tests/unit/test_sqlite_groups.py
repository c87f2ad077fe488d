"""SQLite: the schema's second version, what chords and places cost, and that nothing is left behind."""

from __future__ import annotations

import hashlib
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from importlib import resources
from pathlib import Path

import pytest

from celeriac.engines import create
from celeriac.engines.base import Consumer, Delivery, Hold, Incarnation, Outcome, Publication, Unique, Verdict
from celeriac.engines.groups import ChordPart
from celeriac.engines.results import Presence, ResultRecord
from celeriac.engines.sqlite import SQLiteEngine, chords, clock
from celeriac.engines.sqlite.store import APPLICATION_ID, MIGRATIONS
from celeriac.exceptions import OperationalError
from celeriac.message import Message, decode_envelope, encode_envelope


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "store.db"


@pytest.fixture
def engine(path: Path) -> Iterator[SQLiteEngine]:
    engine = open_at(path)
    yield engine
    engine.close()


@pytest.fixture
def consumer(engine: SQLiteEngine) -> Iterator[Consumer]:
    consumer = engine.attach(Incarnation("n", 1, 1))
    yield consumer
    consumer.close()


def open_at(path: Path) -> SQLiteEngine:
    engine = create(f"sqlite:///{path}", {})
    assert isinstance(engine, SQLiteEngine)
    return engine


def message(task_id: str) -> Message:
    return Message({"id": task_id, "task": "t"}, {}, b"[[], {}, {}]")


def pub(task_id: str, queue: str = "q", unique: Unique | None = None) -> Publication:
    return Publication(message(task_id), queue, unique=unique)


def part(group: str, index: int, ttl: float | None = 1000.0) -> ChordPart:
    return ChordPart(group, f"{group}-{index}", index, b"part %d" % index, ttl)


def id_of(delivery: Delivery) -> str:
    return str(decode_envelope(delivery.payload).headers["id"])


def claim(consumer: Consumer, limit: int = 100) -> list[Delivery]:
    return consumer.exchange([], ["q"], limit).deliveries


def settle(consumer: Consumer, *outcomes: Outcome) -> None:
    assert consumer.exchange(outcomes, [], 0).refused == []


def count(path: Path, table: str) -> int:
    with closing(sqlite3.connect(path)) as handle:
        return int(handle.execute(f"SELECT count(*) FROM {table}").fetchone()[0])


# -- version 1 -----------------------------------------------------------------------------------------


def script(number: int) -> str:
    return resources.files("celeriac.engines.sqlite").joinpath(MIGRATIONS[number]).read_text("utf-8")


def write_version_1(path: Path, *more: str) -> None:
    """A file as version 1 has left it: a message ready, one delayed, one parked, a result, an order."""
    now = time.time()
    with closing(sqlite3.connect(path)) as handle:
        handle.executescript(
            f"{script(0)} {' '.join(more)} PRAGMA application_id={APPLICATION_ID}; PRAGMA user_version=1;"
        )
        for number, name in enumerate(("ready", "delayed", "parked"), 1):
            payload = encode_envelope(message(name))
            handle.execute("INSERT INTO payload (id, body) VALUES (?, ?)", (number, payload))
        handle.execute("INSERT INTO queue (name) VALUES ('q')")
        handle.execute("INSERT INTO ready VALUES ('q', 0, 1, 1, ?, 0)", (now,))
        handle.execute("INSERT INTO delayed VALUES ('q', ?, 2, 0, 'delayed')", (now + 1000,))
        handle.execute("INSERT INTO parked VALUES ('t', 'q', 3, 3, 0, ?, 'parked')", (now,))
        handle.execute("INSERT INTO bucket VALUES ('t', 1000, ?)", (now - 1,))
        handle.execute("INSERT INTO result VALUES ('old', 'SUCCESS', x'31', NULL)")
        handle.execute("INSERT INTO revoked VALUES ('gone', 1, ?, '')", (now + 1000,))
        handle.execute("UPDATE state SET serial = 3, version = 1")
        handle.commit()


def test_the_first_version_is_never_changed() -> None:
    """Files made by it exist; what comes later is another script."""
    known = "cbd576d0"
    assert hashlib.sha256(script(0).encode()).hexdigest().startswith(known)


def test_a_file_of_version_1_goes_on(path: Path) -> None:
    write_version_1(path)
    engine = open_at(path)
    assert engine.fetch(["old"]) == {"old": b"1"}
    assert engine.control().revoked == ["gone"]
    assert set(engine.find(["delayed", "parked"])) == {"delayed", "parked"}
    consumer = engine.attach(Incarnation("n", 1, 1))
    deliveries = claim(consumer)
    assert [(id_of(each), each.admitted, each.placed) for each in deliveries] == [
        ("ready", False, False),
        ("parked", True, False),
    ]
    assert engine.depth(["q"])["q"][:4] == (0, 1, 2, 0)
    lease = ("n:1:1", "q", deliveries[0].token)
    assert engine.enter("place", 1, lease), "and what is new works"
    consumer.close()
    engine.close()
    with closing(sqlite3.connect(path)) as handle:
        assert handle.execute("PRAGMA user_version").fetchone() == (len(MIGRATIONS),)
        assert handle.execute("PRAGMA integrity_check").fetchone() == ("ok",)


def test_a_migration_that_fails_leaves_the_file_as_it_was(path: Path) -> None:
    write_version_1(path, "CREATE TABLE part (a);")  # in the way of the last statements
    with pytest.raises(OperationalError, match="table part already exists"):
        open_at(path).queues()
    with closing(sqlite3.connect(path)) as handle:
        assert handle.execute("PRAGMA user_version").fetchone() == (1,)
        columns = [row[1] for row in handle.execute("PRAGMA table_info(parked)")]
        assert columns == ["bucket", "queue", "seq", "id", "rank", "since", "task_id"]
        handle.execute("DROP TABLE part")
    engine = open_at(path)
    assert engine.queues() == ["q"]
    engine.close()


def test_a_worker_of_version_1_beside_us_takes_no_seat_for_ever(
    engine: SQLiteEngine, consumer: Consumer, path: Path
) -> None:
    """It knows no seats: ending a lease that was taken over from us, it leaves the seat taken."""
    engine.publish([pub("a"), pub("b")])
    first, second = claim(consumer)
    assert engine.enter("place", 1, ("n:1:1", "q", first.token))
    with closing(sqlite3.connect(path)) as handle:
        (number,) = handle.execute("SELECT id FROM leased WHERE token = ?", (first.token,)).fetchone()
        handle.execute("DELETE FROM leased WHERE token = ?", (first.token,))
        handle.execute("DELETE FROM payload WHERE id = ?", (number,))
        handle.commit()
    assert not engine.enter("place", 1, ("n:1:1", "q", second.token))
    engine.cleanup()
    assert engine.enter("place", 1, ("n:1:1", "q", second.token))


# -- one step ------------------------------------------------------------------------------------------


def test_ending_an_owed_body_is_one_step(engine: SQLiteEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    """It fails at its last statement: then nothing of it was stored, and it can be done again."""
    engine.open_chord("outer", 1, b"outer body", 1000.0)
    engine.open_chord("inner", 1, b"body", 1000.0)
    assert engine.record_parts([part("inner", 0)], "me") == ["inner"]
    follows = {
        "publications": [pub("body", unique=Unique("key", 1000.0))],
        "records": [ResultRecord("done", "SUCCESS", b"1")],
        "parts": [part("outer", 0)],
    }
    with monkeypatch.context() as patch:

        def fail(*_: object) -> list[str]:
            raise sqlite3.OperationalError("disk I/O error")

        patch.setattr(chords, "record", fail)
        with pytest.raises(OperationalError):
            engine.settle_owed("inner", "me", **follows)
    assert engine.depth(["q"])["q"].ready == 0
    assert engine.holder("key") is None
    assert engine.presence(["done"]) == {"done": Presence.UNKNOWN}
    owed = engine.take_owed("inner", "me")
    assert owed is not None
    assert (owed.body, owed.parts) == (b"body", [b"part 0"])
    assert engine.settle_owed("inner", "me", **follows) == ["outer"]
    assert engine.depth(["q"])["q"].ready == 1


def test_an_owed_body_is_ended_though_its_parts_cannot_be_deleted_now(
    engine: SQLiteEngine, monkeypatch: pytest.MonkeyPatch, path: Path
) -> None:
    engine.open_chord("c", 1, b"body", 1000.0)
    assert engine.record_parts([part("c", 0)], "me") == ["c"]
    with monkeypatch.context() as patch:

        def fail(*_: object) -> None:
            raise OperationalError("the store is locked by another program")

        patch.setattr(chords, "_drop_parts", fail)
        assert engine.settle_owed("c", "me", [pub("body")]) == []
    assert count(path, "part") == 1
    monkeypatch.setattr(clock, "now", lambda: time.time() + chords.REMEMBERED + 1)
    engine.cleanup()
    assert count(path, "part") == count(path, "chord") == 0


# -- costs ---------------------------------------------------------------------------------------------


def instructions(handle: sqlite3.Connection | None, work: Callable[[], object]) -> int:
    """How many of SQLite's virtual machine's instructions ``work`` takes: a clock no neighbour disturbs."""
    assert handle is not None
    steps = 0

    def tick() -> int:
        nonlocal steps
        steps += 1
        return 0

    handle.set_progress_handler(tick, 1)
    try:
        work()
    finally:
        handle.set_progress_handler(None, 1)
    return steps


def test_a_part_costs_the_same_however_many_there_are(engine: SQLiteEngine) -> None:
    engine.open_chord("c", 5001, b"body", 1000.0)
    (connection,) = engine._store._idle

    def record(index: int) -> int:
        return instructions(connection.handle, lambda: engine.record_parts([part("c", index)], "me"))

    first = max(record(index) for index in range(10))
    assert engine.record_parts([part("c", index) for index in range(10, 4990)], "me") == []
    assert max(record(index) for index in range(4990, 5000)) < 1.2 * first


def test_an_exchange_costs_the_same_however_many_wait_for_a_place(
    engine: SQLiteEngine, consumer: Consumer
) -> None:
    def park(task_ids: list[str]) -> None:
        engine.publish([pub(task_id) for task_id in task_ids])
        settle(
            consumer,
            *(
                Outcome(each.token, "q", Verdict.PARK, place="place", task_id=id_of(each))
                for each in claim(consumer, 1000)
            ),
        )

    engine.publish([pub("inside")])
    (inside,) = claim(consumer)
    assert engine.enter("place", 1, ("n:1:1", "q", inside.token))

    def exchange() -> int:
        """Settle what is inside, and claim the next."""
        nonlocal inside
        outcome = Outcome(inside.token, "q", place="place")
        found: list[Delivery] = []
        handle = consumer._connection.handle  # type: ignore[attr-defined]
        cost = instructions(handle, lambda: found.extend(consumer.exchange([outcome], ["q"], 1).deliveries))
        (inside,) = found
        assert inside.placed
        return cost

    park([f"few-{number}" for number in range(10)])
    few = exchange()
    park([f"many-{number}" for number in range(900)])
    assert exchange() < 1.2 * few


# -- cleaning ------------------------------------------------------------------------------------------


def test_what_has_had_its_time_is_deleted(
    engine: SQLiteEngine, consumer: Consumer, monkeypatch: pytest.MonkeyPatch, path: Path
) -> None:
    engine.publish([pub("a", unique=Unique("key", 1000.0, Hold.EXPIRY)), pub("b")])
    inside, parked = claim(consumer)
    lease = ("n:1:1", "q", inside.token)
    assert engine.enter("place", 1, lease)
    settle(consumer, Outcome(parked.token, "q", Verdict.PARK, place="place", task_id="b"))
    engine.keep_checkpoint("a", b"half way", 1000.0, lease)
    engine.store_group("group", b"[]", 1000.0)
    engine.store_group("kept", b"[]", None)
    engine.open_chord("c", 3000, b"body", 1000.0)
    engine.record_parts([part("c", index) for index in range(2500)], "me")
    tables = {"held": 1, "checkpoint": 1, "task_group": 2, "chord": 1, "chord_body": 1, "part": 2500}
    tables |= {"room": 1, "seat": 1}
    assert {table: count(path, table) for table in tables} == tables
    engine.cleanup()
    assert {table: count(path, table) for table in tables} == tables, "nothing before its time"
    engine.purge(["q"])
    settle(consumer, Outcome(inside.token, "q", place="place"))
    monkeypatch.setattr(clock, "now", lambda: time.time() + 1001)
    engine.cleanup()
    assert {table: count(path, table) for table in tables} == dict.fromkeys(tables, 0) | {"task_group": 1}


def test_what_is_owed_is_never_cleaned_away(engine: SQLiteEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    """All workers may have been away for longer than results are kept."""
    engine.open_chord("c", 1, b"body", 1000.0)
    assert engine.record_parts([part("c", 0)], "me") == ["c"]
    monkeypatch.setattr(clock, "now", lambda: time.time() + 2000)
    engine.cleanup()
    assert engine.owed() == ["c"]


def test_a_clock_that_was_set_back_keeps_nobody_from_what_is_owed(
    engine: SQLiteEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine.open_chord("c", 1, b"body", 1000.0)
    assert engine.record_parts([part("c", 0)], "me") == ["c"]
    assert engine.owed() == []
    monkeypatch.setattr(clock, "now", lambda: time.time() - 3600)
    assert engine.owed() == ["c"]
    assert engine.take_owed("c", "you") is not None


# -- corners -------------------------------------------------------------------------------------------


def test_a_lease_holds_places_under_two_limits(engine: SQLiteEngine, consumer: Consumer) -> None:
    engine.publish([pub("a"), pub("b")])
    first, second = claim(consumer)
    mine, others = (("n:1:1", "q", each.token) for each in (first, second))
    assert engine.enter("here", 1, mine)
    assert engine.enter("there", 1, mine)
    assert not engine.enter("there", 1, others)
    settle(consumer, Outcome(first.token, "q", place="here"))
    assert engine.enter("here", 1, others)
    assert engine.enter("there", 1, others)


def test_what_comes_at_once_instead_of_a_delayed_message_holds_no_debouncing_key(
    engine: SQLiteEngine,
) -> None:
    delayed = pub("a", unique=Unique("key", 1000.0))
    delayed.delay = 1000.0
    assert engine.publish([delayed]) == {}
    unique = Unique("key", 1000.0, Hold.DELAYED, instead_of="a")
    assert engine.publish([pub("a", unique=unique)]) == {}
    assert engine.depth(["q"])["q"][:2] == (1, 0)
    assert engine.holder("key") is None
