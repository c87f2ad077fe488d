"""Canvases from the client through a worker to the result, on the memory engine, without a process."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from celeriac import chain, chord, group, signature
from celeriac.exceptions import ChordError
from tests.unit.canvas_bench import Bench
from tests.unit.helpers import messages

Make = Callable[[Bench], Any]

CANVASES: dict[str, tuple[Make, Any]] = {
    "task": (lambda b: b.add.s(1, 2), 3),
    "chain": (lambda b: b.add.s(1, 2) | b.add.s(3) | b.add.s(4), 10),
    "chain of one": (lambda b: chain(b.add.s(1, 2)), 3),
    "chain of a generator": (lambda b: chain(b.add.s(*a) for a in ((1, 2), (3,), (4,))), 10),
    "immutable step": (lambda b: b.add.s(1, 2) | b.add.si(5, 5) | b.add.s(1), 11),
    "chain in a chain": (lambda b: chain(b.add.s(1, 2), chain(b.add.s(3), b.add.s(4)), b.add.s(5)), 15),
    "group": (lambda b: group(b.add.s(i, i) for i in range(4)), [0, 2, 4, 6]),
    "group of one": (lambda b: group(b.add.s(1, 1)), [2]),
    "empty group": (lambda b: group(), []),
    "groups in a group": (
        lambda b: group(b.add.s(1, 1), group(b.add.s(2, 2), group(b.add.s(3, 3))), b.add.s(4, 4)),
        [2, 4, 6, 8],
    ),
    "chains in a group": (lambda b: group(b.add.s(1, 1) | b.add.s(1), b.add.s(2, 2)), [3, 4]),
    "a group at a chain's end, in a group": (
        lambda b: group(b.add.s(1, 1) | group(b.add.s(1), b.add.s(2)), b.add.s(2, 2)), [[3, 4], 4],
    ),
    "task, then group": (lambda b: b.add.s(1, 1) | group(b.add.s(1), b.add.s(2)), [3, 4]),
    "group, then task": (lambda b: group(b.add.s(1, 1), b.add.s(2, 2)) | b.total.s(), 6),
    "group, then chain": (lambda b: group(b.add.s(1, 1), b.add.s(2, 2)) | (b.total.s() | b.add.s(1)), 7),
    "group, then group": (
        lambda b: group(b.add.s(1, 1), b.add.s(2, 2)) | group(b.total.s(), b.listed.s()), [6, [[2, 4]]],
    ),
    "group, group, task": (
        lambda b: group(b.add.s(1, 1), b.add.s(2, 2)) | group(b.total.s(), b.total.s()) | b.total.s(), 12,
    ),
    "the tutorial's long one": (
        lambda b: b.add.s(1, 2) | group(b.add.s(1), b.add.s(2)) | b.total.s() | b.add.s(1)
        | group(b.add.s(1), b.add.s(2)) | b.listed.s(),
        [[11, 12]],
    ),
    "empty groups are left out": (lambda b: chain(group(), b.add.s(1, 2), group(), b.add.s(3), group()), 6),
    "a group of one in a chain": (lambda b: chain(b.add.s(1, 2), group(b.add.s(3)), b.add.s(4)), 10),
    "chord": (lambda b: chord([b.add.s(i, i) for i in range(10)], b.total.s()), 90),
    "chord of a generator": (lambda b: chord((b.add.s(i, i) for i in range(3)), b.listed.s()), [[0, 2, 4]]),
    "chord of one": (lambda b: chord([b.add.s(1, 1)], b.listed.s()), [[2]]),
    "chord, immutable body": (lambda b: chord([b.add.s(1, 1)], b.add.si(4, 4)), 8),
    "chord, empty header": (lambda b: chord([], b.listed.s()), [[]]),
    "chord, empty groups in its header": (lambda b: chord([group(), group()], b.listed.s()), [[]]),
    "chord, chain as body": (lambda b: chord([b.add.s(1, 1), b.add.s(2, 2)], b.total.s() | b.add.s(1)), 7),
    "chord, group as body": (
        lambda b: chord([b.add.s(1, 1), b.add.s(2, 2)], group(b.total.s(), b.listed.s())), [6, [[2, 4]]],
    ),
    "chord, group as body, then a task": (
        lambda b: chord([b.add.s(1, 1)], group(b.total.s(), b.total.s())) | b.listed.s(), [[2, 2]],
    ),
    "chord, then chain": (lambda b: chord([b.add.s(1, 1)], b.total.s()) | chain(b.add.s(1), b.add.s(2)), 5),
    "chord, then chord": (
        lambda b: chord([b.add.s(1, 1)], b.total.s()) | chord([b.add.s(1), b.add.s(2)], b.listed.s()),
        [[3, 4]],
    ),
    "chord in a chord": (
        lambda b: chord([chord([b.add.s(1, 1), b.add.s(2, 2)], b.total.s()), b.add.s(3, 3)], b.listed.s()),
        [[6, 6]],
    ),
    "chord as a chord's body": (
        lambda b: chord([b.add.s(1, 1)], chord([b.total.s(), b.listed.s()], b.listed.s())), [[2, [[2]]]],
    ),
    "chord of chords of chords": (
        lambda b: chord(
            [chord([chord([b.add.s(i, j) for j in range(2)], b.total.s())], b.total.s()) for i in range(3)],
            b.listed.s(),
        ),
        [[1, 3, 5]],
    ),
    "group in a header": (
        lambda b: chord([group(b.add.s(1, 1), b.add.s(2, 2)), b.add.s(3, 3)], b.listed.s()), [[2, 4, 6]],
    ),
    "chain that ends in a group, in a header": (
        lambda b: chord([b.add.s(1, 1) | group(b.add.s(1), b.add.s(2)), b.add.s(3, 3)], b.listed.s()),
        [[[3, 4], 6]],
    ),
    "chord with a group as body, in a header": (
        lambda b: chord(
            [chord([b.add.s(1, 1)], group(b.total.s(), b.listed.s())), b.add.s(3, 3)], b.listed.s()
        ),
        [[[2, [[2]]], 6]],
    ),
    "chain that ends in a chord, in a header": (
        lambda b: chord(
            [b.add.s(1, 1) | group(b.add.s(1), b.add.s(2)) | b.total.s(), b.add.s(3, 3)], b.listed.s()
        ),
        [[7, 6]],
    ),
    "map": (lambda b: b.total.map([[1, 2], [3, 4]]), [3, 7]),
    "starmap": (lambda b: b.add.starmap([(1, 2), (3, 4)]), [3, 7]),
    "chunks": (lambda b: b.add.chunks(((i, i) for i in range(5)), 2), [[0, 2], [4, 6], [8]]),
    "chunks' group": (lambda b: b.add.chunks([(i, i) for i in range(3)], 2).group(), [[0, 2], [4]]),
    "chunks, then a task": (
        lambda b: b.add.chunks([(i, i) for i in range(3)], 2) | b.listed.s(), [[[0, 2], [4]]],
    ),
    "partial arguments": (lambda b: chain(b.add.s(2), b.add.s(3)).clone((1,)), 6),
    "keyword arguments": (lambda b: b.add.s(1, y=2) | b.listed.s(k=1), [3, {"k": 1}]),
    "replaced by a task": (lambda b: b.replace.s(b.add.s(1, 2)), 3),
    "replaced by a chain": (lambda b: b.replace.s(b.add.s(1, 2) | b.add.s(3)), 6),
    "replaced by a group": (lambda b: b.replace.s(group(b.add.s(1, 2), b.add.s(3, 4))), [3, 7]),
    "replaced by a chord": (lambda b: b.replace.s(chord([b.add.s(1, 2)], b.total.s())), 3),
    "replaced by a chain that ends in a group": (
        lambda b: b.replace.s(b.add.s(1, 2) | group(b.add.s(1), b.add.s(2))), [4, 5],
    ),
    "replaced by what replaces itself": (lambda b: b.replace.s(b.replace.s(b.add.s(1, 2))), 3),
    "replaced in a chain": (lambda b: b.replace.s(b.add.s(1, 2) | b.add.s(3)) | b.add.s(4), 10),
    "replaced in a chain by a group": (
        lambda b: b.replace.s(group(b.add.s(1, 2), b.add.s(3, 4))) | b.listed.s(), [[3, 7]],
    ),
    "replaced in a group": (lambda b: group(b.replace.s(b.add.s(1, 2) | b.add.s(3)), b.add.s(1, 1)), [6, 2]),
    "replaced in a header": (
        lambda b: chord(
            [b.replace.s(b.add.s(1, 2) | b.add.s(3)), b.replace.s(group(b.add.s(1, 1), b.add.s(2, 2))),
             b.replace.s(chord([b.add.s(5, 5)], b.total.s())), b.add.s(1, 1)],
            b.listed.s(),
        ),
        [[6, [2, 4], 10, 2]],
    ),
    "replaced in a chain in a header": (
        lambda b: chord([b.replace.s(b.add.s(1, 2)) | b.add.s(3), b.add.s(1, 1)], b.listed.s()), [[6, 2]],
    ),
    "a replaced body": (lambda b: chord([b.add.s(1, 1)], b.replace.si(b.add.s(1, 2) | b.add.s(3))), 6),
    "added to a chord": (lambda b: chord([b.more.s(1), b.add.s(2, 2)], b.listed.s()), [[1, 4, 101]]),
    "added lazily": (lambda b: chord([b.more.s(1, lazy=True), b.add.s(2, 2)], b.listed.s()), [[1, 4, 101]]),
}  # fmt: skip


@pytest.mark.parametrize("name", CANVASES)
def test_a_canvas_gives_its_result(name: str) -> None:
    make, expected = CANVASES[name]
    bench = Bench()
    assert bench.value(make(bench)) == expected


@pytest.mark.parametrize("name", CANVASES)
def test_a_canvas_from_json_gives_its_result(name: str) -> None:
    make, expected = CANVASES[name]
    bench = Bench()
    assert bench.value(signature(json.loads(json.dumps(make(bench))), app=bench.app)) == expected


@pytest.mark.parametrize("serializer", ["yaml", "msgpack", "pickle"])
def test_canvases_are_written_by_every_serializer(serializer: str) -> None:
    bench = Bench(
        task_serializer=serializer, result_serializer=serializer, accept_content=["json", serializer]
    )
    for name, (make, expected) in CANVASES.items():
        assert bench.value(make(bench)) == expected, name
    bench.add.s(1, 1).on_error(bench.old.s()).apply_async(link=bench.note.s())
    failing = chord([bench.fail.s(1)], bench.total.s() | bench.add.s(1))
    failing.link_error(bench.new.s())
    failing.delay()
    bench.work()
    assert sorted(call[0] for call in bench.calls) == ["new", "note"]


@pytest.mark.parametrize("name", CANVASES)
def test_a_frozen_canvas_keeps_its_ids(name: str) -> None:
    make, expected = CANVASES[name]
    bench = Bench()
    sig = make(bench)
    promised = sig.freeze()
    sent = signature(json.loads(json.dumps(sig)), app=bench.app)
    result = sent.apply_async()
    bench.work()
    if "chunks" not in name:
        assert result.id == promised.id
        assert promised.get(timeout=1) == expected
    assert result.get(timeout=1) == expected


@pytest.mark.parametrize("name", [name for name in CANVASES if "added" not in name])
def test_a_canvas_run_here_gives_the_same(name: str) -> None:
    make, expected = CANVASES[name]
    bench = Bench(task_always_eager=True)
    assert make(bench).delay().get() == expected
    assert make(Bench()).apply().get() == expected


def test_members_of_a_canvas_are_sent_whatever_holds_their_key() -> None:
    bench = Bench()
    unique, debounced = bench.add.s(1, 1).set(unique_for=60), bench.add.s(1, 1).set(debounce=0.001)
    made = chord([unique, unique, debounced, debounced], bench.total.s())
    assert bench.value(made) == 8
    first, second = ((bench.add.s(1, 1).set(unique_for=60) | bench.add.s(n))() for n in (1, 2))
    bench.work()
    assert [first.get(timeout=1), second.get(timeout=1)] == [3, 4]


def test_what_is_no_signature_is_refused_where_it_is_put_in() -> None:
    bench = Bench()
    for make, kind in ((chain, "chain"), (group, "group")):
        with pytest.raises(TypeError, match=f"a {kind} is made of signatures, such as .*, not of 5"):
            make(bench.add.s(1, 1), 5)
    with pytest.raises(TypeError, match=r"a chord's header is made of signatures, .*, not of 5"):
        chord([bench.add.s(1, 1), 5], bench.total.s())


def test_a_task_that_has_added_to_its_chord_cannot_be_replaced() -> None:
    bench = Bench()

    @bench.app.task(bind=True)
    def both(self: Any) -> Any:
        self.add_to_chord(bench.add.s(1, 1))
        return self.replace(bench.add.s(2, 2))

    result = chord([both.s(), bench.add.s(1, 1)], bench.total.s())()
    bench.work()
    with pytest.raises(ChordError, match="cannot be replaced after add_to_chord"):
        result.get(timeout=1)


@pytest.mark.parametrize(
    ("make", "count"),
    [
        (lambda b: chain(b.add.s(1, 1), b.add.s(2)), 1),
        (lambda b: group(b.add.s(1, 1), b.add.s(2, 2)), 2),
        (lambda b: chord([b.add.s(1, 1), b.add.s(2, 2)], b.total.s()), 2),
        (lambda b: b.add.chunks(zip(range(4), range(4), strict=True), 2), 2),
    ],
    ids=["chain", "group", "chord", "chunks"],
)
def test_a_canvas_is_routed_by_another_name(make: Make, count: int) -> None:
    bench = Bench(task_routes={"elsewhere": {"queue": "there"}})
    make(bench).apply_async(route_name="elsewhere")
    assert len(messages(bench.app, "there")) == count
    assert messages(bench.app) == []


def test_what_gathers_a_group_runs_where_its_tasks_run() -> None:
    bench = Bench()
    own = bench.app.task(name="t.own", queue="own")(lambda: None)

    def gathers(sig: Any) -> dict[str, Any]:
        made = chord([sig, bench.add.s(1, 1)], bench.listed.s())
        made.freeze()
        step = made.tasks[0]
        while step["subtask_type"]:
            step = step.tasks[-1] if step["subtask_type"] == "chain" else step.body
        assert step.task == "celery.accumulate"
        return {
            key: step.options[key] for key in ("queue", "routing_key", "route_name") if key in step.options
        }

    add = bench.add.s(1)
    assert gathers(bench.add.s(1, 1) | group(add, add)) == {"route_name": "t.add"}
    assert gathers(bench.add.s(1, 1) | group(own.si(), own.si())) == {"queue": "own"}
    there = bench.add.s(1).set(queue="there")
    assert gathers(bench.add.s(1, 1) | group(bench.add.s(1) | there, add)) == {"queue": "there"}
    assert gathers(bench.add.s(1, 1) | group(there, add).set(queue="all")) == {"queue": "all"}
    inner = chord([add, add], group(there, there))
    assert gathers(bench.add.s(1, 1) | inner) == {"queue": "there"}


def test_a_running_call_as_a_signature() -> None:
    bench = Bench()

    @bench.app.task(bind=True)
    def again(self: Any, value: int) -> Any:
        if value > 2:
            return value
        raise self.replace(self.signature_from_request(args=(value + 1,), task_id=None))

    @bench.app.task(bind=True)
    def shown(self: Any, value: int) -> Any:
        made = self.subtask_from_request(queue="other")
        return [made.id == self.request.id, made.args, made.options["queue"], made.options["job"]]

    assert bench.value(shown.s(1).stamp(job="j")) == [True, [1], "other", "j"]
    assert bench.value(again.s(1) | bench.add.s(10)) == 13
