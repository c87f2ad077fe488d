"""Retries: the next attempt's message, limits, backoff."""

from __future__ import annotations

from typing import Any

import pytest

from celeriac import Celeriac
from celeriac.app.autoretry import backoff_delay
from celeriac.exceptions import MaxRetriesExceededError, Reject, Retry
from celeriac.message import notes

from .helpers import body, make_app, message, messages, running


@pytest.fixture
def app() -> Celeriac:
    return make_app()


def test_a_retry_carries_the_next_attempt_and_sends_nothing(app: Celeriac) -> None:
    @app.task(name="t", bind=True, default_retry_delay=7)
    def t(self: Any, x: int) -> None: ...

    t.apply_async(
        (1,), queue="q", priority=4, expires=500, headers={"my": 1}, group_id="g", group_index=3,
        link=t.s(9), root_id="root", time_limit=8,
    )  # fmt: skip
    first = message(app, "q")
    first.headers["celeriac"]["reply"] = "client"
    context = running(first)
    context.queue = "q"
    t.push_request(context)
    try:
        with pytest.raises(Retry) as caught:
            t.retry(exc=ValueError("x"))
    finally:
        t.pop_request()
    built = caught.value.publication
    headers, old = built.message.headers, first.headers
    assert headers["retries"] == 1
    same = (
        "id",
        "root_id",
        "parent_id",
        "group",
        "group_index",
        "expires",
        "my",
        "timelimit",
        "task",
        "argsrepr",
    )
    assert {k: headers[k] for k in same} == {k: old[k] for k in same}
    assert (built.queue, built.priority, built.delay) == ("q", 4, 7.0)
    assert notes(built.message).reply == "client"
    assert notes(built.message).held
    assert body(built.message)[0] == [1]
    assert body(built.message)[2]["callbacks"] == body(first)[2]["callbacks"]
    assert caught.value.when == 7
    assert messages(app, "q", "delayed") == []


def test_arguments_and_options_of_the_attempt_can_be_changed(app: Celeriac) -> None:
    @app.task(name="t", bind=True)
    def t(self: Any, x: int) -> None: ...

    t.delay(1)
    t.push_request(running(message(app)))
    try:
        retry = None
        with pytest.raises(Retry) as caught:
            t.retry(args=(2,), countdown=3, queue="other", priority=9)
        retry = caught.value.publication
    finally:
        t.pop_request()
    assert (retry.queue, retry.priority, retry.delay, body(retry.message)[0]) == ("other", 9, 3.0, [2])


def test_limits(app: Celeriac) -> None:
    @app.task(name="t", bind=True, max_retries=2)
    def t(self: Any) -> None: ...

    t.delay()
    context = running(message(app))
    context.retries = 2
    t.push_request(context)
    try:
        with pytest.raises(MaxRetriesExceededError, match="Can't retry t"):
            t.retry()
        with pytest.raises(KeyError):
            t.retry(exc=KeyError("k"))
        with pytest.raises(Retry):
            t.retry(max_retries=5)
        t.max_retries = None
        with pytest.raises(Retry):
            t.retry()
    finally:
        t.pop_request()


def test_throw_false_sends_at_once(app: Celeriac) -> None:
    @app.task(name="t", bind=True)
    def t(self: Any) -> None: ...

    result = t.delay()
    t.push_request(running(message(app)))
    try:
        answer = t.retry(throw=False, countdown=60)
        assert isinstance(answer, Retry)
        assert message(app, state="delayed").headers["id"] == result.id
        app.publisher.send = _refuse  # type: ignore[method-assign]
        with pytest.raises(Reject):
            t.retry(throw=False)
    finally:
        t.pop_request()


def _refuse(*_: Any) -> None:
    raise OSError("down")


def test_called_directly_the_error_comes_through(app: Celeriac) -> None:
    @app.task(bind=True, autoretry_for=(ValueError,))
    def t(self: Any, auto: bool) -> None:
        if auto:
            raise ValueError("auto")
        self.retry(exc=KeyError("k"))

    with pytest.raises(KeyError):
        t(False)
    with pytest.raises(ValueError, match="auto"):
        t(True)


def test_autoretry_runs_again_and_spares_the_exceptions_it_is_told(app: Celeriac) -> None:
    attempts = []

    @app.task(
        bind=True, autoretry_for=(OSError,), dont_autoretry_for=(FileNotFoundError,), retry_backoff=True,
        max_retries=3,
    )  # fmt: skip
    def t(self: Any, error: str) -> str:
        attempts.append(self.request.retries)
        if error == "missing":
            raise FileNotFoundError
        if len(attempts) < 3:
            raise ConnectionError(error)
        return "done"

    assert t.apply(("refused",)).get() == "done"
    assert attempts == [0, 1, 2]
    attempts.clear()
    with pytest.raises(FileNotFoundError):
        t.apply(("missing",)).get()
    assert attempts == [0]


def test_autoretry_of_async_tasks(app: Celeriac) -> None:
    attempts = []

    @app.task(bind=True, autoretry_for=(OSError,), retry_kwargs={"max_retries": 1, "countdown": 2})
    async def t(self: Any) -> None:
        attempts.append(self.request.retries)
        raise OSError("x")

    result = t.apply()
    assert attempts == [0, 1]
    assert isinstance(result.result, OSError)
    assert result.state == "FAILURE"


def test_backoff() -> None:
    assert [backoff_delay(1, n, 600) for n in range(11)] == [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 600]
    assert backoff_delay(3, 2, 600) == 12
    jittered = {backoff_delay(1, 3, 600, jitter=True) for _ in range(300)}
    assert jittered <= set(range(9))
    assert len(jittered) > 3
    assert backoff_delay(1, 100_000, 600) == 600
