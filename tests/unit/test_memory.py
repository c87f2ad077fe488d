"""What the memory engine has of its own: names, the driven clock, the thread of its subscribers, forks."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import uuid
from collections.abc import Iterator

import pytest

from celeriac.engines import create
from celeriac.engines.base import Incarnation, Publication
from celeriac.engines.memory import MemoryEngine
from celeriac.engines.results import ResultRecord
from celeriac.message import Message


class Clock:
    """A clock that stands until it is set."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def engine(clock: Clock) -> Iterator[MemoryEngine]:
    engine = create(f"memory://{uuid.uuid4().hex}", {"clock": clock})
    assert isinstance(engine, MemoryEngine)
    yield engine
    engine.close()


def pub(task_id: str, queue: str = "q", delay: float | None = None) -> Publication:
    return Publication(Message({"id": task_id, "task": "t"}, {}, b"[]"), queue, delay=delay)


def result(task_id: str) -> ResultRecord:
    return ResultRecord(task_id, "SUCCESS", task_id.encode())


def test_engines_of_one_name_share_a_store_and_others_do_not() -> None:
    name = uuid.uuid4().hex
    one, same, other = (create(f"memory://{each}") for each in (name, name, name + "x"))
    one.publish([pub("a")])
    assert same.depth(["q"])["q"].ready == 1
    assert other.depth(["q"])["q"].ready == 0
    assert one.shares_store(same)
    assert not one.shares_store(other)


def test_the_store_outlives_its_engines() -> None:
    name = uuid.uuid4().hex
    engine = create(f"memory://{name}")
    engine.publish([pub("a")])
    engine.close()
    assert create(f"memory://{name}").depth(["q"])["q"].ready == 1


def test_the_url_shows_no_password() -> None:
    assert "secret" not in create("memory://me:secret@name").url


def test_time_is_the_given_clock_s_alone(engine: MemoryEngine, clock: Clock) -> None:
    consumer = engine.attach(Incarnation("n", 1, 1))
    engine.publish([pub("a", delay=60.0)])
    answer = consumer.exchange([], ["q"], 1)
    assert (answer.deliveries, answer.now, answer.next_due) == ([], 1000.0, 1060.0)
    clock.now = 1059.999
    assert consumer.exchange([], ["q"], 1).deliveries == []
    clock.now = 1060.0
    assert len(consumer.exchange([], ["q"], 1).deliveries) == 1


def test_age_counts_from_when_a_message_became_ready(engine: MemoryEngine, clock: Clock) -> None:
    consumer = engine.attach(Incarnation("n", 1, 1))
    engine.publish([pub("a", delay=60.0), pub("b", delay=60.0)])
    clock.now = 1070.0
    consumer.exchange([], ["q"], 1)
    assert engine.depth(["q"])["q"].age == 10.0


def test_a_due_message_is_not_slept_over(engine: MemoryEngine) -> None:
    consumer = engine.attach(Incarnation("n", 1, 1))
    engine.publish([pub("a", delay=0.0)])
    assert consumer.wait(["q"], 10.0) is True


def test_an_owner_whose_node_never_beat_is_recovered_after_the_default_lease(
    engine: MemoryEngine, clock: Clock
) -> None:
    consumer = engine.attach(Incarnation("n", 1, 1))
    engine.publish([pub("a")])
    consumer.exchange([], ["q"], 1)
    clock.now += 14.9
    assert engine.recover("host", lambda pid, started: True) == []
    clock.now += 0.2
    assert [each.messages for each in engine.recover("host", lambda pid, started: True)] == [1]
    assert engine.depth(["q"])["q"].ready == 1


def test_there_is_nothing_to_repeat_when_every_answer_arrived(engine: MemoryEngine) -> None:
    consumer = engine.attach(Incarnation("n", 1, 1))
    with pytest.raises(RuntimeError, match="no unanswered exchange"):
        consumer.repeat()
    consumer.exchange([], ["q"], 1)
    with pytest.raises(RuntimeError, match="no unanswered exchange"):
        consumer.repeat()


def test_a_subscriber_that_raises_is_logged_and_called_again(
    engine: MemoryEngine, caplog: pytest.LogCaptureFixture
) -> None:
    heard: list[str] = []
    both = threading.Event()

    def callback(task_id: str, payload: bytes) -> None:
        heard.append(task_id)
        if len(heard) == 2:
            both.set()
        raise KeyError(task_id)

    engine.subscribe(["a", "b"], callback)
    engine.store([result("a"), result("b")])
    assert both.wait(5)
    engine.close()
    assert [record.exc_info is not None for record in caplog.records] == [True, True]


def test_a_subscription_closed_while_calls_wait_hears_none_of_them(engine: MemoryEngine) -> None:
    heard: list[str] = []
    entered, go_on = threading.Event(), threading.Event()

    def callback(task_id: str, payload: bytes) -> None:
        heard.append(task_id)
        entered.set()
        go_on.wait(5)

    subscription = engine.subscribe(["a", "b"], callback)
    engine.store([result("a"), result("b")])
    assert entered.wait(5)
    subscription.close()
    go_on.set()
    engine.close()
    assert heard == ["a"]


def test_a_closed_engine_calls_nobody(engine: MemoryEngine) -> None:
    other = create(engine.url)
    heard: list[str] = []
    other.subscribe(["a"], lambda task_id, payload: heard.append(task_id))
    other.close()
    threads = threading.active_count()
    engine.store([result("a")])
    assert heard == []
    assert threading.active_count() == threads


def test_a_child_forked_while_the_store_was_locked_gets_its_own_lock(engine: MemoryEngine) -> None:
    locked, done = threading.Event(), threading.Event()

    def hold() -> None:
        with engine.state.lock:
            locked.set()
            done.wait(10)

    thread = threading.Thread(target=hold)
    thread.start()
    assert locked.wait(5)
    pid = os.fork()
    if pid == 0:
        signal.alarm(10)  # a lock that nobody frees ends the child, not the test run
        try:
            engine.publish([pub("a")])
            os._exit(0 if engine.depth(["q"])["q"].ready == 1 else 1)
        finally:
            os._exit(2)
    done.set()
    thread.join()
    assert os.waitpid(pid, 0)[1] == 0
    assert engine.depth(["q"])["q"].ready == 0


def test_other_engines_are_not_loaded_with_it() -> None:
    code = (
        "import sys; from celeriac.engines import create; create('memory://x');"
        "sys.exit(any(name in sys.modules for name in ('redis', 'sqlite3', 'celeriac.worker')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
