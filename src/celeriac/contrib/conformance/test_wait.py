"""Sleeping until there is something to claim: woken by everything that makes a message ready."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import pytest

from celeriac.contrib.conformance.helpers import (
    always,
    claim,
    ids_of,
    incarnation,
    node,
    outcome,
    pub,
    pubs,
    settle,
)
from celeriac.contrib.conformance.rig import Rig
from celeriac.engines.base import Consumer, Engine, Verdict

SOON = 0.9
"""Below the 1 s poll that is the net under the notifications."""


class Sleeper:
    """A consumer asleep in a thread of its own: says whether and when it woke."""

    def __init__(self, consumer: Consumer, queues: Sequence[str], timeout: float = 10.0) -> None:
        self.woke: bool | None = None
        self.at = 0.0
        self._consumer = consumer
        self._arguments = (queues, timeout)
        self._thread = threading.Thread(target=self._sleep, daemon=True)
        self._thread.start()
        time.sleep(0.02)  # most likely asleep by now; the tests hold either way

    def _sleep(self) -> None:
        self.woke = self._consumer.wait(*self._arguments)
        self.at = time.monotonic()

    def woken_by(self, act: Callable[[], object]) -> float:
        """Act, and return the seconds until the sleeper woke to it."""
        start = time.monotonic()
        act()
        self._thread.join(10.0)
        assert self.woke is True
        return self.at - start


@contextmanager
def pipe() -> Iterator[tuple[int, int]]:
    reader, writer = os.pipe()
    yield reader, writer
    os.close(reader)
    os.close(writer)


def test_nothing_comes_and_the_time_is_up(consumer: Consumer) -> None:
    start = time.monotonic()
    assert consumer.wait(["q"], 0.1) is False
    assert 0.09 <= time.monotonic() - start < 2


def test_a_timeout_of_zero_does_not_sleep(engine: Engine, consumer: Consumer) -> None:
    assert claim(consumer) == []  # it has connected
    start = time.monotonic()
    assert consumer.wait(["q"], 0.0) is False
    assert time.monotonic() - start < SOON


def test_what_is_ready_already_is_not_slept_over(engine: Engine, consumer: Consumer) -> None:
    assert claim(consumer) == []
    engine.publish([pub("a")])
    start = time.monotonic()
    assert consumer.wait(["q"], 10.0) is True
    assert time.monotonic() - start < SOON
    assert ids_of(claim(consumer)) == ["a"]


def test_waiting_takes_no_message(engine: Engine, consumer: Consumer) -> None:
    engine.publish(pubs("ab"))
    for _ in range(3):
        consumer.wait(["q"], 0.01)
    assert engine.depth(["q"])["q"].ready == 2


def test_a_publish_by_another_engine_wakes(engine: Engine, consumer: Consumer, rig: Rig) -> None:
    other = rig.open()
    other.depth(["q"])  # connected
    for number in range(5):
        claim(consumer)
        assert Sleeper(consumer, ["q"]).woken_by(lambda: other.publish([pub(f"{number}")])) < SOON  # noqa: B023
    assert ids_of(claim(consumer)) == ["4"]


def test_any_of_the_queues_wakes(engine: Engine, consumer: Consumer) -> None:
    for queue in ("q1", "q2", "q3"):
        sleeper = Sleeper(consumer, ["q1", "q2", "q3"])
        assert sleeper.woken_by(lambda: engine.publish([pub("a", queue)])) < SOON  # noqa: B023
        assert len(claim(consumer, 5, ["q1", "q2", "q3"])) == 1


def test_messages_of_every_priority_wake(engine: Engine, consumer: Consumer, rig: Rig) -> None:
    for priority in (rig.urgent, rig.lax, 5):
        sleeper = Sleeper(consumer, ["q"])
        assert sleeper.woken_by(lambda: engine.publish([pub("a", priority=priority)])) < SOON  # noqa: B023
        assert len(claim(consumer)) == 1


def test_a_readable_wakeup_fd_ends_the_sleep(consumer: Consumer) -> None:
    with pipe() as (reader, writer):
        start = time.monotonic()
        timer = threading.Timer(0.05, os.write, (writer, b"x"))
        timer.start()
        assert consumer.wait(["q"], 10.0, reader) is False
        assert time.monotonic() - start < 2
        timer.join()
        assert consumer.wait(["q"], 10.0, reader) is False, "it is readable still"
        os.read(reader, 10)
        assert consumer.wait(["q"], 0.05, reader) is False


def test_a_message_wakes_one_who_watches_a_wakeup_fd(engine: Engine, consumer: Consumer) -> None:
    with pipe() as (reader, _):
        timer = threading.Timer(0.05, engine.publish, ([pub("a")],))
        start = time.monotonic()
        timer.start()
        assert consumer.wait(["q"], 10.0, reader) is True
        assert time.monotonic() - start < 0.05 + SOON
        timer.join()


@pytest.mark.parametrize(
    "way",
    [
        "follow-up",
        "give back",
        "agent",
        "requeue",
        "release",
        "recover",
        "leave",
        "close",
        "resume",
        "replay",
    ],
)
def test_whatever_makes_a_message_ready_wakes(engine: Engine, consumer: Consumer, way: str) -> None:
    engine.beat(node("other"))
    other = engine.attach(incarnation("other"))
    engine.publish(pubs("ab"))
    first, second = claim(other)
    settle(other, outcome(second, Verdict.DEAD, reason="failed", task_id="b"))
    if way == "resume":
        engine.pause("q")
        engine.publish([pub("c")])
    assert claim(consumer) == []
    ways: dict[str, Callable[[], object]] = {
        "follow-up": lambda: settle(other, outcome(first, publications=[pub("c")])),
        "give back": lambda: settle(other, outcome(first, Verdict.GIVE_BACK)),
        "agent": lambda: engine.give_back(other.owner.name, [("q", first.token)]),
        "requeue": lambda: settle(other, outcome(first, Verdict.REQUEUE)),
        "release": lambda: engine.release(other.owner.name, {}),
        "recover": lambda: engine.recover("host", always(False)),
        "leave": lambda: engine.leave("other"),
        "close": other.close,
        "resume": lambda: engine.resume("q"),
        "replay": lambda: engine.replay(),
    }
    assert Sleeper(consumer, ["q"]).woken_by(ways[way]) < SOON
    assert len(claim(consumer)) == 1


def test_what_a_claim_leaves_behind_wakes_the_next(engine: Engine, consumer: Consumer) -> None:
    other = engine.attach(incarnation(child=2))
    sleeper = Sleeper(other, ["q"])
    engine.publish(pubs("ab"))

    def claim_one() -> None:
        assert len(claim(consumer, 1)) == 1

    assert sleeper.woken_by(claim_one) < SOON
    start = time.monotonic()
    assert other.wait(["q"], 10.0) is True
    assert time.monotonic() - start < SOON
    other.close()


def test_many_sleepers_share_a_batch_quickly(engine: Engine, rig: Rig) -> None:
    consumers = [rig.open().attach(incarnation(child=child)) for child in range(4)]
    started: list[float] = []

    def work(consumer: Consumer) -> None:
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            if claim(consumer, 1):
                started.append(time.monotonic())
                return
            consumer.wait(["q"], 10.0)

    threads = [threading.Thread(target=work, args=(consumer,), daemon=True) for consumer in consumers]
    for thread in threads:
        thread.start()
    time.sleep(0.05)
    start = time.monotonic()
    engine.publish(pubs("abcd"))
    for thread in threads:
        thread.join(10)
    assert len(started) == 4
    assert max(started) - start < 2 * SOON
    for consumer in consumers:
        consumer.close()


def test_a_paused_queue_does_not_keep_its_sleepers_awake(engine: Engine, consumer: Consumer) -> None:
    engine.pause("q")
    engine.publish([pub("a")])
    consumer.wait(["q"], 0.01)  # may be woken once, by the publish
    start = time.monotonic()
    for _ in range(3):
        consumer.wait(["q"], 0.1)
    assert time.monotonic() - start > 0.15
