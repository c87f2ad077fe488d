"""Signatures and canvases: mistakes named where they are made, errors, stamps, ids, what is sent at once."""

from __future__ import annotations

import asyncio
import copy
import json
import pickle
from typing import Any

import pytest

from celeriac import StampingVisitor, chain, chord, group, signals, signature, states
from celeriac.app.chords import Chords
from celeriac.canvas import Signature, maybe_signature
from celeriac.engines.base import Verdict
from celeriac.exceptions import (
    ChordError,
    ImproperlyConfigured,
    OperationalError,
    TaskRevokedError,
)
from tests.unit.canvas_bench import Bench
from tests.unit.helpers import body, messages


@pytest.fixture
def bench() -> Bench:
    return Bench()


# -- mistakes ------------------------------------------------------------------------------------------


def test_a_step_with_an_argument_too_many_is_named_where_the_chain_is_sent(bench: Bench) -> None:
    app = bench.app

    @app.task(name="fetch")
    def fetch(url: str) -> str:
        return url

    @app.task(name="send_email")
    def send_email(to: str, subject: str, text: str) -> None: ...

    pipeline = chain(fetch.s("http://x"), bench.listed.s(), send_email.s("me", "done", "see"))
    with pytest.raises(TypeError) as caught:
        pipeline.delay()
    text = str(caught.value)
    assert text.startswith(
        "step 3 of the chain would call send_email(<result of t.listed>, 'me', 'done', 'see'), "
    )
    assert "send_email(to: 'str', subject: 'str', text: 'str') -> 'None': too many positional" in text
    assert ".si(" in text
    assert not messages(app)
    pipeline.tasks[2] = send_email.si("me", "done", "see")
    pipeline.delay()
    assert len(messages(app)) == 1


@pytest.mark.parametrize(
    ("source", "place"),
    [
        ("group(b.add.s(1, 2), b.add.s(1))", "task 2 of the group would call t.add(1)"),
        ("chord([b.add.s(1, 2), b.add.s(1)], b.total.s())", "task 2 of the chord's header would call"),
        (
            "chord([b.add.s(1, 2)], b.add.s(1, 2))",
            "the chord's body would call t.add(<list of the header's results>, 1, 2)",
        ),
        ("b.add.s(1, 2) | (b.add.s(3) | b.add.si(3))", "step 3 of the chain would call t.add(3)"),
        (
            "b.add.s(1, 2) | group(b.add.s(1), b.add.s())",
            "task 2 of the group, in step 2 of the chain would call t.add(<result of t.add>)",
        ),
        ("chain(b.add.s(1, 2).set(link=b.add.s()))", "callback 1 of t.add, in step 1 of the chain"),
        ("chain(b.add.s(1, 2), b.add.s(1)).clone((5,))", "step 1 of the chain would call t.add(5, 1, 2)"),
    ],
)
def test_mistakes_are_found_wherever_they_are(bench: Bench, source: str, place: str) -> None:
    sig = eval(source, {"b": bench, "group": group, "chord": chord, "chain": chain})
    with pytest.raises(TypeError, match="does not fit") as caught:
        sig.delay()
    assert str(caught.value).startswith(place)
    assert not messages(bench.app)


def test_what_cannot_be_known_is_not_checked(bench: Bench) -> None:
    chain(bench.add.s(1, 2), bench.app.signature("elsewhere", (1, 2, 3))).delay()
    bench.add.typing = False
    chain(bench.add.s(1, 2), bench.add.s(1, 2)).delay()
    assert len(messages(bench.app)) == 2


@pytest.mark.parametrize("where", ["alone", "in a chain", "in a group"])
def test_a_chord_without_results_says_so(where: str) -> None:
    bench = Bench(backend="disabled://")
    sig: Any = chord([bench.add.s(1, 2)], bench.total.s())
    sig = {"alone": sig, "in a chain": bench.add.si(1, 2) | sig, "in a group": group(sig)}[where]
    with pytest.raises(ImproperlyConfigured, match="set result_backend to a store"):
        sig.delay()
    assert not messages(bench.app)


def test_other_mistakes(bench: Bench) -> None:
    with pytest.raises(TypeError, match="a chord needs a body"):
        chord([bench.add.s(1, 2)]).delay()
    with pytest.raises(TypeError, match="use a chord"):
        group(bench.add.s(1, 2)).apply_async(link=bench.add.s(1))
    with pytest.raises(TypeError, match=r"made of signatures, such as add.s\(2, 2\)"):
        chain(bench.add.s(1, 2), 5)
    with pytest.raises(ValueError, match="there is no type of signature 'mesh'"):
        signature({"task": "x", "subtask_type": "mesh"})
    with pytest.raises(ValueError, match="at least 1"):
        bench.add.chunks([], 0)
    with pytest.raises(TypeError):
        _ = bench.add.s(1) | 5


# -- sending -------------------------------------------------------------------------------------------


def test_a_group_is_sent_in_one_step_or_not_at_all(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    broker = bench.app.write_broker
    batches = []
    publish = broker.publish
    monkeypatch.setattr(broker, "publish", lambda batch: batches.append(len(batch)) or publish(batch))
    group(bench.add.s(i, i) for i in range(5)).delay()
    chord([bench.add.s(i, i) | bench.add.s(1) for i in range(5)], bench.total.s()).delay()
    assert batches == [5, 5]
    with pytest.raises(Exception, match="kwargs"):
        group(bench.add.s(1, 1), bench.listed.s(k=object())).delay()
    assert batches == [5, 5]


def test_publishing_is_announced_once_a_message(bench: Bench) -> None:
    announced = []

    def note(sender: Any, **_: Any) -> None:
        announced.append(sender)

    signals.before_task_publish.connect(note)
    signals.after_task_publish.connect(note)
    try:
        group(bench.add.s(1, 1), group(bench.add.s(2, 2) | bench.add.s(1))).delay()
    finally:
        signals.before_task_publish.disconnect(note)
        signals.after_task_publish.disconnect(note)
    assert announced == ["t.add"] * 4


def test_a_chord_is_opened_before_its_header_is_sent(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = []

    def open(self: Chords, group: str, size: int, body: Any, ttl_extra: float = 0.0) -> None:
        assert not messages(bench.app)
        opened.append((group, size, body["options"]["task_id"], ttl_extra))

    monkeypatch.setattr(Chords, "open", open)
    sig = chord([group(bench.add.s(1, 1), bench.add.s(2, 2)), group(), bench.add.s(3, 3)], bench.total.s())
    result = sig.apply_async(countdown=30)
    assert opened == [(result.parent.id, 3, result.id, 30.0)]
    assert len(messages(bench.app, state="delayed")) == 3


def test_options_go_where_they_belong(bench: Bench) -> None:
    chain(bench.add.s(1, 2), bench.add.s(3)).apply_async(queue="a", link=bench.add.s(9), task_id="last")
    (found,) = messages(bench.app, "a")
    _, _, embed = body(found)
    (last,) = embed["chain"]
    assert last["options"]["task_id"] == "last"
    assert [each["args"] for each in last["options"]["link"]] == [[9]]
    assert embed["callbacks"] is None
    result = chord([bench.add.s(1, 2)], bench.total.s()).apply_async(queue="b", task_id="body")
    (found,) = messages(bench.app, "b")
    chord_body = body(found)[2]["chord"]
    assert (result.id, chord_body["options"]["queue"], chord_body["options"]["task_id"]) == (
        "body",
        "b",
        "body",
    )
    members = group(group(bench.add.s(1, 2)).set(queue="inner"), bench.add.s(1, 1)).set(priority=3)
    members.delay()
    assert [each.properties["priority"] for each in messages(bench.app, "inner")] == [3]


def test_what_follows_a_group_is_its_chords_body_wherever_that_is_seen_first(bench: Bench) -> None:
    following = bench.listed.s()
    promised = following.freeze()
    members = group(bench.add.s(1, 1), bench.add.s(2, 2))
    members.apply_async(chain=[dict(following)])
    bench.work()
    assert promised.get(timeout=1) == [[2, 4]]
    following = bench.listed.s()
    promised = following.freeze()
    body = group(bench.total.s(), bench.listed.s())
    chord([bench.add.s(1, 1), bench.add.s(2, 2)], body).apply_async(chain=[dict(following)])
    bench.work()
    assert promised.get(timeout=1) == [[6, [[2, 4]]]]


def test_a_frozen_group_can_become_a_header(bench: Bench) -> None:
    members = group(bench.add.si(1, 1), bench.add.si(2, 2))
    members.freeze()
    assert bench.value(chain(bench.add.si(1, 1), members, bench.listed.s())) == [[2, 4]]
    first, second = bench.add.s(1, 1), bench.add.s(2, 2)
    group(first, second).freeze()
    assert bench.value(chord([second, first], bench.listed.s())) == [[4, 2]]


def test_a_body_travels_once_in_each_message_however_deep_it_lies(bench: Bench) -> None:
    sig: Any = bench.add.si(1, 1)
    for depth in range(4):
        sig = chord([sig | bench.add.s(1), bench.add.si(1, 1)], bench.total.s().set(shadow=f"body{depth}"))
    chain(bench.add.s(0, 0), bench.add.si(1, 1), sig.clone()).delay()
    (found,) = messages(bench.app)
    for depth in range(4):
        assert found.body.count(b"body%d" % depth) == 1


def test_a_map_goes_where_its_task_goes() -> None:
    bench = Bench(task_routes={"t.add": "adders"})
    bench.add.starmap([(1, 2)]).delay()
    bench.add.chunks([(1, 2)], 1).delay()
    assert [each.headers["task"] for each in messages(bench.app, "adders")] == ["celery.starmap"] * 2


def test_a_failing_publish_of_a_chord_leaves_nothing_behind(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    def publish(batch: Any) -> Any:
        raise OperationalError("away")

    sig = chord([bench.add.s(i, i) for i in range(3)], bench.listed.s())
    sig.freeze()
    with monkeypatch.context() as patch:
        patch.setattr(bench.app.write_broker, "publish", publish)
        with pytest.raises(OperationalError):
            sig.apply_async(retry=False)
    assert bench.value(sig) == [[0, 2, 4]]


def test_in_a_task_results_become_children(bench: Bench) -> None:
    inner = group(bench.add.s(1, 1), bench.add.s(2, 2))
    result = bench.start.delay(inner)
    bench.work()
    (child,) = result.children
    assert child.id == result.get()
    assert child.get() == [2, 4]
    result = bench.start.delay(chord([bench.add.s(1, 1)], bench.total.s()))
    bench.work()
    assert [child.get() for child in result.children] == [[2]]


def test_results_are_linked_to_their_parents(bench: Bench) -> None:
    a, b = bench.add, bench.total
    result = (a.s(1, 1) | group(a.s(1), a.s(2)) | b.s() | a.s(1)).delay()
    bench.work()
    assert result.get() == 8
    assert result.parent.get() == 7
    assert result.parent.parent.get() == [3, 4]
    assert result.parent.parent.parent.get() == 2
    assert result.parent.parent.parent.parent is None


def test_everything_can_be_a_callback(bench: Bench) -> None:
    sig = bench.add.s(1, 2)
    sig.link(bench.add.s(1) | bench.note.s("chain"))
    sig.link(group(bench.note.s("group"), bench.note.s("group")))
    sig.link(chord([bench.add.s(1), bench.add.s(2)], bench.note.s("chord")))
    sig.link(bench.note.map([1]))
    sig.delay()
    bench.work()
    assert sorted(bench.calls, key=str) == sorted(
        [("note", 4, "chain"), ("note", 3, "group"), ("note", 3, "group"), ("note", [4, 5], "chord"),
         ("note", 1)], key=str,
    )  # fmt: skip


def test_results_of_a_header_that_are_ignored_reach_the_body_all_the_same(bench: Bench) -> None:
    members = [bench.add.s(n, n).set(ignore_result=True) for n in range(3)]
    result = chord(members, bench.listed.s()).delay()
    bench.work()
    assert result.get(timeout=1) == [[0, 2, 4]]
    assert result.parent[0].state == states.PENDING


@pytest.mark.parametrize("told", [False, True])
def test_nobody_waits_for_a_result_that_is_ignored(bench: Bench, told: bool) -> None:
    sig = bench.note.s()
    if told:
        sig.set(ignore_result=True)
    else:
        bench.note.ignore_result = True
    for canvas, expected in (
        (bench.add.s(1, 2) | sig, None),
        (group(sig.clone(), bench.add.s(1, 2)), [None, 3]),
    ):
        result = canvas.delay()
        bench.work()
        assert result.get(timeout=1) == expected


def test_a_canvas_of_another_application_stays_in_it(bench: Bench) -> None:
    other = Bench()
    written = json.loads(json.dumps(bench.add.s(1, 1) | group(bench.add.s(1)) | bench.total.s()))
    for sig in (written, {"task": "celery.group", "kwargs": {"tasks": [written]}, "subtask_type": "group"}):
        bench.app.signature(sig).delay()
    assert len(messages(bench.app)) == 2
    assert not messages(other.app)


async def _wait(bench: Bench) -> Any:
    result = await (bench.add.s(1, 2) | group(bench.add.s(1), bench.add.s(2))).adelay()
    bench.work()
    return await result


def test_canvases_are_sent_and_awaited_by_coroutines(bench: Bench) -> None:
    assert asyncio.run(_wait(bench)) == [4, 5]


def test_callbacks_have_their_ids_before_anything_is_sent(bench: Bench) -> None:
    inner = bench.note.s()
    callback = bench.add.s(1)
    callback.link(inner)
    group(bench.add.s(1, 1), bench.add.s(2, 2), bench.add.s(3, 3)).set(link=callback).delay()
    ids = set()
    for found in messages(bench.app):
        (link,) = body(found)[2]["callbacks"]
        ids |= {link["options"]["task_id"], link["options"]["link"][0]["options"]["task_id"]}
    assert len(ids) == 6
    assert "task_id" not in callback.options
    assert "task_id" not in inner.options
    with pytest.raises(TypeError, match="a callback is a signature"):
        bench.add.apply_async((1, 2), link="note")


# -- errors --------------------------------------------------------------------------------------------


def test_callbacks_and_error_callbacks(bench: Bench) -> None:
    sig = bench.add.s(1, 2)
    sig.link(bench.note.s("x"))
    sig.link([bench.note.si("y")][0])
    sig.delay()
    bench.work()
    assert bench.calls == [("note", 3, "x"), ("note", "y")]
    bench.calls.clear()
    failing = bench.fail.s(1).on_error(bench.old.s()).on_error(bench.new.s()).delay()
    bench.work()
    assert bench.calls == [("new", failing.id, "ValueError"), ("old", failing.id)]


def test_a_chains_error_callback_is_called_for_the_step_that_failed(bench: Bench) -> None:
    sig = chain(bench.add.s(1, 2), bench.fail.s(), bench.add.s(1)).on_error(bench.old.s())
    result = sig.delay()
    bench.work()
    assert bench.calls == [("old", result.parent.id)]
    assert result.state == states.FAILURE


def test_a_chords_error_reaches_the_body_and_its_callbacks(bench: Bench) -> None:
    sig = chord([bench.add.s(1, 1), bench.fail.s(7)], bench.total.s().on_error(bench.new.s()))
    result = sig.delay()
    bench.work()
    with pytest.raises(ChordError, match=r"raised ValueError\(7\)"):
        result.get(timeout=1)
    assert bench.calls == [("new", result.id, "ChordError")]


def test_an_error_in_an_inner_chord_fails_the_outer_one(bench: Bench) -> None:
    inner = chord([bench.add.s(1, 1), bench.fail.s(7)], bench.total.s())
    inner_id = inner.freeze().id
    result = chord([bench.add.s(1, 1), inner], bench.total.s()).on_error(bench.old.s()).delay()
    bench.work()
    with pytest.raises(ChordError):
        result.get(timeout=1)
    assert bench.calls == [("old", inner_id), ("old", result.id)]


@pytest.mark.parametrize("everywhere", [False, True])
def test_error_callbacks_of_a_chord_are_its_headers_on_request(everywhere: bool) -> None:
    bench = Bench(task_allow_error_cb_on_chord_header=everywhere)
    sig = chord([bench.fail.s(1), bench.add.s(1, 1)], bench.total.s())
    sig.link_error(bench.old.s())
    result = sig.delay()
    bench.work()
    header = [("old", result.parent[0].id)] if everywhere else []
    assert bench.calls == [*header, ("old", result.id)]


# -- replacing and adding ------------------------------------------------------------------------------


def test_a_replacement_takes_over_callbacks_stamps_and_nesting(bench: Bench) -> None:
    sig = bench.replace.s(bench.add.s(1, 2) | bench.stamps.s())
    sig.link(bench.note.s("done"))
    sig.stamp(mine=1)
    result = sig.delay()
    bench.work()
    assert result.get() == {"mine": 1}
    assert bench.calls == [("note", {"mine": 1}, "done")]


def test_a_replacement_that_fails_calls_the_error_callbacks(bench: Bench) -> None:
    sig = bench.replace.s(bench.fail.s(1) | bench.add.s(1)).on_error(bench.old.s())
    result = sig.delay()
    bench.work()
    (call,) = bench.calls
    assert call[0] == "old"
    assert result.state == states.FAILURE


def test_a_replacement_is_sent_with_the_ack_and_keeps_the_id(bench: Bench) -> None:
    result = bench.replace.delay(group(bench.add.s(1, 2), bench.add.s(3, 4)))
    first = bench.work()[0]
    assert first.verdict is Verdict.ACK
    assert first.result is None
    assert len(first.publications) == 2
    assert result.get(timeout=1) == [3, 7]


def test_what_cannot_replace_is_refused(bench: Bench) -> None:
    for sig, why in ((chain(), "empty chain"), (bench.add.s(1, 2).set(chord={}), "belongs to a chord")):
        result = bench.replace.delay(sig)
        bench.work()
        with pytest.raises(ImproperlyConfigured, match=why):
            result.get(timeout=1)


def test_called_directly_a_replacement_is_run_here(bench: Bench) -> None:
    assert bench.replace(bench.add.s(1, 2) | bench.add.s(3)) == 6
    assert bench.replace.apply((bench.add.s(1, 2),)).get() == 3


def test_only_members_of_a_chord_can_add_to_it(bench: Bench) -> None:
    result = bench.more.delay(1)
    bench.work()
    with pytest.raises(ValueError, match="not in the header of a chord"):
        result.get(timeout=1)


# -- stamps --------------------------------------------------------------------------------------------


def test_stamps_reach_the_worker_and_what_follows(bench: Bench) -> None:
    sig = chain(bench.stamps.s(), bench.stamps.s(), group(bench.stamps.s(), bench.stamps.s()))
    sig.stamp(batch="b1")
    result = sig.delay()
    found = messages(bench.app)[0]
    assert (found.headers["stamped_headers"], found.headers["stamps"]) == (["batch"], {"batch": "b1"})
    bench.work()
    assert result.get() == [{"batch": "b1"}] * 2
    assert result.parent.get() == {"batch": "b1"}


def test_a_chord_stamps_its_body_without_a_visitor_too(bench: Bench) -> None:
    sig = chord([bench.stamps.s()], bench.stamps.s())
    sig.stamp(batch="b1")
    assert bench.value(sig) == {"batch": "b1"}


def test_a_visitor_comes_to_every_part(bench: Bench) -> None:
    seen: list[str] = []

    class Everything(StampingVisitor):
        def __getattribute__(self, name: str) -> Any:
            if name.startswith("on_"):
                seen.append(name)
            return super().__getattribute__(name)

        def on_signature(self, sig: Signature, **headers: Any) -> dict[str, Any]:
            return {"header": 1, "queue": "special", "stamped_headers": ["header"]}

    task = bench.add.s(1, 2)
    task.link(bench.note.s())
    task.link_error(bench.old.s())
    sig = task | chord([bench.add.s(1)], bench.total.s())
    sig.stamp(Everything())
    assert seen == [
        "on_chain_start", "on_callback", "on_signature", "on_errback", "on_signature", "on_signature",
        "on_chord_header_start", "on_group_start", "on_signature", "on_chord_header_end", "on_group_end",
        "on_chord_body", "on_signature", "on_chain_end",
    ]  # fmt: skip
    assert sig.tasks[0].options["queue"] == "special"
    assert sig.tasks[0].options["stamped_headers"] == ["header"]
    assert task.options["link"][0].options["header"] == 1


def test_stamping_shares_nothing_between_siblings(bench: Bench) -> None:
    sig = group(bench.add.s(1, 1), bench.add.s(2, 2))
    sig.stamp(tags=["a"])
    first, second = sig.tasks
    first.options["tags"].append("b")
    assert second.options["tags"] == ["a"]


def test_a_stamp_may_have_a_name_like_an_option(bench: Bench) -> None:
    bench.add.s(1, 2).stamp(queues="x", priorit=3).delay()
    assert messages(bench.app)[0].headers["stamps"] == {"queues": "x", "priorit": 3}


def test_a_retry_keeps_the_stamps(bench: Bench) -> None:
    @bench.app.task(name="again", bind=True)
    def again(self: Any) -> Any:
        if not self.request.retries:
            raise self.retry(countdown=0)
        return self.request.stamps

    assert bench.value(again.s().stamp(mine=[1, 2])) == {"mine": [1, 2]}


@pytest.mark.parametrize("wanted", ["b1", ["b0", "b1"]])
def test_tasks_are_revoked_by_their_stamps(bench: Bench, wanted: Any) -> None:
    bench.app.control.revoke_by_stamped_headers({"batch": wanted})
    stamped = [bench.add.s(1, 2).stamp(batch=value).delay() for value in ("b1", ["b7", "b1"], "b2")]
    plain = bench.add.delay(1, 2)
    bench.work()
    assert [result.state for result in stamped] == [states.REVOKED, states.REVOKED, states.SUCCESS]
    assert plain.state == states.SUCCESS
    with pytest.raises(TaskRevokedError):
        stamped[0].get()


def test_running_tasks_are_found_by_their_stamps(bench: Bench) -> None:
    app = bench.app
    terminated = []

    @app.task(name="self_revoking", bind=True)
    def self_revoking(self: Any) -> None:
        app.AsyncResult("x").revoke_by_stamped_headers({"batch": "b1"}, terminate=True)
        orders = app.coordinator
        assert orders is not None
        terminated.append(orders.control().terminate.get(self.request.id))

    self_revoking.s().stamp(batch="b1").delay()
    bench.work()
    assert terminated == ["SIGTERM"]


def test_stamps_are_seen_in_eager_mode() -> None:
    bench = Bench(task_always_eager=True)
    sig = group(bench.stamps.s(), bench.add.s(1, 2) | bench.stamps.s())
    sig.stamp(batch="b1")
    assert sig.delay().get() == [{"batch": "b1"}] * 2


# -- as data -------------------------------------------------------------------------------------------


def test_copies_share_no_structure(bench: Bench) -> None:
    sig = chord([bench.add.s(1, 1) | bench.add.s(1)], bench.total.s())
    for copied in (sig.clone(), copy.deepcopy(sig), pickle.loads(pickle.dumps(sig)), signature(sig)):
        assert copied == sig
        assert type(copied) is chord
        copied.body.set(queue="other")
        copied.tasks[0].tasks[0].set(queue="other")
        assert "queue" not in sig.body.options
        assert "queue" not in sig.tasks[0].tasks[0].options


def test_sending_changes_nothing_in_the_signature(bench: Bench) -> None:
    sig = bench.add.s(1, 1) | group(bench.add.s(1), bench.add.s(2)) | bench.total.s() | bench.add.s(1)
    before = json.dumps(sig)
    ids = {sig.delay().id, sig.delay().id, chain(sig, bench.add.s(1)).delay().id}
    assert len(ids) == 3
    assert json.dumps(sig) == before


def test_a_class_of_ones_own_is_found_by_its_type(bench: Bench) -> None:
    @Signature.register_type("loud")
    class Loud(Signature):
        def reprcall(self, *args: Any, **kwargs: Any) -> str:
            return super().reprcall(*args, **kwargs).upper()

    try:
        sig = Loud("t.add", (1, 2), subtask_type="loud", app=bench.app)
        again = maybe_signature(json.loads(json.dumps(sig)), bench.app)
        assert type(again) is Loud
        assert repr(again) == "T.ADD(1, 2)"
        assert bench.value(again) == 3
    finally:
        del Signature.TYPES["loud"]


def test_chains_are_chains(bench: Bench) -> None:
    made = chain(bench.add.s(1, 2), bench.add.s(3))
    assert isinstance(made, chain)

    class pipeline(chain):
        pass

    mine = pipeline(bench.add.s(1, 2), bench.add.s(3))
    assert type(mine) is pipeline
    assert type(mine | bench.add.s(4)) is pipeline
    assert bench.value(mine | bench.add.s(4)) == 10


def test_invert_waits_for_the_result() -> None:
    bench = Bench(task_always_eager=True)
    assert ~(bench.add.s(1, 2) | bench.add.s(3)) == 6


def test_skew(bench: Bench) -> None:
    members = group(bench.add.s(1, 1) for _ in range(4)).skew(start=1, stop=3)
    assert [task.options["countdown"] for task in members.tasks] == [1, 2, 3, 3]


# -- built-in tasks ------------------------------------------------------------------------------------


def unlock_args(bench: Bench, members: Any, **options: Any) -> tuple[Any, Any, Any]:
    """What Celery's client sends for a chord whose store cannot count."""
    header = group(members).delay()
    callback = bench.listed.s()
    promised = callback.freeze()
    args = (header.id, json.loads(json.dumps(callback)))
    kwargs = {"interval": 0, "result": [each.as_tuple() for each in header.results], **options}
    return promised, args, kwargs


def test_chord_unlock_calls_the_body_when_the_header_is_done(bench: Bench) -> None:
    header = [bench.add.s(1, 1), bench.add.s(2, 2)]
    promised, args, kwargs = unlock_args(bench, header)
    unlock = bench.app.tasks["celery.chord_unlock"]
    unlock.apply_async(args, kwargs)
    unlock.apply_async(args, kwargs)
    bench.work()
    assert promised.get(timeout=1) == [[2, 4]]
    assert not messages(bench.app)


def test_chord_unlock_waits_by_retrying(bench: Bench) -> None:
    promised, args, kwargs = unlock_args(bench, [bench.add.s(1, 1)])
    bench.app.broker.purge(["celery"])
    bench.app.tasks["celery.chord_unlock"].apply_async(args, {**kwargs, "interval": 30, "max_retries": 5})
    bench.work()
    (again,) = messages(bench.app, state="delayed")
    assert again.headers["retries"] == 1
    assert promised.state == states.PENDING


def test_chord_unlock_gives_up_with_an_error(bench: Bench) -> None:
    promised, args, kwargs = unlock_args(bench, [bench.add.s(1, 1)])
    bench.app.broker.purge(["celery"])
    bench.app.tasks["celery.chord_unlock"].apply_async(args, {**kwargs, "max_retries": 0})
    bench.work()
    with pytest.raises(ChordError):
        promised.get(timeout=1)


def test_chord_unlock_hands_an_error_on(bench: Bench) -> None:
    promised, args, kwargs = unlock_args(bench, [bench.add.s(1, 1), bench.fail.s(5)])
    bench.app.tasks["celery.chord_unlock"].apply_async(args, kwargs)
    bench.work()
    with pytest.raises(ChordError, match=r"ValueError\(5\)"):
        promised.get(timeout=1)


def test_the_tasks_of_old_send_what_they_are_given(bench: Bench) -> None:
    tasks = bench.app.tasks
    result = tasks["celery.chord"].delay([bench.add.s(1, 1)], bench.total.s())
    bench.work()
    (body_id, _), _ = result.get(timeout=1)
    assert bench.app.AsyncResult(body_id).get(timeout=1) == 2
    result = tasks["celery.group"].delay([bench.add.s(1)], partial_args=[5], group_id="g")
    bench.work()
    (group_id, _), (((member, _), _),) = result.get(timeout=1)
    assert (group_id, bench.app.AsyncResult(member).get(timeout=1)) == ("g", 6)
    result = tasks["celery.chain"].delay()
    bench.work()
    with pytest.raises(NotImplementedError):
        result.get(timeout=1)


def test_map_runs_coroutine_functions(bench: Bench) -> None:
    @bench.app.task(name="double")
    async def double(x: int, times: int = 2) -> int:
        return x * times

    assert bench.value(double.map([1, 2])) == [2, 4]
    assert bench.value(double.starmap([(1, 3), (2, 3)])) == [3, 6]
