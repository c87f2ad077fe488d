"""Tasks: calls, checks of arguments, requests, eager mode, pydantic, coroutines."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest
from pydantic import BaseModel

from celeriac import Celeriac, signals
from celeriac.app.request import Context
from celeriac.exceptions import AlwaysEagerIgnored, EncodeError, Ignore, Reject
from celeriac.result import EagerResult, allow_join_result

from .helpers import body, make_app, message, messages, running


@pytest.fixture
def app() -> Celeriac:
    return make_app()


@pytest.fixture
def eager() -> Celeriac:
    return make_app(task_always_eager=True)


# -- arguments -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("args", "kwargs", "fits"),
    [
        ((1,), {}, True),
        ((1, 2), {}, True),
        ((1,), {"y": 2, "z": 3}, True),
        ((), {}, False),
        ((1, 2, 3), {}, False),
        ((1,), {"nope": 1}, False),
        ((1,), {"x": 1}, False),
    ],
)
def test_arguments_are_checked_at_the_call(app: Celeriac, args: Any, kwargs: Any, fits: bool) -> None:
    @app.task(name="t")
    def t(x: int, y: int = 2, *, z: int = 0) -> None: ...

    if fits:
        t.delay(*args, **kwargs)
    else:
        with pytest.raises(TypeError, match=r"^t\(x: 'int', y"):
            t.delay(*args, **kwargs)
    assert len(messages(app)) == fits


def test_the_check_knows_bound_tasks_star_arguments_and_required_keywords(app: Celeriac) -> None:
    app.task(name="a", bind=True)(lambda self, x: None).delay(1)
    app.task(name="b")(lambda *args, **kw: None).delay(1, 2, 3, k=4)

    def c(x: int, *, key: int) -> None: ...

    with pytest.raises(TypeError, match="key"):
        app.task(c).delay(1)


def test_the_check_can_be_turned_off(app: Celeriac) -> None:
    app.task(typing=False)(lambda x: None).delay()
    make_app(strict_typing=False).task(lambda x: None).delay()


def test_a_string_is_no_list_of_arguments(app: Celeriac) -> None:
    with pytest.raises(TypeError, match=r"\('abc',\)"):
        app.task(lambda x: None).apply_async("abc")


# -- the request -----------------------------------------------------------------------------------------


def test_a_request_has_every_attribute_of_celerys(app: Celeriac) -> None:
    context = Context()
    names = [
        "id",
        "root_id",
        "parent_id",
        "correlation_id",
        "args",
        "kwargs",
        "retries",
        "eta",
        "expires",
        "group",
        "group_index",
        "chord",
        "chain",
        "callbacks",
        "errbacks",
        "headers",
        "hostname",
        "logfile",
        "loglevel",
        "origin",
        "reply_to",
        "delivery_info",
        "properties",
        "timelimit",
        "time_limit",
        "soft_time_limit",
        "utc",
        "is_eager",
        "called_directly",
        "ignore_result",
        "shadow",
        "replaced_task_nesting",
        "stamped_headers",
        "stamps",
        "taskset",
        "children",
    ]
    for name in names:
        getattr(context, name)
    assert context.called_directly
    with pytest.raises(AttributeError, match="no_such_header"):
        _ = context.no_such_header


def test_a_request_of_a_message(app: Celeriac) -> None:
    app.send_task("t", (1,), {"k": 2}, headers={"tenant": "acme"}, time_limit=9, priority=3, group_id="g")
    context = running(
        message(app), delivery_token=5, redelivered=True, hostname="w@h", lease=("o", "celery", 5)
    )
    assert (context.args, context.kwargs, context.tenant) == ([1], {"k": 2}, "acme")
    assert context.headers == {"tenant": "acme"}
    assert (context.time_limit, context.soft_time_limit) == (9, None)
    assert (context.task, context.lang, context.argsrepr) == ("t", "py", "(1,)")
    assert (context.group, context.taskset, context.delivery_token) == ("g", "g", 5)
    assert not context.called_directly
    assert context.delivery_info == {
        "exchange": "", "routing_key": "celery", "priority": 3, "redelivered": True
    }  # fmt: skip


def test_requests_belong_to_threads_and_coroutines(app: Celeriac) -> None:
    @app.task(bind=True)
    async def t(self: Any, name: str) -> str:
        self.request.name = name
        await asyncio.sleep(0)
        return self.request.name

    async def both() -> list[str]:
        return await asyncio.gather(t("a"), t("b"))

    assert asyncio.run(both()) == ["a", "b"]
    t.push_request(Context(id="outer"))
    seen: list[Any] = []
    thread = threading.Thread(target=lambda: seen.append(t.request.id))
    thread.start()
    thread.join()
    assert seen == [None]
    assert t.request.id == "outer"
    t.pop_request()


def test_a_task_called_by_another_has_a_request_of_its_own(app: Celeriac) -> None:
    @app.task(bind=True)
    def inner(self: Any) -> Any:
        return (self.request.called_directly, outer.request.id)

    @app.task(bind=True)
    def outer(self: Any) -> Any:
        return (self.request.called_directly, inner())

    assert outer.apply(task_id="o").get() == (False, (True, "o"))


def test_update_state(app: Celeriac) -> None:
    @app.task(bind=True)
    def t(self: Any) -> None: ...

    result = t.delay()
    t.push_request(running(message(app)))
    try:
        t.update_state(state="PROGRESS", meta={"done": 1})
        with pytest.raises(TypeError, match="state"):
            t.update_state(meta={})
    finally:
        t.pop_request()
    assert (result.state, result.info) == ("PROGRESS", {"done": 1})
    t.update_state(state="PROGRESS")  # called directly: there is no task to have a state


# -- eager mode --------------------------------------------------------------------------------------------


def test_eager_calls_run_here_and_go_through_the_serializer(eager: Celeriac) -> None:
    @eager.task
    def t(x: Any) -> Any:
        return x

    result = t.delay((1, 2))
    assert isinstance(result, EagerResult)
    assert result.get() == [1, 2]
    assert result.state == "SUCCESS"
    with pytest.raises(EncodeError, match=r"args\[0\]"):
        t.delay(object())
    assert [r.get() for r in t.enqueue_many([1, 2])] == [1, 2]
    with pytest.warns(AlwaysEagerIgnored):
        eager.send_task(t.name, (1,))
    assert len(messages(eager)) == 1


def test_eager_errors(eager: Celeriac) -> None:
    @eager.task
    def t() -> None:
        raise ValueError("boom")

    result = t.delay()
    assert result.state == "FAILURE"
    assert result.failed()
    assert "boom" in result.traceback
    with pytest.raises(ValueError, match="boom"):
        result.get()
    assert isinstance(result.get(propagate=False), ValueError)
    with pytest.raises(ValueError, match="boom"):
        t.apply(throw=True)
    eager.conf.task_eager_propagates = True
    with pytest.raises(ValueError, match="boom"):
        t.delay()


def test_eager_retries_run(eager: Celeriac) -> None:
    seen = []

    @eager.task(bind=True, max_retries=2)
    def t(self: Any, x: int) -> str:
        seen.append((self.request.id, self.request.retries, x))
        if self.request.retries < 2:
            self.retry(args=(x + 1,), countdown=3600)
        return "done"

    result = t.apply_async((1,), task_id="i")
    assert result.get() == "done"
    assert seen == [("i", 0, 1), ("i", 1, 2), ("i", 2, 3)]


def test_eager_hooks_signals_and_callbacks_in_order(eager: Celeriac) -> None:
    seen: list[Any] = []

    @eager.task(
        bind=True,
        before_start=lambda self, *a: seen.append("before"),
        on_success=lambda self, *a: seen.append("success"),
        on_failure=lambda self, *a: seen.append("failure"),
        after_return=lambda self, status, *a: seen.append(status),
    )
    def t(self: Any, fail: bool) -> int:
        seen.append("run")
        if fail:
            raise ValueError
        return 1

    @eager.task
    def linked(x: Any) -> None:
        seen.append(("linked", x))

    @eager.task
    def failed(request: Any, exc: Any, traceback: Any) -> None:
        seen.append(("errback", request.task, type(exc)))

    prerun = signals.task_prerun.connect(lambda **_: seen.append("prerun"), weak=False, sender=t)
    postrun = signals.task_postrun.connect(
        lambda state, **_: seen.append(f"postrun {state}"), weak=False, sender=t
    )
    try:
        t.apply_async((False,), link=linked.s())
        assert seen == ["prerun", "before", "run", ("linked", 1), "success", "SUCCESS", "postrun SUCCESS"]
        seen.clear()
        t.apply_async((True,), link_error=failed.s())
        assert seen == [
            "prerun", "before", "run", "failure", ("errback", t.name, ValueError), "FAILURE",
            "postrun FAILURE",
        ]  # fmt: skip
    finally:
        signals.task_prerun.disconnect(prerun, sender=t)
        signals.task_postrun.disconnect(postrun, sender=t)


def test_eager_ignore_and_reject(eager: Celeriac) -> None:
    @eager.task
    def t(exc: str) -> None:
        raise Ignore if exc == "ignore" else Reject("no")

    assert t.delay("ignore").state == "IGNORED"
    assert t.delay("reject").state == "REJECTED"


def test_results_of_eager_tasks_are_stored_on_request(eager: Celeriac) -> None:
    @eager.task(bind=True)
    def t(self: Any) -> int:
        self.update_state(state="PROGRESS")
        return 5

    assert eager.AsyncResult(t.delay().id).state == "PENDING"
    eager.conf.task_store_eager_result = True
    assert eager.AsyncResult(t.delay().id).get(timeout=1) == 5


def test_get_inside_an_eager_task_follows_the_rule(eager: Celeriac) -> None:
    @eager.task
    def inner() -> int:
        return 1

    @eager.task
    def outer() -> int:
        return inner.delay().get()

    # As in Celery, and as a worker would: what hangs there shall not pass a test here.
    with pytest.raises(RuntimeError, match="Never call"):
        outer.delay().get()
    assert outer.apply().get() == 1


# -- coroutine functions -----------------------------------------------------------------------------------


def test_async_tasks_run_in_eager_mode_with_and_without_a_running_loop(app: Celeriac) -> None:
    @app.task(bind=True)
    async def t(self: Any, x: int) -> Any:
        await asyncio.sleep(0)
        return (self.request.id, x)

    assert t.apply((1,), task_id="i").get() == ("i", 1)

    async def main() -> Any:
        return t.apply((2,), task_id="j").get()

    assert asyncio.run(main()) == ("j", 2)


def test_adelay_sends(app: Celeriac) -> None:
    @app.task
    def t(x: int) -> None: ...

    async def main() -> Any:
        return [await t.adelay(1), await t.aapply_async((2,), countdown=0)]

    sent = asyncio.run(main())
    assert [m.headers["id"] for m in messages(app)] == [r.id for r in sent]


# -- pydantic ------------------------------------------------------------------------------------------------


class Order(BaseModel):
    item: str
    count: int = 1


def test_models_as_arguments_and_results(app: Celeriac) -> None:
    @app.task(name="buy", pydantic=True)
    def buy(order: Order, other: Order | None = None, plain: Any = None) -> Order:
        assert isinstance(order, Order)
        assert other is None or isinstance(other, Order)
        return Order(item=order.item, count=order.count + 1)

    buy.delay(Order(item="pen"), plain={"item": 1})
    assert body(message(app))[:2] == ([{"item": "pen", "count": 1}], {"plain": {"item": 1}})
    assert buy.apply(({"item": "ink"},)).get() == {"item": "ink", "count": 2}
    assert buy.apply(({"item": "ink"}, {"item": "x"})).successful()
    assert buy.apply(({"count": "many"},)).state == "FAILURE"


# -- signatures ----------------------------------------------------------------------------------------


def test_signatures(app: Celeriac) -> None:
    @app.task(name="add")
    def add(x: int, y: int) -> int:
        return x + y

    sig = add.s(2)
    assert dict(sig) == {
        "task": "add", "args": (2,), "kwargs": {}, "options": {}, "subtask_type": None, "immutable": False
    }  # fmt: skip
    assert sig(1) == 3
    assert repr(add.s(1, y=2)) == "add(1, y=2)"
    sig.apply_async((1,), countdown=0)
    assert body(message(app))[0] == [1, 2]
    assert add.si(1, 2).clone((9,)).args == (1, 2)
    assert add.s(1).set(queue="q", immutable=True).options == {"queue": "q"}
    frozen = add.s(1)
    assert frozen.freeze().id == frozen.id
    assert app.signature(dict(frozen)).apply_async((4,)).id == frozen.id
    callback = add.s(5)
    assert frozen.link(callback) is callback
    assert frozen.on_error(add.si(6)) is frozen
    frozen.link(add.s(5))
    assert len(frozen.options["link"]) == 1
    assert frozen.flatten_links() == [frozen, callback]
    with pytest.raises(TypeError):
        _ = add.s(1) | {"x": 2}


def test_a_signature_of_an_unknown_task_is_sent_by_name(app: Celeriac) -> None:
    app.signature("elsewhere.task", args=(1,), countdown=0).delay(0)
    found = message(app)
    assert found.headers["task"] == "elsewhere.task"
    assert body(found)[0] == [0, 1]


def test_waiting_in_a_task_is_refused(app: Celeriac) -> None:
    @app.task
    def t() -> None: ...

    result = t.delay()
    t.push_request(running(message(app)))
    try:
        with pytest.raises(RuntimeError, match="within a task"):
            result.get(timeout=0)
        with allow_join_result(), pytest.raises(Exception, match="did not end"):
            result.get(timeout=0)
        with pytest.raises(Exception, match="did not end"):
            result.get(timeout=0, disable_sync_subtasks=False)
    finally:
        t.pop_request()
