"""Where calls go, compared with the real Celery over many random settings, tasks and options."""

from __future__ import annotations

import random
import re
import uuid
from pathlib import Path
from typing import Any

import pytest

from celeriac import Celeriac, Exchange, Queue
from tests import shared_routers

NAMES = {"Queue": Queue, "Exchange": Exchange, "re": re, "routers": shared_routers}
TASKS = ("shop.mail.send", "shop.image.scale", "shop.add", "other.add")
QUEUES = ("q1", "q2", "urgent", "celery")
KEYS = ("image.png", "image.png.small", "video.cut", "q1", "celery", "main")
DECLARED = (
    "Queue('q1')",
    "Queue('q2', routing_key='q2')",
    "Queue('urgent', Exchange('urgent'), 'urgent', max_priority=None)",
    "Queue('images', Exchange('media', type='topic'), 'image.#')",
    "Queue('small', Exchange('media', type='topic'), '*.*.small')",
    "Queue('main', Exchange('jobs'), routing_key='main')",
    "Queue('second', Exchange('jobs'), routing_key='main')",
)
BY_NAME = (
    "'q1': {'exchange': 'media', 'exchange_type': 'topic', 'routing_key': 'video.*'}",
    "'q2': {}",
    "'main': {'exchange': 'jobs', 'binding_key': 'main'}",
)
ROUTES = (
    "{'shop.add': 'q2'}",
    "{'shop.add': {'queue': 'q1', 'priority': 3}, 'shop.*': {'queue': 'urgent'}}",
    "{re.compile(r'shop\\.(mail|image)\\..*'): {'queue': 'q2', 'routing_key': 'k'}}",
    "{'*.scale': {'exchange': 'media', 'routing_key': 'image.png.small'}}",
    "{'*': {'exchange': 'jobs', 'routing_key': 'main'}}",
    "[('shop.mail.*', 'q1'), ('*', {'queue': 'q2'})]",
    "routers.by_name",
    "routers.by_argument",
    "routers.by_options",
    "routers.ByKeyword()",
    "'shared_routers.by_argument'",
    "'shared_routers.ByKeyword'",
)


def scenario(seed: int) -> str:
    """Settings, a task and a call, as an expression that means the same to both libraries."""
    rng = random.Random(seed)

    def maybe(chance: float, make: Any) -> Any:
        return make() if rng.random() < chance else None

    def some(items: Any) -> str:
        return ", ".join(rng.sample(items, rng.randint(1, len(items))))

    queues = maybe(0.6, lambda: f"[{some(DECLARED)}]" if rng.random() < 0.8 else f"{{{some(BY_NAME)}}}")
    count = rng.choice((0, 1, 1, 2, 3))
    routes = f"[{', '.join(rng.sample(ROUTES, count))}]"
    settings = {
        "task_queues": queues,
        "task_routes": routes if count else None,
        "task_create_missing_queues": maybe(0.2, lambda: "False"),
        "task_default_queue": maybe(0.3, lambda: repr(rng.choice(QUEUES))),
        "task_default_exchange": maybe(0.2, lambda: "'jobs'"),
        "task_default_routing_key": maybe(0.2, lambda: repr(rng.choice(KEYS))),
        "task_default_priority": maybe(0.2, lambda: "2"),
    }
    task = {
        "queue": maybe(0.2, lambda: repr(rng.choice(QUEUES))),
        "priority": maybe(0.2, lambda: str(rng.choice((1, 5)))),
        "routing_key": maybe(0.1, lambda: repr(rng.choice(KEYS))),
    }
    call = {
        "queue": maybe(0.2, lambda: repr(rng.choice(QUEUES))),
        "exchange": maybe(0.15, lambda: rng.choice(("'media'", "'jobs'"))),
        "routing_key": maybe(0.3, lambda: repr(rng.choice(KEYS))),
        "priority": maybe(0.3, lambda: str(rng.choice((0, 7, 9)))),
    }
    parts = {
        "name": repr(rng.choice(TASKS)),
        "args": f"({rng.randint(0, 10)},)",
        "kwargs": maybe(0.3, lambda: f"{{'key': {rng.choice(KEYS)!r}}}") or "{}",
        **{
            name: "{" + ", ".join(f"{k!r}: {v}" for k, v in values.items() if v is not None) + "}"
            for name, values in (("settings", settings), ("task", task), ("call", call))
        },
    }
    return "{" + ", ".join(f"{name!r}: {text}" for name, text in parts.items()) + "}"


def ours(text: str) -> Any:
    """What :func:`route` of the peer tells, of ourselves."""
    given = eval(text, NAMES)
    app = Celeriac("routes", broker=f"memory://{uuid.uuid4().hex}", set_as_current=False, **given["settings"])
    sent: dict[str, int] = {}
    try:
        task = app.task(
            lambda *args, **kwargs: None, name=given["name"], typing=False, shared=False, **given["task"]
        )
        for queue in list(app.queues.values()):
            app.broker.bind(queue.bindings())
        app.publisher.watch.queues.update(QUEUES)  # no thread for each of thousands of applications
        task.apply_async(given["args"], given["kwargs"], **given["call"])
        for name in app.broker.queues():
            for payload in app.broker.peek(name):
                sent[name] = int(re.search(rb'"priority": ?(\d+)', payload)[1])  # type: ignore[index]
    except Exception as error:
        return type(error).__name__
    finally:
        app.close()
    return sent


def known_difference(text: str, celery: Any, we: Any) -> str | None:
    """Why the two differ on purpose, if they do (docs/routing.md lists these)."""
    given = eval(text, NAMES)
    settings, call = given["settings"], given["call"]
    named = call.get("queue") or given["task"].get("queue")
    if celery == {}:
        return "Celery's message reaches nobody; ours reaches the queue that was named, or says so"
    if celery == "QueueNotFound" and isinstance(we, dict) and "task_create_missing_queues" in settings:
        return "a queue that is named and not used need not exist"
    if isinstance(celery, dict) and isinstance(we, dict):
        if list(we) == [named] and named not in celery:
            return "a queue that was named goes before the exchange of a route"
        if celery.keys() == we.keys() and set(celery.values()) == {settings.get("task_default_priority")}:
            return "a route's option goes before a setting" if "priority" not in call else None
    return None


@pytest.fixture(autouse=True)
def _importable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(shared_routers.__file__).parent))


@pytest.mark.parametrize("start", range(0, 600, 100))
def test_calls_go_where_they_go_with_celery(celery_peer: Any, start: int) -> None:
    wrong = []
    for seed in range(start, start + 100):
        text = scenario(seed)
        celery, we = celery_peer.ask("route", text), ours(text)
        if celery != we and not known_difference(text, celery, we):
            wrong.append(f"{seed}: {text}\n   Celery {celery}\n   we     {we}")
    assert not wrong, f"{len(wrong)} differ\n" + "\n".join(wrong[:8])
