"""Unique and debounced calls, limits of concurrency, checkpoints: on the memory engine, without a process."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from pydantic import BaseModel

from celeriac import Celeriac, group
from celeriac.app.checkpoint import Checkpoint
from celeriac.contrib.testing import drain, frozen
from celeriac.engines.base import Delivery, Incarnation, NodeInfo, Outcome, Verdict
from celeriac.exceptions import SecurityError
from celeriac.worker.job import Job
from celeriac.worker.runner import Runner
from tests.unit.helpers import body, make_app, message, messages

Task = Any


class Order(BaseModel):
    """The argument of a task."""

    number: int


class Bench:
    """A child of a worker, one step at a time."""

    def __init__(self, app: Celeriac, child: int = 0) -> None:
        self.app = app
        app.finalize()
        app.broker.beat(NodeInfo("node", "w@here", "here", 1, 1.0))
        self.consumer = app.broker.attach(Incarnation("node", child, 1, 4))
        self.runner = Runner(app, "w@here", self.consumer.owner.name, max_deliveries=3)

    def claim(self, limit: int = 1) -> list[Delivery]:
        return self.consumer.exchange([], ["celery"], limit).deliveries

    def prepare(self, delivery: Delivery) -> Job | Outcome:
        return self.runner.prepare(delivery)

    def settle(self, *outcomes: Outcome) -> None:
        assert self.consumer.exchange(outcomes, [], 0).refused == []

    def step(self) -> Outcome | None:
        """Claim one message, run it, settle it."""
        claimed = self.claim()
        if not claimed:
            return None
        job = self.prepare(claimed[0])
        outcome = job if isinstance(job, Outcome) else self.runner.run(job)
        self.settle(outcome)
        return outcome


@pytest.fixture
def app() -> Iterator[Celeriac]:
    app = make_app()
    yield app
    app.close()


# -- unique --------------------------------------------------------------------------------------------


def test_a_second_copy_is_not_sent_while_the_first_waits_or_runs(app: Celeriac) -> None:
    @app.task(name="once", unique_for=60)
    def once(x: int) -> int:
        return x

    first, second, other = once.delay(1), once.delay(1), once.delay(2)
    assert second.id == first.id
    assert second.duplicate
    assert not first.duplicate
    assert other.id != first.id
    assert len(messages(app)) == 2
    bench = Bench(app)
    (claimed,) = bench.claim()
    job = bench.prepare(claimed)
    assert once.delay(1).id == first.id  # it runs now
    assert isinstance(job, Job)
    bench.settle(bench.runner.run(job))
    third = once.delay(1)
    assert third.id != first.id
    assert not third.duplicate


def test_a_failed_task_frees_its_key_and_a_retried_one_holds_it(app: Celeriac) -> None:
    @app.task(name="fails", unique_for=60, bind=True, max_retries=1)
    def fails(self: Task) -> None:
        raise self.retry(countdown=0, exc=ValueError())

    first = fails.delay()
    bench = Bench(app)
    outcome = bench.step()
    assert outcome is not None
    assert outcome.verdict is Verdict.DELAY
    assert fails.delay().id == first.id
    bench.step()
    assert fails.delay().id != first.id


def test_a_revoked_task_frees_its_key(app: Celeriac) -> None:
    @app.task(name="gone", unique_for=60)
    def gone() -> None: ...

    first = gone.delay()
    bench = Bench(app)
    app.control.revoke(first.id)
    bench.runner.obey(app.coordinator.control(0))  # type: ignore[union-attr]
    bench.step()
    assert first.state == "REVOKED"
    assert gone.delay().id != first.id


def test_the_call_may_say_it_for_itself(app: Celeriac) -> None:
    @app.task(name="plain")
    def plain(x: int, y: int) -> None: ...

    first = plain.apply_async((1, 1), unique_for=60, unique_key="{x}")
    assert plain.apply_async((1, 2), unique_for=60, unique_key="{x}").id == first.id
    assert app.send_task("plain", (1, 3), unique_for=60, unique_key="{x}").id == first.id
    assert plain.delay(1, 1).id != first.id


def test_a_task_that_others_wait_for_is_sent_whatever_makes_it_unique(app: Celeriac) -> None:
    @app.task(name="plain")
    def plain(x: int) -> int:
        return x

    once = plain.s(1).set(unique_for=60)
    once.delay()
    result = group(once, once).delay()
    assert drain(app).ran == 3
    assert result.get(timeout=1) == [1, 1]


@pytest.mark.parametrize("key", ["{x}", "same"])
def test_what_takes_the_place_of_a_task_is_sent_and_holds_its_key(app: Celeriac, key: str) -> None:
    @app.task(name="once", unique_for=60, unique_key=key)
    def once(x: int) -> int:
        return x

    @app.task(name="other", unique_for=60, unique_key="mine", bind=True)
    def other(self: Task) -> None:
        self.replace(once.s(7))

    once.apply_async((7,), countdown=60)
    result = other.delay()
    bench = Bench(app)
    bench.step()
    assert other.delay().duplicate
    assert drain(app).ran == 1
    assert result.get(timeout=1) == 7
    assert not other.delay().duplicate


def test_the_key_of_a_delayed_task_is_held_while_it_waits(app: Celeriac) -> None:
    @app.task(name="later", unique_for=60)
    def later() -> None: ...

    with frozen(app) as clock:
        later.apply_async(countdown=3600)
        clock.advance(3000)
        assert later.delay().duplicate
        clock.advance(700)
        assert not later.delay().duplicate


def test_enqueue_many_leaves_out_what_is_there(app: Celeriac) -> None:
    @app.task(name="many", unique_for=60)
    def many(x: int) -> None: ...

    first = many.delay(1)
    results = many.enqueue_many([1, 2, 2])
    assert results[0].id == first.id
    assert results[0].duplicate
    assert results[1].id == results[2].id
    assert results[2].duplicate
    assert len(messages(app)) == 2


def test_enqueue_many_takes_its_keys_from_what_is_sent_under_any_routes() -> None:
    def route(name: str, args: Any, kwargs: Any, options: Any, task: Any = None, **more: Any) -> None: ...

    with make_app(task_routes=(route,)) as app:

        @app.task(name="buy", pydantic=True, unique_for=60)
        def buy(order: Order) -> None: ...

        first = buy.delay(Order(number=1))
        assert [one.id == first.id for one in buy.enqueue_many([Order(number=1), Order(number=2)])] == [
            True,
            False,
        ]


# -- debounced -----------------------------------------------------------------------------------------


def test_a_newer_call_takes_the_place_of_the_one_that_waits(app: Celeriac) -> None:
    @app.task(name="index", debounce=30, unique_key="{document}")
    def index(document: int, text: str) -> str:
        return text

    first, second, other = index.delay(1, "old"), index.delay(1, "new"), index.delay(2, "x")
    assert second.id == first.id
    assert not second.duplicate
    assert other.id != first.id
    waiting = messages(app, state="delayed")
    assert [body(found)[0] for found in waiting] == [[1, "new"], [2, "x"]]


def test_once_it_is_ready_the_next_call_waits_for_itself(app: Celeriac) -> None:
    @app.task(name="index", debounce=0.01)
    def index() -> None: ...

    first = index.delay()
    bench = Bench(app)
    while not (claimed := bench.claim()):
        bench.consumer.wait(["celery"], 0.05)
    assert index.delay().id != first.id
    job = bench.prepare(claimed[0])
    assert isinstance(job, Job)
    bench.settle(bench.runner.run(job))
    assert first.get(timeout=1) is None


def test_debounced_calls_of_enqueue_many_are_one(app: Celeriac) -> None:
    @app.task(name="index", debounce=30)
    def index() -> None: ...

    assert len({result.id for result in index.enqueue_many([(), (), ()])}) == 1
    assert message(app, state="delayed").headers["task"] == "index"


# -- limits of concurrency -----------------------------------------------------------------------------


def test_no_more_run_than_have_a_place(app: Celeriac) -> None:
    @app.task(name="heavy", max_concurrency=1)
    def heavy(x: int) -> int:
        return x

    results = [heavy.delay(x) for x in range(3)]
    bench = Bench(app)
    first, second, third = bench.claim(3)
    running = bench.prepare(first)
    assert isinstance(running, Job)
    parked = [bench.prepare(second), bench.prepare(third)]
    assert all(isinstance(one, Outcome) and one.verdict is Verdict.PARK for one in parked)
    bench.settle(*parked)  # type: ignore[arg-type]
    assert bench.claim() == []
    bench.settle(bench.runner.run(running))
    (again,) = bench.claim(2)
    assert again.placed
    held = bench.prepare(again)
    assert isinstance(held, Job)
    bench.settle(bench.runner.run(held))
    bench.step()
    assert [result.get(timeout=1) for result in results] == [0, 1, 2]


def test_each_key_has_places_of_its_own(app: Celeriac) -> None:
    @app.task(name="per", max_concurrency=1, concurrency_key="{tenant}")
    def per(tenant: str) -> None: ...

    for tenant in ("a", "b", "a"):
        per.delay(tenant)
    bench = Bench(app)
    decided = [bench.prepare(claimed) for claimed in bench.claim(3)]
    assert [isinstance(one, Job) for one in decided] == [True, True, False]


@pytest.mark.parametrize("then", [3, 1])
def test_the_parked_run_under_the_limit_of_the_code_that_runs_them(app: Celeriac, then: int) -> None:
    @app.task(name="heavy", max_concurrency=2)
    def heavy(x: int) -> None: ...

    for x in range(8):
        heavy.delay(x)
    old = Bench(app)
    running = [old.prepare(claimed) for claimed in old.claim(2)]
    old.settle(*[old.prepare(claimed) for claimed in old.claim(6)])  # type: ignore[misc]
    app.tasks["heavy"].max_concurrency = then  # a deploy
    new = Bench(app, child=1)
    old.settle(old.runner.run(running[0]))  # type: ignore[arg-type]
    (placed,) = new.claim()
    first = new.prepare(placed)
    assert isinstance(first, Job)
    assert len(new.claim(8)) == (1 if then > 2 else 0)
    old.settle(old.runner.run(running[1]))  # type: ignore[arg-type]
    assert len(new.claim(8)) == (1 if then > 2 else 0)


def test_a_key_that_cannot_be_made_is_the_end_of_its_call(app: Celeriac) -> None:
    told: list[Any] = []

    class Base(app.Task):  # type: ignore[name-defined, misc]
        def on_failure(self, exc: Any, task_id: str, *rest: Any) -> None:
            told.append((task_id, self.request.id))

    @app.task(name="per", base=Base, max_concurrency=1, concurrency_key="{user.id}")
    def per(user: int) -> None: ...

    result = per.delay(7)
    bench = Bench(app)
    (claimed,) = bench.claim()
    outcome = bench.prepare(claimed)
    assert isinstance(outcome, Outcome)
    assert (outcome.verdict, outcome.reason) == (Verdict.DEAD, "failed")
    assert "the key '{user.id}' does not fit" in outcome.detail
    bench.settle(outcome)
    assert told == [(result.id, result.id)]
    assert result.state == "FAILURE"


def test_a_retry_gives_its_place_back(app: Celeriac) -> None:
    @app.task(name="again", max_concurrency=1, bind=True)
    def again(self: Task) -> None:
        raise self.retry(countdown=60)

    again.delay()
    again.delay()
    bench = Bench(app)
    assert bench.step() is not None
    second = bench.step()
    assert second is not None
    assert second.verdict is Verdict.DELAY


def test_who_waits_for_a_rate_limit_leaves_the_place_and_takes_one_token(app: Celeriac) -> None:
    @app.task(name="both", max_concurrency=1, rate_limit="1/h")
    def both(x: int) -> int:
        return x

    first, second = both.delay(1), both.delay(2)
    bench = Bench(app)
    bench.step()
    assert first.get(timeout=1) == 1
    outcome = bench.step()
    assert outcome is not None
    assert (outcome.verdict, outcome.bucket) == (Verdict.PARK, "both")
    both.delay(3)
    outcome = bench.step()
    assert outcome is not None
    assert outcome.bucket == "both"  # and not for want of a place
    assert second.state == "PENDING"


# -- checkpoints ---------------------------------------------------------------------------------------


def test_a_checkpoint_is_there_for_the_next_run_and_gone_with_the_end(app: Celeriac) -> None:
    seen: list[Any] = []

    @app.task(name="long", bind=True)
    def long(self: Task) -> None:
        seen.append(self.request.checkpoint)
        if not seen[-1]:
            assert self.checkpoint({"page": 7})
            raise self.retry(countdown=0)

    result = long.delay()
    bench = Bench(app)
    bench.step()
    bench.step()
    assert seen == [None, {"page": 7}]
    assert app.coordinator is not None
    assert app.coordinator.checkpoint(result.id) is None


def test_where_messages_are_signed_a_forged_checkpoint_is_refused(app: Celeriac) -> None:
    app.setup_security(hmac_key="k" * 32)

    @app.task(name="work", bind=True, throws=SecurityError)
    def work(self: Task, again: bool) -> Any:
        if not self.request.checkpoint:
            self.checkpoint([1])
            if again:
                raise self.retry(countdown=0)
        return self.request.checkpoint

    results = [work.delay(True), work.delay(True)]
    bench = Bench(app)
    bench.step()
    bench.step()
    own, other = (result.id for result in results)
    kept = app.coordinator.checkpoint(own)
    lease = (bench.consumer.owner.name, "celery", bench.claim()[0].token)
    for forged in (kept, b"[2]"):
        app.coordinator.keep_checkpoint(other, forged, 60, lease)
        with pytest.raises(SecurityError):
            Checkpoint.fetched(app, other)
    assert Checkpoint.fetched(app, own).state == [1]


def test_a_run_that_lost_its_lease_keeps_no_checkpoint(
    app: Celeriac, caplog: pytest.LogCaptureFixture
) -> None:
    @app.task(name="lost", bind=True)
    def lost(self: Task) -> bool:
        return bool(self.checkpoint(1))

    result = lost.delay()
    bench = Bench(app)
    (claimed,) = bench.claim()
    job = bench.prepare(claimed)
    app.broker.release(bench.consumer.owner.name, {})
    assert isinstance(job, Job)
    bench.runner.run(job)
    assert app.coordinator is not None
    assert app.coordinator.checkpoint(result.id) is None
    assert "the checkpoint was not kept" in caplog.text


def test_an_eager_retry_finds_the_checkpoint(app: Celeriac) -> None:
    @app.task(name="work", bind=True)
    def work(self: Task) -> Any:
        at = self.request.checkpoint
        if at is None:
            self.checkpoint(3)
            raise self.retry()
        return at

    assert work.apply().get() == 3
    assert work.apply().get() == 3, "another call begins anew"


def test_called_directly_a_checkpoint_stays_in_the_call(app: Celeriac) -> None:
    @app.task(name="direct", bind=True)
    def direct(self: Task) -> Any:
        self.checkpoint(3)
        return self.request.checkpoint

    assert direct() == 3
