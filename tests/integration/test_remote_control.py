"""Remote control with real workers: they answer whatever they run, and change while they run."""

from __future__ import annotations

import os
import signal
from typing import Any

import pytest

from celeriac.engines.remote import Order
from celeriac.exceptions import TaskRevokedError, TimeLimitExceeded
from tests.processes import PATIENCE

pytestmark = pytest.mark.timeout(120)

NAME = "tests.integration.project"


def ask(site: Any, method: str, **arguments: Any) -> Any:
    """What the only worker answers, once it listens (an order that reaches nobody comes back at once)."""
    order = Order(method, arguments)
    (answer,) = site.await_true(lambda: list(site.app.broker.ask(order, PATIENCE, 1)))
    ((node, said),) = answer.items()
    assert node.startswith("w1@")
    return said


def queues(site: Any) -> list[str]:
    return [queue["name"] for queue in ask(site, "active_queues")]


def test_a_worker_whose_processes_are_in_c_code_answers_what_they_run(site: Any) -> None:
    site.worker("-c", "1", "--prefetch-multiplier", "4")
    busy = site.send("hold_interpreter", "x")
    site.await_journal(lambda lines: "start x" in lines)
    (record,) = ask(site, "active", safe=True)  # it answers while that runs, or the list were empty
    assert (record["id"], record["args"]) == (busy.id, "('x',)")
    assert record["worker_pid"] in site.workers[0].children()
    assert "end x" not in site.journal()
    assert ask(site, "ping") == {"ok": "pong"}
    assert ask(site, "echo", text="hi")["text"] == "hi"
    busy.get(timeout=PATIENCE)
    site.await_true(lambda: ask(site, "active") == [])
    stats = ask(site, "stats")
    assert stats["total"] == {f"{NAME}.hold_interpreter": 1}
    assert stats["pool"]["processes"] == site.workers[0].children()


def test_queues_come_and_go_and_outlive_children_and_agent(site: Any) -> None:
    worker = site.worker("-c", "2")
    first = site.send("add", 1, 1, queue="extra")
    ask(site, "add_consumer", queue="extra")
    assert first.get(timeout=PATIENCE) == 2
    assert queues(site) == ["celery", "extra"]
    nodes = site.app.coordinator.nodes
    if site.app.coordinator is site.app.broker:
        site.await_true(lambda: [node.queues for node in nodes()] == [["celery", "extra"]])

    before = {worker.agent(), *worker.children()}
    for pid in before:
        os.kill(pid, signal.SIGKILL)
    site.await_true(lambda: before.isdisjoint({worker.agent(), *worker.children()}))
    assert site.send("add", 2, 2, queue="extra").get(timeout=PATIENCE) == 4
    assert queues(site) == ["celery", "extra"]

    ask(site, "cancel_consumer", queue="extra")
    # A child that idles is woken; each has heeded the order once it has run something after it.
    site.await_true(lambda: "Taking no more messages from extra" in worker.log)
    assert [site.send("nap", 0.1, str(n)).get(timeout=PATIENCE) for n in range(4)]
    left = site.send("mark", "left")
    assert [site.send("nap", 0.1, str(n)).get(timeout=PATIENCE) for n in range(4)]
    assert left.id not in {record["id"] for record in ask(site, "active")}


def test_a_cancelled_queue_keeps_its_messages_until_it_is_added_again(site: Any) -> None:
    site.worker("-c", "1")
    assert site.send("add", 1, 1).get(timeout=PATIENCE) == 2
    ask(site, "cancel_consumer", queue="celery")
    assert queues(site) == []
    ask(site, "add_consumer", queue="other")
    assert site.send("add", 1, 1, queue="other").get(timeout=PATIENCE) == 2
    waiting = site.send("mark", "waiting")
    assert site.send("add", 2, 2, queue="other").get(timeout=PATIENCE) == 4
    assert site.journal() == []
    assert site.app.broker.depth(["celery"])["celery"].ready == 1
    ask(site, "add_consumer", queue="celery")
    assert waiting.get(timeout=PATIENCE) == "waiting"


@pytest.mark.engines("redis")
def test_the_pool_grows_shrinks_and_is_replaced(site: Any) -> None:
    worker = site.worker("-c", "1", worker_pool_restarts=True)
    ask(site, "pool_grow", n=2)
    site.await_true(lambda: len(worker.children()) == 3)
    naps = [site.send("nap", 2, str(n)) for n in range(3)]
    site.await_journal(lambda lines: sum(line.startswith("start") for line in lines) == 3)
    ask(site, "pool_shrink", n=2)
    assert [nap.get(timeout=PATIENCE) for nap in naps] == ["0", "1", "2"]  # they finish what they run
    site.await_true(lambda: len(worker.children()) == 1)
    before = worker.children()
    ask(site, "pool_restart", modules=None, reload=False, reloader=None)
    site.await_true(lambda: len(worker.children()) == 1 and worker.children() != before)
    assert site.send("add", 1, 1).get(timeout=PATIENCE) == 2


@pytest.mark.engines("sqlite")
def test_time_limits_change_while_it_runs(site: Any) -> None:
    site.worker("-c", "1")
    assert site.send("nap", 0.01).get(timeout=PATIENCE) == "nap"
    ask(site, "time_limit", task_name=f"{NAME}.nap", hard=0.3)
    with pytest.raises(TimeLimitExceeded):
        site.send("nap", 60).get(timeout=PATIENCE)


def test_a_revoke_that_was_only_broadcast_holds_for_all(site: Any) -> None:
    """As Celery's clients revoke: whoever hears it keeps it for all workers, later ones too."""
    first = site.worker("-c", "1")
    running = site.send("nap", 60)
    site.await_journal(lambda lines: "start nap" in lines)
    waiting = site.send("mark", "never")
    ask(site, "revoke", task_id=waiting.id)
    ask(site, "revoke", task_id=running.id, terminate=True, signal="SIGKILL")
    with pytest.raises(TaskRevokedError):
        running.get(timeout=PATIENCE)
    with pytest.raises(TaskRevokedError):
        waiting.get(timeout=PATIENCE)
    assert "start nap" in site.journal()
    ask(site, "shutdown")
    assert first.process.wait(PATIENCE) == 0
    assert "never" not in site.journal()


def test_a_dead_worker_is_gone_within_its_lease(site: Any) -> None:
    worker = site.worker("-c", "1", worker_lease=2)
    nodes = site.app.coordinator.nodes
    (node,) = site.await_true(lambda: nodes())
    told = node.details
    assert (told["pool"], told["concurrency"], len(told["loadavg"])) == ("prefork", 1, 3)
    assert f"{NAME}.add" in told["tasks"]
    worker.kill()
    site.await_true(lambda: not nodes())


@pytest.mark.engines("redis")
def test_a_solo_worker_answers_unless_it_must_not(site: Any) -> None:
    worker = site.worker("-P", "solo")
    nap = site.send("nap", 2)
    site.await_journal(lambda lines: "start nap" in lines)
    (record,) = ask(site, "active")
    assert (record["id"], record["args"]) == (nap.id, [2])
    assert "solo" in ask(site, "pool_grow")["error"]
    ask(site, "add_consumer", queue="extra")
    assert site.send("add", 1, 1, queue="extra").get(timeout=PATIENCE) == 2
    ask(site, "shutdown")
    assert worker.process.wait(PATIENCE) == 0
    site.worker("-c", "1", "-n", "deaf@%h", worker_enable_remote_control=False)
    assert list(site.app.broker.ask(Order("ping"), 0.5)) == []
