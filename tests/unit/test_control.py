"""``app.control``: what it sends, what it keeps, and what comes back."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from celeriac import Celeriac
from celeriac.app.control import Control, Inspect, flatten_reply
from celeriac.contrib.conformance.helpers import eventually, node
from celeriac.contrib.conformance.listening import Handle, Node
from celeriac.engines.memory import forget
from celeriac.engines.remote import Order
from celeriac.exceptions import DuplicateNodenameWarning, EncodeError, ImproperlyConfigured

Start = Callable[..., list[Order]]


@pytest.fixture
def app(request: pytest.FixtureRequest) -> Iterator[Celeriac]:
    url = f"memory://{request.node.name}"
    with Celeriac("control", broker=url, set_as_current=False) as made:
        yield made
    forget(url)


@pytest.fixture
def start(app: Celeriac) -> Iterator[Start]:
    """Starts a worker of this name that listens; returns the orders it has taken."""
    nodes: list[Node] = []

    def start(name: str, handle: Handle = lambda order: {"ok": order.method}) -> list[Order]:
        broker: Any = app.broker
        nodes.append(Node(broker, name, handle))
        eventually(lambda: name in [box.node for box in broker.state.boxes])
        return nodes[-1].taken

    yield start
    for each in nodes:
        each.stop()


def test_every_method_sends_celery_s_command_and_arguments(app: Celeriac, start: Start) -> None:
    taken = start("w@h")
    control, reply = app.control, {"reply": True}
    calls: list[tuple[Any, str, dict[str, Any]]] = [
        (control.ping(), "ping", {}),
        (control.time_limit("t", 1, 2, **reply), "time_limit", {"task_name": "t", "soft": 1, "hard": 2}),
        (
            control.add_consumer("q", "x", "topic", "k.#", {"durable": False}, **reply),
            "add_consumer",
            {"queue": "q", "exchange": "x", "exchange_type": "topic", "routing_key": "k.#", "durable": False},
        ),
        (control.cancel_consumer("q", **reply), "cancel_consumer", {"queue": "q"}),
        (control.enable_events(**reply), "enable_events", {}),
        (control.disable_events(**reply), "disable_events", {}),
        (control.pool_grow(2, **reply), "pool_grow", {"n": 2}),
        (control.pool_shrink(**reply), "pool_shrink", {"n": 1}),
        (
            control.pool_restart(["m"], reload=True, **reply),
            "pool_restart",
            {"modules": ["m"], "reload": True, "reloader": None},
        ),
        (control.autoscale(8, 2, **reply), "autoscale", {"max": 8, "min": 2}),
        (control.heartbeat(**reply), "heartbeat", {}),
        (control.shutdown(**reply), "shutdown", {}),
        (control.broadcast("mine", {"a": 1}, b=2, **reply), "mine", {"a": 1, "b": 2}),
    ]
    assert [(order.method, order.arguments) for order in taken] == [(one, given) for _, one, given in calls]
    assert [answer for answer, _, _ in calls] == [[{"w@h": {"ok": one}}] for _, one, _ in calls]


def test_without_reply_nothing_is_returned(app: Celeriac, start: Start) -> None:
    taken = start("w@h")
    assert app.control.pool_grow() is None
    assert app.control.ping()  # comes after it
    assert next((order.method, order.ticket) for order in taken) == ("pool_grow", None)


def test_every_question_asks_celery_s_command(app: Celeriac, start: Start) -> None:
    taken = start("w@h")
    look = app.control.inspect()
    look.active(safe=True), look.reserved(), look.scheduled(), look.revoked(), look.stats(), look.report()
    look.query_task("a", "b"), look.query_task(["a", "b"]), look.registered("rate_limit"), look.ping()
    look.active_queues(), look.conf(with_defaults=True), look.clock(), look.hello("n", []), look.memsample()
    look.memdump(3), look.objgraph("T", 1, 2)
    assert [(order.method, order.arguments) for order in taken] == [
        ("active", {"safe": True}),
        *((name, {}) for name in ("reserved", "scheduled", "revoked", "stats", "report")),
        *[("query_task", {"ids": ["a", "b"]})] * 2,
        ("registered", {"taskinfoitems": ["rate_limit"]}),
        ("ping", {}),
        ("active_queues", {}),
        ("conf", {"with_defaults": True}),
        ("clock", {}),
        ("hello", {"from_node": "n", "revoked": []}),
        ("memsample", {}),
        ("memdump", {"samples": 3}),
        ("objgraph", {"num": 1, "max_depth": 2, "type": "T"}),
    ]
    assert look.stats() == {"w@h": {"ok": "stats"}}


def test_inspect_chooses_nodes(app: Celeriac, start: Start) -> None:
    start("a1@h")
    start("a2@h")
    start("b@h")
    pong = {"ok": "ping"}
    inspect = app.control.inspect
    assert inspect(["a1@h", "b@h"]).ping() == {"a1@h": pong, "b@h": pong}
    assert inspect("b@h").ping() == pong, "one name alone"
    assert inspect(pattern="a*").ping() == {"a1@h": pong, "a2@h": pong}
    assert inspect(pattern=r"\w2@", matcher="pcre").ping() == {"a2@h": pong}
    assert len(inspect(limit=2).ping()) == 2
    assert inspect(["c@h"]).ping() is None
    assert isinstance(inspect(), Inspect)


def test_callbacks_get_each_answer(app: Celeriac, start: Start) -> None:
    start("a@h")
    start("b@h")
    told: list[dict[str, Any]] = []
    replies = app.control.broadcast("x", reply=True, callback=told.append)
    assert told == replies
    assert sorted(node for one in told for node in one) == ["a@h", "b@h"]


def test_two_nodes_of_one_name_are_warned_of() -> None:
    with pytest.warns(DuplicateNodenameWarning, match="w@h"):
        assert flatten_reply([{"w@h": 1}, {"v@h": 3}, {"w@h": 2}]) == {"w@h": 2, "v@h": 3}


def test_coroutines_wait_in_a_thread(app: Celeriac, start: Start) -> None:
    start("w@h")

    async def main() -> list[Any]:
        control = app.control
        return [
            await control.aping(),
            await control.abroadcast("x", reply=True),
            await control.arevoke("id", reply=True),
            await control.inspect().aask("y"),
        ]

    one = [{"w@h": {"ok": name}} for name in ("ping", "x", "revoke", "y")]
    assert asyncio.run(main()) == [[one[0]], [one[1]], [one[2]], one[3]]


def test_kept_orders_are_stored_and_told(app: Celeriac, start: Start) -> None:
    taken = start("w@h")
    assert app.coordinator is not None
    assert app.control.revoke(["a", "b"], terminate=True, signal="kill", reply=True) == [
        {"w@h": {"ok": "revoke"}}
    ]
    assert app.control.rate_limit("t", "3/m", reply=True) == [{"w@h": {"ok": "rate_limit"}}]
    answer = app.control.revoke_by_stamped_headers({"batch": ["1", "2"]}, reply=True)
    assert answer == [{"w@h": {"ok": "revoke_by_stamped_headers"}}]
    assert [(order.method, order.arguments) for order in taken] == [
        ("revoke", {"task_id": ["a", "b"], "terminate": True, "signal": "SIGKILL"}),
        ("rate_limit", {"task_name": "t", "rate_limit": "3/m"}),
        (
            "revoke_by_stamped_headers",
            {"headers": {"batch": ["1", "2"]}, "terminate": False, "signal": "SIGTERM"},
        ),
    ]
    control = app.coordinator.control()
    assert {"a", "b"} < set(control.revoked)
    assert control.terminate == {"a": "SIGKILL", "b": "SIGKILL"}
    assert control.rate_limits == {"t": "3/m"}


def test_one_worker_is_named_to_tell_of_delayed_tasks_that_a_revoke_ends(app: Celeriac, start: Start) -> None:
    taken = start("celery@b")
    for name in "bca":
        app.broker.beat(node(name))

    @app.task(name="shop.pay")
    def pay() -> None: ...

    ids = [pay.apply_async(countdown=300).id for _ in range(3)]
    app.control.revoke([ids[0], "unknown"], reply=True)
    app.control.revoke(ids[1], destination=["celery@b", "celery@c"], reply=True)
    app.control.revoke(ids[2], pattern="*@nowhere")
    app.control.revoke(ids[0], reply=True)
    told = [(order.arguments.get("ended"), order.arguments.get("teller")) for order in taken]
    assert told == [({ids[0]: "shop.pay"}, "celery@a"), ({ids[1]: "shop.pay"}, "celery@b"), (None, None)]


def test_a_result_s_revoke_may_wait_for_the_workers(app: Celeriac, start: Start) -> None:
    taken = start("w@h")
    app.AsyncResult("one").revoke(wait=True)
    app.ResultSet([app.AsyncResult("two")]).revoke(terminate=True, wait=True, timeout=5)
    app.AsyncResult("one").revoke_by_stamped_headers({"batch": "1"}, wait=True)
    assert [order.ticket is not None for order in taken] == [True] * 3
    assert [order.arguments.get("task_id") for order in taken] == [["one"], ["two"], None]


def test_without_a_store_an_order_must_be_taken_by_somebody(
    app: Celeriac, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Celeriac, "coordinator", None)
    for call in (lambda: app.control.revoke("a"), lambda: app.control.rate_limit("t", "1/s")):
        with pytest.raises(ImproperlyConfigured, match="needs a store that keeps orders"):
            call()
    taken = start("celery@h")
    assert app.control.revoke("a") is None
    assert app.control.rate_limit("t", "1/s", reply=True) == [{"celery@h": {"ok": "rate_limit"}}]
    assert [order.method for order in taken] == ["revoke", "rate_limit"]


def test_what_cannot_be_sent_is_said_at_once(app: Celeriac, start: Start) -> None:
    taken = start("w@h")
    with pytest.raises(EncodeError, match="arguments"):
        app.control.broadcast("x", {"it": object()})
    assert taken == []


def test_the_clock_goes_on_and_never_falls_behind(app: Celeriac, start: Start) -> None:
    def handle(order: Order) -> Any:
        order.clock += 100
        return {"ok": 1}

    taken = start("w@h", handle)
    before = app.clock.value
    app.control.ping()
    assert taken[0].clock == before + 101
    assert app.clock.value == before + 102


def test_exclusive_and_durable_at_once_is_refused() -> None:
    app = Celeriac(broker="redis://localhost:1", control_queue_durable=True, set_as_current=False)
    with pytest.raises(ImproperlyConfigured, match="control_queue_exclusive"):
        app.control.ping()
    assert Control(app).app is app
