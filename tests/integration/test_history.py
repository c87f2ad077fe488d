"""The history of real workers: every way in which an attempt can end, on every store."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import pytest

from celeriac.engines.base import Publication
from celeriac.engines.history import Attempt
from celeriac.message import Message
from celeriac.worker.history import LOST

pytestmark = pytest.mark.timeout(90)


def until(read: Callable[[], Any], seconds: float = 20.0) -> Any:
    """What ``read`` returns once it is something: an attempt is stored a moment after its result is told."""
    deadline = time.monotonic() + seconds
    while not (found := read()) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert found
    return found


def attempts(site: Any, task_id: str, states: list[str]) -> list[Attempt]:
    """The attempts of a task, oldest first, once the last one has ended as it should."""

    def read() -> list[Attempt]:
        found = list(reversed(site.app.history(task_id)))
        return found if [one.state for one in found] == states else []

    return until(read)  # type: ignore[no-any-return]


def test_each_ending_is_an_attempt(site: Any) -> None:
    site.worker("-c", "1", "-n", "w@here")
    before = time.time()
    good = site.send("add", 2, 3)
    bad = site.send("boom", "line\nline")
    again = site.send("flaky", 2)
    (one,) = attempts(site, good.id, ["SUCCESS"])
    assert (one.task, one.worker, one.queue, one.result, one.error) == (
        "tests.integration.project.add",
        "w@here",
        "celery",
        "5",
        "",
    )
    assert (one.args, one.kwargs, one.retries, one.deliveries) == ("(2, 3)", "", 0, 0)
    assert before - 1 < one.received <= one.started <= one.ended < time.time() + 1
    assert one.runtime == pytest.approx(one.ended - one.started, abs=1e-3)
    (one,) = attempts(site, bad.id, ["FAILURE"])
    assert (one.error, one.result) == ("ValueError: line line", "")
    tries = attempts(site, again.id, ["RETRY", "RETRY", "SUCCESS"])
    assert [one.retries for one in tries] == [0, 1, 2]


def test_refused_ignored_and_unknown_tasks_are_attempts(site: Any) -> None:
    site.worker("-c", "1")
    rejected, ignored = site.send("reject"), site.send("ignore")
    unknown = site.app.send_task("no.such.task", [1])
    attempts(site, rejected.id, ["REJECTED"])
    attempts(site, ignored.id, ["IGNORED"])
    (one,) = attempts(site, unknown.id, ["FAILURE"])
    assert (one.error, one.args, one.started) == ("NotRegistered: 'no.such.task'", "[1]", 0.0)


def test_a_message_that_cannot_be_read_is_an_attempt(site: Any) -> None:
    message = Message({"task": "t", "id": "unreadable"}, {}, b"{", "application/json", "utf-8")
    site.app.broker.publish([Publication(message, "celery")])
    site.worker("-c", "1")
    (one,) = attempts(site, "unreadable", ["FAILURE"])
    assert one.task == "t"
    assert "DecodeError" in one.error


def test_revoked_and_expired_tasks_are_attempts_that_were_not_run(site: Any) -> None:
    late, revoked = site.send("add", 1, 1, expires=0.001), site.send("add", 1, 1)
    site.app.control.revoke(revoked.id)
    site.worker("-c", "1")
    (one,) = attempts(site, late.id, ["REVOKED"])
    assert (one.error, one.started, one.runtime) == ("expired", 0.0, 0.0)
    (one,) = attempts(site, revoked.id, ["REVOKED"])
    assert (one.error, one.started) == ("revoked", 0.0)


def test_a_killed_run_is_lost_and_the_next_one_is_an_attempt(site: Any) -> None:
    site.worker("-c", "1")
    result = site.send("die_once", "x")
    assert result.get(timeout=20) == "survived"
    first, second = attempts(site, result.id, [LOST, "SUCCESS"])
    assert "SIGKILL" in first.error
    assert (first.task, first.queue) == (second.task, second.queue)
    assert first.pid != second.pid
    assert second.deliveries == 1


def test_a_time_limit_and_a_termination_tell_why(site: Any) -> None:
    site.worker("-c", "2")
    slow = site.send("nap", 60, time_limit=0.5)
    ended = site.send("nap", 60, "long")
    until(lambda: "start long" in site.journal())
    site.app.control.revoke(ended.id, terminate=True)
    run, end = attempts(site, slow.id, [LOST, "FAILURE"])
    assert run.error == "TimeLimitExceeded: 0.5 s"
    assert run.runtime >= 0.5
    assert end.started == 0.0
    run, end = attempts(site, ended.id, [LOST, "REVOKED"])
    assert run.error == f"Terminated: signal {int(signal.SIGTERM)}"
    assert end.error == "terminated"


def test_secrets_are_not_in_it_whoever_sends_the_task(site: Any) -> None:
    site.worker("-c", "1")
    secret = {"password": "s3cr3t", "text": "x"}
    ours = site.send("keep_secret", kwargs=secret)
    foreign = site.send("keep_secret", kwargs=secret, argsrepr="()", kwargsrepr=repr(secret))
    hidden = site.send("keep_secret", kwargs=secret, argsrepr="<hidden>", kwargsrepr="<hidden>")
    for result in (ours, foreign):
        (one,) = attempts(site, result.id, ["SUCCESS"])
        assert one.kwargs == "{'password': '***', 'text': 'x'}"
        assert "s3cr3t" not in one.result
    (one,) = attempts(site, hidden.id, ["SUCCESS"])
    assert (one.args, one.kwargs) == ("<hidden>", "<hidden>")


def test_it_can_be_switched_off(site: Any) -> None:
    site.worker("-c", "1", task_history=False)
    assert site.send("add", 2, 3).get(timeout=10) == 5
    with pytest.raises(ValueError, match="no"):
        site.send("boom", "no").get(timeout=10)
    assert site.app.history() == []


def test_workers_keep_it_within_its_bounds(site: Any) -> None:
    sent = [site.send("add", n, n) for n in range(300)]
    site.worker("-c", "1", task_history_max=50)
    for result in sent:
        assert result.get(timeout=20) is not None
    until(lambda: len(site.app.history(limit=1000)) <= 50 + 128)
    assert len(site.app.history(limit=1000)) >= 50


def test_tasks_without_results_are_in_it(site: Any) -> None:
    site.worker("-c", "1")
    result = site.send("add", 2, 3, ignore_result=True)
    (one,) = attempts(site, result.id, ["SUCCESS"])
    assert one.result == "5"


def test_the_command_shows_it(site: Any) -> None:
    site.worker("-c", "1")
    result = site.send("flaky", 1)
    attempts(site, result.id, ["RETRY", "SUCCESS"])
    lines = command(site, "--state", "retry", "--since", "1h")
    assert [line.split()[2:5] for line in lines[1:]] == [
        ["RETRY", "tests.integration.project.flaky", result.id]
    ]
    lines = command(site, result.id)
    assert [line.split()[:2] for line in lines[2:]] == [["1", "RETRY"], ["2", "SUCCESS"]]


def command(site: Any, *arguments: str) -> list[str]:
    """The lines that ``celeriac history`` prints."""
    words = [sys.executable, "-m", "celeriac", "-A", "tests.integration.project", "history", *arguments]
    done = subprocess.run(words, env=site.env, capture_output=True, text=True, timeout=60, check=True)
    return done.stdout.splitlines()
