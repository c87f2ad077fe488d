"""Many at once: threads that publish, claim and settle; a process that forks."""

from __future__ import annotations

import os
import random
import threading
import traceback
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial

from celeriac.contrib.conformance.helpers import (
    claim,
    drain,
    eventually,
    id_of,
    incarnation,
    outcome,
    pub,
    pubs,
    record,
    settle,
)
from celeriac.contrib.conformance.rig import Rig
from celeriac.engines.base import Depth, Engine, Outcome, Verdict


def run(functions: Sequence[Callable[[], None]]) -> None:
    """Run all at once, each in its thread; fail if one does."""
    failures: list[str] = []

    def guarded(function: Callable[[], None]) -> None:
        try:
            function()
        except BaseException:
            failures.append(traceback.format_exc())

    threads = [threading.Thread(target=guarded, args=(function,), daemon=True) for function in functions]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive(), "a thread hangs"
    assert not failures, failures[0]


def test_publishers_and_consumers_at_once_lose_and_double_nothing(engine: Engine, rig: Rig) -> None:
    done: Counter[str] = Counter()
    tokens: list[int] = []
    lock = threading.Lock()
    total = 600

    def publish(number: int) -> None:
        for start in range(0, total // 2, 10):
            engine.publish(pubs(f"{number}-{index}" for index in range(start, start + 10)))

    def consume(child: int) -> None:
        dice = random.Random(child)
        consumer = rig.open().attach(incarnation(child=child))
        outcomes: list[Outcome] = []
        finished: list[str] = []
        while True:
            answer = consumer.exchange(outcomes, ["q"], dice.randint(1, 8))
            with lock:
                done.update(finished)
                tokens.extend(delivery.token for delivery in answer.deliveries)
                if done.total() >= total:
                    break
            assert answer.refused == []
            outcomes, finished = [], []
            for delivery in answer.deliveries:
                verdict = dice.choice((Verdict.ACK, Verdict.ACK, Verdict.GIVE_BACK, Verdict.REQUEUE))
                outcomes.append(outcome(delivery, verdict))
                if verdict is Verdict.ACK:
                    finished.append(id_of(delivery.payload))
            if not answer.deliveries:
                consumer.wait(["q"], 0.05)
        consumer.close()

    run([lambda: publish(0), lambda: publish(1), *(lambda child=child: consume(child) for child in range(3))])
    assert set(done.values()) == {1}
    assert len(done) == total
    assert len(tokens) == len(set(tokens))
    assert engine.depth(["q"])["q"] == Depth()


def test_owner_and_agent_race_for_a_message_and_one_wins(engine: Engine, rig: Rig) -> None:
    consumer = engine.attach(incarnation())
    agent = rig.open()
    for turn in range(30):
        engine.publish([pub(f"t{turn}")])
        (delivery,) = claim(consumer)
        barrier = threading.Barrier(2)
        refused: list[int] = []
        returned: list[int] = []

        def settles() -> None:
            barrier.wait()  # noqa: B023 - the threads end within the turn
            refused.extend(settle(consumer, outcome(delivery)))  # noqa: B023

        def gives_back() -> None:
            barrier.wait()  # noqa: B023
            returned.append(agent.give_back(consumer.owner.name, [("q", delivery.token)]))  # noqa: B023

        run([settles, gives_back])
        assert returned == [len(refused)]
        assert drain(consumer) == [f"t{turn}"] * len(refused)
    consumer.close()


def test_one_engine_serves_many_threads(engine: Engine) -> None:
    def work(number: int) -> None:
        for index in range(30):
            task_id = f"{number}-{index}"
            engine.publish([pub(task_id, f"q{number}")])
            assert engine.store([record(task_id)]) == []
            assert set(engine.fetch([task_id])) == {task_id}
            assert engine.depth([f"q{number}"])[f"q{number}"].ready == index + 1

    run([partial(work, number) for number in range(4)])


def test_a_forked_child_uses_the_engine_and_leaves_its_parent_s_alone(engine: Engine, rig: Rig) -> None:
    consumer = engine.attach(incarnation())
    engine.publish(pubs("ab"))
    heard: list[str] = []
    subscription = engine.subscribe(["a"], lambda task_id, _: heard.append(task_id))
    (held,) = claim(consumer, 1)
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            engine.publish([pub("c", "child"), pub("d", "parent")])
            own = engine.attach(incarnation(child=2))
            if drain(own, ["child"]) == ["c"] and engine.store([record("x")]) == []:
                status = 0
            own.close()
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)
    assert os.waitpid(pid, 0)[1] == 0
    assert settle(consumer, outcome(held, result=record("a"))) == []
    assert drain(consumer) == ["b"]
    eventually(lambda: heard == ["a"])
    if rig.shared:
        assert drain(consumer, ["parent"]) == ["d"]
        assert set(engine.fetch(["x"])) == {"x"}
    subscription.close()
    consumer.close()
