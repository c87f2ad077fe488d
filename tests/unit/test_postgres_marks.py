"""What a consumer's marks spare it, and that nothing is left below one (``migrations/0003_marks.sql``)."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from itertools import cycle
from typing import Any

import psycopg
import pytest

from celeriac.contrib.conformance.helpers import (
    claim,
    drain,
    ids_of,
    incarnation,
    node,
    outcome,
    pub,
    pubs,
    settle,
)
from celeriac.engines import create
from celeriac.engines.base import Consumer, Engine, Loss, Outcome, Verdict
from celeriac.engines.postgres import marks, sleeping
from celeriac.engines.postgres.consumer import PostgresConsumer
from celeriac.engines.postgres.store import Connection
from tests.servers import PostgresServer


@pytest.fixture
def url(postgres_server: PostgresServer) -> str:
    postgres_server.empty()
    return postgres_server.url()


@pytest.fixture
def engine(url: str) -> Iterator[Engine]:
    made = create(url)
    made.beat(node())
    yield made
    made.close()


@pytest.fixture
def consumer(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> Iterator[PostgresConsumer]:
    """One that raises its marks with every exchange."""
    monkeypatch.setattr(marks, "WORTH", 0)
    monkeypatch.setattr(marks, "PERIOD", -1.0)
    made = engine.attach(incarnation())
    assert isinstance(made, PostgresConsumer)
    yield made
    made.close()


def marked(engine: Engine, consumer: PostgresConsumer, queues: Sequence[str] = ("q",)) -> None:
    """Work something off in each lane, until the marks lie above it."""
    for queue in queues:
        engine.publish([pub(f"{queue}{priority}", queue, priority=priority) for priority in (0, 5, 9)])
    drain(consumer, queues)
    for _ in range(3):
        claim(consumer, queues=queues)
    names, ranks, seqs, _ = consumer._marks.columns(queues)
    assert sorted(zip(names, ranks, strict=True)) == sorted((q, r) for q in queues for r in (-9, -5, 0))
    last = max(seqs)
    assert min(seqs) == last > 0


def test_a_claim_reads_no_more_however_many_an_old_transaction_keeps(
    engine: Engine, postgres_server: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(marks, "PERIOD", 0.0)
    monkeypatch.setattr(marks, "WORTH", 32)
    consumer = engine.attach(incarnation())
    assert isinstance(consumer, PostgresConsumer)
    with psycopg.connect(postgres_server.url(), autocommit=True) as old:
        old.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
        old.execute("SELECT 1 FROM pg_class")
        read = [_entries_read(consumer, lambda: _work_off(engine, consumer, 1600)) for _ in range(4)]
        old.execute("ROLLBACK")
    consumer.close()
    # Without marks each hundred claims reads 50 x 1600 entries more than the one before.
    assert max(read) < 16 * 1600, read


def _work_off(engine: Engine, consumer: Consumer, count: int) -> None:
    engine.publish([pub(str(number)) for number in range(count)])
    outcomes: list[Outcome] = []
    while deliveries := consumer.exchange(outcomes, ["q"], 16).deliveries:
        outcomes = [outcome(delivery) for delivery in deliveries]


def _entries_read(consumer: PostgresConsumer, act: Any) -> int:
    """How many index entries of the messages the consumer's session reads in acting."""
    before = _counted(consumer._connection)
    act()
    return _counted(consumer._connection) - before


def _counted(connection: Connection) -> int:
    time.sleep(0.01)
    connection.run("SELECT pg_stat_force_next_flush()")
    connection.run("SELECT pg_stat_clear_snapshot()")
    sql = "SELECT sum(idx_tup_read)::bigint FROM pg_stat_user_indexes WHERE relid = '@message'::regclass"
    return int(connection.run(sql)[0][0])


WAYS = ["give back", "agent", "release", "recover", "close", "unpark", "requeue", "replay", "delayed"]


@pytest.mark.parametrize(
    ("way", "priority"), list(zip(WAYS, cycle((5, 3)), strict=False))
)  # a lane with a mark, and one without
def test_nothing_is_left_below_a_mark(
    engine: Engine, consumer: PostgresConsumer, way: str, priority: int
) -> None:
    engine.beat(node("other", pid=2))
    other = engine.attach(incarnation("other"))
    engine.publish([pub("early", priority=priority)])
    (delivery,) = claim(other)
    ends: dict[str, dict[str, Any]] = {
        "give back": {"verdict": Verdict.GIVE_BACK},
        "unpark": {"verdict": Verdict.PARK, "bucket": "t", "task_id": "early"},
        "requeue": {"verdict": Verdict.REQUEUE},
        "replay": {"verdict": Verdict.DEAD, "reason": "failed", "task_id": "early"},
        "delayed": {"verdict": Verdict.DELAY, "due": 1.0, "task_id": "early"},
    }
    if way in ("unpark", "replay"):
        assert engine.admit("q", "t", 1000.0)
        settle(other, outcome(delivery, **ends[way]))
    marked(engine, consumer)
    match way:
        case "give back" | "requeue" | "delayed":
            settle(other, outcome(delivery, **ends[way]))
        case "agent":
            engine.give_back(other.owner.name, [("q", delivery.token)])
        case "release":
            engine.release(other.owner.name, {delivery.token: Loss()})
        case "recover":
            engine.recover("host", lambda pid, started: pid != 2)
        case "close":
            other.close()
        case "unpark":
            engine.limit_rate("t", None)
        case "replay":
            engine.replay()
    assert ids_of(claim(consumer)) == ["early"]


def test_what_goes_back_comes_first_and_in_order(engine: Engine, consumer: PostgresConsumer) -> None:
    engine.beat(node("other"))
    other = engine.attach(incarnation("other"))
    engine.publish(pubs("abc"))
    first = claim(other, 2)
    engine.publish(pubs("def"))
    for _ in range(4):  # raises the marks with messages in line
        given = claim(consumer, 1)
        settle(consumer, *[outcome(delivery, Verdict.GIVE_BACK) for delivery in given])
    settle(other, *[outcome(delivery, Verdict.GIVE_BACK) for delivery in reversed(first)])
    assert drain(consumer) == list("abcdef")


@pytest.mark.parametrize("twophase", [False, True])
def test_a_place_taken_long_before_its_commit_is_found(
    engine: Engine, consumer: PostgresConsumer, postgres_server: PostgresServer, twophase: bool
) -> None:
    marked(engine, consumer)
    with psycopg.connect(postgres_server.url()) as connection:
        if twophase:
            connection.tpc_begin("slow")
        engine.publish_within(connection, [pub("slow")])
        if twophase:
            connection.tpc_prepare()
        engine.publish(pubs("ab"))
        assert drain(consumer) == ["a", "b"]
        for _ in range(4):
            claim(consumer)
        if twophase:
            connection.tpc_commit()
        else:
            connection.commit()
    assert drain(consumer) == ["slow"]


def test_a_claim_that_is_rolled_back_is_found(
    engine: Engine, consumer: PostgresConsumer, postgres_server: PostgresServer
) -> None:
    marked(engine, consumer)
    engine.publish(pubs("abc"))
    with psycopg.connect(postgres_server.url()) as connection:
        connection.execute(
            "UPDATE celeriac.message SET state = 1, owner = -1, token = 1 WHERE state = 0 AND id = "
            "(SELECT min(id) FROM celeriac.message WHERE state = 0)"
        )
        assert drain(consumer) == ["b", "c"]
        for _ in range(4):
            claim(consumer)
        connection.rollback()
    assert drain(consumer) == ["a"]


def test_marks_of_one_queue_do_not_hide_another(engine: Engine, consumer: PostgresConsumer) -> None:
    marked(engine, consumer, ["q", "r"])
    engine.publish([pub("low", "q"), pub("high", "r", priority=9), pub("new", "q", priority=7)])
    engine.publish([pub("old", "s", due=time.time() - 50)])
    assert ids_of(claim(consumer, queues=["q", "r"])) == ["high", "new", "low"]
    assert ids_of(claim(consumer, queues=["q", "r", "s"])) == ["old"]


def test_lanes_come_in_order_whatever_is_marked(engine: Engine, consumer: PostgresConsumer) -> None:
    marked(engine, consumer)
    order = [9, 8, 5, 4, 0, -1]
    engine.publish([pub(f"p{priority}", priority=priority) for priority in reversed(order)])
    assert ids_of(claim(consumer)) == [f"p{priority}" for priority in order]


def test_marks_are_forgotten_in_time(
    engine: Engine,
    consumer: PostgresConsumer,
    postgres_server: PostgresServer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """So that even what somebody has put below one against the rules is found."""
    marked(engine, consumer)
    engine.publish(pubs("a"))
    postgres_server.run("UPDATE celeriac.message SET seq = 1")
    assert claim(consumer) == []
    monkeypatch.setattr(consumer._marks, "_forget_at", 0.0)
    assert ids_of(claim(consumer)) == ["a"]


def test_who_finds_nothing_is_called_without_another_step(
    engine: Engine, consumer: PostgresConsumer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first message after a quiet time takes one statement of the publisher's, no look."""
    consumer.wait(["q"], 0.0)  # opens the connection that listens
    statements: list[str] = []
    run = Connection.run

    def counted(self: Connection, sql: str, *rest: Any, **options: Any) -> list[tuple[Any, ...]]:
        statements.append(sql)
        return run(self, sql, *rest, **options)

    monkeypatch.setattr(marks, "WORTH", 10**9)
    monkeypatch.setattr(sleeping, "FIRST_LOOK", 20.0)
    monkeypatch.setattr(sleeping, "RECHECK", 20.0)
    monkeypatch.setattr(Connection, "run", counted)
    assert claim(consumer) == []
    engine.publish([pub("a")])
    assert consumer.wait(["q"], 30.0) is True
    (delivery,) = claim(consumer)
    assert consumer.exchange([outcome(delivery)], ["q"], 10).deliveries == []
    engine.publish([pub("b")])
    assert consumer.wait(["q"], 30.0) is True
    assert ["exchange" if "@exchange" in sql else "add" for sql in statements if "@look" not in sql] == [
        "exchange", "add", "exchange", "exchange", "add"
    ]  # fmt: skip
    assert not [sql for sql in statements if "@look" in sql]


def test_an_old_list_entry_is_made_anew(engine: Engine, consumer: PostgresConsumer) -> None:
    """Callers look at young entries only."""
    consumer.wait(["q"], 0.0)
    assert claim(consumer) == []
    first = consumer._sleeper.entry
    assert first
    old = first - (3 * 1_000_000 << 10)
    consumer._connection.run("UPDATE @waiter SET id = %s WHERE id = %s", (old, first))
    consumer._sleeper.entry = old
    assert consumer.wait(["q"], 0.01) is False
    assert consumer._sleeper.entry
    assert consumer._sleeper.entry > first
    engine.publish([pub("a")])
    assert consumer.wait(["q"], 30.0) is True
