"""Writing attempts up, reading them back, and what the engines' history has of its own."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import threading
import uuid
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from celeriac import Celeriac
from celeriac.cli import root
from celeriac.contrib.conformance.helpers import eventually
from celeriac.contrib.testing.worker import start_worker
from celeriac.engines import create
from celeriac.engines.attempts import decode, encode
from celeriac.engines.base import Loss
from celeriac.engines.history import Attempt, Wanted
from celeriac.exceptions import ImproperlyConfigured
from celeriac.worker.board import Running
from celeriac.worker.history import History, lost
from tests.servers import RedisServer


@pytest.fixture
def app() -> Iterator[Celeriac]:
    app = Celeriac("history", broker=f"memory://{uuid.uuid4().hex}", set_as_current=False)
    yield app
    app.close()


def attempt(task_id: str, state: str = "SUCCESS", ended: float = 4e9, **fields: Any) -> Attempt:
    return Attempt(task_id, "t", state, "q", "celery@n", ended, **fields)


def test_a_text_that_is_no_unicode_is_kept_as_far_as_it_is() -> None:
    assert decode(encode(attempt("a", error="\udcff!"))).error == "?!"


def test_fields_that_a_newer_version_appends_are_passed_over() -> None:
    import msgspec

    longer = msgspec.msgpack.encode([*msgspec.structs.astuple(attempt("a")), "new"])
    assert decode(longer) == attempt("a")


def test_without_results_it_is_kept_by_the_broker(app: Celeriac) -> None:
    app.conf.result_backend = "disabled://"

    @app.task(name="add")
    def add(x: int, y: int) -> int:
        return x + y

    with start_worker(app, perform_ping_check=False):
        add.delay(2, 3)
        eventually(lambda: [one.result for one in app.history(task="add")] == ["5"])


def test_long_texts_are_shortened_and_results_redacted(app: Celeriac) -> None:
    @app.task(name="tell")
    def tell(text: str) -> dict[str, str]:
        return {"text": text, "token": "s3cr3t"}

    @app.task(name="hide", sensitive_result=True, sensitive=["number"])
    def hide(number: int) -> int:
        return number

    with start_worker(app, perform_ping_check=False):
        tell.apply_async(["x" * 5000])
        tell.delay("y")
        hide.apply_async([42], argsrepr="(42,)")
        eventually(lambda: len(app.history()) == 3)
    hidden, short, long = app.history()
    assert len(long.args) == len(long.result) == 512
    assert short.result == "{'text': 'y', 'token': '***'}"
    assert (hidden.args, hidden.result) == ("('***',)", "'***'")


def test_a_page_says_where_the_next_one_begins(app: Celeriac) -> None:
    store = app.history.store
    store.note_attempts([attempt(str(number)) for number in range(5)])
    page = app.history(limit=2)
    assert [one.id for one in page] == ["4", "3"]
    page = app.history(limit=3, before=page.next)
    assert ([one.id for one in page], page.next) == (["2", "1", "0"], "")
    assert app.history(states="FAILURE") == []
    assert app.history(until=timedelta(hours=1)) == []


def test_coroutines_can_read_it(app: Celeriac) -> None:
    app.history.store.note_attempts([attempt("a")])
    assert [one.id for one in asyncio.run(app.history.aget("a"))] == ["a"]


def test_following_gives_each_attempt_once(app: Celeriac) -> None:
    from celeriac import clock

    store = app.history.store
    store.note_attempts([attempt(name, ended=clock.now()) for name in "abc"])
    found: list[str] = []
    done = threading.Event()

    def read() -> None:
        for one in itertools.islice(app.history.follow(task="t", past=2), 5):
            found.append(one.id)
        done.set()

    threading.Thread(target=read, daemon=True).start()
    eventually(lambda: found == ["b", "c"])
    store.note_attempts([attempt("d", ended=clock.now() - 1), attempt("e", ended=clock.now())])
    eventually(lambda: found == ["b", "c", "d", "e"])
    store.note_attempts([attempt("f", ended=clock.now())])
    assert done.wait(10)
    assert found == ["b", "c", "d", "e", "f"]


def test_where_nothing_keeps_it_there_is_none() -> None:
    app = Celeriac("none", broker="amqp://127.0.0.1:1", backend="disabled://", set_as_current=False)
    assert app.history_store is None
    with pytest.raises(ImproperlyConfigured, match="no history is kept"):
        app.history()


@pytest.mark.parametrize(
    ("mark", "error"),
    [
        (None, "WorkerLostError: its process went"),
        ("timeout:2.5", "TimeLimitExceeded: 2.5 s"),
        ("terminated:15", "Terminated: signal 15"),
    ],
)
def test_a_lost_run_tells_why(mark: str | None, error: str) -> None:
    run = Running(0, 7, 0.0, 0.0, 0.0, 1, False, "id", "t.add")
    one = lost(run, Loss(mark=mark), "its process went", "celery@n", ["p", "q"], 42)
    assert (one.id, one.task, one.state, one.queue, one.pid, one.error) == (
        "id", "t.add", "LOST", "q", 42, error,
    )  # fmt: skip


def test_a_store_that_is_away_gets_lost_runs_later(app: Celeriac, monkeypatch: pytest.MonkeyPatch) -> None:
    from celeriac.exceptions import OperationalError

    history = History(app)
    store = app.history.store

    def away(attempts: object) -> None:
        raise OperationalError("away")

    with monkeypatch.context() as patch:
        patch.setattr(store, "note_attempts", away)
        history.note([attempt("a")])
    assert app.history() == []
    history.note([attempt("b")])
    assert [one.id for one in app.history()] == ["b", "a"]


def test_redis_cuts_the_list_by_itself(redis_server: RedisServer) -> None:
    redis_server.flush()
    engine = create(redis_server.url(), {"history_max": 100})
    try:
        for start in range(0, 3000, 50):
            engine.note_attempts([attempt(str(number)) for number in range(start, start + 50)])
            found, _ = engine.attempts(Wanted(), 5000)
            assert len(found) <= 1100
        page, cursor = engine.attempts(Wanted(), 10)
        assert [one.id for one in page] == [str(number) for number in range(2999, 2989, -1)]
        page, _ = engine.attempts(Wanted(), 10, cursor)
        assert page[0].id == "2989"
        assert engine.attempts(Wanted(id="0"))[0] == []
    finally:
        engine.close()


def test_a_broken_list_does_not_keep_messages_from_being_settled(redis_server: RedisServer) -> None:
    from celeriac.contrib.conformance.helpers import claim, incarnation, outcome, pubs, settle

    redis_server.flush()
    redis_server.command("SET", "celeriac:history", "no list")
    engine = create(redis_server.url(), {})
    try:
        consumer = engine.attach(incarnation())
        engine.publish(pubs("a"))
        (delivery,) = claim(consumer)
        assert settle(consumer, outcome(delivery, attempt=attempt("a"))) == []
        assert engine.depth(["q"])["q"].leased == 0
    finally:
        engine.close()


@mock.patch.dict(os.environ)  # the command line hands its options on by it
def test_the_command_explains_one_task(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    broker = f"sqlite:///{tmp_path}/x.db"
    engine = create(broker, {})
    engine.note_attempts([attempt("a", "LOST", started=1.0, runtime=2.0, error="killed")])
    engine.note_attempts([attempt("a", "RETRY", started=1.0, deliveries=1, args="(1,)", error="E: x")])
    engine.note_attempts([attempt("a", "REVOKED", retries=1, deliveries=1, args="(1,)", error="expired")])
    engine.close()

    def run(*arguments: str) -> str:
        own = Celeriac("fresh", set_as_current=False)  # no other test's
        assert root.run(["-b", broker, "history", *arguments], own) == 0
        said = capsys.readouterr()
        return said.out or said.err

    lines = run("a").splitlines()
    assert lines[0] == "t(1)"
    assert [line.split()[:2] for line in lines[2:]] == [["1", "LOST"], ["2", "RETRY"], ["-", "REVOKED"]]
    assert [one["state"] for one in json.loads(run("--json", "--limit", "2"))] == ["RETRY", "REVOKED"]
    assert "No attempts that fit. Kept are the last 1,000,000, for 7 d." in run("--task", "none")
    assert root.run(["history", "--since", "soon"]) == 2
