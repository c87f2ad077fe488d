"""Chords and chains that Celery's workers and ours run together on Redis, begun by either library."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.integration.test_celery_interop import InteropSite
from tests.servers import RedisServer

pytestmark = pytest.mark.timeout(90)

QUEUES = {"celery": "theirs", "celeriac": "ours"}


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Iterator[InteropSite]:
    """A Redis with a worker of each library on a queue of its own."""
    with RedisServer() as server:
        site = InteropSite(server, tmp_path_factory.mktemp("chords"))
        for library, queue in QUEUES.items():
            # What Celery adds to a canvas (celery.accumulate) goes to the default queue of whoever sends it.
            site.worker(library, queue, "-c", "2", task_default_queue=QUEUES["celery"])
        yield site
        site.close()


@pytest.fixture(params=list(QUEUES))
def client(request: pytest.FixtureRequest, both: InteropSite) -> Any:
    """A client of either library, whose code knows the queues as ``T`` and ``O``."""
    made = both.client(request.param)
    made.run(
        "from interop_tasks import *; T, O = 'theirs', 'ours'; s = lambda t, q, *a: t.s(*a).set(queue=q)"
    )
    return made


@pytest.mark.parametrize("last", ["T", "O"])
@pytest.mark.parametrize("body", ["T", "O"])
def test_a_header_is_run_by_both(client: Any, last: str, body: str) -> None:
    assert client.run(
        f"""
        header = [s(nap, {last}, 0.2, 'last'), *(s(echo, q, n) for n, q in enumerate([T, O, T, O]))]
        answer = library.chord(header)(s(echo, {body})).get(timeout=20)
        """
    ) == ["last", 0, 1, 2, 3]


@pytest.mark.parametrize("queue", ["T", "O"])
def test_an_error_reaches_the_error_callback(client: Any, both: InteropSite, queue: str) -> None:
    body_id = client.run(
        f"""
        body = s(echo, {queue}).on_error(s(on_error, {queue}))
        r = library.chord([s(boom, {queue}, 'x'), s(echo, T, 1), s(echo, O, 2)])(body)
        error = r.get(timeout=20, propagate=False)
        assert type(error).__name__ == 'ChordError' and "ValueError('x')" in str(error), repr(error)
        answer = r.id
        """
    )
    both.await_true(lambda: [line for line in both.journal() if f"errback {body_id} ChordError" in line])


def test_groups_in_a_header_are_lists_of_results(client: Any) -> None:
    assert client.run(
        """
        inner = library.chord([s(echo, O, 1), s(echo, T, 2)], s(echo, O))
        header = [s(echo, O, 0), inner, library.group(s(echo, O, 3), s(echo, O, 4)) | s(echo, T)]
        answer = library.chord(header)(s(echo, O)).get(timeout=20)
        """
    ) == [0, [1, 2], [3, 4]]


def test_a_retried_step_of_a_chain_in_a_header(client: Any) -> None:
    """Its message has been sent again by another program than the one that began the chord."""
    assert client.run(
        """
        step = library.chain(s(flaky, O, 2), s(echo, T), s(echo, O))
        answer = library.chord([step, step.clone()])(s(echo, O)).get(timeout=20)
        """
    ) == [2, 2]


def test_a_failed_step_of_a_chain_in_a_header(client: Any) -> None:
    assert "ValueError('x')" in client.run(
        """
        steps = library.chain(s(boom, O, 'x'), s(echo, T), s(echo, O))
        r = library.chord([steps, s(echo, T, 1)])(s(echo, T))
        answer = str(r.get(timeout=20, propagate=False))
        """
    )


def test_a_chain_a_group_or_a_chord_is_the_body(client: Any) -> None:
    assert client.run(
        """
        header = [s(echo, T, 1), s(echo, O, 2)]
        answer = [
            library.chord(header, s(echo, O) | s(echo, T) | s(echo, O)).apply_async().get(timeout=20),
            library.chord(header, library.group(s(echo, O), s(echo, T))).apply_async().get(timeout=20),
            library.chord(header, library.chord([s(echo, O), s(echo, O)], s(echo, T))).apply_async()
            .get(timeout=20),
        ]
        """
    ) == [[1, 2], [[1, 2], [1, 2]], [[1, 2], [1, 2]]]


# -- chains ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("first", "second"), ["TO", "OT"])
def test_a_chain_goes_from_one_to_the_other(client: Any, first: str, second: str) -> None:
    assert client.run(
        f"""
        A, B = {first}, {second}
        made = library.chain(
            s(add, A, 1, 1), s(add, B, 1), library.group(s(add, A, 1), s(add, B, 2)), s(echo, B), s(echo, A)
        )
        r = made.apply_async()
        ended = library.chain(s(add, A, 1, 1), s(add, B, 2), library.group(s(add, A, 1), s(add, B, 2)))()
        answer = [r.get(timeout=20), r.parent.get(timeout=20), ended.get(timeout=20)]
        """
    ) == [[4, 5], [4, 5], [5, 6]]


@pytest.mark.parametrize("queue", ["T", "O"])
def test_an_error_in_a_chain_is_told(client: Any, both: InteropSite, queue: str) -> None:
    failed = client.run(
        f"""
        made = library.chain(s(echo, O, 1), s(boom, {queue}), s(echo, T))
        r = made.apply_async(link_error=s(on_error, {queue}))
        error = r.parent.get(timeout=20, propagate=False)
        assert type(error).__name__ == 'ValueError', repr(error)
        answer = r.parent.id
        """
    )
    both.await_true(lambda: [line for line in both.journal() if f"errback {failed} ValueError" in line])


def test_stamps_go_with_all_parts(client: Any) -> None:
    assert client.run(
        """
        made = library.chain(
            s(stamps, T), s(stamps, O), library.group(s(stamps, T), s(stamps, O)), s(echo, O)
        )
        made.stamp(job='j1')
        single = lambda v: v[0] if isinstance(v, list) and len(v) == 1 else v
        found = made.apply_async().get(timeout=20)
        answer = [len(found), str(found).count('j1')]
        """
    ) == [2, 6]


# -- what changes while it runs ----------------------------------------------------------------------------


@pytest.mark.parametrize("queue", ["T", "O"])
def test_a_replaced_task_keeps_its_place(client: Any, queue: str) -> None:
    assert client.run(
        f"""
        header = [s(swap, {queue}, T, O), s(swap, {queue}, 'group', O, T), s(echo, T, 5)]
        made = library.chain(s(swap, {queue}, O, T), s(add, O, 10))
        answer = [library.chord(header)(s(echo, {queue})).get(timeout=20), made().get(timeout=20)]
        """
    ) == [[3, [0, 2], 5], 13]


@pytest.mark.parametrize("queue", ["T", "O"])
@pytest.mark.parametrize("added", ["T", "O"])
def test_a_task_joins_the_header(client: Any, queue: str, added: str) -> None:
    assert client.run(
        f"""
        found = library.chord([s(widen, {queue}, {added}), s(echo, O, 2)])(s(echo, T)).get(timeout=20)
        answer = sorted(found)
        """
    ) == [1, 2, 100]


@pytest.mark.parametrize("body", ["T", "O"])
def test_a_header_task_that_expired_fails_the_chord(client: Any, body: str) -> None:
    assert "TaskRevokedError" in client.run(
        f"""
        late = s(echo, O, 1).set(countdown=0.2, expires=0.1)
        r = library.chord([late, s(echo, T, 2)])(s(echo, {body}))
        answer = str(r.get(timeout=20, propagate=False))
        """
    )
