"""Results: waiting, states, errors, what they were stored as."""

from __future__ import annotations

import asyncio
import pickle
import threading
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest

from celeriac import AsyncResult, Celeriac, states
from celeriac.app.request import Context
from celeriac.engines.results import Presence
from celeriac.exceptions import EncodeError, IncompleteStream, TaskRevokedError, TimeoutError
from celeriac.result import RemoteTraceback, result_from_tuple
from celeriac.serialization import json_loads

from .helpers import make_app


@pytest.fixture
def app() -> Celeriac:
    return make_app()


Store = Callable[..., None]


@pytest.fixture
def store(app: Celeriac) -> Store:
    def store(result: Any, state: str, value: Any = None, **options: Any) -> None:
        request = Context(id=str(result), **options)
        trace = "Traceback: remote" if isinstance(value, BaseException) else None
        assert app.backend is not None
        app.backend.store([app.results.record(state, value, request, traceback=trace)])

    return store


def test_get_waits_for_the_result(app: Celeriac, store: Store) -> None:
    result = app.send_task("t")
    messages: list[Any] = []

    def work() -> None:
        store(result, "STARTED", {"pid": 1})
        store(result, "SUCCESS", 42)

    thread = threading.Timer(0.05, work)
    thread.start()
    called: list[Any] = []
    value = result.get(timeout=5, on_message=messages.append, callback=lambda *a: called.append(a))
    thread.join()
    assert value == 42
    assert messages[-1]["status"] == "SUCCESS"
    assert called == [(result.id, 42)]


def test_a_result_that_is_there_needs_no_wait(app: Celeriac, store: Store) -> None:
    result = app.send_task("t")
    store(result, "SUCCESS", {"a": [1]})
    assert app.AsyncResult(result.id).get(timeout=0.5) == {"a": [1]}


def test_a_timeout_is_our_exception_and_pythons_name(app: Celeriac) -> None:
    result = app.send_task("t")
    ticks: list[int] = []
    with pytest.raises(TimeoutError, match=r"0.05 seconds"):
        result.get(timeout=0.05, interval=0.01, on_interval=lambda: ticks.append(1))
    assert ticks
    assert result.TimeoutError is TimeoutError


def test_the_tasks_error_is_raised_with_its_remote_traceback(app: Celeriac, store: Store) -> None:
    result = app.send_task("t")
    store(result, "FAILURE", ZeroDivisionError("by zero"))
    with pytest.raises(ZeroDivisionError, match="by zero") as caught:
        result.get(timeout=1)
    assert isinstance(caught.value.__cause__, RemoteTraceback)
    assert "Traceback: remote" in str(caught.value.__cause__)
    assert isinstance(result.get(propagate=False), ZeroDivisionError)
    assert result.traceback == "Traceback: remote"
    assert (result.failed(), result.successful(), result.ready()) == (True, False, True)


def test_a_revoked_task_raises(app: Celeriac, store: Store) -> None:
    result = app.send_task("t")
    store(result, "REVOKED", TaskRevokedError("revoked"))
    with pytest.raises(TaskRevokedError):
        result.get(timeout=1)


def test_a_retry_is_no_end(app: Celeriac, store: Store) -> None:
    result = app.send_task("t")
    store(result, "RETRY", OSError("again"))
    assert result.state == "RETRY"
    assert isinstance(result.info, OSError)
    with pytest.raises(TimeoutError):
        result.get(timeout=0.02)


def test_await(app: Celeriac, store: Store) -> None:
    async def main() -> Any:
        result, failing = app.send_task("t"), app.send_task("t")
        loop = asyncio.get_running_loop()
        loop.call_later(0.02, store, result, "SUCCESS", 7)
        store(failing, "FAILURE", KeyError("k"))
        with pytest.raises(TimeoutError):
            await app.send_task("t").aget(timeout=0.001)
        with pytest.raises(KeyError):
            await failing
        with pytest.raises(RuntimeError, match="await result"):
            app.AsyncResult(result.id).get(timeout=1)
        return await result

    assert asyncio.run(main()) == 7


def test_interactive_ipython_may_wait(
    app: Celeriac, store: Store, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import sys
    import types

    ipython = types.ModuleType("IPython")
    ipython.get_ipython = object  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "IPython", ipython)
    result = app.send_task("t")
    store(result, "SUCCESS", 1)

    async def cell() -> Any:
        return result.get(timeout=1)

    assert asyncio.run(cell()) == 1
    assert "await result" in capsys.readouterr().err


def test_then(app: Celeriac, store: Store) -> None:
    good, bad = app.send_task("t"), app.send_task("t")
    done, failed = threading.Event(), threading.Event()
    seen: list[Any] = []
    good.then(lambda r: (seen.append(r.result), done.set()))
    bad.then(lambda r: seen.append("wrong"), on_error=lambda r: failed.set())
    store(good, "SUCCESS", 5)
    store(bad, "FAILURE", ValueError())
    assert done.wait(5)
    assert failed.wait(5)
    assert seen == [5]


def test_ignored_results_are_not_waited_for(app: Celeriac) -> None:
    result = app.send_task("t", ignore_result=True)
    assert result.get() is None
    assert asyncio.run(_awaited(result)) is None


async def _awaited(result: Any) -> Any:
    return await result


def test_without_a_backend_the_remedy_is_named() -> None:
    result = make_app(result_backend="disabled://").send_task("t")
    with pytest.raises(NotImplementedError, match="result_backend"):
        result.get(timeout=1)


def test_states_and_presence(app: Celeriac, store: Store) -> None:
    result = app.send_task("t")
    assert (result.state, result.info, result.ready(), result.exists()) == ("PENDING", None, False, False)
    assert result.presence is Presence.UNKNOWN
    store(result, "PROGRESS", {"done": 3})
    assert (result.status, result.info) == ("PROGRESS", {"done": 3})
    assert result.presence is Presence.KNOWN
    assert result.exists()
    assert result.date_done is None
    store(result, "SUCCESS", 1)
    assert result.date_done is not None
    assert abs((datetime.now(UTC) - result.date_done).total_seconds()) < 5
    result.forget()
    assert result.state == "PENDING"


def test_a_queued_task_is_present_where_that_is_tracked() -> None:
    app = make_app(task_track_queued=True)
    assert app.send_task("t").presence is Presence.QUEUED
    assert app.send_task("t", ignore_result=True).presence is Presence.UNKNOWN
    assert app.AsyncResult("no such id").presence is Presence.UNKNOWN


def test_the_stored_form_is_celerys(app: Celeriac) -> None:
    request = Context(id="i", group="g", parent_id="p")
    request.children.append(app.AsyncResult("child"))
    record = app.results.record("SUCCESS", 5, request)
    stored = json_loads(record.payload)
    assert list(stored) == [
        "status", "result", "traceback", "children", "date_done", "group_id", "parent_id", "task_id"
    ]  # fmt: skip
    assert stored | {"date_done": 0} == {
        "status": "SUCCESS", "result": 5, "traceback": None, "children": [[["child", None], None]],
        "date_done": 0, "group_id": "g", "parent_id": "p", "task_id": "i",
    }  # fmt: skip
    assert record.ttl == 86400
    failure = json_loads(app.results.record("FAILURE", ValueError("x", 1), request).payload)
    assert failure["result"] == {"exc_type": "ValueError", "exc_message": ["x", 1], "exc_module": "builtins"}


def test_extended_results(store: Store, app: Celeriac) -> None:
    app.conf.result_extended = True
    result = app.send_task("t")
    more = {"task": "t", "args": [1], "kwargs": {"k": 2}, "hostname": "w@h", "retries": 1, "queue": "q"}
    store(result, "SUCCESS", 1, **more)
    assert (result.name, result.args, result.kwargs) == ("t", [1], {"k": 2})
    assert (result.worker, result.retries, result.queue) == ("w@h", 1, "q")


def test_expiry() -> None:
    app = make_app(result_expires=60, result_failure_expires=5)
    assert app.results.record("SUCCESS", 1, Context(id="i")).ttl == 60
    assert app.results.record("FAILURE", ValueError(), Context(id="i")).ttl == 5
    assert make_app(result_expires=None).results.record("SUCCESS", 1, Context(id="i")).ttl is None


@pytest.mark.parametrize("compression", [None, "gzip", "bzip2"])
@pytest.mark.parametrize("serializer", ["json", "yaml", "pickle"])
def test_formats_of_results(serializer: str, compression: str | None) -> None:
    app = make_app(
        result_serializer=serializer,
        result_compression=compression,
        accept_content=["json", "yaml", "pickle"],
    )
    payload = app.results.record("SUCCESS", {"a": [1, 2]}, Context(id="i")).payload
    assert app.results.decode(payload)["result"] == {"a": [1, 2]}
    if compression:
        assert payload.startswith(b"\0celery-compressed\0application/x-")


def test_a_result_too_large_or_not_serialisable_is_refused() -> None:
    app = make_app(result_max_size=300)
    with pytest.raises(EncodeError, match="result_max_size"):
        app.results.record("SUCCESS", "x" * 400, Context(id="i"))
    with pytest.raises(EncodeError, match=r"result\[0\]"):
        app.results.record("SUCCESS", [object()], Context(id="i"))


def test_children_and_graphs(app: Celeriac, store: Store) -> None:
    parent, child = app.send_task("t"), app.send_task("t")
    with pytest.raises(IncompleteStream):
        list(parent.iterdeps())
    store(parent, "SUCCESS", 1, _children=[child])
    assert parent.children == [child]
    assert list(parent.iterdeps(intermediate=True)) == [(None, parent), (parent, child)]
    store(child, "SUCCESS", 2)
    assert [value for _, value in parent.collect()] == [1, 2]
    assert parent.get_leaf() == 2
    assert parent.graph == {parent: [child], child: []}


def test_an_error_of_a_parent_is_raised(app: Celeriac, store: Store) -> None:
    first = app.send_task("t")
    second = app.AsyncResult("second", parent=first)
    store(first, "FAILURE", ValueError("first"))
    with pytest.raises(ValueError, match="first"):
        second.get(timeout=1)
    assert second.as_list() == ["second", first.id]


def test_results_as_data(app: Celeriac) -> None:
    first = app.send_task("t")
    second = app.AsyncResult("second", parent=first)
    again = pickle.loads(pickle.dumps(second))
    assert again == second == "second"
    assert (again.parent, hash(again), str(again)) == (first, hash(second), "second")
    assert result_from_tuple(second.as_tuple(), app).parent == first
    assert result_from_tuple([["x", None], []], app).id == "x"
    assert isinstance(first, AsyncResult)
    assert isinstance(first, app.AsyncResult)
    eager = app.task(lambda: 3).apply()
    assert pickle.loads(pickle.dumps(eager)).get() == 3


def test_revoke(app: Celeriac) -> None:
    waiting = app.send_task("t", countdown=100)
    waiting.revoke()
    assert waiting.state == states.REVOKED
    running = app.send_task("t")
    running.revoke(terminate=True, signal="SIGUSR1")
    assert app.broker.control().terminate == {running.id: "SIGUSR1"}
