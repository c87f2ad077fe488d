"""Queues and routes."""

from __future__ import annotations

import re
from types import SimpleNamespace
from typing import Any

import pytest

from celeriac import Exchange, Queue
from celeriac.exceptions import ImproperlyConfigured, QueueNotFound
from celeriac.routing import Queues, Router


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


def test_call_before_route_before_task_before_settings() -> None:
    task = SimpleNamespace(queue="of-task", exchange=None, routing_key=None, exchange_type=None)
    routes = {"routed": {"queue": "of-route", "priority": 3}}
    assert router(routes).target("routed", {"queue": "of-call"}, task).queue == "of-call"
    assert router(routes).target("routed", {"queue": "of-call"}, task).extra == {"priority": 3}
    assert router(routes).target("routed", {}, task).queue == "of-route"
    assert router(routes).target("other", {}, task).queue == "of-task"
    assert router(routes).target("other").queue == "celery"


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


def test_an_exchange_that_leads_to_several_queues_is_refused() -> None:
    queues = [Queue("a", Exchange("all", "fanout")), Queue("b", Exchange("all", "fanout"))]
    with pytest.raises(ImproperlyConfigured, match="a, b"):
        router(None, queues).target("x", {"exchange": "all"})


def test_select_and_deselect() -> None:
    queues = Queues([Queue("a"), Queue("b"), Queue("c")], "a")
    assert list(queues.select("b, c")) == ["b", "c"]
    assert list(queues.deselect(["b"])) == ["c"]
    assert list(queues.select(["new"])) == ["new"]
    assert list(queues.select(None)) == ["new"]


@pytest.mark.parametrize("routes", ["tasks.add", 3])
def test_routes_that_are_none_are_named(routes: Any) -> None:
    with pytest.raises(ImproperlyConfigured, match="task_routes"):
        router(routes)
