"""Every example of Celery's page on canvas, run by real workers on SQLite and on Redis.

docs.celeryq.dev, "Canvas: Designing Work-flows"; and what the page says of results that it does not show.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from celeriac import Celeriac, chain, chord, chunks, group, signature
from celeriac.canvas import StampingVisitor
from celeriac.exceptions import ChordError
from tests.integration.canvas_project import tasks_of
from tests.integration.conftest import WorkerProcess
from tests.processes import PATIENCE, wait_until
from tests.servers import PostgresServer, RedisServer

pytestmark = pytest.mark.timeout(120)


class Canvas:
    """The tasks as a client sees them, and what the worker wrote down."""

    def __init__(self, app: Celeriac, journal: Path) -> None:
        self.app = app
        self.tasks = tasks_of(app)
        self.path = journal

    def __getattr__(self, name: str) -> Any:
        return getattr(self.tasks, name)

    def journal(self) -> list[str]:
        return self.path.read_text().splitlines()

    def await_line(self, text: str) -> None:
        wait_until(lambda: text in self.journal(), PATIENCE)


@pytest.fixture(scope="module", params=["sqlite", "redis", "postgres", "rabbitmq"])
def canvas(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Canvas]:
    """One worker of two processes for all tests of an engine."""
    folder = tmp_path_factory.mktemp("canvas")
    journal = folder / "journal"
    journal.touch()
    broker, backend = f"sqlite:///{folder}/queue.db", None
    if request.param == "redis":
        server: RedisServer = request.getfixturevalue("redis_server")
        broker = server.url(7)
    elif request.param == "postgres":
        postgres: PostgresServer = request.getfixturevalue("postgres_server")
        postgres.empty()
        broker = postgres.url()
    elif request.param == "rabbitmq":
        broker, backend = (
            request.getfixturevalue("rabbit_server").fresh_url(),
            f"sqlite:///{folder}/results.db",
        )
    env = {**os.environ, "TEST_BROKER": broker, "TEST_JOURNAL": str(journal), "PYTHONUNBUFFERED": "1"}
    if backend is not None:
        env["TEST_BACKEND"] = backend
    worker = WorkerProcess(["-c", "2"], env, application="tests.integration.canvas_project")
    app = Celeriac("client", broker=broker, backend=backend)
    worker.await_line("ready.")
    yield Canvas(app, journal)
    worker.stop()
    app.close()


def get(result: Any, **options: Any) -> Any:
    return result.get(timeout=PATIENCE, **options)


# -- signatures --------------------------------------------------------------------------------------------


def test_a_signature_by_name_or_task(canvas: Canvas) -> None:
    by_name = signature("add", args=(2, 2), countdown=0.01, app=canvas.app)
    assert repr(by_name) == "add(2, 2)"
    assert get(by_name.delay()) == 4
    assert get(canvas.add.signature((2, 2), countdown=0.01).apply_async()) == 4
    short = canvas.add.s(2, 2)
    assert (short.args, short.kwargs, short.options) == ((2, 2), {}, {})
    assert canvas.add.s(2, 2, debug=True).kwargs == {"debug": True}
    assert short() == 4  # called: here and now
    assert get(canvas.add.apply_async((2, 2))) == 4
    assert get(canvas.add.signature((2, 2)).set(countdown=0.01).apply_async()) == 4


def test_partials(canvas: Canvas) -> None:
    partial = canvas.add.s(2)
    assert get(partial.delay(4)) == 6
    assert get(partial.apply_async((4,))) == 6
    assert get(canvas.add.s(2, 2).delay(debug=True)) == 4
    assert get(canvas.add.s(2, 2).apply_async(countdown=0.01)) == 4
    copy = canvas.add.s(2).clone(args=(4,), kwargs={"debug": True})
    assert (copy.args, copy.kwargs) == ((4, 2), {"debug": True})
    assert get(copy.delay()) == 6


def test_immutability(canvas: Canvas) -> None:
    canvas.add.apply_async((2, 2), link=canvas.reset_buffers.signature(immutable=True))
    canvas.await_line("reset")
    count = canvas.journal().count("reset")
    canvas.add.apply_async((2, 2), link=canvas.reset_buffers.si())
    wait_until(lambda: canvas.journal().count("reset") == count + 1, PATIENCE)


def test_callbacks(canvas: Canvas) -> None:
    result = canvas.add.apply_async((2, 2), link=canvas.add.s(8))
    assert get(result) == 4
    (following,) = result.children
    assert get(following) == 12
    canvas.add.apply_async((3, 3), link=canvas.log_result.s())
    canvas.await_line("result 6")


# -- the primitives ----------------------------------------------------------------------------------------


def test_simple_chain(canvas: Canvas) -> None:
    result = chain(canvas.add.s(2, 2), canvas.add.s(4), canvas.add.s(8))()
    assert get(result) == 16
    assert get((canvas.add.s(2, 2) | canvas.add.s(4) | canvas.add.s(8))()) == 16


def test_immutable_signatures_in_a_chain(canvas: Canvas) -> None:
    result = (canvas.add.si(2, 2) | canvas.add.si(4, 4) | canvas.add.si(8, 8))()
    assert get(result) == 16
    assert result.parent.get() == 8
    assert result.parent.parent.get() == 4


def test_simple_group(canvas: Canvas) -> None:
    assert get(group(canvas.add.s(i, i) for i in range(10))()) == [0, 2, 4, 6, 8, 10, 12, 14, 16, 18]


def test_simple_chord(canvas: Canvas) -> None:
    assert get(chord((canvas.add.s(i, i) for i in range(10)), canvas.tsum.s())()) == 90


def test_chord_with_an_immutable_body(canvas: Canvas) -> None:
    import_id = uuid4().hex
    header = [canvas.import_contact.s(contact) for contact in ("ann", "bob", "cid")]
    assert get(chord(header, canvas.notify_complete.si(import_id)).apply_async()) == import_id
    assert {"contact ann", "contact bob", "contact cid", f"complete {import_id}"} <= set(canvas.journal())


def test_a_partial_chain(canvas: Canvas) -> None:
    c1 = canvas.add.s(4) | canvas.mul.s(8)
    assert get(c1(16)) == 160


def test_a_task_and_a_group_after_it(canvas: Canvas) -> None:
    new_user_workflow = canvas.create_user.s() | group(
        canvas.import_contacts.s(), canvas.send_welcome_email.s()
    )
    result = new_user_workflow.delay(username="artv", first="Art", last="Vandelay", email="art@vandelay.com")
    assert get(result) == ["contacts of artv", "welcome art@vandelay.com"]


def test_a_group_that_takes_no_arguments(canvas: Canvas) -> None:
    result = (canvas.add.s(4, 4) | group(canvas.add.si(i, i) for i in range(10)))()
    assert get(result) == [0, 2, 4, 6, 8, 10, 12, 14, 16, 18]
    assert result.parent.get() == 8


# -- chains ------------------------------------------------------------------------------------------------


def test_linked_tasks_and_their_results(canvas: Canvas) -> None:
    result = canvas.add.apply_async((2, 2), link=canvas.mul.s(16))
    assert get(result) == 4
    assert [get(child) for child in result.children] == [64]
    assert [value for _, value in result.collect()] == [4, 64]
    both = canvas.add.s(2, 2)
    both.link(canvas.mul.s(4))
    both.link(canvas.mul.s(8))
    result = both.delay()
    assert get(result) == 4
    assert sorted(get(child) for child in result.children) == [16, 32]


def test_on_error(canvas: Canvas) -> None:
    failed = canvas.raising_task.s().on_error(canvas.log_error.s()).delay()
    assert isinstance(get(failed, propagate=False), ValueError)
    canvas.await_line(f"error {failed.id} ValueError: something something")
    failed = canvas.raising_task.apply_async(link_error=canvas.log_error_id.s())
    canvas.await_line(f"errid {failed.id}")


def test_chain_results_and_graph(canvas: Canvas) -> None:
    for made in (
        canvas.add.s(4, 4) | canvas.mul.s(8) | canvas.mul.s(10),
        chain(canvas.add.s(4, 4), canvas.mul.s(8), canvas.mul.s(10)),
        chain([canvas.add.s(4, 4), canvas.mul.s(8), canvas.mul.s(10)]),
    ):
        result = made.apply_async()
        assert get(result) == 640
        assert result.parent.get() == 64
        assert result.parent.parent.get() == 8
        assert result.parent.parent.parent is None
    dot = result.parent.parent.graph
    assert {str(node) for node in dot} == {result.id, result.parent.id, result.parent.parent.id}
    assert [value for _, value in result.parent.parent.collect()] == [8, 64, 640]


def test_a_chain_stops_at_its_error(canvas: Canvas) -> None:
    result = (canvas.add.s(1, 1) | canvas.raising_task.si() | canvas.log_result.s()).apply_async(
        link_error=canvas.log_error.s()
    )
    with pytest.raises(ValueError, match="something"):
        get(result)
    canvas.await_line(f"error {result.parent.id} ValueError: something something")


# -- groups ------------------------------------------------------------------------------------------------


def test_group_results(canvas: Canvas) -> None:
    job = group([canvas.add.s(2, 2), canvas.add.s(4, 4), canvas.add.s(8, 8), canvas.add.s(16, 16)])
    result = job.apply_async()
    assert result.join(timeout=PATIENCE) == [4, 8, 16, 32]
    assert result.ready()
    assert result.successful()
    assert not result.failed()
    assert not result.waiting()
    assert result.completed_count() == 4
    assert get(result) == [4, 8, 16, 32]


def test_group_of_a_list_and_as_a_partial(canvas: Canvas) -> None:
    assert get(group([canvas.add.s(2), canvas.add.s(4)])(10)) == [12, 14]
    assert get(group(canvas.add.s(2, 2), canvas.add.s(4, 4))()) == [4, 8]
    assert sum(get(group(canvas.add.s(i, i) for i in range(100))())) == 9900


def test_group_callbacks_and_errors(canvas: Canvas) -> None:
    failing = group(canvas.add.s(2, 2), canvas.raising_task.s())
    failing.link_error(canvas.log_error.s())
    result = failing.apply_async()
    with pytest.raises(ValueError, match="something"):
        get(result)
    canvas.await_line(f"error {result.results[1].id} ValueError: something something")
    assert result.results[0].get(timeout=PATIENCE) == 4
    wait_until(result.ready, PATIENCE)
    assert result.failed()


def test_a_group_of_one_in_a_chain(canvas: Canvas) -> None:
    assert get((group(canvas.add.s(2, 2)) | canvas.identity.s())()) in ([4], 4)


def test_chains_of_groups_become_chords(canvas: Canvas) -> None:
    twice = group(canvas.add.s(1, 1), canvas.add.s(2, 2)) | group(canvas.tsum.s(), canvas.xsum.s())
    assert get(twice()) == [6, 6]
    thrice = (
        group(canvas.add.s(i, i) for i in range(3))
        | canvas.tsum.s()
        | group(canvas.add.s(1), canvas.add.s(2))
        | canvas.xsum.s()
    )
    assert get(thrice()) == 15


def test_nested_groups(canvas: Canvas) -> None:
    nested = group(group(canvas.add.s(1, 1), canvas.add.s(2, 2)), canvas.add.s(3, 3))
    assert get(nested()) == [2, 4, 6]
    assert get(chord(nested, canvas.tsum.s())()) == 12


def test_a_saved_group_is_restored(canvas: Canvas) -> None:
    result = group(canvas.add.s(1, 1), canvas.add.s(2, 2))()
    result.save()
    restored = canvas.app.GroupResult.restore(result.id)
    assert restored == result
    assert get(restored) == [2, 4]
    restored.delete()
    assert canvas.app.GroupResult.restore(result.id) is None


# -- chords ------------------------------------------------------------------------------------------------


def test_chords(canvas: Canvas) -> None:
    expected = sum(i + i for i in range(100))
    assert get(chord(canvas.add.s(i, i) for i in range(100))(canvas.tsum.s())) == expected
    callback = canvas.tsum.s()
    header = [canvas.add.s(i, i) for i in range(100)]
    assert get(chord(header)(callback)) == expected
    assert get((group(canvas.add.s(i, i) for i in range(10)) | canvas.tsum.s())()) == 90


def test_chord_errors(canvas: Canvas) -> None:
    c = chord([canvas.add.s(4, 4), canvas.raising_task.s(), canvas.add.s(8, 8)])
    result = c(canvas.xsum.s())
    with pytest.raises(ChordError, match=r"Dependency .* raised ValueError\('something something'"):
        get(result)
    assert result.state == "FAILURE"
    failing = group(canvas.raising_task.s(), canvas.add.s(1, 1)) | canvas.tsum.s().on_error(
        canvas.log_error.s()
    )
    result = failing.delay()
    with pytest.raises(ChordError):
        get(result)
    wait_until(
        lambda: any(line.startswith(f"error {result.id} ChordError") for line in canvas.journal()), PATIENCE
    )


def test_a_chord_tells_its_old_style_errback_once(canvas: Canvas) -> None:
    failing = chord([canvas.raising_task.s(), canvas.raising_task.s()], canvas.tsum.s())
    failing.link_error(canvas.log_error_id.s())
    result = failing.delay()
    with pytest.raises(ChordError):
        get(result)
    canvas.await_line(f"errid {result.id}")
    assert canvas.journal().count(f"errid {result.id}") == 1


def test_chords_in_chords_and_in_chains(canvas: Canvas) -> None:
    inner = chord([canvas.add.s(1, 1), canvas.add.s(2, 2)], canvas.tsum.s())
    assert get(chord([inner, canvas.add.s(10, 10)], canvas.tsum.s())()) == 26
    assert get((canvas.add.s(1, 1) | chord([canvas.add.s(1), canvas.add.s(2)], canvas.tsum.s()))()) == 7
    assert get((inner | canvas.mul.s(10) | canvas.add.s(1))()) == 61


def test_an_empty_header_runs_the_body_at_once(canvas: Canvas) -> None:
    assert get(chord([], canvas.tsum.s())()) == 0
    assert get(group()()) == []


def test_the_order_is_the_header_s(canvas: Canvas) -> None:
    header = [canvas.nap.s(seconds) for seconds in (0.2, 0.05, 0.1, 0)]
    assert get(chord(header, canvas.identity.s())()) == [0.2, 0.05, 0.1, 0]
    assert get(group(header)()) == [0.2, 0.05, 0.1, 0]


# -- map, starmap, chunks ------------------------------------------------------------------------------------


def test_map_and_starmap(canvas: Canvas) -> None:
    assert ~canvas.xsum.map([list(range(10)), list(range(100))]) == [45, 4950]
    assert ~canvas.add.starmap(zip(range(10), range(10), strict=True)) == [2 * i for i in range(10)]
    later = canvas.add.starmap(zip(range(10), range(10), strict=True)).apply_async(countdown=0.01)
    assert get(later) == [2 * i for i in range(10)]


def test_chunks(canvas: Canvas) -> None:
    pairs = list(zip(range(100), range(100), strict=True))
    expected = [[2 * i for i in range(start, start + 10)] for start in range(0, 100, 10)]
    assert get(canvas.add.chunks(pairs, 10)()) == expected
    assert get(canvas.add.chunks(iter(pairs), 10).apply_async()) == expected
    as_group = canvas.add.chunks(pairs, 10).group()
    assert get(as_group()) == expected
    as_group.skew(start=1, stop=11)
    assert [task.options["countdown"] for task in as_group.tasks] == list(range(1, 11))
    assert isinstance(canvas.add.chunks(pairs, 10), chunks)


# -- stamping ----------------------------------------------------------------------------------------------


class MonitoringId(StampingVisitor):
    def __init__(self) -> None:
        self.value = uuid4().hex

    def on_signature(self, sig: Any, **headers: Any) -> dict[str, Any]:
        return {"monitoring_id": self.value, "stamped_headers": ["monitoring_id"]}


def test_stamps_reach_the_task(canvas: Canvas) -> None:
    visitor = MonitoringId()
    stamped = canvas.stamps.si()
    stamped.stamp(visitor=visitor)
    found = get(stamped.apply_async())
    assert found["stamped_headers"] == ["monitoring_id"]
    assert found["stamps"]["monitoring_id"] in (visitor.value, [visitor.value])


def test_stamps_by_name_and_through_groups_and_callbacks(canvas: Canvas) -> None:
    stamped = group(canvas.stamps.si(), canvas.stamps.si()) | canvas.identity.s()
    stamped.stamp(your_id=7)
    for found in get(stamped()):
        assert found["stamps"]["your_id"] in (7, [7])
    first = canvas.add.si(1, 1)
    first.link(canvas.stamps.s())
    first.stamp(visitor=MonitoringId())
    result = first.delay()
    get(result)
    assert "monitoring_id" in get(result.children[0])["stamps"]


# -- replacing and growing -----------------------------------------------------------------------------------


def test_replace(canvas: Canvas) -> None:
    assert get(canvas.replaced.delay(4)) == 40
    assert get((canvas.replaced.s(4) | canvas.add.s(1))()) == 41
    assert get(canvas.replaced_by_group.delay(3)) == [0, 2, 4]
    assert get((canvas.replaced_by_group.s(3) | canvas.tsum.s())()) == 6
    assert get(canvas.replaced_by_chord.delay(4)) == 12
    assert get((canvas.replaced_by_chord.s(4) | canvas.add.s(1))()) == 13
    header = [canvas.replaced.s(1), canvas.replaced_by_group.s(3), canvas.add.s(1, 1)]
    assert get(chord(header, canvas.identity.s())()) == [10, [0, 2, 4], 2]


def test_add_to_chord(canvas: Canvas) -> None:
    header = [canvas.grows.s(1), canvas.grows.s(2)]
    assert get(chord(header, canvas.tsum.s())()) == 1 + 2 + 101 + 102


# -- other ways of waiting -----------------------------------------------------------------------------------


def test_awaiting(canvas: Canvas) -> None:
    import asyncio

    async def main() -> list[Any]:
        many = group(canvas.add.s(i, i) for i in range(3))()
        body = chord([canvas.add.s(1, 1)], canvas.tsum.s())()
        return [await many, await body]

    assert asyncio.run(main()) == [[0, 2, 4], 2]


def test_then(canvas: Canvas) -> None:
    arrived: list[Any] = []
    group(canvas.add.s(i, i) for i in range(3))().then(lambda result: arrived.append(result.get()))
    wait_until(lambda: arrived == [[0, 2, 4]], PATIENCE)
