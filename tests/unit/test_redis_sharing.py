"""The Redis engine beside others: Celery's library, another database, other processes."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from kombu import Connection

from celeriac.contrib.conformance.helpers import (
    claim,
    drain,
    eventually,
    ids_of,
    incarnation,
    message,
    notes_of,
    outcome,
    pub,
    pubs,
    record,
    settle,
)
from celeriac.engines import create
from celeriac.engines.base import Consumer, Loss, Outcome, Verdict
from celeriac.engines.redis import RedisEngine, tracking
from celeriac.engines.redis.connection import Link
from celeriac.engines.redis.consumer import POLL
from celeriac.engines.results import Presence
from celeriac.exceptions import OperationalError
from celeriac.message import encode_envelope
from tests.servers import RedisServer, free_port

SOON = 0.9 * POLL
"""Seconds: what comes within them was not found by the poll."""


def opened(url: str, **options: object) -> RedisEngine:
    engine = create(url, options)
    assert isinstance(engine, RedisEngine)
    return engine


@pytest.fixture
def server(redis_server: RedisServer) -> RedisServer:
    redis_server.flush()
    return redis_server


@pytest.fixture
def engine(server: RedisServer) -> Iterator[RedisEngine]:
    engine = opened(server.url())
    yield engine
    engine.close()


@pytest.fixture
def consumer(engine: RedisEngine) -> Iterator[Consumer]:
    consumer = engine.attach(incarnation())
    consumer.exchange([], ["q"], 1)
    yield consumer
    consumer.close()


# -- Celery's library ------------------------------------------------------------------------------------


def test_what_kombu_publishes_is_claimed(
    server: RedisServer, engine: RedisEngine, consumer: Consumer
) -> None:
    with Connection(server.url()) as connection, connection.SimpleQueue("q") as queue:
        for priority, task_id in ((9, "late"), (0, "first"), (4, "middle")):
            body = [[1], {}, {}]
            queue.put(body, headers={"id": task_id, "task": "t.add"}, priority=priority, serializer="json")
    assert ids_of(claim(consumer)) == ["first", "middle", "late"]
    assert "q" in engine.queues()


def test_what_we_publish_is_read_by_kombu(server: RedisServer, engine: RedisEngine) -> None:
    engine.publish([pub("late", priority=9), pub("first"), *pubs("xy", priority=3)])
    with Connection(server.url()) as connection, connection.SimpleQueue("q") as queue:
        got = []
        for _ in range(4):
            delivered = queue.get(timeout=5)
            got.append(delivered.headers["id"])
            delivered.ack()
        assert got == ["first", "x", "y", "late"]
        assert delivered.delivery_info["routing_key"] == "q"
        assert delivered.decode()[0] == [2, 3]


def test_a_global_prefix_is_kombu_s(server: RedisServer) -> None:
    engine = opened(server.url(), global_keyprefix="app.")
    engine.publish([pub("a")])
    options = {"global_keyprefix": "app."}
    with (
        Connection(server.url(), transport_options=options) as connection,
        connection.SimpleQueue("q") as queue,
    ):
        assert queue.get(timeout=5).headers["id"] == "a"
    engine.close()


def test_marked_messages_are_kept_from_celery_s_workers(
    server: RedisServer, engine: RedisEngine, consumer: Consumer
) -> None:
    engine.publish(pubs("ab"))
    first, second = claim(consumer)
    engine.release(consumer.owner.name, {first.token: Loss(mark="timeout:5"), second.token: Loss()})
    with Connection(server.url()) as connection, connection.SimpleQueue("q") as queue:
        delivered = queue.get(timeout=5)
        assert delivered.headers["id"] == "b"
        assert delivered.headers["celeriac"]["deliveries"] == 1
        delivered.ack()
        with pytest.raises(queue.Empty):
            queue.get(block=False)
    other = engine.attach(incarnation(epoch=2))
    (ended,) = claim(other)
    assert notes_of(ended).lost == "timeout:5"
    settle(other, outcome(ended, Verdict.REQUEUE))
    assert server.command("LLEN", "q") == b":0\r\n", "put back, it still is not Celery's"
    assert len(claim(other)) == 1
    other.close()


def test_delays_can_be_left_to_celery_s_workers(server: RedisServer) -> None:
    engine = opened(server.url(), broker_delay="celery")
    engine.publish([pub("a", delay=1000.0), pub("b", due=9e9)])
    depth = engine.depth(["q"])["q"]
    assert (depth.ready, depth.delayed) == (2, 0)
    engine.close()


# -- results -----------------------------------------------------------------------------------------------


def test_results_of_a_settle_lie_in_their_own_database(server: RedisServer, engine: RedisEngine) -> None:
    results = opened(server.url(3), global_keyprefix="r.")
    assert engine.shares_store(results)
    consumer = engine.attach(incarnation())
    engine.publish(pubs("ab"))
    first, second = claim(consumer)
    told: list[tuple[str, bytes]] = []
    subscription = results.subscribe(["a"], lambda *state: told.append(state))
    done = Outcome(first.token, "q", result=record("a", ttl=60), publications=pubs("c"))
    answer = consumer.exchange([done], ["q"], 1)
    assert ids_of(answer.deliveries) == ["c"], "the caller's database is the broker's again"
    assert results.fetch(["a"]) == {"a": record("a").payload}
    assert engine.fetch(["a"]) == {}
    eventually(lambda: told)
    subscription.close()

    held = record("b", "STARTED", lease=(consumer.owner.name, "q", second.token))
    assert results.store([held]) == []
    settle(consumer, outcome(second))
    assert results.store([held]) == ["b"], "the lease, which lies in the other database, is gone"
    consumer.close()
    results.close()


@pytest.mark.parametrize("payload", [b"\x80\x04pickled", b"\0celery-compressed\0zlib\0xx", b'{"result": 1}'])
def test_a_success_that_is_no_plain_json_is_not_replaced(engine: RedisEngine, payload: bytes) -> None:
    success = record("a")
    success.payload = payload
    assert engine.store([success]) == []
    assert engine.store([record("a", "FAILURE")]) == ["a"]
    assert engine.fetch(["a"]) == {"a": payload}


def test_a_state_that_speaks_of_success_is_replaced(engine: RedisEngine) -> None:
    engine.store([record("a", "PROGRESS", {"status": "SUCCESS"})])
    assert engine.store([record("a", "FAILURE")]) == []


def test_a_large_result_comes_without_its_announcement(engine: RedisEngine) -> None:
    reply = engine.reply_address()
    told: list[bytes] = []
    engine.note_sent(reply or "", "a")
    engine.subscribe(["a"], lambda task_id, payload: told.append(payload))
    large = record("a", value="x" * 100_000, reply=reply)
    engine.store([large])
    eventually(lambda: told == [large.payload])


def test_a_result_of_a_celery_worker_is_heard_by_its_name(server: RedisServer, engine: RedisEngine) -> None:
    """Only our workers know of the reply channel to which the message asks the result to come."""
    engine.note_sent(engine.reply_address() or "", "a")
    heard: list[tuple[str, bytes]] = []
    subscription = engine.subscribe(["a"], lambda task_id, payload: heard.append((task_id, payload)))

    def listeners() -> bytes:
        return server.command("PUBSUB", "NUMSUB", "celery-task-meta-a")[-4:]

    eventually(lambda: listeners() == b":1\r\n")
    server.command("PUBLISH", "celery-task-meta-a", "{}")  # not stored: no look at the store can find it
    eventually(lambda: heard == [("a", b"{}")])
    subscription.close()
    eventually(lambda: listeners() == b":0\r\n")


def test_the_reply_channel_tells_of_ids_with_odd_names(engine: RedisEngine) -> None:
    reply = engine.reply_address()
    odd = "1:ü\n{}"
    told: list[str] = []
    engine.note_sent(reply or "", odd)
    engine.subscribe([odd], lambda task_id, payload: told.append(task_id))
    engine.store([record(odd, reply=reply)])
    eventually(lambda: odd in told)


def test_a_tracked_message_is_queued_until_its_result_is_there(
    engine: RedisEngine, consumer: Consumer
) -> None:
    engine.publish([pub("a", track=60.0)])
    assert engine.presence(["a"]) == {"a": Presence.QUEUED}
    (delivery,) = claim(consumer)
    settle(consumer, outcome(delivery, result=record("a", ttl=0.05)))
    assert engine.presence(["a"]) == {"a": Presence.KNOWN}
    eventually(lambda: engine.presence(["a"]) == {"a": Presence.EXPIRED})


# -- waking ------------------------------------------------------------------------------------------------


@contextmanager
def watching(engine: RedisEngine) -> Iterator[None]:
    """The engine's sentinel, in a thread."""
    ear, mouth = os.pipe()
    watcher = threading.Thread(target=engine.watch_foreign, args=(["q"], ear))
    watcher.start()
    try:
        yield
    finally:
        os.write(mouth, b"1")
        watcher.join(5)
        os.close(ear)
        os.close(mouth)
    assert not watcher.is_alive()


def test_a_foreign_push_wakes_a_sleeper_through_the_sentinel(
    server: RedisServer, engine: RedisEngine, consumer: Consumer
) -> None:
    with watching(engine):
        eventually(lambda: _tracks(server))
        for task_id in ("a", "b"):
            while consumer.wait(["q"], 0.05):
                assert drain(consumer) == []
            pusher = threading.Timer(0.05, server.command, ("LPUSH", "q", _envelope(task_id)))
            pusher.start()
            begun = time.monotonic()
            while not (got := ids_of(claim(consumer))):
                consumer.wait(["q"], 5)
            assert got == [task_id]
            assert time.monotonic() - begun < SOON, "before the poll"
            pusher.join()
    assert server.command("EXISTS", "celeriac:watcher") == b":0\r\n"


def test_the_sentinel_watches_again_after_it_lost_its_office(
    server: RedisServer, engine: RedisEngine
) -> None:
    with watching(engine):
        eventually(lambda: _tracks(server))
        server.command("DEL", "celeriac:watcher")
        eventually(lambda: not _tracks(server))
        eventually(lambda: _tracks(server))
        server.command("LPUSH", "q", _envelope("a"))
        eventually(lambda: _marked(server, engine))


def test_a_push_told_in_one_piece_with_an_answer_is_heard(
    server: RedisServer, engine: RedisEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = tracking._read

    def read_late(link: Link, written: list[str] | None = None) -> object:
        if written is not None:  # the answer to the first look at the queue
            monkeypatch.setattr(tracking, "_read", read)
            server.command("LPUSH", "q", _envelope("a"))
        return read(link, written)

    monkeypatch.setattr(tracking, "_read", read_late)
    with watching(engine):
        eventually(lambda: _marked(server, engine))


def test_without_permission_to_track_the_sentinel_gives_up() -> None:
    with RedisServer() as server:
        server.command("ACL", "SETUSER", "worker", "on", ">pw", "+@all", "-client|tracking", "~*", "&*")
        engine = opened(f"redis://worker:pw@127.0.0.1:{server.port}/0")
        ear, mouth = os.pipe()
        engine.watch_foreign(["q"], ear)
        os.close(ear)
        os.close(mouth)
        engine.close()


def test_a_cancelled_sleep_leaves_the_marker_to_others(engine: RedisEngine, consumer: Consumer) -> None:
    other = engine.attach(incarnation(child=2))
    ear, mouth = os.pipe()
    os.write(mouth, b"1")
    for _ in range(20):
        consumer.wait(["q"], 5, ear)
        engine.publish([pub("a")])
        consumer.wait(["q"], 5, ear)
        begun = time.monotonic()
        while not claim(other):
            other.wait(["q"], 5)
        assert time.monotonic() - begun < SOON
        other.exchange([], ["q"], 1)
    os.close(ear)
    os.close(mouth)
    other.close()


# -- processes ---------------------------------------------------------------------------------------------


def _drain_in_process(url: str, child: int, pipe: Any) -> None:
    engine = opened(url)
    consumer = engine.attach(incarnation(child=child))
    pipe.send(drain(consumer))
    consumer.close()
    engine.close()


def test_processes_claim_disjoint_sets(server: RedisServer, engine: RedisEngine) -> None:
    ids = [str(number) for number in range(3000)]
    engine.publish(pubs(ids))
    context = multiprocessing.get_context("spawn")
    got: list[list[str]] = []
    pipes = []
    for child in (1, 2):
        ours, theirs = context.Pipe()
        process = context.Process(target=_drain_in_process, args=(server.url(), child, theirs))
        process.start()
        pipes.append((process, ours))
    for process, pipe in pipes:
        got.append(pipe.recv())
        process.join()
    assert sorted(got[0] + got[1]) == sorted(ids)


# -- odd ways in -------------------------------------------------------------------------------------------


def test_over_a_unix_socket_with_a_name(server: RedisServer) -> None:
    engine = opened(f"unix://{server.unix_socket}?db=2", client_name="celeriac-test")
    engine.publish([pub("a")])
    assert b"celeriac-test" in server.command("CLIENT", "LIST")
    assert engine.depth(["q"])["q"].ready == 1
    engine.close()


def test_over_tls(tmp_path: Path) -> None:
    key, certificate = str(tmp_path / "key.pem"), str(tmp_path / "cert.pem")
    command = [
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "rsa:2048",
        "-nodes",
        "-days",
        "2",
        "-subj",
        "/CN=localhost",
    ]
    command += ["-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1", "-keyout", key, "-out", certificate]
    subprocess.run(command, check=True, capture_output=True)
    port = free_port()
    settings = {"tls-port": str(port), "tls-cert-file": certificate, "tls-key-file": key}
    with RedisServer(config={**settings, "tls-ca-cert-file": certificate, "tls-auth-clients": "no"}):
        engine = opened(f"rediss://127.0.0.1:{port}/0?ssl_ca_certs={certificate}")
        consumer = engine.attach(incarnation())
        assert consumer.wait(["q"], 0.05) is False
        engine.publish([pub("a")])
        assert consumer.wait(["q"], 5) is True
        assert ids_of(claim(consumer)) == ["a"]
        consumer.close()
        engine.close()
        stranger = opened(f"rediss://127.0.0.1:{port}/0")
        with pytest.raises(OperationalError, match="certificate"):
            stranger.publish([pub("a")])
        trusting = opened(f"rediss://127.0.0.1:{port}/0", broker_use_ssl={"ssl_cert_reqs": "CERT_NONE"})
        trusting.publish([pub("a")])
        trusting.close()


def test_through_redis_sentinel() -> None:
    with RedisServer() as primary, RedisServer(sentinel_of=primary) as watcher:
        engine = opened(f"sentinel://127.0.0.1:{watcher.port}/1", master_name="primary")
        engine.publish([pub("a")])
        assert engine.depth(["q"])["q"].ready == 1
        assert b"keys=" in primary.command("INFO", "keyspace")
        engine.close()


def test_a_wrong_password_is_named_without_being_shown() -> None:
    with RedisServer(password="right") as server:
        engine = opened(f"redis://:wrong@127.0.0.1:{server.port}/0")
        with pytest.raises(Exception, match="cannot connect") as caught:
            engine.publish([pub("a")])
        assert "wrong@" not in str(caught.value)
        right = opened(server.url())
        right.publish([pub("a")])
        right.close()


def _envelope(task_id: str) -> bytes:
    return encode_envelope(message(task_id))


def _marked(server: RedisServer, engine: RedisEngine) -> bool:
    return server.command("EXISTS", engine.keys.of("q", "wake")) == b":1\r\n"


def _tracks(server: RedisServer) -> bool:
    clients = server.command("CLIENT", "LIST").decode()
    return any(" flags=t " in line for line in clients.splitlines())
