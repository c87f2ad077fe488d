"""What a worker promises, shown with real processes on every store."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from celeriac.exceptions import TaskRevokedError, TimeLimitExceeded, WorkerLostError
from tests.integration.conftest import Site

pytestmark = pytest.mark.timeout(90)


# -- running ---------------------------------------------------------------------------------------


def test_a_call_comes_back_with_its_result(site: Any) -> None:
    site.worker("-c", "2")
    assert site.send("add", 2, 3).get(timeout=10) == 5


def test_a_failure_comes_back_as_the_exception(site: Any) -> None:
    site.worker("-c", "1")
    result = site.send("boom", "kaputt")
    with pytest.raises(ValueError, match="kaputt"):
        result.get(timeout=10)
    assert result.state == "FAILURE"
    assert "raise ValueError(text)" in result.traceback


def test_two_thousand_short_tasks_over_two_processes(site: Any) -> None:
    results = [site.send("mark", str(n)) for n in range(2000)]
    site.worker("-c", "2")
    assert [r.get(timeout=30) for r in results] == [str(n) for n in range(2000)]
    assert sorted(site.journal(), key=int) == [str(n) for n in range(2000)]


def test_a_retry_waits_in_the_store_and_succeeds(site: Any) -> None:
    site.worker("-c", "1")
    assert site.send("flaky", 3).get(timeout=10) == 3
    assert site.journal() == ["try 0", "try 1", "try 2", "try 3"]


def test_autoretry_ends_with_the_error(site: Any) -> None:
    site.worker("-c", "1")
    with pytest.raises(RuntimeError, match="still"):
        site.send("always_failing").get(timeout=10)
    assert site.journal() == ["try"] * 3


def test_a_countdown_is_kept_over_a_restart_of_the_worker(site: Any) -> None:
    first = site.worker("-c", "1")
    sent = time.time()
    result = site.send("add", 1, 1, countdown=1.5)
    first.stop()
    site.worker("-c", "1")
    assert result.get(timeout=10) == 2
    assert time.time() - sent >= 1.4


def test_a_coroutine_runs_in_the_prefork_pool(site: Any) -> None:
    site.worker("-c", "1")
    assert site.send("coroutine", 0.01, "x").get(timeout=10) == "x"


def test_an_errback_is_sent_the_id(site: Any) -> None:
    site.worker("-c", "1")
    errback = site.app.signature("tests.integration.project.on_error")
    result = site.send("boom", link_error=errback)
    site.await_journal(lambda lines: f"errback {result.id}" in lines)


def test_a_callback_gets_the_result_first(site: Any) -> None:
    site.worker("-c", "1")
    callback = site.app.signature("tests.integration.project.add", args=(10,))
    callback.freeze()
    site.send("add", 1, 2, link=callback)
    assert site.app.AsyncResult(callback.id).get(timeout=10) == 13


def test_what_cannot_be_serialised_is_a_failure_with_the_reason(site: Any) -> None:
    site.worker("-c", "1")
    with pytest.raises(Exception, match="object"):
        site.send("unserialisable").get(timeout=10)


def test_progress_is_seen_while_the_task_runs(site: Any) -> None:
    site.worker("-c", "1")
    result = site.send("progress")
    site.await_true(lambda: result.state == "PROGRESS")
    assert result.info == {"done": 1, "total": 2}
    assert result.get(timeout=10) == "done"


def test_a_task_sees_its_fencing_token(site: Any) -> None:
    site.worker("-c", "1")
    one, two = site.send("who").get(timeout=10), site.send("who").get(timeout=10)
    assert 0 < one["token"] < two["token"]
    assert one["hostname"].startswith("w1@")


# -- what must not run -----------------------------------------------------------------------------


def test_an_unknown_task_is_a_dead_letter_and_a_failure(site: Any) -> None:
    worker = site.worker("-c", "1")
    result = site.app.send_task("tests.integration.project.no_such_task")
    with pytest.raises(Exception, match="no_such_task"):
        result.get(timeout=10)
    letters = site.await_true(lambda: site.app.broker.dead_letters())
    assert [(d.reason, d.task_id) for d in letters] == [("unknown", result.id)]
    assert "unregistered task" in worker.log


def test_an_expired_task_does_not_run(site: Any) -> None:
    result = site.send("mark", "late", expires=0.2)
    time.sleep(0.3)
    site.worker("-c", "1")
    with pytest.raises(TaskRevokedError, match="expired"):
        result.get(timeout=10)
    assert site.journal() == []


def test_a_revoked_task_does_not_run_even_if_it_was_revoked_before_any_worker_came(site: Any) -> None:
    result = site.send("mark", "no")
    other = site.send("mark", "yes")
    result.revoke()
    site.worker("-c", "1")
    assert other.get(timeout=10) == "yes"
    with pytest.raises(TaskRevokedError):
        result.get(timeout=10)
    assert site.journal() == ["yes"]


def test_a_revoked_delayed_task_is_gone_at_once(site: Any) -> None:
    result = site.send("mark", "no", countdown=60)
    result.revoke()
    with pytest.raises(TaskRevokedError):
        result.get(timeout=5)
    assert site.app.broker.depth(["celery"])["celery"].delayed == 0


def test_terminate_ends_the_running_task_and_no_other(site: Any) -> None:
    site.worker("-c", "2")
    victim, other = site.send("nap", 30, "victim"), site.send("nap", 2, "other")
    site.await_journal(lambda lines: {"start victim", "start other"} <= set(lines))
    victim.revoke(terminate=True)
    with pytest.raises(TaskRevokedError, match="terminated"):
        victim.get(timeout=10)
    assert other.get(timeout=10) == "other"
    assert site.journal().count("start victim") == 1


def test_ignore_and_reject(site: Any) -> None:
    site.worker("-c", "1")
    ignored = site.send("ignore")
    rejected = site.send("reject")
    letters = site.await_true(lambda: site.app.broker.dead_letters())
    assert [(d.reason, d.task_id, d.detail) for d in letters] == [("rejected", rejected.id, "no thanks")]
    assert rejected.state == "FAILURE"
    assert ignored.state == "PENDING"
    os.unlink(site.env["TEST_JOURNAL"] + ".requeued")
    assert site.send("reject", True).get(timeout=10) == "second time"


# -- limits ----------------------------------------------------------------------------------------


def test_the_soft_limit_is_raised_in_the_task(site: Any) -> None:
    site.worker("-c", "1")
    assert site.send("soft").get(timeout=10) == "cleaned up"


def test_the_hard_limit_is_an_outcome_and_runs_once(site: Any) -> None:
    site.worker("-c", "1")
    with pytest.raises(TimeLimitExceeded):
        site.send("hard").get(timeout=10)
    assert site.send("add", 1, 1).get(timeout=10) == 2
    assert site.journal() == ["hard"]


def test_a_rate_limit_holds_over_two_workers(site: Any) -> None:
    site.worker("-c", "2")
    site.worker("-c", "2")
    results = [site.send("limited", n) for n in range(8)]
    for result in results:
        result.get(timeout=20)
    times = sorted(float(line.split()[2]) for line in site.journal())
    assert len(times) == 8
    # A limit of each worker's own would take 0.6 s. The first start may be late: on a busy machine a child
    # needs a while from the token to the task's first line.
    assert times[-1] - times[0] >= 7 * 0.2 * 0.7


def test_children_are_replaced_after_their_tasks(site: Any) -> None:
    site.worker("-c", "1", "--max-tasks-per-child", "3")
    pids = [site.send("who").get(timeout=10)["pid"] for _ in range(7)]
    assert [len(set(pids[i : i + 3])) for i in (0, 3)] == [1, 1]
    assert len(set(pids)) == 3


def test_the_solo_pool_says_that_it_cannot_be_replaced(site: Any) -> None:
    worker = site.worker("-P", "solo", "--max-tasks-per-child", "2")
    assert [site.send("add", n, 0).get(timeout=10) for n in range(5)] == list(range(5))
    assert "cannot replace its process" in worker.log


def test_a_child_over_its_memory_is_replaced_after_its_task(site: Any) -> None:
    site.worker("-c", "1", "--max-memory-per-child", "150000")
    fat = site.send("greedy", 160_000).get(timeout=10)
    site.await_true(lambda: fat not in site.workers[0].children())
    assert site.send("add", 1, 1).get(timeout=10) == 2


# -- nothing is lost, nothing runs twice -----------------------------------------------------------


def test_a_killed_child_is_noticed_and_its_task_runs_again(site: Any) -> None:
    site.worker("-c", "2")
    began = time.monotonic()
    assert site.send("die_once", "x").get(timeout=10) == "survived"
    assert time.monotonic() - began < 3
    assert site.journal() == ["run x", "run x"]


def test_a_poison_message_ends_as_dead_letter_and_harms_no_neighbour(site: Any) -> None:
    poison = site.send("die", "poison")
    others = [site.send("mark", str(n)) for n in range(50)]
    site.worker("-c", "2")
    assert [r.get(timeout=20) for r in others] == [str(n) for n in range(50)]
    with pytest.raises(WorkerLostError):
        poison.get(timeout=20)
    journal = site.journal()
    assert journal.count("die poison") == 3
    assert sorted(set(journal) - {"die poison"}, key=int) == [str(n) for n in range(50)]
    (letter,) = site.await_true(lambda: site.app.broker.dead_letters())
    assert (letter.reason, letter.task_id) == ("deliveries", poison.id)


def test_a_task_that_must_not_repeat_does_not(site: Any) -> None:
    site.worker("-c", "1")
    result = site.send("die_early_acked", "x")
    with pytest.raises(WorkerLostError):
        result.get(timeout=10)
    assert site.journal() == ["run x"]
    (letter,) = site.await_true(lambda: site.app.broker.dead_letters())
    assert letter.reason == "lost"


def test_a_killed_node_gives_its_tasks_to_the_next_one_at_once(site: Any) -> None:
    first = site.worker("-c", "2")
    results = [site.send("nap", 1.0, f"n{n}") for n in range(2)]
    site.await_journal(lambda lines: len(lines) == 2)
    first.kill()
    site.worker("-c", "2")
    began = time.monotonic()
    assert [r.get(timeout=20) for r in results] == ["n0", "n1"]
    assert time.monotonic() - began < 8


def test_a_frozen_node_is_taken_over_and_refused_when_it_wakes(site: Any) -> None:
    frozen = site.worker("-c", "1", "-Q", "celery", worker_lease=1.5)
    result = site.send("nap", 1.0, "x")
    site.await_journal(lambda lines: lines == ["start x"])
    agent = frozen.agent()
    assert agent is not None
    pids = [frozen.process.pid, agent, *frozen.children()]
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    other = site.worker("-c", "1", worker_lease=1.5)
    assert result.get(timeout=20) == "x"
    other.await_line("Recovered 1 message")
    for pid in pids:
        os.kill(pid, signal.SIGCONT)
    frozen.await_line("starting anew")
    assert site.journal().count("start x") == 2
    # The woken node works on in its new life.
    other.stop()
    assert site.send("add", 1, 1).get(timeout=10) == 2


def test_a_dead_agent_is_replaced(site: Any) -> None:
    worker = site.worker("-c", "1")
    agent = worker.agent()
    assert agent is not None
    os.kill(agent, signal.SIGKILL)
    worker.await_line("replacing it")
    site.await_true(lambda: worker.agent() not in (None, agent))
    assert site.send("die_once", "y").get(timeout=10) == "survived"


def test_children_die_with_their_supervisor(site: Any) -> None:
    worker = site.worker("-c", "2")
    pids = [pid for pid in (worker.agent(), *worker.children()) if pid]
    worker.kill()
    site.await_true(lambda: not any(os.path.exists(f"/proc/{pid}") for pid in pids), timeout=5)


# -- prefetch --------------------------------------------------------------------------------------


@pytest.mark.parametrize("slow", ["nap", "hold_interpreter"])
def test_quick_tasks_are_not_held_behind_a_slow_one(site: Any, slow: str) -> None:
    """Warm up so that children claim batches, then put one slow task before quick ones."""
    warm = [site.send("mark", "w") for _ in range(400)]
    slow_result = site.send(slow, *((1.0, "slow") if slow == "nap" else ("slow",)))
    quick = [site.send("mark", f"q{n}") for n in range(60)]
    site.worker("-c", "2")
    for result in warm + quick:
        result.get(timeout=20)
    journal = site.journal()
    assert "end slow" not in journal
    slow_result.get(timeout=20)
    assert sorted(line for line in site.journal() if line.startswith("q")) == sorted(
        f"q{n}" for n in range(60)
    )


# -- shutdown --------------------------------------------------------------------------------------


def test_sigterm_finishes_what_runs_and_leaves_the_rest(site: Any) -> None:
    worker = site.worker("-c", "1")
    running = site.send("nap", 1.0, "r")
    site.await_journal(lambda lines: lines == ["start r"])
    waiting = [site.send("mark", str(n)) for n in range(5)]
    assert worker.stop() == 0
    assert running.get(timeout=1) == "r"
    assert site.journal() == ["start r", "end r"]
    site.worker("-c", "1")
    assert [r.get(timeout=10) for r in waiting] == [str(n) for n in range(5)]


def test_a_worker_that_never_reached_its_broker_stops_at_once(tmp_path: Path) -> None:
    site = Site("redis://127.0.0.1:1/0", tmp_path)
    try:
        worker = site.worker("-c", "1", ready=False)
        worker.await_line("Cannot attach yet")
        assert worker.await_line("Connection refused. Is the server running")
        assert worker.stop(10) == 0
        assert "killed by" not in worker.log
    finally:
        site.close()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_stop_sent_to_the_whole_process_group_finishes_what_runs(site: Any, number: int) -> None:
    """As systemd, ``timeout`` and a terminal send it: the children get it too."""
    worker = site.worker("-c", "1")
    result = site.send("nap", 1.0)
    site.await_journal(lambda lines: lines == ["start nap"])
    os.killpg(worker.process.pid, number)
    assert result.get(timeout=20) == "nap"
    assert site.journal() == ["start nap", "end nap"]
    if number != signal.SIGHUP:  # with it the worker starts again
        assert worker.process.wait(20) == 0


def test_after_the_grace_a_task_is_given_back_uncounted(site: Any) -> None:
    conf = {"worker_shutdown_grace": 0.3, "task_max_deliveries": 1}
    worker = site.worker("-c", "1", **conf)
    result = site.send("nap", 1.5, "r")
    site.await_journal(lambda lines: lines == ["start r"])
    began = time.monotonic()
    assert worker.stop() == 0
    assert time.monotonic() - began < 1.4
    site.worker("-c", "1", **conf)
    assert result.get(timeout=10) == "r"
    assert site.journal() == ["start r", "start r", "end r"]


def test_a_task_that_cannot_be_given_back_is_waited_for(site: Any) -> None:
    worker = site.worker("-c", "1", worker_shutdown_grace=0.2)
    result = site.send("nap_once", 1.0, "r")
    site.await_journal(lambda lines: lines == ["start r"])
    assert worker.stop() == 0
    assert result.get(timeout=1) == "r"


@pytest.mark.parametrize("signals", [[signal.SIGINT, signal.SIGINT], [signal.SIGQUIT]])
def test_a_cold_shutdown_gives_back_at_once(site: Any, signals: list[int]) -> None:
    worker = site.worker("-c", "1")
    result = site.send("nap", 5, "r")
    site.await_journal(lambda lines: lines == ["start r"])
    began = time.monotonic()
    for number in signals:
        worker.signal(number)
        time.sleep(0.1)
    worker.process.wait(5)
    assert time.monotonic() - began < 3
    assert site.app.broker.depth(["celery"])["celery"].ready == 1
    result.forget()


# -- pools -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("pool", ["threads", "asyncio", "solo", "gevent", "eventlet"])
def test_every_pool_runs_every_kind_of_task(site: Any, pool: str) -> None:
    worker = site.worker("-P", pool, "-c", "8")
    results = [site.send("add", n, n) for n in range(100)]
    assert [r.get(timeout=20) for r in results] == [2 * n for n in range(100)]
    assert site.send("coroutine", 0.05, "c").get(timeout=10) == "c"
    assert site.send("flaky", 1).get(timeout=10) == 1
    with pytest.raises(ValueError, match="boom"):
        site.send("boom").get(timeout=10)
    assert worker.stop() == 0


@pytest.mark.parametrize("pool", ["threads", "asyncio", "gevent", "eventlet"])
def test_slots_run_side_by_side(site: Any, pool: str) -> None:
    site.worker("-P", pool, "-c", "10")
    began = time.monotonic()
    name = "coroutine" if pool == "asyncio" else "nap"
    results = [site.send(name, 0.5, str(n)) for n in range(10)]
    for result in results:
        result.get(timeout=20)
    assert time.monotonic() - began < 3


def test_autoscale_grows_with_the_backlog(site: Any) -> None:
    worker = site.worker("--autoscale", "3,1")
    assert len(worker.children()) == 1
    results = [site.send("nap", 1.0, str(n)) for n in range(12)]
    site.await_true(lambda: len(worker.children()) == 3)
    for result in results:
        result.get(timeout=30)
