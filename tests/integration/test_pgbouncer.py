"""Workers and clients through a real PgBouncer in transaction mode, and what of it there is to know."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from celeriac import Celeriac, group
from celeriac.contrib.conformance.helpers import (
    claim,
    drain,
    ids_of,
    incarnation,
    node,
    outcome,
    pub,
    pubs,
    record,
)
from celeriac.engines import create
from celeriac.engines.base import Engine
from tests.integration.conftest import Site
from tests.pgbouncer import PgBouncer
from tests.servers import PostgresServer

MARK = "tests.integration.project.mark"


@pytest.fixture(scope="module")
def pool(postgres_server: PostgresServer) -> Iterator[PgBouncer]:
    with PgBouncer(postgres_server) as pool:
        yield pool


@pytest.fixture(params=["polling", "listening"])
def url(request: pytest.FixtureRequest, pool: PgBouncer) -> str:
    pool.server.empty()
    if request.param == "polling":
        return pool.url(poll="0.1")
    return pool.url(listen=f"127.0.0.1:{pool.server.port}", poll="20")


@pytest.fixture
def engine(url: str) -> Iterator[Engine]:
    made = create(url)
    yield made
    made.close()


def test_tasks_run_and_results_arrive(url: str, tmp_path: Path) -> None:
    site = Site(url, tmp_path)
    try:
        site.worker("-c", "2")
        for _ in range(3):  # an idle worker and a client without results: both are to be woken
            started = time.monotonic()
            assert site.app.send_task(MARK, ("one",)).get(timeout=30) == "one"
            assert time.monotonic() - started < 15  # below the listener's poll
        sent = [f"t{number}" for number in range(200)]
        handles = [site.app.send_task(MARK, (text,)) for text in sent]
        assert [handle.get(timeout=60) for handle in handles] == sent
        later = site.app.send_task(MARK, ("later",), countdown=0.3)
        assert later.get(timeout=30) == "later"
        header = group(site.app.signature(MARK, (text,)) for text in "abc")
        assert header.apply_async().get(timeout=30) == list("abc")
        assert site.app.broker.depth(["celery"])["celery"][:4] == (0, 0, 0, 0)
    finally:
        site.close()


def test_many_consumers_share_few_sessions(engine: Engine) -> None:
    engine.beat(node())
    consumers = [engine.attach(incarnation(child=number)) for number in range(8)]
    engine.publish([pub(str(number)) for number in range(400)])
    done: list[str] = []
    answers = [claim(consumer, 10) for consumer in consumers]
    while any(answers):
        for number, consumer in enumerate(consumers):
            outcomes = [outcome(one, result=record(ids_of([one])[0])) for one in answers[number]]
            done += ids_of(answers[number])
            answers[number] = consumer.exchange(outcomes, ["q"], 10).deliveries
    assert sorted(done, key=int) == [str(number) for number in range(400)]
    assert len(engine.fetch(done)) == 400
    for consumer in consumers:
        consumer.close()


def test_a_message_is_stored_by_the_applications_transaction(url: str, pool: PgBouncer) -> None:
    app = Celeriac("pooled", broker=url, set_as_current=False)
    through = pool.url().partition("?")[0]
    try:
        with psycopg.connect(through, prepare_threshold=None) as connection:
            app.send_task("add", (1, 2), task_id="kept", connection=connection)
            app.send_task("add", (1, 2), task_id="also", connection=connection)
            connection.commit()
            app.send_task("add", (1, 2), task_id="not", connection=connection)
            connection.rollback()
        consumer = app.broker.attach(incarnation())
        assert drain(consumer, ["celery"]) == ["kept", "also"]
        consumer.close()
    finally:
        app.close()


def test_effects_commit_with_the_acknowledgement(url: str, pool: PgBouncer) -> None:
    engine = create(url)
    pool.server.run("DROP TABLE IF EXISTS effect; CREATE TABLE effect (number int)")
    try:
        consumer = engine.attach(incarnation())
        engine.publish(pubs("ab"))
        for text, delivery in zip("ab", claim(consumer), strict=True):
            lease = (consumer.owner.name, "q", delivery.token)
            transaction = engine.transaction(lease)  # type: ignore[attr-defined]
            transaction.connection.execute("INSERT INTO effect VALUES (%s)", (ord(text),))
            if text == "a":
                assert transaction.commit(outcome(delivery, result=record(text))) == []
            else:
                transaction.roll_back()
        assert pool.server.run("SELECT number FROM effect") == [(ord("a"),)]
        assert engine.depth(["q"])["q"].leased == 1
        consumer.close()
    finally:
        engine.close()
