"""One delivery in, one outcome out: the runner's decisions, on the memory engine, without a process."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest

from celeriac import Celeriac, signals
from celeriac.engines.base import Delivery, Outcome, Verdict
from celeriac.engines.coordinator import Control
from celeriac.engines.envelopes import for_replay
from celeriac.exceptions import Ignore, Reject
from celeriac.message import Message, Notes, decode_envelope, encode_envelope, with_notes
from celeriac.message import notes as notes_of
from celeriac.worker.board import Board
from celeriac.worker.counters import UNREADABLE, Counted, Counters
from celeriac.worker.job import Job
from celeriac.worker.runner import Runner

Task = Any


@pytest.fixture
def app() -> Iterator[Celeriac]:
    app = Celeriac("runner", broker="memory://runner", set_as_current=False)
    yield app
    app.close()


def delivery(app: Celeriac, name: str, *args: Any, notes: Notes | None = None, **options: Any) -> Delivery:
    message = app.publisher.build(name, args, task=app.tasks.get(name), **options).message
    if notes is not None:
        message = with_notes(message, notes)
    return Delivery(7, "celery", encode_envelope(message))


def runner(app: Celeriac, **options: Any) -> Runner:
    app.finalize()
    return Runner(app, "w@host", "owner", **{"max_deliveries": 3, **options})


def run(app: Celeriac, received: Delivery, **options: Any) -> Outcome:
    one = runner(app, **options)
    job = one.prepare(received)
    return job if isinstance(job, Outcome) else one.run(job)


def meta(app: Celeriac, outcome: Outcome) -> dict[str, Any]:
    assert outcome.result is not None
    return app.results.decode(outcome.result.payload)


def test_success_is_acked_with_its_result(app: Celeriac) -> None:
    @app.task(name="add")
    def add(x: int, y: int) -> int:
        return x + y

    outcome = run(app, delivery(app, "add", 2, 3))
    assert (outcome.verdict, outcome.token, outcome.queue) == (Verdict.ACK, 7, "celery")
    assert meta(app, outcome)["result"] == 5
    assert outcome.result is not None
    assert outcome.result.reply == app.reply_address()


def test_ignored_results_are_not_stored_but_failures_may_be(app: Celeriac) -> None:
    @app.task(name="quiet", ignore_result=True)
    def quiet() -> None: ...

    @app.task(name="loud", ignore_result=True, store_errors_even_if_ignored=True)
    def loud() -> None:
        raise ValueError("x")

    assert run(app, delivery(app, "quiet")).result is None
    assert meta(app, run(app, delivery(app, "loud")))["status"] == "FAILURE"


def test_a_retry_is_a_delay_with_the_next_attempt(app: Celeriac) -> None:
    @app.task(name="again", bind=True)
    def again(self: Task) -> None:
        raise self.retry(countdown=9)

    received = delivery(app, "again")
    outcome = run(app, received)
    assert (outcome.verdict, outcome.delay) == (Verdict.DELAY, 9)
    assert outcome.message is not None
    assert outcome.message.headers["retries"] == 1
    assert meta(app, outcome)["status"] == "RETRY"


def test_a_retry_to_another_queue_is_an_ack_and_a_publication(app: Celeriac) -> None:
    @app.task(name="move", bind=True)
    def move(self: Task) -> None:
        raise self.retry(countdown=1, queue="elsewhere")

    outcome = run(app, delivery(app, "move"))
    assert outcome.verdict is Verdict.ACK
    assert [p.queue for p in outcome.publications] == ["elsewhere"]


def test_ignore_and_reject(app: Celeriac) -> None:
    @app.task(name="ignore")
    def ignore() -> None:
        raise Ignore

    @app.task(name="reject")
    def reject(requeue: bool) -> None:
        raise Reject("why", requeue=requeue)

    outcome = run(app, delivery(app, "ignore"))
    assert (outcome.verdict, outcome.result) == (Verdict.ACK, None)
    outcome = run(app, delivery(app, "reject", False))
    assert (outcome.verdict, outcome.reason, outcome.detail) == (Verdict.DEAD, "rejected", "why")
    assert outcome.result is not None
    assert outcome.result.state == "FAILURE"
    assert run(app, delivery(app, "reject", True)).verdict is Verdict.REQUEUE


def test_callbacks_and_the_next_step_go_out_with_the_ack(app: Celeriac) -> None:
    @app.task(name="first")
    def first() -> int:
        return 1

    step = {"task": "third", "args": [3], "kwargs": {}, "options": {"task_id": "fixed"}, "immutable": False}
    last = {"task": "last", "args": [], "kwargs": {}, "options": {}, "immutable": False}
    outcome = run(app, delivery(app, "first", link=[app.signature("second", (2,))], chain=[last, step]))
    second, third = outcome.publications
    assert (second.message.headers["task"], second.message.headers["argsrepr"]) == ("second", "(1, 2)")
    assert (third.message.headers["id"], third.message.headers["argsrepr"]) == ("fixed", "(1, 3)")


def test_a_result_that_cannot_be_encoded_is_a_failure_without_callbacks(app: Celeriac) -> None:
    @app.task(name="odd")
    def odd() -> object:
        return object()

    outcome = run(app, delivery(app, "odd", link=[app.signature("second")]))
    assert meta(app, outcome)["status"] == "FAILURE"
    assert not outcome.publications


def test_garbage_becomes_a_dead_letter(app: Celeriac) -> None:
    outcome = run(app, Delivery(7, "celery", b"\x00 not an envelope"))
    assert (outcome.verdict, outcome.reason) == (Verdict.DEAD, "undecodable")
    assert "DecodeError" in outcome.detail


@pytest.mark.parametrize(
    "headers",
    [
        {"_take_message": "x"},
        {"eta": "next week"},
        {"expires": "never"},
        {"timelimit": ["x", {}]},
        {"id": None},
        {"task": ["a"]},
        {"celeriac": 5},
    ],
)
def test_odd_headers_of_a_foreign_program_do_no_harm(app: Celeriac, headers: dict[str, Any]) -> None:
    @app.task(name="plain")
    def plain() -> str:
        return "ran"

    message = app.publisher.build("plain").message
    message.headers.update(headers)
    outcome = run(app, Delivery(7, "celery", encode_envelope(message)))
    assert outcome.verdict is (Verdict.ACK if "_take_message" in headers else Verdict.DEAD)


def test_content_that_is_not_allowed_is_a_dead_letter_and_a_failure(app: Celeriac) -> None:
    @app.task(name="pickled")
    def pickled() -> None: ...

    received = delivery(app, "pickled", serializer="pickle")
    outcome = run(app, received)
    assert (outcome.verdict, outcome.reason) == (Verdict.DEAD, "undecodable")
    assert meta(app, outcome)["status"] == "FAILURE"


def test_an_oversized_message_is_a_dead_letter(app: Celeriac) -> None:
    @app.task(name="big")
    def big(text: str) -> None: ...

    received = delivery(app, "big", "x" * 5000)
    app.conf.message_max_size = 4000
    assert run(app, received).reason == "undecodable"


def test_an_unknown_task_is_kept_and_fails(app: Celeriac) -> None:
    outcome = run(app, delivery(app, "nobody.knows"))
    assert (outcome.verdict, outcome.reason) == (Verdict.DEAD, "unknown")
    assert meta(app, outcome)["status"] == "FAILURE"


def test_revoked_and_expired_tasks_do_not_run(app: Celeriac) -> None:
    ran = []

    @app.task(name="never")
    def never() -> None:
        ran.append(1)

    one = runner(app)
    one.obey(Control(1, ["gone"], [], {}))
    revoked = one.prepare(delivery(app, "never", task_id="gone"))
    assert isinstance(revoked, Outcome)
    assert meta(app, revoked)["status"] == "REVOKED"
    past = datetime.now(UTC) - timedelta(seconds=1)
    expired = run(app, delivery(app, "never", expires=past))
    assert str(meta(app, expired)["result"]) == "expired"
    assert ran == []


def test_a_foreign_eta_is_delayed_and_ours_is_not(app: Celeriac) -> None:
    @app.task(name="later")
    def later() -> str:
        return "ran"

    due = datetime.now(UTC) + timedelta(hours=1)
    foreign = run(app, delivery(app, "later", eta=due, notes=Notes()))
    assert foreign.verdict is Verdict.DELAY
    assert foreign.due == pytest.approx(due.timestamp(), abs=0.01)
    assert run(app, delivery(app, "later", eta=due, notes=Notes(held=True))).verdict is Verdict.ACK


def test_over_the_rate_limit_a_message_is_parked_once(app: Celeriac) -> None:
    @app.task(name="slow", rate_limit="1/h")
    def slow() -> None: ...

    one = runner(app)
    assert isinstance(one.prepare(delivery(app, "slow")), Job)
    second = one.prepare(delivery(app, "slow"))
    assert isinstance(second, Outcome)
    assert (second.verdict, second.bucket) == (Verdict.PARK, "slow")
    granted = delivery(app, "slow")
    granted.admitted = True
    assert isinstance(one.prepare(granted), Job)


def test_a_changed_rate_limit_is_obeyed(app: Celeriac) -> None:
    @app.task(name="free")
    def free() -> None: ...

    one = runner(app)
    assert isinstance(one.prepare(delivery(app, "free")), Job)
    one.obey(Control(2, [], [], {"free": "1/h"}))
    assert isinstance(one.prepare(delivery(app, "free")), Job)
    assert isinstance(one.prepare(delivery(app, "free")), Outcome)


@pytest.mark.parametrize(
    ("notes", "state", "verdict", "reason"),
    [
        (Notes(deliveries=3), "FAILURE", Verdict.DEAD, "deliveries"),
        (Notes(deliveries=1, lost="once"), "FAILURE", Verdict.DEAD, "lost"),
        (Notes(lost="timeout:5"), "FAILURE", Verdict.ACK, ""),
        (Notes(lost="terminated:15"), "REVOKED", Verdict.ACK, ""),
    ],
)
def test_a_run_that_was_ended_from_outside_is_not_repeated(
    app: Celeriac, notes: Notes, state: str, verdict: Verdict, reason: str
) -> None:
    failures = []

    @app.task(name="dead", on_failure=lambda self, exc, *rest: failures.append(type(exc).__name__))
    def dead() -> None:
        raise AssertionError("must not run")

    outcome = run(app, delivery(app, "dead", notes=notes))
    assert meta(app, outcome)["status"] == state
    assert (outcome.verdict, outcome.reason) == (verdict, reason)
    assert len(failures) == (state == "FAILURE")


def test_a_second_delivery_runs_unless_the_task_forbids_it(app: Celeriac) -> None:
    @app.task(name="yes")
    def yes() -> None: ...

    @app.task(name="no", reject_on_worker_lost=False)
    def no() -> None: ...

    assert meta(app, run(app, delivery(app, "yes", notes=Notes(deliveries=1))))["status"] == "SUCCESS"
    assert meta(app, run(app, delivery(app, "no", notes=Notes(deliveries=1))))["status"] == "FAILURE"


@pytest.mark.parametrize(("given_back_after", "runs"), [(-60.0, 0), (60.0, 1)])
def test_a_copy_runs_only_if_the_other_one_has_no_result_yet(
    app: Celeriac, given_back_after: float, runs: int
) -> None:
    """A result from before it was given back is that of an earlier call under the same id."""
    ran: list[int] = []
    app.task(name="note")(ran.append)
    app.conf.worker_deduplicate_successful_tasks = True  # look, though this store does all in one step
    app.finalize()
    assert app.backend is not None
    app.backend.store([app.results.record("SUCCESS", None, None, task_id="again")])
    note = Notes(returned=time.time() + given_back_after)
    outcome = run(app, delivery(app, "note", 1, task_id="again", notes=note))
    assert (len(ran), outcome.verdict) == (runs, Verdict.ACK)


def redelivered(app: Celeriac, received: Delivery, **changes: Any) -> Delivery:
    """The same message, as a store delivers it again; ``changes`` of its notes."""
    message = decode_envelope(received.payload)
    message = with_notes(message, msgspec.structs.replace(notes_of(message), **changes))
    message.headers["redelivered"] = True
    app.conf.worker_deduplicate_successful_tasks = True  # look, though this store does all in one step
    return Delivery(received.token, received.queue, encode_envelope(message))


def test_an_older_copy_of_a_message_whose_later_attempt_has_run_is_not_run(app: Celeriac) -> None:
    ran: list[int] = []

    @app.task(name="again", bind=True, max_retries=9)
    def again(self: Task) -> None:
        ran.append(self.request.retries)
        raise self.retry(countdown=9)

    assert app.backend is not None
    app.conf.worker_deduplicate_successful_tasks = True
    later = run(app, delivery(app, "again", task_id="late", retries=2))
    assert later.result is not None
    app.backend.store([later.result])
    ran.clear()
    for retries in range(3):
        copy = delivery(app, "again", task_id="late", retries=retries, notes=Notes(unique="key"))
        outcome = run(app, redelivered(app, copy))
        assert outcome.verdict is (Verdict.DELAY if retries == 2 else Verdict.ACK)
        assert (outcome.result is None, outcome.unique) == (retries < 2, "")  # the key is the later attempt's
    assert ran == [2]  # of this one nobody knows whether what followed was sent


@pytest.mark.parametrize(
    ("given_back_after", "came_back", "runs"),
    [(-60.0, False, 0), (-60.0, True, 1), (60.0, False, 1), (0.0, False, 1)],
)
def test_a_copy_is_not_run_if_the_other_one_is_to_be_tried_again(
    app: Celeriac, given_back_after: float, came_back: bool, runs: int
) -> None:
    """Unless it was delivered before: that may have been its own run, cut off before it sent the rest."""
    ran: list[int] = []

    @app.task(name="again", bind=True)
    def again(self: Task) -> None:
        ran.append(self.request.retries)
        raise self.retry(countdown=9)

    task_id = f"copy{given_back_after}{came_back}"
    received = delivery(app, "again", task_id=task_id)
    assert app.backend is not None
    app.conf.worker_deduplicate_successful_tasks = True
    record = run(app, received).result
    assert record is not None
    app.backend.store([record])
    ran.clear()
    returned = given_back_after and time.time() + given_back_after
    copy = redelivered(app, received, returned=returned)
    if not came_back:
        message = decode_envelope(copy.payload)
        del message.headers["redelivered"]
        copy = Delivery(9, "celery", encode_envelope(message))
    run(app, copy)
    assert ran == [0] * runs


def test_a_replayed_dead_letter_runs_although_its_failure_is_stored(app: Celeriac) -> None:
    """Its first worker may be lost, or the server crash: then it comes marked as delivered before."""
    ran: list[int] = []
    app.task(name="note")(ran.append)
    assert app.backend is not None
    failure = app.results.record("FAILURE", ValueError("x"), None, task_id="dead")
    app.backend.store([failure])
    letter = delivery(app, "note", 1, task_id="dead")
    assert run(app, redelivered(app, letter)).result is None
    replayed = Delivery(8, "celery", for_replay(letter.payload))
    outcome = run(app, redelivered(app, replayed))
    assert ran == [1]
    assert outcome.result is not None
    app.backend.store([outcome.result])
    assert run(app, redelivered(app, replayed)).result is None  # that result is of the replay


def test_what_a_run_sends_that_is_not_the_first_is_looked_up_before_it_runs(app: Celeriac) -> None:
    """The first one's worker may have died after it had sent it."""

    @app.task(name="again", bind=True)
    def again(self: Task) -> None:
        if not self.request.retries:
            raise self.retry(countdown=9)

    callback = again.si().set(task_id="b")

    def sent(received: Delivery) -> Message:
        outcome = run(app, received)
        message = outcome.message or outcome.publications[0].message
        assert message is not None
        return message

    for retries in (0, 1):
        received = delivery(app, "again", task_id="sender", retries=retries, link=callback)
        assert notes_of(sent(received)).returned is None
        assert notes_of(sent(redelivered(app, received))).returned == 0.0
        assert notes_of(sent(redelivered(app, received, replayed=5.0))).returned == 5.0


def test_an_outcome_that_cannot_be_taken_down_does_not_end_the_process(app: Celeriac) -> None:
    class Nasty(Exception):
        def __str__(self) -> str:
            raise RuntimeError("no text")

        __repr__ = __str__

    @app.task(name="nasty")
    def nasty() -> None:
        raise Nasty

    outcome = run(app, delivery(app, "nasty"))
    assert meta(app, outcome)["status"] == "FAILURE"


def test_hooks_and_signals_come_in_order_and_their_errors_change_nothing(app: Celeriac) -> None:
    seen: list[str] = []

    class Base(app.Task):  # type: ignore[name-defined, misc]
        def before_start(self, task_id: str, args: Any, kwargs: Any) -> None:
            seen.append("before_start")

        def on_success(self, retval: Any, task_id: str, args: Any, kwargs: Any) -> None:
            seen.append("on_success")
            raise RuntimeError("a broken hook")

        def after_return(self, status: str, *rest: Any) -> None:
            seen.append(f"after_return {status}")

    @app.task(name="hooked", base=Base)
    def hooked() -> str:
        seen.append("run")
        return "x"

    def pre(**kwargs: Any) -> None:
        seen.append("prerun")

    def post(**kwargs: Any) -> None:
        seen.append(f"postrun {kwargs['state']}")

    signals.task_prerun.connect(pre)
    signals.task_postrun.connect(post)
    try:
        outcome = run(app, delivery(app, "hooked"))
    finally:
        signals.task_prerun.disconnect(pre)
        signals.task_postrun.disconnect(post)
    assert meta(app, outcome)["result"] == "x"
    assert seen == ["prerun", "before_start", "run", "on_success", "after_return SUCCESS", "postrun SUCCESS"]


def test_limits_of_the_message_go_before_the_task_s(app: Celeriac) -> None:
    @app.task(name="limited", time_limit=10, soft_time_limit=5)
    def limited() -> None: ...

    job = runner(app, limits=(1.0, 2.0)).prepare(delivery(app, "limited"))
    assert isinstance(job, Job)
    assert job.soft_hard == (5.0, 10.0)
    job = runner(app).prepare(delivery(app, "limited", time_limit=3, soft_time_limit=2))
    assert isinstance(job, Job)
    assert job.soft_hard == (2.0, 3.0)


def test_a_message_that_cannot_be_read_is_counted(app: Celeriac) -> None:
    one = runner(app)
    one.counters = Counters(Board(children=1, slots=1), 0)
    for received in (Delivery(1, "celery", b"no envelope"), delivery(app, "nobody.knows")):
        assert isinstance(one.prepare(received), Outcome)
    counts: Counter[Any] = Counter()
    failures: Counter[Any] = Counter()
    one.counters.add_to(counts, {}, {})
    one.counters.add_failures_to(failures)
    assert counts[(UNREADABLE, "celery"), Counted.RECEIVED] == 1
    assert failures == {
        (UNREADABLE, "celery", "DecodeError"): 1,
        ("nobody.knows", "celery", "NotRegistered"): 1,
    }
