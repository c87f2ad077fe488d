"""Chords from the header's first task to the body, on the memory engine, without a process."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from celeriac import Celeriac, chain, chord
from celeriac.app.chords import Chords
from celeriac.canvas import maybe_signature
from celeriac.engines import groups
from celeriac.engines.base import Incarnation, Outcome, Publication
from celeriac.engines.coordinator import Control
from celeriac.exceptions import (
    ChordError,
    EncodeError,
    Ignore,
    ImproperlyConfigured,
    OperationalError,
    Reject,
)
from celeriac.message import Message, Notes, new_id, notes, with_notes
from celeriac.worker.line import Line
from celeriac.worker.runner import Runner
from tests.unit.helpers import make_app, messages

Task = Any
GROUP = "chord-1"


class Bench:
    """An application with tasks, and a worker's loop that runs until nothing is left to do."""

    def __init__(self, app: Celeriac) -> None:
        self.app = app
        self.calls: list[Any] = []
        self._lives = 0
        calls = self.calls

        @app.task(name="one", shared=False, bind=True)
        def one(self: Task, value: Any = 1, how: str = "") -> Any:
            match how:
                case "fail":
                    raise ValueError(value)
                case "ignore":
                    raise Ignore
                case "reject":
                    raise Reject("no", requeue=False)
                case "retry" if not self.request.retries:
                    raise self.retry(countdown=0)
            return value

        @app.task(name="total", shared=False)
        def total(values: Any, more: int = 0) -> Any:
            calls.append(("total", values))
            return sum(values) + more

        @app.task(name="plain", shared=False)
        def plain() -> None:
            calls.append(("plain",))

        @app.task(name="old_errback", shared=False)
        def old_errback(task_id: str) -> None:
            calls.append(("old", task_id))

        @app.task(name="new_errback", shared=False)
        def new_errback(request: Any, error: BaseException, traceback: Any) -> None:
            calls.append(("new", request.id, type(error).__name__, str(error)))

        app.finalize()

    def signature(self, name: str, *args: Any, **options: Any) -> dict[str, Any]:
        made = self.app.signature(name, args=args)
        made.set(**options)
        return json.loads(json.dumps(made))  # type: ignore[no-any-return]

    def body(self, **options: Any) -> dict[str, Any]:
        return self.signature("total", task_id="body", **options)

    def start(self, hows: list[Any], chord: Any = None, *, open: bool = True, **options: Any) -> Any:
        """Begin a chord of ``one`` tasks h0, h1, ...; return the body's dictionary."""
        chord = chord or self.body()
        if open:
            self.app.chords.open(GROUP, len(hows), maybe_signature(chord, self.app))
        for index, how in enumerate(hows):
            self.app.send_task(
                "one", (index + 1, how), task_id=f"h{index}", group_id=GROUP, group_index=index, chord=chord,
                **options,
            )  # fmt: skip
        return chord

    def work(self, finish: bool = True, revoke: list[str] | None = None) -> list[Outcome]:
        """Be a worker until the queue is empty; return the outcomes."""
        app = self.app
        self._lives += 1
        owner = Incarnation(f"n{self._lives}", 0, 1)
        line = Line(app, owner, ["celery"])
        runner = Runner(app, "w@host", owner.name, max_deliveries=3)
        if revoke:
            runner.obey(Control(1, revoke, [], {}))
        done: list[Outcome] = []
        outcomes: list[Outcome] = []
        while True:
            answer = line.exchange(outcomes, 1)
            outcomes = []
            if answer.owed and finish:
                line.finish_chords(answer.owed)
            if not answer.deliveries and not answer.owed:
                line.close()
                return done
            for delivery in answer.deliveries:
                job = runner.prepare(delivery)
                outcomes.append(job if isinstance(job, Outcome) else runner.run(job))
            done += outcomes

    def state(self, task_id: str) -> tuple[str, Any]:
        result = self.app.AsyncResult(task_id)
        return result.state, result.result

    def chord_error(self) -> str:
        state, error = self.state("body")
        assert state == "FAILURE"
        assert isinstance(error, ChordError)
        return str(error)


@pytest.fixture
def app() -> Iterator[Celeriac]:
    app = make_app(set_as_current=False)
    yield app
    app.close()


@pytest.fixture
def bench(app: Celeriac) -> Bench:
    return Bench(app)


# -- success ---------------------------------------------------------------------------------------------


def test_the_body_runs_once_with_the_results_in_header_order(bench: Bench) -> None:
    bench.start(["", "retry", ""])
    bench.work()
    assert bench.calls == [("total", [1, 2, 3])]
    assert bench.state("body") == ("SUCCESS", 6)


def test_the_client_of_the_chord_is_told_of_the_body(bench: Bench) -> None:
    with bench.app.publisher.on_behalf("client"):
        bench.start([""])
    bench.work(finish=False)
    assert bench.app.chords.finish(GROUP, "n1:0:1")
    (sent,) = messages(bench.app)
    assert notes(sent).reply == "client"


def test_what_joins_a_header_may_end_before_the_task_that_brought_it_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Messages and results in two stores: between sending the one and storing the other others go on."""
    with make_app(backend=f"sqlite:///{tmp_path}/results.db", set_as_current=False) as app:
        bench = Bench(app)

        @app.task(name="invite", shared=False, bind=True)
        def invite(self: Task, value: int) -> int:
            self.add_to_chord(app.signature("one", args=[value * 100]))
            return value

        send = Line._send

        def send_and_let_others_work(self: Line, follow_ups: Sequence[Publication]) -> None:
            for _ in range(2):  # as if its answer had been lost: what joins has the same id
                send(self, follow_ups)
            bench.work()

        monkeypatch.setattr(Line, "_send", send_and_let_others_work)
        chord([app.signature("invite", args=[1]), app.signature("invite", args=[2])])(bench.body())
        bench.work()
        ((_, values),) = bench.calls
        assert (values[:2], sorted(values[2:])) == ([1, 2], [100, 200])


def test_what_a_task_brings_into_its_header_has_the_same_id_in_each_run(app: Celeriac) -> None:
    seen = []

    @app.task(name="invite", shared=False, bind=True)
    def invite(self: Task) -> None:
        seen.append([self.add_to_chord(app.signature("one")).id for _ in range(2)])

    chord([app.signature("invite", task_id="h0")])(app.signature("total"))
    (sent,) = messages(app)
    for _ in range(2):
        app.broker.publish([Publication(sent, "celery")])
    Bench(app).work()
    first, *others = seen
    assert len(set(first)) == 2
    assert others
    assert all(other == first for other in others)


def test_an_immutable_body_gets_no_results(bench: Bench) -> None:
    chord = bench.signature("plain", task_id="body")
    chord["immutable"] = True
    bench.start(["", ""], chord)
    bench.work()
    assert bench.calls == [("plain",)]


def test_a_body_inherits_root_and_parent_unless_it_has_them(bench: Bench) -> None:
    bench.start([""], bench.body(root_id="root", parent_id="parent"))
    bench.work(finish=False)
    bench.app.chords.finish(GROUP, "n1:0:1")
    (sent,) = messages(bench.app)
    assert (sent.headers["root_id"], sent.headers["parent_id"]) == ("root", "parent")


def test_an_ignored_result_is_a_part_all_the_same(bench: Bench) -> None:
    bench.start(["", ""], ignore_result=True)
    bench.work()
    assert bench.calls == [("total", [1, 2])]


def test_tasks_join_the_header_in_the_step_that_ends_their_maker(bench: Bench) -> None:
    @bench.app.task(name="more", shared=False, bind=True)
    def more(self: Task) -> int:
        extra = bench.signature("one", 10, task_id="x", group_id=self.request.group, chord=self.request.chord)
        self.request.chord_additions = [extra]
        return 5

    chord = bench.body()
    bench.app.chords.open(GROUP, 1, maybe_signature(chord, bench.app))
    bench.app.send_task("more", task_id="h", group_id=GROUP, group_index=0, chord=chord)
    bench.work()
    assert bench.calls == [("total", [5, 10])]


def test_an_empty_header_is_owed_at_once(bench: Bench) -> None:
    bench.app.chords.open(GROUP, 0, maybe_signature(bench.body(), bench.app))
    assert bench.app.chords.recover("agent") == 1
    bench.work()
    assert bench.calls == [("total", [])]


# -- errors in the header --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("how", "reason"),
    [
        ("fail", "Dependency h1 raised ValueError(2)"),
        ("ignore", "Dependency h1 raised Ignore()"),
        ("reject", "Dependency h1 raised reject requeue=False: no"),
    ],
)
def test_any_end_but_success_fails_the_body(bench: Bench, how: str, reason: str) -> None:
    bench.start(["", how, ""], bench.body(link_error=[bench.signature("old_errback")]))
    bench.work()
    assert bench.chord_error().startswith(reason)
    assert bench.calls == [("old", "body")]


def test_a_revoked_header_task_fails_the_body(bench: Bench) -> None:
    bench.start(["", "", ""])
    bench.work(revoke=["h2"])
    assert bench.chord_error() == "Dependency h2 raised TaskRevokedError('revoked')"


def test_an_expired_header_task_fails_the_body(bench: Bench) -> None:
    bench.start([""], expires=-1)
    bench.work()
    assert bench.chord_error() == "Dependency h0 raised TaskRevokedError('expired')"


def test_an_unknown_header_task_fails_the_body(bench: Bench) -> None:
    chord = bench.start([])
    bench.app.chords.open("g2", 1, maybe_signature(chord, bench.app))
    bench.app.send_task("nobody", task_id="h", group_id="g2", group_index=0, chord=chord)
    bench.work()
    assert "never registered" in bench.chord_error()


def test_an_unreadable_header_task_fails_the_body(bench: Bench) -> None:
    chord = bench.body()
    bench.app.chords.open(GROUP, 1, maybe_signature(chord, bench.app))
    publication = bench.app.publisher.build("one", task_id="h0", group_id=GROUP, group_index=0, chord=chord)
    publication.message.body = b"\xff"
    bench.app.broker.publish([publication])
    bench.work()
    assert "Dependency h0 raised DecodeError" in bench.chord_error()


@pytest.mark.parametrize("lost", ["once", "timeout:3", "terminated:15"])
def test_a_header_task_whose_run_was_ended_fails_the_body(bench: Bench, lost: str) -> None:
    chord = bench.body()
    bench.app.chords.open(GROUP, 1, maybe_signature(chord, bench.app))
    publication = bench.app.publisher.build("one", task_id="h0", group_id=GROUP, group_index=0, chord=chord)
    publication.message = with_notes(publication.message, Notes(lost=lost))
    bench.app.broker.publish([publication])
    bench.work()
    assert "Dependency h0 raised" in bench.chord_error()


def test_new_style_error_callbacks_are_called_where_the_body_is_taken(bench: Bench) -> None:
    bench.start(["fail"], bench.body(link_error=[bench.signature("new_errback")]))
    bench.work()
    assert bench.calls == [("new", "body", "ChordError", "Dependency h0 raised ValueError(1)")]


def test_a_result_that_cannot_be_written_fails_the_task_and_the_body(bench: Bench) -> None:
    @bench.app.task(name="odd", shared=False, ignore_result=True)
    def odd() -> Any:
        return object()

    chord = bench.body()
    bench.app.chords.open(GROUP, 1, maybe_signature(chord, bench.app))
    bench.app.send_task("odd", task_id="h", group_id=GROUP, group_index=0, chord=chord)
    bench.work()
    assert "Dependency h raised EncodeError" in bench.chord_error()


def test_a_body_that_cannot_be_called_is_a_failed_chord(bench: Bench) -> None:
    chord = bench.signature("plain", task_id="body", link_error=[bench.signature("old_errback")])
    bench.start(["", ""], chord)
    bench.work()
    assert bench.chord_error().startswith("Callback error: TypeError")
    assert bench.calls == [("old", "body")]


# -- what follows ----------------------------------------------------------------------------------------


def test_what_follows_a_failed_body_fails_with_it(bench: Bench) -> None:
    last = bench.signature("one", task_id="last")
    following = bench.signature("one", task_id="following")
    bench.start(["fail"], bench.body(chain=[last, following]))
    bench.work()
    assert bench.state("following")[0] == bench.state("last")[0] == "FAILURE"


def test_each_task_of_a_group_body_hears_of_the_cause(bench: Bench) -> None:
    tasks = [bench.signature("total", task_id=f"b{n}") for n in (1, 2)]
    chord = {
        "task": "celery.group", "args": [], "kwargs": {"tasks": tasks}, "subtask_type": "group",
        "options": {"task_id": "bg", "link_error": [bench.signature("new_errback")]}, "immutable": False,
    }  # fmt: skip
    bench.app.chords.open(GROUP, 1, maybe_signature(chord, bench.app))
    bench.app.send_task("one", (1, "fail"), task_id="h0", group_id=GROUP, group_index=0, chord=chord)
    bench.work()
    assert [call[1:3] for call in bench.calls] == [("b1", "ValueError"), ("b2", "ValueError")]
    assert [bench.state(f"b{n}")[0] for n in (1, 2)] == ["FAILURE", "FAILURE"]


def test_a_failed_body_is_an_error_in_the_chord_around_it(bench: Bench) -> None:
    outer = bench.signature("total", task_id="outer")
    bench.app.chords.open("around", 1, maybe_signature(outer, bench.app))
    bench.start(["fail"], bench.body(group_id="around", group_index=0, chord=outer))
    bench.work()
    state, error = bench.state("outer")
    assert state == "FAILURE"
    assert "Dependency body raised ChordError" in str(error)


def test_a_failed_step_fails_the_rest_of_its_chain_and_their_chords(bench: Bench) -> None:
    chord = bench.body()
    bench.app.chords.open(GROUP, 1, maybe_signature(chord, bench.app))
    last = bench.signature("one", task_id="last", group_id=GROUP, group_index=0, chord=chord)
    middle = bench.signature("one", task_id="middle")
    bench.app.send_task("one", (1, "fail"), task_id="first", chain=[last, middle])
    (outcome,) = bench.work()
    assert [record.id for record in outcome.records] == ["middle", "last"]
    assert bench.state("middle")[0] == bench.state("last")[0] == "FAILURE"
    assert bench.chord_error() == "Dependency last raised ValueError(1)"


def test_a_step_that_is_ignored_stops_a_chain_without_a_word(bench: Bench) -> None:
    bench.app.send_task("one", (1, "ignore"), task_id="a", chain=[bench.signature("one", task_id="b")])
    bench.work()
    assert bench.state("b")[0] == "PENDING"


def test_a_chord_among_later_steps_is_failed_but_not_counted(bench: Bench) -> None:
    inner = bench.signature("total", task_id="inner")
    header = [bench.signature("one", task_id="ih", group_id="ig", group_index=0, chord=inner)]
    step = {
        "task": "celery.chord", "args": [], "kwargs": {"header": header, "body": inner, "kwargs": {}},
        "options": {}, "subtask_type": "chord", "immutable": False,
    }  # fmt: skip
    bench.app.send_task("one", (1, "fail"), task_id="first", chain=[step])
    (outcome,) = bench.work()
    assert [record.id for record in outcome.records] == ["ih", "inner"]
    assert list(outcome.parts) == []


# -- deaths ----------------------------------------------------------------------------------------------


def test_an_owed_body_is_sent_by_whoever_finds_it(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(groups, "OWED_AGAIN", 0.0)
    bench.start(["", ""])
    bench.work(finish=False)
    assert bench.calls == []
    assert bench.app.chords.recover("agent") == 1
    assert bench.app.chords.recover("agent") == 0
    bench.work()
    assert bench.calls == [("total", [1, 2])]


def test_of_two_takers_one_is_believed(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(groups, "OWED_AGAIN", 0.0)
    bench.start([""])
    bench.work(finish=False)
    backend = bench.app.backend
    assert backend is not None
    settle = backend.settle_owed
    late = Chords(bench.app)

    def overtaken(group: str, by: str, *rest: Any) -> Any:
        monkeypatch.setattr(backend, "settle_owed", settle)
        assert late.finish(group, "late")
        return settle(group, by, *rest)

    monkeypatch.setattr(backend, "settle_owed", overtaken)
    assert not bench.app.chords.finish(GROUP, "early")
    bench.work()
    assert bench.calls == [("total", [1])]


def test_a_store_that_is_away_leaves_the_body_owed(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.start([""])
    with monkeypatch.context() as patch:

        def away(*_: Any) -> None:
            raise OperationalError("away")

        patch.setattr(bench.app.backend, "take_owed", away)
        bench.work()
    assert bench.calls == []
    monkeypatch.setattr(groups, "OWED_AGAIN", 0.0)
    assert bench.app.chords.recover("agent") == 1


def test_a_slow_error_callback_keeps_the_body_taken(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    import threading

    renewed = threading.Event()

    @bench.app.task(name="slow", shared=False)
    def slow(request: Any, error: Any, traceback: Any) -> None:
        bench.calls.append(renewed.wait(5))

    bench.start(["fail"], bench.body(link_error=[bench.signature("slow")]))
    bench.work(finish=False)
    monkeypatch.setattr("celeriac.app.chords.OWED_AGAIN", 0.03)
    backend = bench.app.backend
    assert backend is not None
    take, taken = backend.take_owed, []

    def noted(group: str, by: str) -> Any:
        taken.append(by)
        if len(taken) > 1:
            renewed.set()
        return take(group, by)

    monkeypatch.setattr(backend, "take_owed", noted)
    assert bench.app.chords.finish(GROUP, "n1:0:1")
    assert bench.calls == [True]


# -- where messages and results are not one store ----------------------------------------------------------


@pytest.fixture
def apart() -> Iterator[Bench]:
    app = make_app(backend=f"memory://apart-{new_id()}", set_as_current=False)
    assert not app.fused
    yield Bench(app)
    app.close()


def test_apart_the_body_goes_out_once(apart: Bench) -> None:
    apart.start(["", ""])
    apart.work()
    assert apart.calls == [("total", [1, 2])]


def test_apart_a_taker_that_dies_before_it_settles_sends_nothing_twice(
    apart: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    apart.start(["fail"], apart.body(link_error=[apart.signature("old_errback")]))
    apart.work(finish=False)
    backend = apart.app.backend
    assert backend is not None
    with monkeypatch.context() as patch:

        def die(*_: Any) -> None:
            raise KeyboardInterrupt

        patch.setattr(backend, "settle_owed", die)
        with pytest.raises(KeyboardInterrupt):
            apart.app.chords.finish(GROUP, "n1:0:1")
    monkeypatch.setattr(groups, "OWED_AGAIN", 0.0)
    assert apart.app.chords.recover("agent") == 1
    apart.work()
    assert apart.calls == [("old", "body")]


def test_apart_a_body_that_was_sent_before_is_looked_up_before_it_runs(
    apart: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """RabbitMQ cannot refuse the second copy."""
    apart.start([""])
    apart.work(finish=False)
    monkeypatch.setattr(groups, "OWED_AGAIN", 0.0)
    with monkeypatch.context() as patch:
        patch.setattr(apart.app.backend, "settle_owed", lambda *_: None)  # it died before
        assert apart.app.chords.finish(GROUP, "n1:0:1") is False
    assert [notes(message).returned for message in messages(apart.app)] == [None]
    apart.work(finish=False)
    apart.app.broker.publish = partial(_whatever_the_key, apart.app.broker.publish)  # type: ignore[method-assign]
    assert apart.app.chords.recover("agent") == 1
    assert [notes(message).returned for message in messages(apart.app)] == [0.0]
    apart.work()
    assert apart.calls == [("total", [1])]


def _whatever_the_key(publish: Callable[[Any], Any], batch: list[Publication]) -> None:
    for publication in batch:
        publication.unique = None
    publish(batch)


def test_apart_a_callback_whose_confirm_got_lost_runs_once(
    apart: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is sent again, and who gets the second copy looks for the result of the first."""
    publish, lost = apart.app.broker.publish, iter([True])

    def carried_out(batch: Sequence[Publication]) -> dict[int, str]:
        done = publish(batch)
        if next(lost, False):
            error = OperationalError("no answer")
            error.maybe_done = True
            raise error
        return done

    callback = apart.app.signature("plain", immutable=True).set(task_id="called")
    apart.app.send_task("one", (1,), link=callback)
    monkeypatch.setattr(apart.app.broker, "publish", carried_out)
    apart.work()
    assert apart.calls == [("plain",)]


def test_apart_a_message_that_comes_back_with_its_result_still_counts(apart: Bench) -> None:
    """Its worker died between storing the result and recording the part."""
    chord = apart.body()
    apart.app.chords.open(GROUP, 1, maybe_signature(chord, apart.app))
    publication = apart.app.publisher.build(
        "one", (7,), task_id="h0", group_id=GROUP, group_index=0, chord=chord
    )
    publication.message.headers["redelivered"] = True
    backend = apart.app.backend
    assert backend is not None
    backend.store([apart.app.results.record("SUCCESS", 7, None, task_id="h0")])
    apart.app.broker.publish([publication])
    apart.work()
    assert apart.calls == [("total", [7])]


# -- chords that another program has begun -----------------------------------------------------------------


def foreign(app: Celeriac, count: int) -> None:
    """Take our header out of the messages that wait: as Celery would have sent them."""
    found = messages(app)
    app.broker.purge(["celery"])
    for each in found:
        each.headers.pop("celeriac")
        app.broker.publish([_publication(each)])
    assert len(found) == count


def _publication(message: Message) -> Any:
    from celeriac.engines.base import Publication

    return Publication(message, "celery")


def test_the_parts_of_a_foreign_chord_bring_its_body(bench: Bench) -> None:
    bench.start(["", "retry"], open=False)
    foreign(bench.app, 2)
    parts = [part for outcome in bench.work() for part in outcome.parts]
    assert [json.loads(part.body or b"{}")["body"]["task"] for part in parts] == ["total", "total"]


def test_our_chords_parts_bring_none(bench: Bench) -> None:
    bench.start(["", "retry"])
    parts = [part for outcome in bench.work() for part in outcome.parts]
    assert [part.body for part in parts] == [None, None]


def test_the_results_of_a_foreign_chord_have_the_saved_structure(bench: Bench) -> None:
    bench.start(["", "", ""], open=False)
    foreign(bench.app, 3)
    backend = bench.app.backend
    assert backend is not None
    leaf = [[[f"h{n}", None], None] for n in range(3)]
    saved = [[GROUP, None], [leaf[0], [["inner", None], [leaf[1], leaf[2]]]]]
    backend.store_group(GROUP, json.dumps({"result": saved}).encode(), None)
    backend.open_chord(GROUP, 3, b"", None)  # Celery has written the size, and no body of ours
    bench.work(finish=False)
    owed = backend.take_owed(GROUP, "n1:0:1")
    assert owed is not None
    assert bench.app.chords._results(owed, foreign=True) == [1, [2, 3]]


# -- small things ----------------------------------------------------------------------------------------


def test_a_chord_needs_a_store_for_results() -> None:
    app = make_app(backend="disabled://", set_as_current=False)
    with pytest.raises(ImproperlyConfigured, match="a chord needs a store"):
        app.chords.open("g", 1, app.signature("t"))
    app.close()


def test_a_body_that_cannot_be_written_down_says_so(bench: Bench) -> None:
    with pytest.raises(EncodeError):
        bench.app.chords.open("g", 1, bench.app.signature("t", kwargs={"x": object()}))


def test_how_long_a_chord_is_kept(app: Celeriac) -> None:
    app.conf.result_expires = 100
    assert app.chords.part("t", "g", 0, "SUCCESS", 1).ttl == 100
    app.conf.result_chord_expires = 7
    assert app.chords.part("t", "g", 0, "SUCCESS", 1).ttl == 7
    app.conf.result_chord_expires = 0
    assert app.chords.part("t", "g", 0, "SUCCESS", 1).ttl is None


def test_a_chord_is_kept_for_the_delays_of_its_header(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = []
    monkeypatch.setattr(bench.app.backend, "open_chord", lambda *args: opened.append(args[3]))
    bench.app.conf.result_expires = 100
    one, total = bench.app.tasks["one"], bench.app.tasks["total"]
    later = chain(one.si(1).set(countdown=1000), chord([one.si(1).set(countdown=300)], total.s()))
    chord([one.si(1), later])(total.s())
    chord([one.si(1)], total.s()).apply_async(countdown=50)
    assert opened == [1400, 150]


def test_a_store_that_is_away_for_a_moment_keeps_no_chord_from_being_opened(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = bench.app.backend
    assert backend is not None
    open_chord, attempts = backend.open_chord, []

    def flaky(*args: Any) -> None:
        attempts.append(1)
        if len(attempts) < 3:
            raise OperationalError("away")
        open_chord(*args)

    monkeypatch.setattr(backend, "open_chord", flaky)
    bench.start(["", ""])
    bench.work()
    assert bench.calls == [("total", [1, 2])]
    monkeypatch.setattr(backend, "open_chord", lambda *_: (_ for _ in ()).throw(OperationalError("away")))
    with pytest.raises(OperationalError):
        bench.app.chords.open("other", 1, maybe_signature(bench.body(), bench.app))


def test_a_worker_waits_for_the_store_in_which_it_opens_a_chord(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, total = bench.app.tasks["one"], bench.app.tasks["total"]
    bench.app.conf.task_publish_retry = False
    (one.si(1) | chord([one.si(2), one.si(3)], total.s())).apply_async()
    backend = bench.app.backend
    assert backend is not None
    open_chord, attempts = backend.open_chord, []

    def flaky(*args: Any) -> None:
        attempts.append(1)
        if len(attempts) < 2:
            raise OperationalError("away")
        open_chord(*args)

    monkeypatch.setattr(backend, "open_chord", flaky)
    bench.work()
    assert bench.calls == [("total", [2, 3])]


def test_a_revoked_delayed_task_counts_as_an_error_before_its_message_goes(bench: Bench) -> None:
    chord = bench.body()
    bench.app.chords.open(GROUP, 2, maybe_signature(chord, bench.app))
    last = bench.signature("one", task_id="last", group_id=GROUP, group_index=1, chord=chord)
    same: dict[str, Any] = {"group_id": GROUP, "group_index": 0, "chord": chord}
    bench.app.send_task("one", task_id="h0", countdown=1000, **same)
    bench.app.send_task("one", task_id="first", countdown=1000, chain=[last])
    bench.app.control.revoke(["h0", "first"])
    assert bench.state("h0")[0] == bench.state("first")[0] == bench.state("last")[0] == "REVOKED"
    assert messages(bench.app, state="delayed") == []
    backend = bench.app.backend
    assert backend is not None
    assert bench.app.broker.find(["h0", "first"]) == {}


def test_ten_thousand_parts_are_read_once(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    size = 10_000
    bench.app.chords.open(GROUP, size, maybe_signature(bench.body(), bench.app))
    backend = bench.app.backend
    assert backend is not None
    parts = [bench.app.chords.part(f"h{n}", GROUP, n, "SUCCESS", n) for n in range(size)]
    assert backend.record_parts(parts, "w") == [GROUP]
    reads = []
    make = bench.app.results.reader

    def counting() -> Any:
        read = make()
        return lambda payload: (reads.append(1), read(payload))[1]

    monkeypatch.setattr(bench.app.results, "reader", counting)
    assert bench.app.chords.finish(GROUP, "w")
    assert len(reads) == size + 1
    bench.work()
    assert bench.calls == [("total", list(range(size)))]
