"""Queues and routes."""

from __future__ import annotations

import re
import uuid
from types import SimpleNamespace
from typing import Any

import kombu
import kombu.common
import pytest

from celeriac import Broadcast, Celeriac, Exchange, Queue
from celeriac.exceptions import ImproperlyConfigured, QueueNotFound
from celeriac.routing import Binding, Queues, Router, worker_direct
from tests import shared_routers


def router(routes: Any = None, queues: Any = None, default: str = "celery", **options: Any) -> Router:
    return Router(routes, Queues(queues, default, **options))


def test_the_default_queue_is_reached_by_its_name_without_an_exchange() -> None:
    target = router().target("tasks.add")
    assert target[:3] == ("celery", "", "celery")


def test_settings_of_the_default_queue() -> None:
    queues = Queues(None, "main", default_exchange="jobs", default_routing_key="job")
    assert queues["main"].exchange.name == "jobs"
    assert queues["main"].routing_key == "job"


@pytest.mark.parametrize(
    ("pattern", "name", "hit"),
    [
        ("tasks.add", "tasks.add", True),
        ("tasks.add", "tasks.add2", False),
        ("tasks.*", "tasks.mail.send", True),
        ("*.send", "tasks.mail.send", True),
        ("tasks.*", "other.add", False),
        (re.compile(r"(video|image)\..*"), "image.scale", True),
        (re.compile(r"(video|image)\..*"), "tasks.image.scale", False),
    ],
)
def test_patterns_of_routes(pattern: Any, name: str, hit: bool) -> None:
    target = router({pattern: {"queue": "chosen"}}).target(name)
    assert target.queue == ("chosen" if hit else "celery")


def test_an_exact_name_goes_before_a_pattern_that_stands_first() -> None:
    assert router({"tasks.*": "a", "tasks.add": "b"}).target("tasks.add").queue == "b"


def test_call_before_task_before_route_before_settings() -> None:
    task = SimpleNamespace(queue="of-task")
    plain = SimpleNamespace()
    routes = {"routed": {"queue": "of-route", "priority": 3}}
    assert router(routes).target("routed", {"queue": "of-call"}, task).queue == "of-call"
    assert router(routes).target("routed", {"queue": "of-call"}, task).extra == {"priority": 3}
    assert router(routes).target("routed", {}, task).queue == "of-task"
    assert router(routes).target("routed", {}, plain).queue == "of-route"
    assert router(routes).target("other").queue == "celery"


def test_a_key_of_the_call_completes_the_route_s_place() -> None:
    queues = [
        Queue("all", Exchange("media", "topic"), "#"),
        Queue("cut", Exchange("media", "topic"), "*.cut"),
    ]
    routes = {"add": {"exchange": "media", "routing_key": "image.png"}}
    assert router(routes, queues).target("add").queue == "all"
    assert router(routes, queues).target("add", {"routing_key": "video.cut"}).also == ("cut",)


def test_a_queue_of_the_call_is_not_mixed_with_the_exchange_of_the_route() -> None:
    routes = {"add": {"exchange": "media", "routing_key": "image"}}
    assert router(routes, [Queue("celery")]).target("add", {"queue": "q"})[:3] == ("q", "", "q")


def test_queues_may_be_a_dictionary() -> None:
    queues = Queues(
        {"mail": {"exchange": "mail", "exchange_type": "topic", "routing_key": "mail.#"}}, "celery"
    )
    assert queues["mail"].exchange == Exchange("mail", "topic")
    assert queues["mail"].routing_key == "mail.#"
    assert list(queues.consumed) == ["mail"]


def test_objects_of_kombu_are_accepted() -> None:
    foreign = SimpleNamespace(
        name="mail",
        exchange=SimpleNamespace(name="", type="direct", delivery_mode=None),
        routing_key="mail",
        max_priority=None,
        queue_arguments=None,
    )
    queues = Queues([foreign], "celery")
    assert isinstance(queues["mail"], Queue)
    assert Router(None, queues).target("x", {"queue": foreign}).queue == "mail"


def test_a_queue_object_that_is_declared_stays_as_it_was() -> None:
    mine = Queue("mail")
    Queues([mine], "celery", default_exchange="jobs")
    assert mine.exchange.name == ""


def test_missing_queues_are_made_unless_forbidden() -> None:
    assert Queues(None, "celery")["new"].name == "new"
    with pytest.raises(QueueNotFound, match="task_create_missing_queues"):
        Queues([Queue("a")], "a", create_missing=False)["new"]


def test_an_exchange_leads_to_the_queue_bound_to_it() -> None:
    queues = [
        Queue("images", Exchange("media", "topic"), "image.#"),
        Queue("videos", Exchange("media", "topic"), "video.*"),
    ]
    found = router(None, queues)
    call = {"exchange": "media", "routing_key": "image.scale.small"}
    assert found.target("x", call)[:3] == ("images", "media", "image.scale.small")
    assert found.target("x", {"exchange": "media", "routing_key": "image"}).queue == "images"
    assert found.target("x", {"exchange": "media", "routing_key": "video.cut"}).queue == "videos"
    with pytest.raises(QueueNotFound, match="would be lost"):
        found.target("x", {"exchange": "media", "routing_key": "video.cut.long"})


def test_an_exchange_leads_to_every_queue_that_is_bound() -> None:
    queues = [
        Queue("a", Exchange("jobs"), "k"),
        Queue("b", Exchange("jobs"), "k"),
        Queue("c", Exchange("jobs"), "other", bindings=[(Exchange("more", "topic"), "x.*"), ("jobs", "k")]),
    ]
    found = router(None, queues)
    assert found.target("x", {"exchange": "jobs", "routing_key": "k"})[::4] == ("a", ("b", "c"))
    assert found.target("x", {"exchange": "more", "routing_key": "x.y"}).queue == "c"


def test_a_fanout_exchange_is_left_to_the_store() -> None:
    found = router({"tell": {"queue": "news"}}, [Queue("celery"), Broadcast("news")])
    assert found.target("tell")[:3] == ("", "news", "celery")
    assert found.target("x", {"exchange": "news"})[:3] == ("", "news", "celery")
    assert found.target("x", {"exchange": "other", "exchange_type": "fanout"})[:2] == ("", "other")


def test_an_exchange_that_nobody_declared_is_looked_up_and_remembered() -> None:
    asked = []

    def lookup(exchange: str) -> list[Binding]:
        asked.append(exchange)
        return [
            Binding(exchange, "topic", "image.#", "images"),
            Binding(exchange, "topic", "image.png", "pngs"),
        ]

    found = Router(None, Queues(None, "celery"), lookup)
    call = {"exchange": "media", "routing_key": "image.png"}
    assert found.target("x", call)[::4] == ("images", ("pngs",))
    assert found.target("x", {**call, "routing_key": "image.gif"})[::4] == ("images", ())
    assert asked == ["media"]
    with pytest.raises(QueueNotFound):
        found.target("x", {**call, "routing_key": "video"})


def test_a_worker_s_direct_queue() -> None:
    call = {"exchange": "C.dq2", "routing_key": "w1@host"}
    assert router().target("x", call).queue == "w1@host.dq2" == worker_direct("w1@host").name
    assert worker_direct("w1@host").bindings()[0][:3] == ("C.dq2", "direct", "w1@host")


def test_a_worker_s_own_queues_need_not_be_declared() -> None:
    queues = Queues([Queue("a")], "a", create_missing=False)
    assert queues["bcast.news.1f"].name == "bcast.news.1f"
    assert queues["w1@host.dq2"].name == "w1@host.dq2"


def test_select_and_deselect() -> None:
    queues = Queues([Queue("a"), Queue("b"), Queue("c")], "a")
    assert list(queues.select("b, c")) == ["b", "c"]
    assert list(queues.deselect(["b"])) == ["c"]
    assert list(queues.select(["new"])) == ["new"]
    assert list(queues.select(None)) == ["new"]


def test_types_and_priorities_of_queues() -> None:
    queues = Queues(
        None,
        "celery",
        default_type="quorum",
        missing_type="quorum",
        missing_exchange_type="topic",
        max_priority=7,
    )
    assert queues["celery"].queue_arguments == {"x-queue-type": "quorum"}
    assert queues["new"].queue_arguments == {"x-queue-type": "quorum"}
    assert queues["new"].exchange == Exchange("new", "topic")
    assert [queue.max_priority for queue in queues.values()] == [7, 7]
    declared = Queues([Queue("a", max_priority=3), Queue("b", queue_arguments={"x-max-priority": 2})], "a",
                      max_priority=7)  # fmt: skip
    assert [queue.max_priority for queue in declared.values()] == [3, None]


def test_kombu_s_own_objects() -> None:
    bound = [kombu.binding(kombu.Exchange("more", "topic"), "x.#")]
    queues = Queues(
        [
            kombu.Queue("mail", kombu.Exchange("mail", "topic"), routing_key="mail.#", max_priority=5),
            kombu.common.Broadcast("news"),
            kombu.Queue("both", bindings=bound),
        ],
        "celery",
    )
    assert list(queues) == ["mail", "news", "both"]
    assert queues["mail"].exchange == Exchange("mail", "topic")
    assert queues["mail"].max_priority == 5
    assert queues["news"].is_fanout
    assert queues["both"].bindings()[-1] == ("more", "topic", "x.#", "both")
    target = Router({"tell": {"queue": kombu.Queue("mail")}}, queues).target("tell")
    assert target[:3] == ("mail", "mail", "mail.#")


# -- task_routes in all its forms --------------------------------------------------------------------------


def test_pairs_and_mixed_lists_in_order() -> None:
    routes = [("shop.*", "pairs"), (re.compile("other"), {"queue": "expression"}), {"*": "rest"}]
    found = router(routes)
    assert [found.target(name).queue for name in ("shop.add", "other", "x")] == [
        "pairs",
        "expression",
        "rest",
    ]
    nested = router(([("shop.*", "pairs")], {"*": "rest"}))
    assert [nested.target(name).queue for name in ("shop.add", "x")] == ["pairs", "rest"]


def test_the_first_route_that_knows_the_task_decides() -> None:
    routes = [shared_routers.by_name, {"shop.*": "table"}, shared_routers.ByKeyword]
    found = router(routes, [Queue("celery"), Queue("i", Exchange("media", "topic"), "image.#")])
    assert found.target("shop.send")[::3] == ("q1", {"priority": 4})
    assert found.target("shop.add").queue == "table"
    assert found.target("x", kwargs={"key": "image.png"}).queue == "i"
    assert found.target("x").queue == "celery"


@pytest.mark.parametrize(
    "routes",
    [
        shared_routers.by_argument,
        [shared_routers.by_argument],
        "tests.shared_routers.by_argument",
        ["tests.shared_routers:by_argument"],
    ],
)
def test_a_callable_sees_the_arguments_of_every_call(routes: Any) -> None:
    found = router(routes)
    assert found.dynamic
    assert [found.target("x", args=(n,)).queue for n in (1, 9, 1)] == ["celery", "q2", "celery"]


def test_a_table_s_route_is_found_once() -> None:
    table = {"shop.*": {"queue": "a"}}
    found = router([table, shared_routers.by_argument])
    assert found.target("shop.add") is found.target("shop.add", args=(9,))


def test_a_callable_sees_the_options_and_the_task() -> None:
    seen: list[Any] = []

    def route(name: str, args: Any, kwargs: Any, options: Any, task: Any = None, **kw: Any) -> None:
        seen.append((name, args, kwargs, options, task))

    app = Celeriac("x", broker="memory://routes", set_as_current=False, task_routes=(route,))
    task = app.task(lambda x, y: None, name="add", shared=False)
    app.publisher.build("add", (1,), {"y": 2}, task=task, priority=3, headers={"a": 1})
    assert seen[0][:3] == ("add", (1,), {"y": 2})
    assert {"priority": 3, "headers": {"a": 1}}.items() <= seen[0][3].items()
    assert seen[0][4] is task


def test_each_call_of_a_bulk_is_routed_by_its_arguments() -> None:
    app = Celeriac("x", broker="memory://bulk", set_as_current=False, task_routes=shared_routers.by_argument)
    task = app.task(lambda x: None, name="add", shared=False)
    task.enqueue_many([1, 9, 2, 8])
    assert [app.broker.depth([q])[q].ready for q in ("celery", "q2")] == [2, 2]


def test_headers_of_a_route() -> None:
    routes = {"add": {"headers": {"tenant": "a", "x": 1}, "expires": 60}}
    app = Celeriac("x", broker="memory://headers", set_as_current=False, task_routes=routes)
    message = app.publisher.build("add", headers={"x": 2}).message
    assert (message.headers["tenant"], message.headers["x"]) == ("a", 2)
    assert message.headers["expires"]


@pytest.mark.parametrize("routes", [3, [3], {"add": {"queeu": "x"}}, {"add": {"retry": False}}, {3: "q"},
                                    {"add": {"priority": 1, "urgency": "low"}}, ["not a path"]])  # fmt: skip
def test_routes_that_are_none_are_named(routes: Any) -> None:
    with pytest.raises(ImproperlyConfigured, match="task_routes"):
        router(routes)


@pytest.mark.parametrize(
    "path", ["tasks.add", "tests.shared_routers.nothing", "tests.shared_routers:nothing"]
)
def test_a_router_that_cannot_be_imported_is_named(path: str) -> None:
    with pytest.raises(ImproperlyConfigured, match=path):
        router(path).target("x")


# -- what goes first ---------------------------------------------------------------------------------------


def built(order: str = "higher", route: Any = None, conf: Any = None, task: Any = None, **call: Any) -> int:
    """The priority of a call's message."""
    settings = {
        "task_priority_order": order,
        "task_routes": {"add": route} if route else None,
        **(conf or {}),
    }
    app = Celeriac("x", broker=f"memory://{uuid.uuid4().hex}", set_as_current=False, **settings)
    made = app.task(lambda: None, name="add", shared=False, **(task or {}))
    return app.publisher.build("add", task=made, **call).priority


@pytest.mark.parametrize(("order", "high", "low"), [("higher", 9, 0), ("lower", 0, 9)])
def test_urgency_is_the_engine_s_number(order: str, high: int, low: int) -> None:
    assert [built(order, urgency=word) for word in ("high", "normal", "low")] == [high, 5, low]
    assert built(order, task={"urgency": "high"}) == high
    assert built(order, route={"urgency": "high"}) == high


def test_call_before_task_before_route_before_setting_for_priorities() -> None:
    conf = {"task_default_priority": 1}
    assert built(conf=conf) == 1
    assert built(conf=conf, route={"priority": 2}) == 2
    assert built(conf=conf, route={"urgency": "high"}) == 9
    assert built(conf=conf, route={"priority": 2}, task={"priority": 3}) == 3
    assert built(route={"priority": 2}, task={"urgency": "high"}) == 9
    assert built(route={"urgency": "low"}, task={"priority": 3}) == 3
    assert built(task={"priority": 3}, priority=4) == 4
    assert built(task={"priority": 3}, urgency="high") == 9
    assert built(task={"urgency": "high"}, priority=4) == 4


def test_urgency_beside_a_priority_is_refused() -> None:
    with pytest.raises(ValueError, match="urgency"):
        built(urgency="high", priority=3)
    with pytest.raises(ImproperlyConfigured, match="task add"):
        built(task={"urgency": "high", "priority": 3})
    with pytest.raises(ValueError, match="'high', 'normal' or 'low'"):
        built(urgency="urgent")


def test_a_child_has_its_parent_s_priority_unless_it_has_its_own() -> None:
    def child(task: Any = None, route: Any = None, **call: Any) -> int:
        settings = {"task_inherit_parent_priority": True, "task_default_priority": 1}
        settings["task_routes"] = {"add": route} if route else None
        app = Celeriac("x", broker="memory://inherit", set_as_current=False, **settings)
        parent = app.task(lambda: None, name="parent", shared=False)
        made = app.task(lambda: None, name="add", shared=False, **(task or {}))
        parent.push_request(called_directly=False, id="p", delivery_info={"priority": 6})
        try:
            return app.publisher.build("add", task=made, **call).priority
        finally:
            parent.pop_request()

    assert child() == 6
    assert child(priority=2) == 2
    assert child({"priority": 3}) == 3
    assert child({"urgency": "high"}) == 9
    assert child(route={"priority": 4}) == 4
