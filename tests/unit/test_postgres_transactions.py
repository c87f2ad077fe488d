"""Messages stored in the application's own transaction, and tasks whose effects commit with their result."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import psycopg
import pytest

from celeriac import Celeriac, group, signals
from celeriac.contrib.conformance.helpers import claim, drain, eventually, incarnation, record
from celeriac.engines.base import Consumer, Delivery, Verdict
from celeriac.engines.postgres import transaction
from celeriac.exceptions import ImproperlyConfigured, OperationalError
from celeriac.worker.line import Line
from celeriac.worker.runner import Runner
from tests.servers import PostgresServer

Opened = tuple[Any, Callable[[], None], Callable[[], None]]
"""A connection, and how it commits and rolls back."""


@pytest.fixture
def app(postgres_server: PostgresServer) -> Iterator[Celeriac]:
    postgres_server.empty()
    postgres_server.run("DROP TABLE IF EXISTS effect; CREATE TABLE effect (number int)")
    app = Celeriac("transactions", broker=postgres_server.url(), set_as_current=False)

    @app.task(name="add")
    def add(x: int, y: int) -> int:
        return x + y

    @app.task(name="effect", bind=True, transactional=True)
    def effect(self: Any, number: int, then: str = "") -> Any:
        connection = self.request.connection
        connection.execute("INSERT INTO effect VALUES (%s)", (number,))
        if number < 0:
            raise ValueError("negative")
        if then == "pass over an error":
            with suppress(psycopg.Error):
                connection.execute("SELECT 1 / 0")
        elif then == "return what cannot be stored":
            return object()
        elif then == "want other rows":
            connection.row_factory = psycopg.rows.dict_row
        elif then:
            connection.execute(then) if then != "close" else connection.close()
        return number

    yield app
    app.close()


@contextmanager
def by_psycopg(url: str) -> Iterator[Opened]:
    with psycopg.connect(url) as connection:
        yield connection, connection.commit, connection.rollback


@contextmanager
def by_psycopg_with_its_own_rows(url: str) -> Iterator[Opened]:
    with psycopg.connect(url, row_factory=psycopg.rows.dict_row) as connection:
        connection.cursor_factory = psycopg.RawCursor
        yield connection, connection.commit, connection.rollback


@contextmanager
def by_sqlalchemy_session(url: str) -> Iterator[Opened]:
    from sqlalchemy import create_engine
    from sqlalchemy.orm import Session

    engine = create_engine(url.replace("postgresql:", "postgresql+psycopg:"))
    with Session(engine) as session:
        yield session, session.commit, session.rollback
    engine.dispose()


@contextmanager
def by_sqlalchemy_connection(url: str) -> Iterator[Opened]:
    from sqlalchemy import create_engine

    engine = create_engine(url.replace("postgresql:", "postgresql+psycopg:"))
    with engine.connect() as connection:
        yield connection, connection.commit, connection.rollback
    engine.dispose()


@contextmanager
def by_django(url: str) -> Iterator[Opened]:
    from django.db.backends.postgresql.base import DatabaseWrapper

    parts = psycopg.conninfo.conninfo_to_dict(url)
    settings = {
        "NAME": parts["dbname"], "USER": parts["user"], "PASSWORD": parts["password"], "HOST": parts["host"],
        "PORT": parts["port"], "OPTIONS": {}, "AUTOCOMMIT": False, "TIME_ZONE": None, "CONN_MAX_AGE": 0,
        "CONN_HEALTH_CHECKS": False, "ATOMIC_REQUESTS": False,
    }  # fmt: skip
    from django.conf import settings as django_settings

    if not django_settings.configured:
        django_settings.configure(USE_TZ=True, DEBUG=False)
    connection = DatabaseWrapper(settings)
    yield connection, connection.commit, connection.rollback
    connection.close()


WAYS = [by_psycopg, by_psycopg_with_its_own_rows, by_sqlalchemy_session, by_sqlalchemy_connection, by_django]


@pytest.mark.parametrize("way", WAYS)
def test_a_call_is_there_when_the_application_commits(
    app: Celeriac, postgres_server: PostgresServer, way: Callable[[str], Any]
) -> None:
    add = app.tasks["add"]
    with way(postgres_server.url()) as (connection, commit, rollback):
        add.apply_async((1, 2), connection=connection, task_id="undone")
        rollback()
        add.apply_async((1, 2), connection=connection, task_id="now")
        add.apply_async((1, 2), connection=connection, task_id="later", countdown=1000)
        add.apply_async((1, 2), connection=connection, task_id="single", unique_for=100)
        assert app.broker.depth(["celery"])["celery"][:2] == (0, 0)
        commit()
    assert app.broker.depth(["celery"])["celery"][:2] == (2, 1)
    assert add.apply_async((1, 2), unique_for=100).duplicate
    consumer = app.broker.attach(incarnation())
    assert drain(consumer, ["celery"]) == ["now", "single"]
    consumer.close()


def test_a_group_and_many_calls_go_with_the_transaction(
    app: Celeriac, postgres_server: PostgresServer
) -> None:
    add = app.tasks["add"]
    with psycopg.connect(postgres_server.url()) as connection:
        group(add.s(1, 1), add.s(2, 2)).apply_async(connection=connection)
        add.enqueue_many([(1, 1), (2, 2), (3, 3)], connection=connection)
        assert app.broker.depth(["celery"])["celery"].ready == 0
        connection.rollback()
        assert app.broker.depth(["celery"])["celery"].ready == 0
        group(add.s(1, 1), add.s(2, 2)).apply_async(connection=connection)
    assert app.broker.depth(["celery"])["celery"].ready == 2


def test_a_sleeping_consumer_hears_of_the_commit(app: Celeriac, postgres_server: PostgresServer) -> None:
    import threading

    consumer = app.broker.attach(incarnation())
    woken: list[bool] = []
    thread = threading.Thread(target=lambda: woken.append(consumer.wait(["celery"], 30)))
    thread.start()
    eventually(lambda: postgres_server.run("SELECT 1 FROM celeriac.waiter"))
    with psycopg.connect(postgres_server.url()) as connection:
        app.tasks["add"].apply_async((1, 2), connection=connection)
        assert not woken
    thread.join()
    assert woken == [True]
    consumer.close()


def test_another_store_or_thing_is_refused_with_the_remedy(app: Celeriac, tmp_path: Any) -> None:
    other = Celeriac("other", broker=f"sqlite:///{tmp_path}/x.db", set_as_current=False)
    with pytest.raises(TypeError, match="connection= is not supported on sqlite"):
        other.send_task("add", (1, 2), connection=object())
    with pytest.raises(TypeError, match="is no open connection to PostgreSQL"):
        app.send_task("add", (1, 2), connection=object())
    other.close()


# -- transactional tasks -----------------------------------------------------------------------------------


@pytest.fixture
def consumer(app: Celeriac) -> Iterator[Consumer]:
    consumer = app.broker.attach(incarnation())
    yield consumer
    consumer.close()


def begun(app: Celeriac, consumer: Consumer, number: int, then: str = "") -> tuple[Runner, Delivery]:
    args = (number, then) if then else (number,)
    app.tasks["effect"].apply_async(args, task_id=f"effect {number}")
    (delivery,) = claim(consumer, 1, ["celery"])
    return Runner(app, "w@h", consumer.owner.name, max_deliveries=3), delivery


def effects(server: PostgresServer) -> list[object]:
    return [number for (number,) in server.run("SELECT number FROM effect")]


def test_effects_result_and_ack_commit_together(
    app: Celeriac, consumer: Consumer, postgres_server: PostgresServer
) -> None:
    runner, delivery = begun(app, consumer, 7)
    outcome = runner.run(runner.prepare(delivery))  # type: ignore[arg-type]
    assert outcome.settled
    assert effects(postgres_server) == [7]
    assert app.AsyncResult("effect 7").get(timeout=5) == 7
    assert [one.result for one in app.history("effect 7")] == ["7"]
    assert app.broker.depth(["celery"])["celery"][:3] == (0, 0, 0)


def test_what_follows_is_told_of(app: Celeriac, consumer: Consumer) -> None:
    told: list[str] = []

    def tell(sender: Any = None, **more: Any) -> None:
        told.append(sender)

    app.send_task("effect", (7,), task_id="effect 7", link=app.signature("add", (1,)))
    (delivery,) = claim(consumer, 1, ["celery"])
    runner = Runner(app, "w@h", consumer.owner.name, max_deliveries=3)
    outcome = runner.run(runner.prepare(delivery))  # type: ignore[arg-type]
    assert outcome.settled
    line = Line(app, incarnation("line"), ["celery"])
    signals.after_task_publish.connect(tell)
    try:
        line.exchange([outcome], 0)
    finally:
        signals.after_task_publish.disconnect(tell)
        line.close()
    assert told == ["add"]


def test_an_async_function_is_refused_where_it_is_written(app: Celeriac) -> None:
    with pytest.raises(ImproperlyConfigured, match=r"later is transactional: .* must not be async"):

        @app.task(name="later", transactional=True, lazy=False)
        async def later() -> None: ...


def test_a_failure_undoes_the_effects(
    app: Celeriac, consumer: Consumer, postgres_server: PostgresServer
) -> None:
    runner, delivery = begun(app, consumer, -1)
    outcome = runner.run(runner.prepare(delivery))  # type: ignore[arg-type]
    assert not outcome.settled
    assert effects(postgres_server) == []
    consumer.exchange([outcome], ["celery"], 0)
    assert app.AsyncResult("effect -1").state == "FAILURE"


def test_a_lost_lease_undoes_the_effects(
    app: Celeriac, consumer: Consumer, postgres_server: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    runner, delivery = begun(app, consumer, 7)
    job = runner.prepare(delivery)
    effect = job.plan.call  # type: ignore[union-attr]

    def meanwhile(number: int) -> int:
        value = effect(number)
        assert app.broker.give_back(consumer.owner.name, [("celery", delivery.token)]) == 1
        return int(value)

    job.plan.call = meanwhile  # type: ignore[union-attr]
    outcome = runner.run(job)  # type: ignore[arg-type]
    assert outcome.settled, "nothing is left to be done here"
    assert effects(postgres_server) == []
    assert app.AsyncResult("effect 7").state != "SUCCESS"
    assert app.history("effect 7") == []
    assert app.broker.depth(["celery"])["celery"].ready == 1


def test_a_session_that_breaks_gives_the_message_back(
    app: Celeriac, consumer: Consumer, postgres_server: PostgresServer
) -> None:
    runner, delivery = begun(app, consumer, 7)
    job = runner.prepare(delivery)
    effect = job.plan.call  # type: ignore[union-attr]

    def cut(number: int) -> int:
        value = effect(number)
        pid = job.context.connection.info.backend_pid  # type: ignore[union-attr]
        postgres_server.run(f"SELECT pg_terminate_backend({pid}, 5000)")
        return int(value)

    job.plan.call = cut  # type: ignore[union-attr]
    outcome = runner.run(job)  # type: ignore[arg-type]
    assert outcome.verdict is Verdict.GIVE_BACK
    assert effects(postgres_server) == []
    assert consumer.exchange([outcome], ["celery"], 0).refused == []
    assert app.broker.depth(["celery"])["celery"].ready == 1


def test_a_commit_whose_answer_is_lost_counts(
    app: Celeriac, consumer: Consumer, postgres_server: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    runner, delivery = begun(app, consumer, 7)
    job = runner.prepare(delivery)
    effect = job.plan.call  # type: ignore[union-attr]

    def lose_the_answer(number: int) -> int:
        connection = job.context.connection  # type: ignore[union-attr]
        execute = connection.execute

        def executed(sql: Any, *arguments: Any) -> Any:
            cursor = execute(sql, *arguments)
            if sql == "COMMIT":
                connection.pgconn.finish()
                raise psycopg.OperationalError("server closed the connection unexpectedly")
            return cursor

        value = effect(number)
        connection.execute = executed
        return int(value)

    job.plan.call = lose_the_answer  # type: ignore[union-attr]
    outcome = runner.run(job)  # type: ignore[arg-type]
    assert outcome.settled
    assert effects(postgres_server) == [7]
    assert app.AsyncResult("effect 7").get(timeout=5) == 7


@pytest.mark.parametrize(
    ("then", "left", "error"),
    [
        ("COMMIT", [7], "must leave its transaction open"),
        ("ROLLBACK", [], "must leave its transaction open"),
        ("close", [], "must leave its transaction open"),
        ("pass over an error", [], "must leave its transaction open"),
        ("INSERT INTO effect VALUES (7)", [], "duplicate key value"),
        ("return what cannot be stored", [], "EncodeError"),
    ],
)
def test_what_can_never_be_committed_is_a_failure(
    app: Celeriac, consumer: Consumer, postgres_server: PostgresServer, then: str, left: list[int], error: str
) -> None:
    postgres_server.run("ALTER TABLE effect ADD UNIQUE (number) DEFERRABLE INITIALLY DEFERRED")
    runner, delivery = begun(app, consumer, 7, then)
    outcome = runner.run(runner.prepare(delivery))  # type: ignore[arg-type]
    assert (outcome.verdict, outcome.settled) == (Verdict.ACK, False), "given back, it would run for ever"
    assert effects(postgres_server) == left
    assert consumer.exchange([outcome], ["celery"], 0).refused == []
    result = app.AsyncResult("effect 7")
    assert result.state == "FAILURE"
    assert error in result.traceback


def test_the_task_may_choose_its_rows(
    app: Celeriac, consumer: Consumer, postgres_server: PostgresServer
) -> None:
    runner, delivery = begun(app, consumer, 7, "want other rows")
    assert runner.run(runner.prepare(delivery)).settled  # type: ignore[arg-type]
    assert effects(postgres_server) == [7]


def test_a_task_begins_when_the_store_is_back(
    app: Celeriac, consumer: Consumer, postgres_server: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    runner, delivery = begun(app, consumer, 7)
    opened, tries = app.broker.transaction, []  # type: ignore[attr-defined]

    def away_at_first(lease: Any) -> Any:
        tries.append(lease)
        if len(tries) < 3:
            raise OperationalError("the server starts")
        return opened(lease)

    monkeypatch.setattr(app.broker, "transaction", away_at_first)
    assert runner.run(runner.prepare(delivery)).settled  # type: ignore[arg-type]
    assert effects(postgres_server) == [7]


def test_one_that_stands_still_while_it_commits_holds_nobody_up_for_long(
    app: Celeriac, consumer: Consumer, postgres_server: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    runner, delivery = begun(app, consumer, 7)
    monkeypatch.setattr(transaction, "LET_GO", transaction.LET_GO.replace("5000", "200"))
    settle = transaction.settle

    def freeze(*arguments: Any) -> Any:
        settled = settle(*arguments)
        # Whoever would take the lease over is let in while we stand still.
        assert app.broker.release(consumer.owner.name, {}) == 1
        return settled

    monkeypatch.setattr(transaction, "settle", freeze)
    runner.run(runner.prepare(delivery))  # type: ignore[arg-type]
    assert effects(postgres_server) == []
    assert app.broker.depth(["celery"])["celery"].ready == 1


def test_the_store_keeps_no_lock_while_the_task_runs(
    app: Celeriac, consumer: Consumer, postgres_server: PostgresServer
) -> None:
    _, delivery = begun(app, consumer, 7)
    running = app.broker.transaction((consumer.owner.name, "celery", delivery.token))  # type: ignore[attr-defined]
    app.broker.store([record("other")])  # type: ignore[attr-defined]
    assert app.broker.release(consumer.owner.name, {}) == 1
    running.roll_back()
