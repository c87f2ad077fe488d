"""The assertion helpers and the messages without a sender."""

from __future__ import annotations

import io
import threading
import uuid
from collections.abc import Iterator

import pytest

from celeriac import Celeriac
from celeriac.contrib.conformance.helpers import eventually
from celeriac.contrib.conformance.listening import Node
from celeriac.contrib.testing import drain
from celeriac.contrib.testing.manager import Manager, Sentinel
from celeriac.contrib.testing.mocks import TaskMessage, task_message_from_sig
from celeriac.contrib.testing.worker import start_worker
from celeriac.engines.remote import Order
from celeriac.message import decode_body


@pytest.fixture
def app() -> Iterator[Celeriac]:
    with Celeriac("managed", broker=f"memory://{uuid.uuid4().hex}", set_as_current=False) as app:
        app.add_task(lambda x, y: x + y, name="add")
        yield app


def test_joining_and_what_is_missing(app: Celeriac) -> None:
    manager = Manager(app, stdout=io.StringIO())
    done, late = app.tasks["add"].delay(1, 2), app.tasks["add"].apply_async((1, 2), countdown=1000)
    assert manager.missing_results([done, late]) == [done.id, late.id]
    drain(app)
    assert manager.missing_results([done, late]) == [late.id]
    assert manager.join(done) == 3
    with pytest.raises(AssertionError, match="no result"):
        manager.join(late, max_retries=2, timeout=0.01)


def test_waiting_for_workers_to_be_idle(app: Celeriac) -> None:
    release = threading.Event()
    app.add_task(lambda: release.wait(10), name="hold")
    manager = Manager(app)
    with start_worker(app):
        result = app.tasks["hold"].delay()
        threading.Timer(0.05, release.set).start()
        manager.wait_until_idle()
        assert result.ready()
        manager.assert_result_tasks_in_progress_or_completed([result], interval=0.01)


def test_waiting_for_something(app: Celeriac) -> None:
    manager = Manager(app)
    left = [KeyError(), KeyError()]

    def fun() -> str:
        if left:
            raise left.pop()
        return "there"

    assert manager.wait_for(fun, KeyError, interval_start=0.001, interval_step=0.0) == "there"
    with pytest.raises(Sentinel):
        manager.assert_task_state_from_result(lambda results: False, [], interval=0.001, max_retries=2)
    with pytest.raises(AssertionError, match="should not"):
        manager.ensure_not_for_a_while(lambda: None, KeyError)
    manager.ensure_not_for_a_while(lambda: {}["x"], KeyError, max_retries=2, interval_start=0.001)


def test_messages_without_a_sender(app: Celeriac) -> None:
    message = TaskMessage("add", id="i", args=(1, 2), kwargs={"z": 3}, retries=1)
    assert (message.headers["id"], message.headers["task"], message.headers["retries"]) == ("i", "add", 1)
    args, kwargs, embed = decode_body(message, app.accept_content)
    assert (list(args), kwargs, embed["chain"]) == ([1, 2], {"z": 3}, None)
    signature = app.tasks["add"].s(1, y=2).set(task_id="given")
    made = task_message_from_sig(app, signature)
    assert (made.headers["id"], list(decode_body(made, app.accept_content)[0])) == ("given", [1])


def test_what_workers_say_of_tasks(app: Celeriac) -> None:
    states = {"a": "active", "b": "reserved", "c": "scheduled"}

    def handle(order: Order) -> dict[str, list[str]]:
        return {task_id: [states[task_id], ""] for task_id in order.arguments["ids"] if task_id in states}

    manager = Manager(app)
    node = Node(app.broker, "w@h", handle)
    eventually(lambda: manager.is_accepted(["a"]))
    assert manager.query_task_states("abcd") == {"active": {"a"}, "reserved": {"b"}, "scheduled": {"c"}}
    assert manager.is_received(["a", "b"])
    assert not manager.is_accepted(["a", "b"])
    assert not manager.is_received(["c"])
    manager.assert_received(["a", "b"])
    with pytest.raises(Sentinel):
        manager.assert_accepted(["a", "b"], max_retries=1, interval_start=0.01)
    node.stop()
