"""Messages as they are built and sent: protocol 2, delays, expiry, errors."""

from __future__ import annotations

import socket
import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from celeriac import Celeriac, signals
from celeriac.engines.base import Publication
from celeriac.exceptions import EncodeError, OperationalError
from celeriac.message import notes

from .helpers import body, make_app, message, messages, running


@pytest.fixture
def app() -> Celeriac:
    return make_app()


@pytest.fixture
def add(app: Celeriac) -> Any:
    @app.task(name="add")
    def add(x: int, y: int = 2) -> int:
        return x + y

    return add


HEADERS = [
    "lang",
    "task",
    "id",
    "shadow",
    "eta",
    "expires",
    "group",
    "group_index",
    "retries",
    "timelimit",
    "root_id",
    "parent_id",
    "argsrepr",
    "kwargsrepr",
    "origin",
    "ignore_result",
    "replaced_task_nesting",
    "stamped_headers",
    "stamps",
]


def test_headers_are_those_of_protocol_2_in_their_order(app: Celeriac, add: Any) -> None:
    result = add.delay(1, y=3)
    found = message(app)
    assert list(found.headers) == [*HEADERS, "celeriac"]
    assert found.headers | {"origin": "", "celeriac": None} == {
        "lang": "py", "task": "add", "id": result.id, "shadow": None, "eta": None, "expires": None,
        "group": None, "group_index": None, "retries": 0, "timelimit": [None, None], "root_id": result.id,
        "parent_id": None, "argsrepr": "(1,)", "kwargsrepr": "{'y': 3}", "origin": "",
        "ignore_result": False, "replaced_task_nesting": 0, "stamped_headers": None, "stamps": {},
        "celeriac": None,
    }  # fmt: skip
    assert found.headers["origin"].startswith("gen")
    assert found.properties["correlation_id"] == result.id
    assert found.properties["delivery_info"] == {"exchange": "", "routing_key": "celery"}
    assert found.properties["delivery_mode"] == 2
    assert body(found) == ([1], {"y": 3}, dict.fromkeys(("callbacks", "errbacks", "chain", "chord")))


def test_options_become_headers_and_properties(app: Celeriac, add: Any) -> None:
    add.apply_async(
        (1,), task_id="t", shadow="shown", time_limit=10, soft_time_limit=5, priority=7, group_id="g",
        group_index=2, root_id="r", parent_id="p", headers={"my": "header"}, reply_to="me", delivery_mode=1,
        ignore_result=True, argsrepr="(*)", kwargsrepr="{*}", link=add.s(5), link_error=[add.si(6)],
        chain=[add.s(7)], chord=add.s(8),
    )  # fmt: skip
    found = message(app)
    expected = {
        "id": "t", "shadow": "shown", "timelimit": [10, 5], "group": "g", "group_index": 2, "root_id": "r",
        "parent_id": "p", "my": "header", "ignore_result": True, "argsrepr": "(*)", "kwargsrepr": "{*}",
    }  # fmt: skip
    assert {key: found.headers[key] for key in expected} == expected
    assert (found.properties["priority"], found.properties["reply_to"]) == (7, "me")
    assert found.properties["delivery_mode"] == 1
    _, _, embed = body(found)
    assert [c["args"] for c in embed["callbacks"]] == [[5]]
    assert [(c["args"], c["immutable"]) for c in embed["errbacks"]] == [([6], True)]
    assert embed["chain"][0]["args"] == [7]
    assert embed["chord"]["args"] == [8]
    assert notes(found).reply is None


def test_a_soft_limit_above_the_hard_one_is_an_error(add: Any) -> None:
    with pytest.raises(ValueError, match="soft_time_limit"):
        add.apply_async((1,), time_limit=5, soft_time_limit=10)


def test_attributes_of_the_task_are_its_defaults(app: Celeriac) -> None:
    @app.task(time_limit=9, expires=60, priority=4, ignore_result=True, serializer="pickle", queue="slow")
    def slow() -> None: ...

    assert slow.delay().ignored
    found = message(app, "slow")
    assert found.headers["timelimit"] == [9, None]
    assert found.headers["expires"]
    assert found.headers["ignore_result"] is True
    assert found.content_type == "application/x-python-serialize"
    assert found.properties["priority"] == 4


def test_a_countdown_waits_by_the_stores_clock(app: Celeriac, add: Any) -> None:
    before = datetime.now(UTC)
    built = app.publisher.build("add", (1,), task=add, countdown=30)
    assert (built.delay, built.due) == (30.0, None)
    eta = datetime.fromisoformat(built.message.headers["eta"])
    assert timedelta(seconds=29) < eta - before < timedelta(seconds=32)
    assert eta.utcoffset() == timedelta(0)
    assert notes(built.message).held
    add.apply_async((1,), countdown=30)
    assert messages(app) == []
    assert len(messages(app, state="delayed")) == 1


def test_countdown_zero_and_negative_run_at_once(app: Celeriac, add: Any) -> None:
    assert app.publisher.build("add", (1,), countdown=0).message.headers["eta"] is None
    assert app.publisher.build("add", (1,), countdown=-5).delay is None


def test_an_eta_is_a_due_time(app: Celeriac) -> None:
    eta = datetime(2040, 1, 2, 3, 4, 5, tzinfo=UTC)
    built = app.publisher.build("add", (1,), eta=eta)
    assert (built.delay, built.due) == (None, eta.timestamp())
    assert built.message.headers["eta"] == "2040-01-02T03:04:05+00:00"
    assert app.publisher.build("add", (1,), eta="2040-01-02T04:04:05+01:00").due == eta.timestamp()
    with pytest.raises(TypeError, match="datetime"):
        app.publisher.build("add", (1,), eta=12345)


def test_broker_delay_celery_leaves_the_waiting_to_the_worker() -> None:
    app = make_app(broker_delay="celery")
    built = app.publisher.build("add", (1,), countdown=30)
    assert (built.delay, built.due) == (None, None)
    assert built.message.headers["eta"]
    assert not notes(built.message).held


def test_expiry_in_seconds_and_at_a_time(app: Celeriac) -> None:
    built = app.publisher.build("add", (1,), expires=120)
    assert built.message.properties["expiration"] == "120000"
    left = datetime.fromisoformat(built.message.headers["expires"]) - datetime.now(UTC)
    assert timedelta(seconds=118) < left <= timedelta(seconds=120)
    past = app.publisher.build("add", (1,), expires=datetime(2020, 1, 1, tzinfo=UTC))
    assert past.message.properties["expiration"] == "0"


def test_an_argument_that_cannot_be_sent_is_named(add: Any) -> None:
    with pytest.raises(EncodeError, match=r"args\[0\]\['a'\]"):
        add.delay({"a": object()})


def test_a_message_that_is_too_large_is_refused() -> None:
    app = make_app(message_max_size=100)
    with pytest.raises(EncodeError, match="message_max_size"):
        app.send_task("add", ("x" * 200,))


def test_a_mistyped_option_is_named_and_foreign_ones_pass(app: Celeriac, add: Any) -> None:
    with pytest.raises(TypeError, match=r"contdown.*did you mean 'countdown'"):
        add.apply_async((1,), contdown=5)
    with pytest.raises(TypeError, match="connection= is not supported"):
        add.apply_async((1,), connection=object())
    add.apply_async((1,), tenant_name="acme", user_id="me")
    assert message(app).properties["user_id"] == "me"


def test_compression(app: Celeriac, add: Any) -> None:
    add.apply_async((1,), compression="gzip")
    found = message(app)
    assert found.headers["compression"] == "application/x-gzip"
    assert body(found)[0] == [1]


def test_a_task_called_by_a_task_knows_its_parents_and_its_waiting_client(app: Celeriac, add: Any) -> None:
    first = add.delay(1)
    context = running(message(app))
    context.message.headers["celeriac"] = {"reply": "client-7"}
    add.push_request(context)
    try:
        child = add.delay(2)
    finally:
        add.pop_request()
    found = messages(app)[1]
    assert (found.headers["root_id"], found.headers["parent_id"]) == (first.id, first.id)
    assert notes(found).reply == "client-7"
    assert context.children == [child]


def test_the_parents_priority_is_inherited_on_request() -> None:
    app = make_app(task_inherit_parent_priority=True)

    @app.task
    def outer() -> None: ...

    outer.apply_async(priority=5)
    outer.push_request(running(message(app)))
    try:
        assert app.publisher.build("inner").priority == 5
        assert app.publisher.build("inner", priority=1).priority == 1
    finally:
        outer.pop_request()


def test_signals_of_publishing_may_change_headers(app: Celeriac, add: Any) -> None:
    seen = []

    @signals.before_task_publish.connect(sender="add")
    def before(headers: Any, body: Any, routing_key: str, **_: Any) -> None:
        headers["trace"] = "t-1"
        seen.append((body[0], routing_key))

    @signals.after_task_publish.connect(sender="add")
    def after(headers: Any, **_: Any) -> None:
        seen.append(headers["id"])

    result = add.delay(1)
    assert message(app).headers["trace"] == "t-1"
    assert seen == [([1], "celery"), result.id]


class Down:
    """A broker that fails a number of times."""

    url = "redis://user:**@down:6379/0"
    scheme = "redis"

    def __init__(self, failures: int, maybe_done: bool = False) -> None:
        self.failures, self.maybe_done, self.ids = failures, maybe_done, []

    def publish(self, batch: Sequence[Publication]) -> None:
        self.ids += [publication.message.headers["id"] for publication in batch]
        if len(self.ids) <= self.failures:
            error = OperationalError("refused")
            error.maybe_done = self.maybe_done
            raise error

    def reply_address(self) -> None:
        return None


def down(failures: int, maybe_done: bool = False, **settings: Any) -> tuple[Celeriac, Down]:
    policy = {"max_retries": 3, "interval_start": 0, "interval_step": 0.001, "interval_max": 0.01}
    app = make_app(task_publish_retry_policy=policy, **settings)
    broker = Down(failures, maybe_done)
    app._stores.broker = app._stores.write_broker = broker
    app._stores.use_backend(broker)
    return app, broker


def test_a_publish_is_repeated_under_the_same_id() -> None:
    app, broker = down(2)
    result = app.send_task("add")
    assert broker.ids == [result.id] * 3


def test_a_broker_that_stays_away_is_a_clear_error_with_a_masked_url() -> None:
    app, broker = down(99)
    with pytest.raises(OperationalError, match=r"redis://user:\*\*@down.*refused.*broker_url"):
        app.send_task("add")
    assert len(broker.ids) == 4
    with pytest.raises(OperationalError):
        app.send_task("add", retry=False)
    assert len(broker.ids) == 5


def test_the_total_time_is_bounded() -> None:
    app, broker = down(99, broker_publish_timeout=0.2)
    started = time.monotonic()
    with pytest.raises(OperationalError):
        app.send_task("add", retry_policy={"max_retries": None, "interval_max": 0.05, "interval_step": 0.05})
    assert time.monotonic() - started < 2
    assert len(broker.ids) > 2


def test_a_lost_answer_is_not_repeated_unless_told() -> None:
    app, broker = down(1, maybe_done=True)
    with pytest.raises(
        OperationalError, match=r"answer got lost.*call again \(a task with unique_for= is not stored twice\)"
    ) as caught:
        app.send_task("add")
    assert caught.value.maybe_done
    assert len(broker.ids) == 1
    app, broker = down(1, maybe_done=True)
    app.send_task("add", retry=True)
    assert len(broker.ids) == 2


def test_collecting_sends_nothing(app: Celeriac, add: Any) -> None:
    with app.publisher.collecting() as batch:
        result = add.delay(1)
    assert [publication.message.headers["id"] for publication in batch] == [result.id]
    assert messages(app) == []


def test_enqueue_many_differs_from_single_calls_in_nothing_but_ids(app: Celeriac, add: Any) -> None:
    results = add.enqueue_many([(1, 2), ((3,), {"y": 4}), [5], 6], priority=3, headers={"h": 1})
    single = add.apply_async((3,), {"y": 4}, priority=3, headers={"h": 1})
    found = {m.headers["id"]: m for m in messages(app)}
    assert [body(found[r.id])[:2] for r in results] == [([1, 2], {}), ([3], {"y": 4}), ([5], {}), ([6], {})]
    many, one = found[results[1].id], found[single.id]
    own = {"id", "root_id", "celeriac"}
    assert {k: v for k, v in many.headers.items() if k not in own} == {
        k: v for k, v in one.headers.items() if k not in own
    }
    assert many.headers["root_id"] == many.headers["id"] == many.properties["correlation_id"]
    assert list(many.headers) == list(one.headers)
    with pytest.raises(TypeError, match="add"):
        add.enqueue_many([(1, 2, 3)])


def test_callbacks_of_enqueue_many_have_ids_of_their_own(app: Celeriac, add: Any) -> None:
    add.enqueue_many([1, 2, 3], link=add.s(5), link_error=add.si(6))
    embeds = [body(sent)[2] for sent in messages(app)]
    followers = [one for embed in embeds for key in ("callbacks", "errbacks") for one in embed[key]]
    assert len({one["options"]["task_id"] for one in followers}) == 6


def test_enqueue_many_waits_for_no_result_that_the_route_turns_off(app: Celeriac, add: Any) -> None:
    app.conf.task_routes = {"add": {"ignore_result": True}}
    assert [result.get(timeout=0) for result in add.enqueue_many([1, 2])] == [None, None]


def test_enqueue_many_takes_any_number_in_batches(app: Celeriac, add: Any) -> None:
    results = add.enqueue_many(((i,) for i in range(2500)), countdown=60)
    assert len({r.id for r in results}) == 2500
    assert app.broker.depth(["celery"])["celery"].delayed == 2500


def test_a_server_that_accepts_and_says_nothing_is_given_up_in_time() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"redis://:hunter2@127.0.0.1:{silent.getsockname()[1]}/0"
        app = make_app(broker=url, broker_publish_timeout=0.3)
        started = time.monotonic()
        with pytest.raises(OperationalError) as caught:
            app.send_task("add")
        assert time.monotonic() - started < 5
        assert "hunter2" not in str(caught.value)
        app.close()
