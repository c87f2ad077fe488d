"""Sets and groups of results: one subscription for all, order of completion, groups in the store."""

from __future__ import annotations

import asyncio
import json
import pickle
import threading
from collections.abc import Callable, Iterable
from typing import Any

import pytest

from celeriac import Celeriac
from celeriac.app.request import Context
from celeriac.exceptions import TaskRevokedError, TimeoutError
from celeriac.result import (
    EagerResult,
    GroupResult,
    ResultSet,
    allow_join_result,
    denied_join_result,
    result_from_tuple,
)

from .helpers import make_app

Store = Callable[..., None]


@pytest.fixture
def app() -> Celeriac:
    return make_app()


@pytest.fixture
def store(app: Celeriac) -> Store:
    def store(result: Any, value: Any = None, state: str = "SUCCESS") -> None:
        state = "FAILURE" if isinstance(value, Exception) and state == "SUCCESS" else state
        assert app.backend is not None
        app.backend.store([app.results.record(state, value, Context(id=str(result)))])

    return store


class Counted:
    """A backend that counts how often it is asked."""

    def __init__(self, backend: Any) -> None:
        self.backend, self.calls = backend, []  # type: ignore[var-annotated]
        self.open = 0

    def subscribe(self, ids: Iterable[str], callback: Any) -> Any:
        self.calls.append("subscribe")
        self.open += 1
        subscription, counted, real = self.backend.subscribe(ids, callback), self, None
        real = subscription.close

        def close() -> None:
            counted.open -= 1
            real()

        subscription.close = close
        return subscription

    def fetch(self, ids: Any) -> Any:
        self.calls.append("fetch")
        return self.backend.fetch(ids)

    def forget(self, ids: Any) -> None:
        self.calls.append("forget")
        self.backend.forget(ids)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.backend, name)


@pytest.fixture
def counted(app: Celeriac) -> Counted:
    app._stores.use_backend(Counted(app.broker))
    return app.backend  # type: ignore[no-any-return]


def results(app: Celeriac, *ids: str) -> list[Any]:
    return [app.AsyncResult(id) for id in ids]


# -- waiting ---------------------------------------------------------------------------------------------


def test_thousands_of_results_cost_one_subscription(app: Celeriac, counted: Counted) -> None:
    ids = [str(number) for number in range(3000)]
    app.broker.store([app.results.record("SUCCESS", int(id), Context(id=id)) for id in ids])
    assert app.ResultSet(results(app, *ids)).get(timeout=20) == list(range(3000))
    assert asyncio.run(_awaited(app.ResultSet(results(app, *ids)))) == list(range(3000))
    assert (counted.calls, counted.open) == (["subscribe", "subscribe"], 0)
    counted.calls.clear()
    together = app.ResultSet(results(app, *ids))
    assert together.ready()
    assert together.successful()
    assert together.completed_count() == 3000
    assert together.join(timeout=0) == list(range(3000))
    together.forget()
    assert counted.calls == ["fetch", "forget"]
    assert not together.ready()


async def _awaited(result: Any) -> Any:
    return await result


def test_join_waits_and_keeps_the_order(app: Celeriac, store: Store, counted: Counted) -> None:
    together = app.ResultSet(results(app, "a", "b", "c"))
    store("b", 2)

    def work() -> None:
        store("c", 1, "STARTED")
        store("c", 3)
        store("a", 1)

    threading.Timer(0.02, work).start()
    messages: list[Any] = []
    assert together.join(timeout=5, on_message=messages.append) == [1, 2, 3]
    assert [m["status"] for m in messages if m["task_id"] == "c"] == ["STARTED", "SUCCESS"]
    called: list[Any] = []
    assert together.get(callback=lambda *each: called.append(each)) == []
    assert called == [("a", 1), ("b", 2), ("c", 3)]
    assert counted.calls.count("subscribe") == 1


def test_a_failure_is_raised_though_earlier_members_have_not_ended(app: Celeriac, store: Store) -> None:
    together = app.ResultSet(results(app, "a", "b"))
    threading.Timer(0.02, store, ("b", KeyError("b"))).start()
    with pytest.raises(KeyError, match="b"):
        together.join(timeout=5)

    async def main() -> None:
        with pytest.raises(KeyError, match="b"):
            await app.ResultSet(results(app, "a", "b")).aget(timeout=5)

    asyncio.run(main())
    store("a", 1)
    first, second = together.join(timeout=5, propagate=False)
    assert (first, type(second)) == (1, KeyError)


def test_what_does_not_come_is_named(app: Celeriac, store: Store, counted: Counted) -> None:
    together = app.ResultSet(results(app, "a", "b", "c"))
    store("a", 1)
    ticks: list[int] = []
    with pytest.raises(TimeoutError, match=r"2 of 3 tasks did not end within 0.03 seconds, among them b\."):
        together.get(timeout=0.03, interval=0.01, on_interval=lambda: ticks.append(1))
    assert ticks
    with pytest.raises(TimeoutError, match="2 of 2"):
        together.get(timeout=0)
    with pytest.raises(TimeoutError, match=r"0\.01"):
        asyncio.run(together.aget(timeout=0.01))
    assert counted.open == 0


def test_members_in_the_order_in_which_they_end(app: Celeriac, store: Store) -> None:
    inner = app.GroupResult("inner", results(app, "x", "y"))
    members = [app.AsyncResult("a"), inner, app.AsyncResult("b")]
    store("x", 1)
    arriving = iter(app.ResultSet(members).as_completed(timeout=5))
    store("b", 2)
    assert next(arriving).id == "b"
    store("y", ValueError("y"))
    assert next(arriving) is inner
    store("a", 3)
    assert next(arriving).id == "a"
    assert list(arriving) == []
    assert list(app.ResultSet(members).iter_native())[1] == ("inner", inner.results)
    with pytest.raises(ValueError, match="y"):
        list(app.ResultSet(members).iterate())


def test_async_iteration(app: Celeriac, store: Store, counted: Counted) -> None:
    async def main() -> list[str]:
        seen = []
        store("b", 1)
        async for member in app.ResultSet(results(app, "a", "b")).as_completed(timeout=5):
            seen.append(member.id)
            store("a", 2)
        async for member in app.ResultSet(results(app, "a", "none")).as_completed(timeout=0.01):
            seen.append(member.id)
        return seen

    with pytest.raises(TimeoutError):
        asyncio.run(main())

    async def leave_early() -> None:
        async for _ in app.ResultSet(results(app, "a", "none")).as_completed():
            break

    asyncio.run(leave_early())
    assert counted.open == 0


def test_a_cancelled_wait_leaves_no_subscription(app: Celeriac, counted: Counted) -> None:
    async def main() -> None:
        waiting = asyncio.ensure_future(app.ResultSet(results(app, "a")).aget())
        while not counted.open:
            await asyncio.sleep(0.001)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting

    asyncio.run(main())
    assert counted.open == 0


def test_groups_in_groups(app: Celeriac, store: Store) -> None:
    together = app.GroupResult("g", [*results(app, "a"), app.GroupResult("h", results(app, "b", "c"))])
    for number, id in enumerate("abc"):
        store(id, number)
    assert together.get(timeout=5) == [0, [1, 2]]
    assert (together.successful(), together.completed_count(), len(together)) == (True, 2, 2)


def test_eager_ignored_and_twice_given_members(app: Celeriac, store: Store) -> None:
    ignored = app.AsyncResult("i")
    ignored.ignored = True
    eager = EagerResult[int]("e", 1, "SUCCESS")
    store("a", 2)
    together = app.ResultSet([eager, ignored, *results(app, "a", "a")])
    assert together.get(timeout=5) == [1, None, 2, 2]
    assert together.then(lambda each: len(each)).value == 4
    assert ResultSet([eager]).get() == [1]
    assert ResultSet([eager]).supports_native_join is False


def test_waiting_is_refused_where_it_blocks(app: Celeriac) -> None:
    together = app.ResultSet(results(app, "a"))

    async def main() -> None:
        with pytest.raises(RuntimeError, match="await"):
            together.get(timeout=1)

    asyncio.run(main())
    with denied_join_result():
        for wait in (together.get, together.as_completed, together.iterate, together.iter_native):
            with pytest.raises(RuntimeError, match="Never call"):
                wait()
        with allow_join_result(), pytest.raises(TimeoutError):
            together.get(timeout=0)
        with pytest.raises(TimeoutError):
            together.get(timeout=0, disable_sync_subtasks=False)


def test_members_of_several_stores(app: Celeriac, store: Store) -> None:
    other = make_app()
    assert other.backend is not None
    other.backend.store([other.results.record("SUCCESS", 2, Context(id="b"))])
    store("a", 1)
    together = app.ResultSet([app.AsyncResult("a"), other.AsyncResult("b")])
    assert together.get(timeout=5) == [1, 2]


# -- states and callbacks ----------------------------------------------------------------------------------


def test_states(app: Celeriac, store: Store) -> None:
    together = app.ResultSet(results(app, "a", "b"))
    assert (together.ready(), together.waiting(), together.completed_count()) == (False, True, 0)
    store("a", 1)
    seen: list[Any] = []
    together.maybe_throw(callback=lambda *each: seen.append(each))
    assert seen == [("a", 1), ("b", None)]
    assert (together.ready(), together.successful(), together.failed()) == (False, False, False)
    store("b", TaskRevokedError("revoked"), "REVOKED")
    assert (together.ready(), together.successful(), together.failed()) == (True, False, False)
    with pytest.raises(TaskRevokedError):
        together.maybe_reraise()
    together.maybe_throw(propagate=False)


def test_then_waits_for_all(app: Celeriac, store: Store, counted: Counted) -> None:
    together, done = app.ResultSet(results(app, "a", "b")), threading.Event()
    seen: list[Any] = []
    promise = together.then(lambda each: each.value())
    promise.then(lambda value: (seen.append(value), done.set()))
    store("a", 1)
    assert not promise.ready
    store("b", 2)
    assert done.wait(5)
    assert seen == [[1, 2]]
    assert counted.calls.count("subscribe") == 1
    assert counted.open == 0
    failed = app.ResultSet([EagerResult("e", KeyError("k"), "FAILURE")])
    assert failed.then(seen.append, on_error=lambda each: each is failed).value is True


def test_revoke_is_one_order(app: Celeriac) -> None:
    sent = [app.send_task("t", countdown=100) for _ in range(3)]
    eager = EagerResult[int]("e", 1, "SUCCESS")
    together = app.GroupResult("g", [sent[0], app.GroupResult("h", [*sent[1:], eager])])
    before = app.broker.control().version
    together.revoke()
    assert app.broker.control().version == before + 1
    assert {result.state for result in [*sent, eager]} == {"REVOKED"}


# -- as collections ------------------------------------------------------------------------------------------


def test_a_set_is_changed_as_celerys(app: Celeriac) -> None:
    together = app.ResultSet(results(app, "a", "b"))
    a, b, c = results(app, "a", "b", "c")
    together.add(b)
    together.add(c)
    assert together.results == [a, b, c]
    together.remove("c")
    with pytest.raises(KeyError):
        together.remove("c")
    together.discard("c")
    together.update([b, c, c])
    assert list(together) == [a, b, c]
    assert (len(together), together[0], c in together) == (3, a, True)
    assert together == app.ResultSet([a, b, c]) != app.ResultSet([a])
    assert pickle.loads(pickle.dumps(together)) == together
    assert repr(together) == "<ResultSet: [a, b, c]>"
    together.clear()
    assert (together.get(), together.ready(), together.supports_native_join) == ([], True, None)


def test_a_group_is_its_id_and_its_members(app: Celeriac) -> None:
    first = app.AsyncResult("first")
    together = app.GroupResult("g", results(app, "a", "b"), parent=first)
    assert (str(together), repr(together), hash(together)) == ("g", "<GroupResult: g [a, b]>", hash("g"))
    assert together == "g" == together
    assert together != app.GroupResult("g", results(app, "a", "b"))
    assert (bool(together), bool(app.GroupResult()), together.children) == (True, False, together.results)
    assert together.as_tuple() == (
        ("g", (("first", None), None)), [(("a", None), None), (("b", None), None)]
    )  # fmt: skip
    for again in (
        pickle.loads(pickle.dumps(together)),
        result_from_tuple(json.loads(json.dumps(together.as_tuple())), app),
    ):
        assert again == together
        assert isinstance(again, GroupResult)
    body = app.AsyncResult("body", parent=together)
    assert result_from_tuple(body.as_tuple(), app).parent == together
    assert body.as_list() == ["body", "a", "b", "first"]
    assert isinstance(together, app.GroupResult)
    assert together.app is app


def test_a_group_that_a_task_called_is_among_its_children(app: Celeriac, store: Store) -> None:
    request = Context(id="t")
    request.children.append(app.GroupResult("g", results(app, "a", "b")))
    assert app.backend is not None
    app.backend.store([app.results.record("SUCCESS", 0, request)])
    store("a", 1)
    store("b", 2)
    collected = [(str(node), value) for node, value in app.AsyncResult("t").collect(timeout=5)]
    assert collected == [("t", 0), ("g", [1, 2]), ("a", 1), ("b", 2)]
    parent = app.AsyncResult("t")
    assert parent.children == [app.GroupResult("g", results(app, "a", "b"))]
    assert parent.graph.topsort() == ["a", "b", "g", "t"]


# -- in the store --------------------------------------------------------------------------------------------


def test_a_group_is_saved_in_celerys_form(app: Celeriac) -> None:
    together = app.GroupResult("g", results(app, "a", "b"))
    assert app.GroupResult.restore("g") is None
    assert together.save() is together
    assert app.backend is not None
    stored = app.backend.fetch_group("g")
    assert stored == b'{"result":[["g",null],[[["a",null],null],[["b",null],null]]]}'
    restored = app.GroupResult.restore("g")
    assert restored == together
    assert restored is not None
    assert restored.app is app
    assert GroupResult.restore("g", app=app) == together
    together.delete()
    assert app.GroupResult.restore("g") is None


def test_groups_are_compressed_and_expire_as_results_do() -> None:
    app = make_app(result_compression="gzip", result_expires=60)

    class Kept:
        def __init__(self) -> None:
            self.groups: dict[str, Any] = {}

        def store_group(self, group: str, payload: bytes, ttl: float | None) -> None:
            self.groups[group] = payload, ttl

        def fetch_group(self, group: str) -> Any:
            return self.groups[group][0]

    kept: Any = Kept()
    app.GroupResult("g", results(app, "a")).save(backend=kept)
    payload, ttl = kept.groups["g"]
    assert payload.startswith(b"\0celery-compressed\0")
    assert ttl == 60
    assert app.GroupResult.restore("g", backend=kept) == app.GroupResult("g", results(app, "a"))


def test_what_is_missing_for_saving_is_named(app: Celeriac) -> None:
    with pytest.raises(ValueError, match="need an id"):
        app.GroupResult(results=results(app, "a")).save()
    with pytest.raises(NotImplementedError, match="result_backend"):
        make_app(result_backend="disabled://").GroupResult("g").save()
