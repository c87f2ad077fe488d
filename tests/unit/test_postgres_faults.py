"""The PostgreSQL engine when connections, server, rights or disk fail, and behind a connection pool."""

from __future__ import annotations

import os
import secrets
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

import psycopg
import pytest

from celeriac.contrib.conformance.helpers import (
    claim,
    drain,
    eventually,
    ids_of,
    incarnation,
    node,
    outcome,
    pub,
    pubs,
    record,
    settle,
)
from celeriac.contrib.conformance.listening import Node
from celeriac.engines import create
from celeriac.engines.base import Consumer, Outcome, Unique, Verdict
from celeriac.engines.history import Attempt
from celeriac.engines.postgres import PostgresEngine, step
from celeriac.engines.remote import Order
from celeriac.engines.schedule import Entry
from celeriac.exceptions import EncodeError, ImproperlyConfigured, OperationalError, StoreFull
from tests.proxy import Proxy
from tests.servers import PostgresServer


def opened(url: str, **options: object) -> PostgresEngine:
    engine = create(url, options)
    assert isinstance(engine, PostgresEngine)
    return engine


def cut_all(server: PostgresServer) -> None:
    """End every session of the engine's, as an administrator would."""
    server.run(
        "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE application_name = 'celeriac'"
    )


@pytest.fixture
def server(postgres_server: PostgresServer) -> PostgresServer:
    postgres_server.empty()
    return postgres_server


@pytest.fixture
def proxy(server: PostgresServer) -> Iterator[Proxy]:
    with Proxy(server.host, server.port) as proxy:
        yield proxy


@pytest.fixture
def engine(server: PostgresServer, proxy: Proxy) -> Iterator[PostgresEngine]:
    engine = opened(server.url().replace(str(server.port), str(proxy.port)))
    yield engine
    engine.close()


@pytest.fixture
def consumer(engine: PostgresEngine) -> Iterator[Consumer]:
    consumer = engine.attach(incarnation())
    yield consumer
    consumer.close()


# -- processes -------------------------------------------------------------------------------------------


def test_a_process_that_stands_still_in_mid_step_holds_nobody_up_for_long(
    server: PostgresServer, engine: PostgresEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    frozen, stack = opened(server.url()), ExitStack()
    with monkeypatch.context() as sooner:
        sooner.setattr(step, "LET_GO", step.LET_GO.replace("5000", "1000"))
        work = stack.enter_context(step.step(frozen._store))
    work.lock("recovery")
    assert engine.recover("elsewhere", lambda pid, started: True) == []
    with pytest.raises(OperationalError, match="stood still") as raised:
        stack.close()
    assert not raised.value.maybe_done
    assert frozen.recover("elsewhere", lambda pid, started: True) == []
    frozen.close()


# -- connections -----------------------------------------------------------------------------------------


def test_a_session_that_ended_while_idle_is_opened_again_unnoticed(
    server: PostgresServer, engine: PostgresEngine, consumer: Consumer
) -> None:
    engine.publish(pubs("ab"))
    assert ids_of(claim(consumer, 1)) == ["a"]
    cut_all(server)
    time.sleep(0.05)  # older than what is taken to be alive without a look
    engine.publish([pub("c")])
    assert ids_of(claim(consumer)) == ["b", "c"]


def test_a_publish_whose_answer_is_lost_says_so_and_is_not_repeated(
    engine: PostgresEngine, proxy: Proxy
) -> None:
    engine.publish([pub("a")])
    proxy.drop_replies()
    with pytest.raises(OperationalError, match="before the answer came") as raised:
        engine.publish([pub("b")])
    assert raised.value.maybe_done
    assert [engine.depth(["q"])["q"].ready for _ in range(2)] == [2, 2]


def test_a_server_that_does_not_answer_is_given_up(server: PostgresServer, proxy: Proxy) -> None:
    engine = opened(server.url(port=proxy.port), socket_timeout=0.3, publish_timeout=0.2)
    consumer = engine.attach(incarnation())
    engine.publish([pub("a")])
    assert ids_of(claim(consumer)) == ["a"]
    proxy.black_hole()
    with pytest.raises(OperationalError, match=r"no answer within 0.201 s") as raised:
        engine.publish([pub("b")])
    assert raised.value.maybe_done
    with pytest.raises(OperationalError, match=r"no answer within 0.3 s"):
        claim(consumer)
    proxy.black_hole(False)
    proxy.cut()
    assert not consumer.repeat().deliveries  # what was sent into the hole never arrived
    consumer.close()
    engine.close()


def test_a_task_s_own_statements_may_take_longer_than_any_answer(server: PostgresServer) -> None:
    engine = opened(server.url(), socket_timeout=0.3)
    consumer = engine.attach(incarnation())
    engine.publish([pub("a")])
    (delivery,) = claim(consumer)
    transaction = engine.transaction((consumer.owner.name, "q", delivery.token))
    assert transaction is not None
    assert transaction.connection.execute("SELECT pg_sleep(0.8), 1").fetchall()[0][1] == 1
    assert transaction.commit(outcome(delivery)) == []
    consumer.close()
    engine.close()


def test_a_publish_that_cannot_connect_was_not_done(engine: PostgresEngine, proxy: Proxy) -> None:
    engine.publish([pub("a")])
    engine.close()
    proxy.refuse = True
    with pytest.raises(OperationalError, match="cannot be reached") as raised:
        engine.publish([pub("b")])
    assert not raised.value.maybe_done
    proxy.refuse = False
    assert engine.depth(["q"])["q"].ready == 1


def test_a_settle_whose_answer_is_lost_takes_effect_once(
    engine: PostgresEngine, consumer: Consumer, proxy: Proxy
) -> None:
    engine.publish(pubs("abc"))
    (first,) = claim(consumer, 1)
    proxy.drop_replies()
    with pytest.raises(OperationalError):
        consumer.exchange([outcome(first, result=record("a"))], ["q"], 1)
    answer = consumer.repeat()
    assert answer.refused == []
    assert ids_of(answer.deliveries) == ["b"]
    assert engine.depth(["q"])["q"][:3] == (1, 0, 1)
    assert settle(consumer, outcome(answer.deliveries[0])) == []


def test_an_exchange_of_many_statements_that_is_cut_takes_effect_once(
    server: PostgresServer, engine: PostgresEngine, consumer: Consumer, proxy: Proxy
) -> None:
    engine.publish(pubs("ab"))
    first, second = claim(consumer)
    outcomes = [outcome(first, Verdict.DELAY, delay=1000.0), outcome(second, publications=[pub("c")])]
    for _ in range(3):
        proxy.drop_replies()
        with pytest.raises(OperationalError):
            consumer.exchange(outcomes, ["q"], 0) if _ == 0 else consumer.repeat()
    assert consumer.repeat().refused == []
    assert engine.depth(["q"])["q"][:3] == (1, 1, 0)


def test_a_consumer_sleeps_on_when_its_listening_connection_breaks(
    server: PostgresServer, engine: PostgresEngine, consumer: Consumer
) -> None:
    assert not consumer.wait(["q"], 0.01)
    cut_all(server)
    time.sleep(0.05)
    engine.publish([pub("a")])
    assert consumer.wait(["q"], 5)
    assert ids_of(claim(consumer)) == ["a"]


def test_results_are_announced_after_the_listening_connection_broke(
    server: PostgresServer, engine: PostgresEngine
) -> None:
    got: list[str] = []
    subscription = engine.subscribe(["a", "b"], lambda id, payload: got.append(id))
    engine.store([record("a")])
    eventually(lambda: got == ["a"])
    cut_all(server)
    time.sleep(0.05)
    engine.store([record("b")])
    eventually(lambda: got == ["a", "b"])
    subscription.close()


def test_a_short_success_comes_with_its_announcement(
    server: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = opened(server.url(), poll=60.0)
    got: dict[str, bytes] = {}
    read: list[str] = []
    fetch = engine._listener._fetch

    def fetched(ids: Sequence[str]) -> dict[str, bytes]:
        read.extend(ids)
        return fetch(ids)

    monkeypatch.setattr(engine._listener, "_fetch", fetched)
    records = [
        record("short\nid"), record("failed", "FAILURE"), record("long", value="x" * 6000), record("id" * 600)
    ]  # fmt: skip
    ids = [one.id for one in records]
    subscription = engine.subscribe(ids, got.__setitem__)
    eventually(lambda: set(read) == set(ids))  # it listens, and has looked once
    read.clear()
    for one in records:
        engine.store([one])
    eventually(lambda: len(got) == len(ids))
    assert got == {one.id: one.payload for one in records}
    assert set(read) == {"failed", "long", "id" * 600}
    subscription.close()
    engine.close()


def test_a_forked_child_uses_sessions_of_its_own(engine: PostgresEngine) -> None:
    engine.publish([pub("a")])
    child = os.fork()
    if child == 0:
        status = 1
        try:
            engine.publish([pub("b")])
            engine.close()
            status = 0
        finally:
            os._exit(status)
    assert os.waitpid(child, 0)[1] == 0
    engine.publish([pub("c")])
    assert engine.depth(["q"])["q"].ready == 3


def test_who_sleeps_is_called_once_however_many_messages_come(
    server: PostgresServer, engine: PostgresEngine, consumer: Consumer
) -> None:
    woken: list[bool] = []
    claim(consumer)
    sleeper = threading.Thread(target=lambda: woken.append(consumer.wait(["q"], 30)))
    sleeper.start()
    eventually(lambda: server.run("SELECT channel FROM celeriac.waiter"))
    ((channel,),) = server.run("SELECT channel FROM celeriac.waiter")
    with psycopg.connect(server.url(), autocommit=True) as listener:
        listener.execute(f'LISTEN "{channel}"')
        for number in range(50):
            engine.publish([pub(str(number))])
        sleeper.join(30)
        assert woken == [True]
        listener.execute("SELECT 1")  # what was sent before has arrived with the answer
        assert len(list(listener.notifies(timeout=0))) == 1


# -- the server ------------------------------------------------------------------------------------------


def test_nothing_acknowledged_is_lost_when_the_server_crashes() -> None:
    with PostgresServer(durable=True) as server:
        engine = opened(server.url())
        consumer = engine.attach(incarnation())
        engine.publish(pubs("abcd"))
        first, second = claim(consumer, 2)
        consumer.exchange([outcome(first, result=record("a"))], ["q"], 0)
        server.kill()
        with pytest.raises(OperationalError):
            consumer.exchange([outcome(second, result=record("b"))], ["q"], 1)
        with pytest.raises(OperationalError, match="cannot be reached"):
            engine.publish([pub("x")])
        server.start()
        answer = consumer.repeat()
        assert answer.refused == []
        assert set(engine.fetch("abcd")) == {"a", "b"}
        assert answer.deliveries[0].token > second.token, "tokens never go back"
        assert [*ids_of(answer.deliveries), *drain(consumer)] == ["c", "d"]
        server.shut_down()
        with pytest.raises(OperationalError, match=r"cannot be reached|shuts down"):
            engine.publish([pub("x")])
        engine.close()


@pytest.mark.parametrize("unique", [None, Unique("k", 60.0)], ids=["plain", "unique"])
def test_a_publish_is_on_disk_though_workers_commits_need_not_be(unique: Unique | None) -> None:
    with PostgresServer(durable=True) as server:
        engine = opened(server.url(synchronous_commit="off"))
        consumer = engine.attach(incarnation())
        claim(consumer)
        with psycopg.connect(server.url()) as connection:
            found = connection.execute("SELECT pid FROM pg_stat_activity WHERE backend_type = 'walwriter'")
            (writer,) = found.fetchone() or (0,)
        os.kill(writer, signal.SIGSTOP)  # it would bring to the disk what nobody waits for
        engine.publish([pub("a", unique=unique)])
        server.kill()
        server.start()
        assert ids_of(claim(consumer)) == ["a"]
        engine.close()


def test_tokens_grow_over_the_loss_of_everything(server: PostgresServer, engine: PostgresEngine) -> None:
    """As after a failover that lost the last writes: they are made of the server's clock."""
    tokens = []
    for epoch in (1, 2):
        consumer = engine.attach(incarnation(epoch=epoch))
        engine.publish([pub("a")])
        tokens += [delivery.token for delivery in claim(consumer)]
        engine.close()
        server.empty()
    assert tokens == sorted(set(tokens))
    assert len(tokens) == 2


def test_what_cannot_be_opened_is_named_with_a_remedy(server: PostgresServer) -> None:
    def error(url: str) -> str:
        engine = opened(url)
        with pytest.raises(OperationalError) as raised:
            engine.publish([pub("a")])
        assert not raised.value.maybe_done
        assert "secret" not in str(raised.value)
        return str(raised.value)

    assert "no such database. Create it" in error(server.url("missing"))
    assert "password is wrong" in error(server.url().replace(":secret@", ":secret1@"))
    assert "password is wrong or missing" in error(server.url().replace(":secret@", "@"))
    assert "do not agree about TLS" in error(server.url(sslmode="require"))
    server.run("DROP ROLE IF EXISTS guest; CREATE ROLE guest NOLOGIN PASSWORD 'secret'")
    assert "may not connect" in error(server.url().replace("celeriac:", "guest:"))
    assert "cannot be reached" in error("postgresql://me:secret@127.0.0.1:1/db")


def test_the_version_of_tables_that_may_not_be_read(server: PostgresServer, engine: PostgresEngine) -> None:
    engine.publish([pub("a")])
    server.run("DROP USER IF EXISTS stranger; CREATE USER stranger PASSWORD 'secret'")
    with pytest.raises(OperationalError, match="lacks a right"):
        opened(server.url().replace("celeriac:", "stranger:")).schema_versions()


def test_missing_rights_are_named(server: PostgresServer) -> None:
    server.run("DROP ROLE IF EXISTS poor; CREATE ROLE poor LOGIN PASSWORD 'secret'")
    url = server.url().replace("celeriac:", "poor:")
    for schema in ("elsewhere", "celeriac"):
        opened(server.url()).queues()
        with pytest.raises(OperationalError, match=r"lacks a right\. Grant it"):
            opened(f"{url}?schema={schema}").publish([pub("a")])


def test_a_user_without_create_gets_by_with_the_rights_that_the_docs_name(server: PostgresServer) -> None:
    opened(server.url()).queues()
    page = Path(__file__, "../../../docs/postgresql.md").resolve().read_text()
    granted = page.partition("```sql\n")[2].partition("```")[0]
    server.run(f"DROP ROLE IF EXISTS shop; CREATE ROLE shop LOGIN PASSWORD 'secret'; {granted}")
    engine = opened(server.url().replace("celeriac:", "shop:"))
    try:
        engine.beat(node())
        consumer = engine.attach(incarnation())
        engine.publish(pubs("abc"))
        first, second, third = claim(consumer)
        assert settle(consumer, outcome(first, result=record("a")), outcome(second, Verdict.REQUEUE)) == []
        consumer.exchange([outcome(third, Verdict.DEAD, reason="x")], ["q"], 0)
        assert drain(consumer) == ["b"]
        assert engine.replay() == 1
        assert not consumer.wait(["other"], 0.01)
        engine.put_entries([Entry("tick", b"{}", "code")])
        engine.note_attempts([Attempt("a", "task", "SUCCESS", "q", "w", 1.0)])
        engine.recover("elsewhere", lambda pid, started: True)
        engine.cleanup()
        engine.tell(Order("ping"))
        assert set(engine.fetch("a")) == {"a"}
        consumer.close()
    finally:
        engine.close()
        server.run("DROP OWNED BY shop; DROP ROLE shop")


def test_a_name_that_cannot_be_kept_is_refused(engine: PostgresEngine) -> None:
    with pytest.raises(EncodeError, match=r"NUL character cannot be kept\. Leave it out"):
        engine.publish([pub("a", "q\0")])
    with pytest.raises(EncodeError, match="NUL character"):
        engine.pause("q\0")
    engine.publish([pub("a")])  # the session is as good as before
    assert engine.depth(["q"])["q"].ready == 1


def test_a_name_too_long_is_refused(engine: PostgresEngine) -> None:
    with pytest.raises(EncodeError, match="too long for an index"):
        engine.store([record(secrets.token_hex(3000))])
    engine.publish([pub("a")])


def test_limits_of_the_user_s_are_named(server: PostgresServer, engine: PostgresEngine) -> None:
    engine.publish([pub("a")])
    engine.close()
    server.run(
        "ALTER ROLE celeriac SET statement_timeout = '300ms'; ALTER ROLE celeriac SET lock_timeout = '50ms'"
    )
    try:
        with (
            engine._store.borrowed() as connection,
            pytest.raises(OperationalError, match="statement_timeout is too short") as raised,
        ):
            connection.run("SELECT pg_sleep(5)")
        assert not raised.value.maybe_done
        with psycopg.connect(server.url()) as other:
            other.execute("LOCK TABLE celeriac.payload")
            with pytest.raises(OperationalError, match="within this user's lock_timeout"):
                engine.publish([pub("b")])
    finally:
        server.run("ALTER ROLE celeriac RESET ALL")
        engine.close()
    assert engine.depth(["q"])["q"].ready == 1


def test_a_server_that_shuts_down_is_named() -> None:
    with PostgresServer() as server:
        engine = opened(server.url())
        consumer = engine.attach(incarnation())
        assert claim(consumer) == []
        engine.publish([pub("a")])
        with psycopg.connect(server.url()):
            # The "smart" shutdown waits for those who are there, and lets nobody else in.
            assert server.process is not None
            server.process.send_signal(signal.SIGTERM)
            other = opened(server.url())
            said: list[OperationalError] = []

            def is_refused() -> bool:
                try:
                    other.queues()
                except OperationalError as error:
                    said.append(error)
                other.close()
                return bool(said)

            eventually(is_refused)
            assert not said[0].maybe_done
            assert "does not accept connections yet: it starts, stops or recovers" in str(said[0])
            assert drain(consumer) == ["a"]  # who is there goes on
        engine.close()


def test_a_read_only_server_is_named(server: PostgresServer, engine: PostgresEngine) -> None:
    engine.publish([pub("a")])
    server.run("ALTER DATABASE postgres SET default_transaction_read_only = on")
    try:
        engine.close()
        with pytest.raises(OperationalError, match=r"read-only: a standby.*target_session_attrs") as raised:
            engine.publish([pub("b")])
        assert not raised.value.maybe_done
        assert str(raised.value).endswith("in a read-only transaction)"), "and nothing of our functions"
    finally:
        server.run(
            "SET transaction_read_only = off; ALTER DATABASE postgres RESET default_transaction_read_only"
        )


def test_a_full_disk_is_store_full(engine: PostgresEngine, server: PostgresServer) -> None:
    engine.publish([pub("a")])
    server.run(
        """CREATE FUNCTION public.full_disk() RETURNS trigger LANGUAGE plpgsql AS
        $$ BEGIN RAISE EXCEPTION 'could not extend file' USING ERRCODE = '53100'; END $$;
        CREATE TRIGGER full_disk BEFORE INSERT ON celeriac.payload EXECUTE FUNCTION public.full_disk()"""
    )
    try:
        with pytest.raises(StoreFull, match="disk is full") as raised:
            engine.publish([pub("b")])
        assert not raised.value.maybe_done
    finally:
        server.run("DROP FUNCTION public.full_disk CASCADE")
    engine.publish([pub("c")])
    assert engine.depth(["q"])["q"].ready == 2


# -- pools -----------------------------------------------------------------------------------------------


def test_behind_a_pool_nothing_is_prepared_and_no_state_is_left(server: PostgresServer) -> None:
    engine = opened(server.url(pooled="true", poll="0.05"))
    consumer = engine.attach(incarnation())
    for _ in range(8):  # libpq's library prepares what comes a sixth time
        engine.publish(pubs("ab"))
        deliveries = claim(consumer)
        assert settle(consumer, *map(outcome, deliveries)) == []
        settle(consumer, Outcome(1, "q", Verdict.REQUEUE))
    handle = engine._store.open_handle()
    own = engine._store._idle[0].handle
    assert own is not None
    assert own.execute("SELECT count(*) FROM pg_prepared_statements").fetchall() == [(0,)]
    assert (
        own.execute("SHOW synchronous_commit").fetchall()
        == handle.execute("SHOW synchronous_commit").fetchall()
    )
    assert own.execute("SELECT count(*) FROM pg_listening_channels()").fetchall() == [(0,)]
    handle.close()
    engine.publish([pub("c")])
    assert consumer.wait(["q"], 5), "it looks by itself"
    consumer.close()
    engine.close()


def test_a_pool_s_server_is_listened_to_directly(server: PostgresServer) -> None:
    engine = opened(server.url(pooled="true", poll="60", listen=f"127.0.0.1:{server.port}"))
    consumer = engine.attach(incarnation())
    got: list[str] = []
    subscription = engine.subscribe(["a"], lambda id, payload: got.append(id))
    eventually(lambda: server.run("SELECT 1 FROM celeriac.listener"))
    time.sleep(0.1)
    engine.store([record("a")])
    eventually(lambda: got == ["a"])
    subscription.close()
    consumer.close()
    engine.close()


def test_results_come_where_nobody_can_listen(server: PostgresServer) -> None:
    with Proxy(server.host, server.port) as direct:
        direct.refuse = True
        engine = opened(server.url(pooled="true", poll="0.1", listen=f"127.0.0.1:{direct.port}"))
        got: list[str] = []
        subscription = engine.subscribe(["a"], lambda id, payload: got.append(id))
        engine.store([record("a")])
        eventually(lambda: got == ["a"])
        subscription.close()
        engine.close()


def test_who_looks_for_orders_now_and_then_is_waited_for(server: PostgresServer) -> None:
    engine = opened(server.url(pooled="true", poll="0.5"))
    engine.queues()  # makes the tables
    listener = Node(engine, "w@h")
    try:
        eventually(lambda: server.run("SELECT 1 FROM celeriac.remote_listener"))
        for _ in range(3):
            # As the command line asks: for as long as a worker sleeps between two looks, or less.
            assert list(engine.ask(Order("look"), 0.3)) == [{"w@h": {"ok": {}}}]
    finally:
        listener.stop()
        engine.close()


def test_a_worker_goes_on_where_nobody_can_listen(
    server: PostgresServer, caplog: pytest.LogCaptureFixture
) -> None:
    with Proxy(server.host, server.port) as direct:
        direct.refuse = True
        engine = opened(server.url(pooled="true", poll="0.1", listen=f"127.0.0.1:{direct.port}"))
        consumer = engine.attach(incarnation())
        for text in "ab":
            assert not consumer.wait(["q"], 0.01)
            engine.publish([pub(text)])
            assert consumer.wait(["q"], 10), "it looks by itself"
            assert ids_of(claim(consumer)) == [text]
        assert caplog.text.count("looking every 0.1 s") == 1, "and does not try to listen again at once"
        consumer.close()
        engine.close()


# -- URLs ------------------------------------------------------------------------------------------------


def test_urls() -> None:
    engine = opened("db+postgresql://me:pass%40word@host/data?schema=jobs&sslmode=require&sslpassword=x")
    assert engine.url == "postgresql://me:**@host/data?schema=jobs&sslmode=require"
    assert "pass%40word@host/data?" in engine._store.location.conninfo
    assert "sslmode=require" in engine._store.location.conninfo
    assert "schema" not in engine._store.location.conninfo
    assert engine.shares_store(opened("postgres://host/data", schema="jobs"))
    assert not engine.shares_store(opened("postgres://host/data"))
    for bad in ("schema=No", "synchronous_commit=never", "poll=0", "dead_letters_max=many"):
        with pytest.raises(ImproperlyConfigured, match="bad PostgreSQL URL"):
            opened(f"postgresql://host/data?{bad}")


def test_without_the_library_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "psycopg", None)
    with pytest.raises(ImproperlyConfigured, match=r"pip install 'celeriac\[postgres\]'"):
        opened("postgresql://host/data").publish([pub("a")])
