"""The watch over queues that nobody takes from: when it warns, and that publishing does not feel it."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator

import pytest

from celeriac import Celeriac
from celeriac.app.watch import QueueWatch, unserved_queues
from celeriac.engines.base import NodeInfo
from celeriac.exceptions import OperationalError


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def app(request: pytest.FixtureRequest) -> Iterator[Celeriac]:
    with Celeriac("x", broker=f"memory://{request.node.name}", set_as_current=False) as made:
        yield made


@pytest.fixture
def clock(app: Celeriac) -> Clock:
    clock = Clock()
    app.publisher.watch = QueueWatch(app, clock)
    return clock


def serve(app: Celeriac, *queues: str) -> None:
    """Let a worker that takes from these queues be alive."""
    app.broker.beat(NodeInfo("n", "w@h", "h", 1, 1.0, 1000.0, list(queues)))


def test_a_queue_is_warned_about_once_after_a_minute(
    app: Celeriac, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    app.send_task("t", queue="mail")
    clock.now += 59
    assert app.publisher.watch.look() == []
    clock.now += 1
    with caplog.at_level(logging.WARNING):
        assert app.publisher.watch.look() == ["mail"]
    assert "No worker has taken from queue 'mail' for 60 s" in caplog.text
    assert "-Q mail" in caplog.text
    app.send_task("t", queue="mail")
    clock.now += 100
    assert app.publisher.watch.look() == []


def test_a_living_worker_puts_the_warning_off(app: Celeriac, clock: Clock) -> None:
    serve(app, "mail")
    app.send_task("t", queue="mail")
    clock.now += 100
    assert app.publisher.watch.look() == []
    app.broker.leave("n")
    clock.now += 59
    assert app.publisher.watch.look() == []
    clock.now += 1
    assert app.publisher.watch.look() == ["mail"]


def test_an_empty_queue_is_no_reason_to_warn(app: Celeriac, clock: Clock) -> None:
    app.send_task("t", queue="mail")
    app.broker.purge(["mail"])
    clock.now += 100
    assert app.publisher.watch.look() == []
    app.send_task("t", queue="mail")
    assert app.publisher.watch.look() == ["mail"]


def test_consumers_that_the_server_counts_are_asked_for_only_when_no_node_serves(
    app: Celeriac, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[list[str]] = []

    def consumers(queues: list[str]) -> dict[str, int]:
        asked.append(queues)
        return {"celerys": 1}

    monkeypatch.setattr(app.broker, "consumers", consumers)
    serve(app, "ours")
    assert unserved_queues(app, ["ours"]) == []
    assert asked == []
    assert unserved_queues(app, ["ours", "celerys", "nobody"]) == ["nobody"]
    assert asked == [["celerys", "nobody"]]


def test_publishing_asks_nobody_and_starts_one_thread(
    app: Celeriac, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no() -> list[NodeInfo]:
        raise AssertionError("asked on the publish path")

    monkeypatch.setattr(app.broker, "nodes", no)
    for queue in ("a", "b", "a"):
        app.send_task("t", queue=queue)
    threads = [thread for thread in threading.enumerate() if thread is app.publisher.watch._thread]
    assert [thread.daemon for thread in threads] == [True]
    assert app.publisher.watch.queues == {"a", "b"}
    app.publisher.watch.close()
    threads[0].join(5)
    assert not threads[0].is_alive()


def test_a_store_that_is_away_ends_nothing(app: Celeriac, clock: Clock) -> None:
    watch = app.publisher.watch
    watch.interval = 0.001
    looked = threading.Event()
    answers = iter([OperationalError("away"), RuntimeError("odd")])

    def nodes() -> list[NodeInfo]:
        error = next(answers, None)
        if error:
            raise error
        looked.set()
        return []

    app.broker.nodes = nodes  # type: ignore[method-assign]
    app.send_task("t", queue="mail")
    assert looked.wait(5)
    watch.close()
