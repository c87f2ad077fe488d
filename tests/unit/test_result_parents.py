"""What follows a result: promises of callbacks, errors of earlier steps, the tasks that it called."""

from __future__ import annotations

import asyncio
import gc
import logging
import threading
from collections.abc import Callable
from typing import Any

import pytest

from celeriac import Celeriac
from celeriac.app.request import Context
from celeriac.exceptions import TimeoutError
from celeriac.result import EagerResult
from celeriac.utils.graph import CycleError, DependencyGraph

from .helpers import make_app

Store = Callable[..., None]


@pytest.fixture
def app() -> Celeriac:
    return make_app()


@pytest.fixture
def store(app: Celeriac) -> Store:
    def store(id: str, value: Any) -> None:
        state = "FAILURE" if isinstance(value, Exception) else "SUCCESS"
        assert app.backend is not None
        app.backend.store([app.results.record(state, value, Context(id=id))])

    return store


# -- promises ----------------------------------------------------------------------------------------------


def test_callbacks_follow_each_other(app: Celeriac, store: Store) -> None:
    done = threading.Event()
    seen: list[Any] = []
    promise = app.AsyncResult("a").then(lambda result: result.get() * 2)
    promise.then(lambda value: value + 1).then(lambda value: (seen.append(value), done.set()))
    store("a", 5)
    assert done.wait(5)
    assert seen == [11]
    assert (promise.ready, promise.failed, promise.value) == (True, False, 10)
    assert promise.then(lambda value: value).value == 10


def test_errors_go_to_the_next_that_takes_them(
    app: Celeriac, store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    done = threading.Event()
    seen: list[Any] = []
    caplog.set_level(logging.ERROR)
    failing = app.AsyncResult("a").then(lambda result: 1 / 0)
    failing.then(seen.append).then(seen.append, on_error=lambda error: (seen.append(type(error)), done.set()))
    store("a", 5)
    assert done.wait(5)
    assert seen == [ZeroDivisionError]
    assert "raised" in caplog.text
    failed = threading.Event()
    app.AsyncResult("b").then(seen.append).then(
        seen.append, on_error=lambda error: (seen.append(error), failed.set())
    )
    store("b", KeyError("b"))
    assert failed.wait(5)
    assert type(seen[-1]) is KeyError


def test_a_result_that_is_known_calls_here_and_now(app: Celeriac, store: Store) -> None:
    store("a", 5)
    result = app.AsyncResult("a")
    assert result.get(timeout=5) == 5
    assert result.then(lambda each: each.get()).value == 5
    with pytest.raises(ZeroDivisionError):
        result.then(lambda each: 1 / 0)
    assert EagerResult("e", 1, "SUCCESS").then(lambda each: each.get()).value == 1


def test_cancelled_and_forgotten_callbacks_are_not_called(app: Celeriac, store: Store) -> None:
    seen: list[Any] = []
    app.AsyncResult("a").then(seen.append).cancel()

    class Owner:
        def callback(self, result: Any) -> None:
            seen.append(result)

    owner = Owner()
    weak = app.AsyncResult("a").then(owner.callback, weak=True)
    del owner
    gc.collect()
    done = threading.Event()
    app.AsyncResult("a").then(lambda _: done.set())
    store("a", 1)
    assert done.wait(5)
    assert seen == []
    assert weak.ready


# -- earlier steps of a chain --------------------------------------------------------------------------------


def test_a_step_that_fails_while_the_last_is_awaited(app: Celeriac, store: Store) -> None:
    first = app.AsyncResult("first")
    header = app.GroupResult("g", [app.AsyncResult("x")], parent=first)
    last = app.AsyncResult("last", parent=header)
    # A member of a chord's header reaches the body as ChordError: it is not followed.
    store("x", ValueError("member"))
    threading.Timer(0.02, store, ("first", ValueError("first"))).start()
    with pytest.raises(ValueError, match="first"):
        last.get(timeout=5)
    with pytest.raises(TimeoutError):
        last.get(timeout=0, follow_parents=False)

    async def main() -> None:
        with pytest.raises(ValueError, match="first"):
            await app.AsyncResult("last", parent=app.AsyncResult("first"))
        with pytest.raises(TimeoutError):
            await app.AsyncResult("last", parent=first).aget(timeout=0.01, propagate=False)

    asyncio.run(main())


def test_a_timeout_of_nothing_asks_once(app: Celeriac, store: Store) -> None:
    result = app.AsyncResult("a")
    with pytest.raises(TimeoutError):
        result.get(timeout=0)
    store("a", 1)
    assert result.get(timeout=0) == 1
    assert asyncio.run(app.AsyncResult("a").aget(timeout=0)) == 1


def test_forgetting_forgets_the_earlier_steps(app: Celeriac, store: Store) -> None:
    for id in "abx":
        store(id, 1)
    header = app.GroupResult("g", [app.AsyncResult("x")], parent=app.AsyncResult("a"))
    app.AsyncResult("b", parent=header).forget()
    assert [app.AsyncResult(id).state for id in "abx"] == ["PENDING"] * 3


def test_revoking_by_stamps_is_an_order_of_control(app: Celeriac, monkeypatch: pytest.MonkeyPatch) -> None:
    orders: list[Any] = []
    monkeypatch.setattr(
        app.control, "revoke_by_stamped_headers", lambda *a, **k: orders.append((a, k)), raising=False
    )
    app.AsyncResult("a").revoke_by_stamped_headers({"batch": "7"}, terminate=True)
    assert orders == [(({"batch": "7"},), {"terminate": True, "signal": "SIGTERM"})]


def test_the_children_are_the_same_each_time(app: Celeriac) -> None:
    request = Context(id="t")
    request.children.append(app.AsyncResult("child", parent=app.AsyncResult("t")))
    assert app.backend is not None
    app.backend.store([app.results.record("SUCCESS", 1, request)])
    result = app.AsyncResult("t")
    assert result.children is result.children
    assert not app.AsyncResult("t").duplicate


def test_a_long_chain_can_be_sorted() -> None:
    graph = DependencyGraph((n, [n + 1] if n < 5000 else []) for n in range(5001))
    assert graph.topsort() == list(range(5000, -1, -1))
    with pytest.raises(CycleError):
        DependencyGraph([("a", ["b"]), ("b", ["a"])]).topsort()
