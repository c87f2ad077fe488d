"""Chords on real workers: bodies of every form, and every way in which a header task can end."""

from __future__ import annotations

import time
from typing import Any

import pytest

from celeriac import chain, chord, group
from celeriac.exceptions import ChordError, TaskRevokedError
from tests.integration.conftest import Site

pytestmark = pytest.mark.timeout(90)


def sig(site: Site, name: str, *args: Any, **options: Any) -> Any:
    return site.app.signature(f"tests.integration.project.{name}", args=args, **options)


def header(site: Site, *others: Any) -> list[Any]:
    return [*(sig(site, "add", n, n) for n in range(3)), *others]


def failure(site: Site, *others: Any, **body: Any) -> str:
    """The reason why a chord with these tasks in its header fails."""
    result = chord(header(site, *others))(sig(site, "total").set(**body))
    with pytest.raises(ChordError) as caught:
        result.get(timeout=20)
    return str(caught.value)


# -- success -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pool", ["prefork", "threads", "asyncio", "solo"])
def test_the_body_gets_the_results_in_the_order_of_the_header(site: Any, pool: str) -> None:
    site.worker("-c", "2", "-P", pool)
    tasks = [sig(site, "nap", 0.01 * (3 - n), str(n)) for n in range(3)]
    late = sig(site, "coroutine", 0.01, "c")
    results = [chord([*tasks, late])(sig(site, "gather")) for _ in range(3)]
    for result in results:
        assert result.get(timeout=20) == ["0", "1", "2", "c"]
        assert [r.get(timeout=1) for r in result.parent] == ["0", "1", "2", "c"]


def test_a_hundred_and_one_chords(site: Any) -> None:
    site.worker("-c", "2")
    results = [chord(sig(site, "add", n, k) for k in range(5))(sig(site, "total")) for n in range(101)]
    assert [result.get(timeout=30) for result in results] == [5 * n + 10 for n in range(101)]


def test_a_chain_follows_the_chord(site: Any) -> None:
    site.worker("-c", "2")
    made = group(header(site)) | sig(site, "total") | sig(site, "add", 100)
    assert made.apply_async().get(timeout=20) == 106


def test_a_chord_is_a_step_of_a_chain(site: Any) -> None:
    site.worker("-c", "2")
    middle = group(sig(site, "add", n) for n in (1, 2)) | sig(site, "total")
    made = chain(sig(site, "add", 1, 1), middle, sig(site, "add", 100))
    assert made.apply_async().get(timeout=20) == 107


def test_a_group_is_the_body(site: Any) -> None:
    site.worker("-c", "2")
    made = chord(header(site), group(sig(site, "total"), sig(site, "total")))
    assert made.apply_async().get(timeout=20) == [6, 6]


def test_a_chord_is_the_body_and_chords_are_in_the_header(site: Any) -> None:
    site.worker("-c", "2")
    inner = chord(header(site), sig(site, "total"))
    body = chord([sig(site, "total"), sig(site, "total")], sig(site, "total"))
    made = chord([inner, sig(site, "add", 1, 1), inner.clone()], body)
    assert made.apply_async().get(timeout=20) == 28


def test_a_task_joins_the_header_while_it_runs(site: Any) -> None:
    site.worker("-c", "2")
    result = chord([sig(site, "invite", 1), sig(site, "invite", 2)])(sig(site, "total"))
    assert result.get(timeout=20) == 1 + 2 + 101 + 102


def test_a_chord_survives_its_workers_and_delays(site: Any) -> None:
    worker = site.worker("-c", "1")
    tasks = [sig(site, "die_once", "one"), sig(site, "flaky", 1), sig(site, "add", 1, 1).set(countdown=0.5)]
    result = chord(tasks)(sig(site, "gather"))
    site.await_journal(lambda lines: lines.count("run one") == 2)
    worker.stop()
    site.worker("-c", "1")
    assert result.get(timeout=20) == ["survived", 1, 2]


# -- every end of a header task but success -------------------------------------------------------------


def test_a_failure_reaches_the_error_callbacks(site: Any) -> None:
    site.worker("-c", "2")
    errbacks = [sig(site, "on_error"), sig(site, "hear")]
    reason = failure(site, sig(site, "boom").set(task_id="culprit"), task_id="b", link_error=errbacks)
    assert reason == "Dependency culprit raised ValueError('boom')"
    expected = ["errback b", "hear b ChordError"]
    assert sorted(site.await_journal(lambda lines: len(lines) >= 2)) == expected


ENDS = [
    ("always_failing", (), "RuntimeError"),
    ("ignore", (), "Ignore"),
    ("reject", (), "no thanks"),
    ("hard", (), "TimeLimitExceeded"),
    ("die", ("x",), "WorkerLostError"),
    ("die_early_acked", ("x",), "WorkerLostError"),
    ("unserialisable", (), "EncodeError"),
    ("nobody", (), "never registered"),
]


def test_a_header_task_that_does_not_succeed_fails_the_chord(site: Any) -> None:
    site.worker("-c", "2", worker_prefetch_multiplier=1)
    begun = [chord(header(site, sig(site, name, *args)))(sig(site, "total")) for name, args, _ in ENDS]
    for result, (_, _, reason) in zip(begun, ENDS, strict=True):
        with pytest.raises(ChordError, match=reason):
            result.get(timeout=30)


def test_an_expired_header_task_fails_the_chord(site: Any) -> None:
    late = sig(site, "add", 1, 1).set(expires=0.01)
    result = chord(header(site, late))(sig(site, "total"))
    time.sleep(0.02)  # the time that must pass
    site.worker("-c", "2")
    with pytest.raises(ChordError, match="expired"):
        result.get(timeout=20)


def test_a_revoked_header_task_fails_the_chord(site: Any) -> None:
    result = chord(header(site, sig(site, "add", 1, 1).set(task_id="unwanted")))(sig(site, "total"))
    site.app.control.revoke("unwanted")
    site.worker("-c", "2")
    with pytest.raises(ChordError, match=r"Dependency unwanted raised TaskRevokedError"):
        result.get(timeout=20)


def test_a_revoked_delayed_header_task_fails_the_chord(site: Any) -> None:
    late = sig(site, "add", 1, 1).set(task_id="late", countdown=1000)
    result = chord(header(site, late))(sig(site, "total"))
    site.app.control.revoke("late")
    with pytest.raises(TaskRevokedError):
        site.app.AsyncResult("late").get(timeout=1)
    site.worker("-c", "2")
    with pytest.raises(ChordError, match=r"Dependency late raised TaskRevokedError"):
        result.get(timeout=30)


def test_a_terminated_header_task_fails_the_chord(site: Any) -> None:
    site.worker("-c", "2")
    result = chord(header(site, sig(site, "nap", 60, "long").set(task_id="long")))(sig(site, "total"))
    site.await_journal(lambda lines: "start long" in lines)
    site.app.control.revoke("long", terminate=True)
    with pytest.raises(ChordError, match=r"Dependency long raised TaskRevokedError"):
        result.get(timeout=20)


# -- what fails with it ------------------------------------------------------------------------------------


def test_a_failed_step_of_a_header_s_chain_fails_the_chord(site: Any) -> None:
    site.worker("-c", "2")
    steps = sig(site, "boom") | sig(site, "mark") | sig(site, "mark").set(task_id="last")
    assert failure(site, steps) == "Dependency last raised ValueError('boom')"


def test_what_follows_a_failed_chord_fails(site: Any) -> None:
    site.worker("-c", "2")
    made = chord([sig(site, "boom")], sig(site, "total")) | sig(site, "mark") | sig(site, "mark")
    result = made.apply_async()
    with pytest.raises(ChordError):
        result.get(timeout=20)
    assert result.parent.state == "FAILURE"


def test_an_error_climbs_through_chords_in_chords(site: Any) -> None:
    site.worker("-c", "2")
    inner = chord([sig(site, "boom")], sig(site, "total"))
    middle = chord([inner, sig(site, "add", 1, 1)], sig(site, "total"))
    result = chord([middle, sig(site, "add", 1, 1)])(sig(site, "total"))
    with pytest.raises(ChordError, match=r"Dependency .* raised ChordError"):
        result.get(timeout=20)


def test_each_task_of_a_group_body_hears_of_the_error(site: Any) -> None:
    site.worker("-c", "2")
    tasks = [sig(site, "total").set(task_id=f"b{n}", link_error=[sig(site, "on_error")]) for n in (1, 2)]
    result = chord([sig(site, "boom")], group(tasks)).apply_async()
    with pytest.raises(ValueError, match="boom"):
        result.get(timeout=20)
    assert sorted(site.await_journal(lambda lines: len(lines) >= 2)) == ["errback b1", "errback b2"]
