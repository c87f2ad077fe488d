"""Chords that Celery's workers and ours run together on Redis, begun by either library."""

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
            site.worker(library, queue, "-c", "2")
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
