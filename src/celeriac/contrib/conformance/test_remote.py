"""Remote control: orders reach the workers that listen, and their answers come back to who asked."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from celeriac.contrib.conformance.helpers import eventually
from celeriac.contrib.conformance.listening import Handle, Node
from celeriac.contrib.conformance.rig import Rig
from celeriac.engines.base import Engine
from celeriac.engines.remote import NO_REPLY, Order

LONG = 20.0
"""A timeout that no test waits out: the end must come of itself."""


@pytest.fixture
def start(rig: Rig) -> Iterator[Callable[..., Node]]:
    """Starts a worker that listens, and waits until it is heard of."""
    started: list[Node] = []

    def start(name: str, handle: Handle | None = None) -> Node:
        engine = rig.open()
        node = Node(engine, name, handle)
        started.append(node)
        rig.living.add(name)
        eventually(lambda: answers(rig.open(), "are you there", destination=[name], timeout=0.3), 10.0)
        node.taken.clear()
        return node

    yield start
    for node in started:
        node.stop()


def answers(engine: Any, method: str, timeout: float = LONG, limit: int | None = None, **fields: Any) -> Any:
    """Ask, and return all answers as one dictionary."""
    told: dict[str, Any] = {}
    for answer in engine.ask(Order(method, **fields), timeout, limit):
        told |= answer
    return told


def test_all_who_listen_answer(engine: Engine, start: Callable[..., Node]) -> None:
    start("a@x")
    start("b@x")
    told = answers(engine, "look", arguments={"n": 1, "list": [None, True, 2.5], "text": "ü"}, limit=2)
    assert told == {key: {"ok": {"n": 1, "list": [None, True, 2.5], "text": "ü"}} for key in ("a@x", "b@x")}


def test_the_named_alone_answer(engine: Engine, start: Callable[..., Node]) -> None:
    first, second = start("a@x"), start("b@x")
    assert list(answers(engine, "look", destination=["b@x"])) == ["b@x"]
    assert (first.methods, second.methods) == ([], ["look"])


@pytest.mark.parametrize(
    ("pattern", "matcher"),
    [("a*@x", None), ("a*@x", "glob"), (r"a\d@x$", "pcre")],
    ids=["default", "glob", "pcre"],
)
def test_a_pattern_chooses(
    engine: Engine, start: Callable[..., Node], pattern: str, matcher: str | None
) -> None:
    for name in ("a1@x", "a2@x", "b@x"):
        start(name)
    told = answers(engine, "look", pattern=pattern, matcher=matcher, limit=2)
    assert sorted(told) == ["a1@x", "a2@x"]


def test_it_ends_when_all_have_answered(engine: Engine, start: Callable[..., Node]) -> None:
    start("a@x")
    start("b@x")
    begun = time.monotonic()
    assert len(answers(engine, "look", destination=["a@x", "b@x"])) == 2
    assert time.monotonic() - begun < LONG / 2


def test_a_broadcast_ends_when_all_have_answered(engine: Engine, start: Callable[..., Node]) -> None:
    start("a@x")
    start("b@x")
    begun = time.monotonic()
    assert len(answers(engine, "look")) == 2
    assert time.monotonic() - begun < LONG / 2


def test_where_nobody_listens_it_ends_at_once(engine: Engine) -> None:
    begun = time.monotonic()
    assert answers(engine, "look") == {}
    assert time.monotonic() - begun < LONG / 2


def test_a_worker_that_has_stopped_is_not_waited_for(engine: Engine, start: Callable[..., Node]) -> None:
    start("a@x")
    start("b@x").stop()
    begun = time.monotonic()
    assert list(answers(engine, "look")) == ["a@x"]
    assert time.monotonic() - begun < LONG / 2


def test_the_limit_ends_it(engine: Engine, start: Callable[..., Node]) -> None:
    start("a@x")
    start("b@x")
    assert len(answers(engine, "look", limit=1)) == 1


def test_the_time_ends_it(engine: Engine, start: Callable[..., Node]) -> None:
    start("a@x")
    start("b@x", lambda order: {"ok": 1} if order.method == "are you there" else NO_REPLY)
    assert list(answers(engine, "look", timeout=1.0)) == ["a@x"]


def test_what_is_told_is_done_and_not_answered(engine: Any, start: Callable[..., Node]) -> None:
    node = start("a@x")
    for number in range(3):
        engine.tell(Order("do", {"n": number}))
    eventually(lambda: len(node.taken) == 3)
    assert [order.arguments["n"] for order in node.taken] == [0, 1, 2]
    assert answers(engine, "look", destination=["a@x"]) == {"a@x": {"ok": {}}}


def test_answers_go_to_who_asked(engine: Engine, rig: Rig, start: Callable[..., Node]) -> None:
    start("a@x")
    start("b@x")
    results: dict[int, Any] = {}

    def ask(number: int) -> None:
        results[number] = answers(rig.open(), "look", arguments={"n": number}, limit=2)

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == {n: {key: {"ok": {"n": n}} for key in ("a@x", "b@x")} for n in range(5)}


def test_a_late_answer_is_nobody_s(engine: Any, start: Callable[..., Node]) -> None:
    go, done = threading.Event(), threading.Event()

    def slow(order: Order) -> Any:
        if order.method == "slow":
            go.wait(10.0)
            done.set()
        return {"ok": order.method}

    start("a@x", slow)
    assert answers(engine, "slow", timeout=0.3, destination=["a@x"]) == {}
    go.set()
    assert done.wait(10.0)
    assert answers(engine, "look", destination=["a@x"]) == {"a@x": {"ok": "look"}}


def test_an_order_that_has_expired_is_not_carried_out(engine: Any, start: Callable[..., Node]) -> None:
    node = start("a@x")
    assert answers(engine, "old", timeout=0.5, expires=time.time() - 60) == {}
    assert list(answers(engine, "new", destination=["a@x"])) == ["a@x"]
    assert node.methods == ["new"]


def test_orders_from_before_it_listened_are_not_a_worker_s(engine: Any, start: Callable[..., Node]) -> None:
    start("a@x")
    engine.tell(Order("before"))
    assert start("b@x").methods == []


def test_an_answer_that_cannot_be_sent_becomes_an_error(engine: Engine, start: Callable[..., Node]) -> None:
    start("a@x", lambda order: {"ok": 1} if order.method == "are you there" else {"ok": object()})
    told = answers(engine, "look", destination=["a@x"])
    assert "object" in told["a@x"]["error"]


def test_the_clocks_go_with_order_and_answer(engine: Any, start: Callable[..., Node]) -> None:
    def handle(order: Order) -> Any:
        seen, order.clock = order.clock, 41
        return {"ok": seen}

    start("a@x", handle)
    order = Order("look", clock=7, destination=["a@x"])
    assert list(engine.ask(order, LONG)) == [{"a@x": {"ok": 7}}]
    assert order.clock == 41


def test_large_answers_arrive(engine: Engine, start: Callable[..., Node]) -> None:
    start("a@x", lambda order: {"ok": "x" * 300_000})
    assert len(answers(engine, "look", destination=["a@x"])["a@x"]["ok"]) == 300_000
