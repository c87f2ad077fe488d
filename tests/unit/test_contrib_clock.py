"""Draining queues in the test's thread, and the clock that a test drives."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from celeriac import Celeriac, chord, clock
from celeriac.contrib.conformance.helpers import eventually
from celeriac.contrib.testing import Drained, drain, frozen
from celeriac.contrib.testing.worker import start_worker
from celeriac.exceptions import ImproperlyConfigured, TaskRevokedError
from celeriac.serialization import EncodeError


@pytest.fixture
def app() -> Iterator[Celeriac]:
    with Celeriac("clock", broker=f"memory://{uuid.uuid4().hex}", set_as_current=False) as app:
        yield app


@pytest.fixture
def log() -> list[Any]:
    return []


@pytest.fixture
def flaky(app: Celeriac, log: list[Any]) -> Any:
    """Fails twice; tries again after 60 s."""

    @app.task(name="flaky", bind=True, default_retry_delay=60)
    def flaky(self: Any) -> str:
        log.append(self.request.retries)
        if self.request.retries < 2:
            raise self.retry()
        return "ok"

    return flaky


def test_draining_runs_what_is_ready_and_what_follows(app: Celeriac, log: list[Any]) -> None:
    @app.task(name="count")
    def count(number: int) -> int:
        log.append(number)
        if number:
            count.delay(number - 1)
        return number

    result = count.delay(3)
    assert log == [], "nothing runs before"
    assert drain(app) == Drained(4, None)
    assert log == [3, 2, 1, 0]
    assert result.get(timeout=1) == 3
    assert drain(app) == Drained(0, None)


def test_arguments_go_through_the_serializer(app: Celeriac) -> None:
    @app.task(name="kind")
    def kind(value: Any) -> str:
        return type(value).__name__

    with pytest.raises(EncodeError):
        kind.delay(object())
    result = kind.delay((1, 2))
    drain(app)
    assert result.get(timeout=1) == "list"


def test_errors_and_revokes_are_recorded_not_raised(app: Celeriac) -> None:
    @app.task(name="div")
    def div(x: int, y: int) -> float:
        return x / y

    failed, revoked = div.delay(1, 0), div.delay(1, 1)
    revoked.revoke()
    assert drain(app).ran == 1
    with pytest.raises(ZeroDivisionError):
        failed.get(timeout=1)
    with pytest.raises(TaskRevokedError):
        revoked.get(timeout=1)


def test_coroutine_functions_run_also_under_a_running_loop(app: Celeriac) -> None:
    @app.task(name="aadd")
    async def aadd(x: int, y: int) -> int:
        await asyncio.sleep(0)
        return x + y

    first, second = aadd.delay(1, 2), aadd.delay(3, 4)
    drain(app)

    async def inside() -> int:
        third = aadd.delay(5, 6)
        await asyncio.to_thread(drain, app)
        drain(app)
        return int(await third)

    assert (first.get(timeout=1), second.get(timeout=1), asyncio.run(inside())) == (3, 7, 11)


def test_only_the_queues_named_are_drained(app: Celeriac, log: list[Any]) -> None:
    @app.task(name="note")
    def note(what: str) -> None:
        log.append(what)

    note.apply_async(("a",), queue="one")
    note.apply_async(("b",), queue="two")
    assert drain(app, ["two"]).ran == 1
    assert drain(app).ran == 1
    assert log == ["b", "a"]


def test_tasks_that_send_each_other_for_ever_are_named(app: Celeriac) -> None:
    @app.task(name="ever")
    def ever() -> None:
        ever.delay()

    ever.delay()
    with pytest.raises(RuntimeError, match="for ever"):
        drain(app, limit=20)
    assert app.broker.depth(["celery"])["celery"].leased == 0


def test_a_task_that_must_not_run_twice(app: Celeriac, log: list[Any]) -> None:
    @app.task(name="early", acks_late=False)
    def early() -> None:
        log.append("ran")

    early.delay()
    assert drain(app).ran == 1
    assert log == ["ran"]


def test_retries_wait_for_the_clock(app: Celeriac, flaky: Any, log: list[Any]) -> None:
    with frozen(app) as clock:
        result = flaky.delay()
        assert drain(app).next_due == clock.time() + 60
        clock.advance(59)
        assert drain(app).ran == 0
        clock.advance(timedelta(seconds=1))
        assert drain(app).ran == 1
        assert result.state == "RETRY"
        clock.advance(60)
        drain(app)
        assert result.get(timeout=1) == "ok"
    assert log == [0, 1, 2]


def test_running_for_a_period_gives_each_task_its_time(app: Celeriac) -> None:
    start = datetime(2030, 1, 1, tzinfo=UTC)
    seen = []

    @app.task(name="when")
    def when() -> None:
        seen.append((clock.utcnow() - start).total_seconds())

    with frozen(app, at=start) as time:
        for countdown in (30, 10, 500):
            when.apply_async(countdown=countdown)
        when.apply_async(eta=start + timedelta(seconds=20))
        assert time.run_for(100) == 3
        assert time.now == start + timedelta(seconds=100)
        assert seen == [10, 20, 30]
        assert time.run_until_idle() == 1
        assert seen[-1] == 500


def test_a_rate_limit_spreads_over_the_clock(app: Celeriac) -> None:
    seen = []

    @app.task(name="limited", rate_limit="6/m")
    def limited() -> None:
        seen.append(time.time())

    with frozen(app) as time:
        start = time.time()
        for _ in range(4):
            limited.delay()
        assert time.run_until_idle() == 4
        assert [moment - start for moment in seen] == [0, 10, 20, 30]


def test_what_expires_is_told_by_the_same_clock(app: Celeriac, log: list[Any]) -> None:
    @app.task(name="note")
    def note() -> None:
        log.append("ran")

    with frozen(app) as time:
        late = note.apply_async(countdown=60, expires=30)
        good = note.apply_async(countdown=60, expires=90)
        time.run_for(60)
        assert (late.state, good.state) == ("REVOKED", "SUCCESS")
    assert log == ["ran"]


def test_something_that_never_ends_is_an_error(app: Celeriac) -> None:
    @app.task(name="hourly")
    def hourly() -> None:
        hourly.apply_async(countdown=3600)

    with frozen(app) as time:
        hourly.delay()
        with pytest.raises(RuntimeError, match="still a message that waits"):
            time.run_until_idle(timedelta(days=1))


def test_a_worker_is_woken_by_the_clock(app: Celeriac, flaky: Any, log: list[Any]) -> None:
    with frozen(app) as time, start_worker(app):
        result = flaky.delay()
        for runs in (1, 2):
            eventually(lambda: app.broker.depth(["celery"])["celery"].delayed == 1)
            assert len(log) == runs
            time.advance(60)
            eventually(lambda: len(log) == runs + 1)  # noqa: B023
        assert result.get(timeout=10) == "ok"


def test_long_jumps_do_not_fence_the_worker(app: Celeriac, flaky: Any) -> None:
    with frozen(app) as time, start_worker(app) as worker:
        for _ in range(50):
            time.advance(5)
            assert app.broker.recover("elsewhere", lambda pid, started: True) == []
        assert [node.name for node in app.coordinator.nodes()] == [worker.hostname]


def test_the_clock_is_put_back(app: Celeriac) -> None:
    real = clock.source
    with pytest.raises(ZeroDivisionError), frozen(app, at=0.0) as time:  # noqa: PT012
        assert clock.now() == time.time() == 0.0
        raise ZeroDivisionError
    assert clock.source is real
    assert clock.now() > 1e9


def test_time_does_not_go_back(app: Celeriac) -> None:
    with frozen(app) as time, pytest.raises(ValueError, match="back"):
        time.advance(-1)


def test_a_server_keeps_its_own_time() -> None:
    app = Celeriac("served", broker="redis://localhost:1/0", set_as_current=False)
    with pytest.raises(ImproperlyConfigured, match="memory://"), frozen(app):
        pass


def test_a_chord_is_completed(app: Celeriac) -> None:
    @app.task(name="add")
    def add(x: int, y: int) -> int:
        return x + y

    @app.task(name="total")
    def total(numbers: list[int]) -> int:
        return sum(numbers)

    result = chord([add.s(number, 1) for number in range(2)], total.s() | add.s(10)).delay()
    assert drain(app).ran == 4
    assert result.get(timeout=1) == 13
    empty = chord([], total.s()).delay()
    drain(app)
    assert empty.get(timeout=1) == 0


def test_debounced_unique_and_limited_tasks(app: Celeriac, log: list[Any]) -> None:
    @app.task(name="reindex", debounce=10)
    def reindex(what: str) -> None:
        log.append(what)

    @app.task(name="report", unique_for=3600)
    def report(day: str) -> None:
        log.append(day)

    @app.task(name="one", max_concurrency=1)
    def one(number: int) -> None:
        log.append(number)

    with frozen(app) as time:
        for what in ("a", "a", "a"):
            reindex.delay(what)
            time.advance(5)
        assert drain(app).ran == 0
        time.advance(5)
        assert drain(app).ran == 1
        first, second = report.delay("monday"), report.delay("monday")
        assert (second.duplicate, second.id) == (True, first.id)
        for number in range(3):
            one.delay(number)
        assert time.run_until_idle() == 4
    assert log == ["a", "monday", 0, 1, 2]
