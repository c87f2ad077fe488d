"""SQLite: waking sleepers through pipes, and passing the gate in turn."""

from __future__ import annotations

import fcntl
import os
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from celeriac.engines import create
from celeriac.engines.base import Incarnation, Publication
from celeriac.engines.results import ResultRecord
from celeriac.engines.sqlite import SQLiteEngine, listener, wake
from celeriac.engines.sqlite.gate import Gate
from celeriac.exceptions import OperationalError
from celeriac.message import Message
from tests.processes import wait_until


def pub(task_id: str, queue: str = "q", **options: object) -> Publication:
    return Publication(Message({"id": task_id, "task": "t"}, {}, b"[[], {}, {}]"), queue, **options)  # type: ignore[arg-type]


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[SQLiteEngine]:
    engine = create(f"sqlite:///{tmp_path / 'store.db'}", {})
    assert isinstance(engine, SQLiteEngine)
    with closing(engine):
        yield engine


@pytest.fixture
def no_poll(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only a ring can wake."""
    monkeypatch.setattr(wake, "POLL", 30.0)
    monkeypatch.setattr(listener, "POLL", 30.0)


class Sleepers:
    """Threads that sleep over a queue, and count who woke."""

    def __init__(self, engine: SQLiteEngine, count: int, queues: list[str]) -> None:
        self.woken = threading.Semaphore(0)
        self._stop, self._bell = os.pipe()
        self._asleep = threading.Semaphore(0)
        self._threads = [
            threading.Thread(target=self._sleep, args=(engine, child, queues)) for child in range(count)
        ]
        for thread in self._threads:
            thread.start()
        for _ in self._threads:
            assert self._asleep.acquire(timeout=10)

    def _sleep(self, engine: SQLiteEngine, child: int, queues: list[str]) -> None:
        consumer = engine.attach(Incarnation("n", child, 1))
        looked = consumer._look

        def look(names: object) -> tuple[bool, float | None]:
            found = looked(names)  # type: ignore[arg-type]
            self._asleep.release()  # the pipes are open: from here on every ring is heard
            return found

        consumer._look = look  # type: ignore[method-assign]
        if consumer.wait(queues, 20.0, self._stop):
            self.woken.release()
        consumer.close()

    def end(self) -> None:
        os.write(self._bell, b".")
        for thread in self._threads:
            thread.join(10)
            assert not thread.is_alive()
        os.close(self._bell)
        os.close(self._stop)


@pytest.mark.usefixtures("no_poll")
def test_one_message_wakes_one_of_many(engine: SQLiteEngine) -> None:
    sleepers = Sleepers(engine, 6, ["q"])
    engine.publish([pub("a", "other")])
    engine.publish([pub("a")])
    assert sleepers.woken.acquire(timeout=10)
    # A herd would be up by the time a second message has woken its own sleeper.
    engine.publish([pub("b")])
    assert sleepers.woken.acquire(timeout=10)
    assert not sleepers.woken.acquire(timeout=0.1)
    sleepers.end()


@pytest.mark.usefixtures("no_poll")
def test_many_messages_wake_many(engine: SQLiteEngine) -> None:
    sleepers = Sleepers(engine, 4, ["q"])
    engine.publish([pub(str(number)) for number in range(4)])
    for _ in range(4):
        assert sleepers.woken.acquire(timeout=10)
    sleepers.end()


@pytest.mark.usefixtures("no_poll")
def test_a_soon_due_message_is_waited_for_exactly(engine: SQLiteEngine) -> None:
    sleepers = Sleepers(engine, 1, ["q"])
    engine.publish([pub("a", delay=0.2)])
    assert sleepers.woken.acquire(timeout=10)
    sleepers.end()


def test_queue_names_make_no_paths(engine: SQLiteEngine) -> None:
    names = ["../evil", "a/b", "ü" * 200, "ü" * 201, ".", "x" * 300]
    consumer = engine.attach(Incarnation("n", 1, 1))
    assert not consumer.wait(names, 0.0)
    pipes = {path.name for path in engine._store.location.folder.glob("queue-*")}
    assert len(pipes) == len(names)
    consumer.close()


@pytest.mark.usefixtures("no_poll")
def test_a_flood_of_results_overflows_no_listener(engine: SQLiteEngine) -> None:
    ids = [f"task-{number:033d}" for number in range(5000)]
    seen: set[str] = set()
    everything = threading.Event()

    def arrived(task_id: str, payload: bytes) -> None:
        if task_id == ids[0]:
            stored.wait(10)  # the pipe fills meanwhile
        seen.add(task_id)
        if len(seen) == len(ids):
            everything.set()

    stored = threading.Event()
    subscription = engine.subscribe(ids, arrived)
    engine.store([ResultRecord(ids[0], "SUCCESS", b"1")])
    for start in range(0, len(ids), 100):
        engine.store([ResultRecord(task_id, "SUCCESS", b"1") for task_id in ids[start : start + 100]])
    stored.set()
    assert everything.wait(20)
    subscription.close()


# -- the gate ------------------------------------------------------------------------------------------------


def test_whoever_waits_goes_before_whoever_comes_back(tmp_path: Path) -> None:
    mine, other = Gate(tmp_path, 10), Gate(tmp_path, 10)
    order: list[str] = []

    def wait_and_pass() -> None:
        other.enter()
        order.append("other")
        other.leave()

    mine.enter()
    thread = threading.Thread(target=wait_and_pass)
    thread.start()
    wait_until(lambda: other.queueing and not _turn_is_free(tmp_path))  # it stands in the turnstile
    mine.leave()
    mine.enter()
    order.append("mine")
    mine.leave()
    thread.join(10)
    assert order == ["other", "mine"]
    for gate in (mine, other):
        gate.close()


def _turn_is_free(folder: Path) -> bool:
    descriptor = os.open(folder / "turn", os.O_RDWR)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    finally:
        os.close(descriptor)
    return True


def test_giving_up_does_not_shut_the_gate(tmp_path: Path) -> None:
    holder, impatient, third = Gate(tmp_path, 10), Gate(tmp_path, 0.05), Gate(tmp_path, 10)
    holder.enter()
    threads = set()
    for _ in range(3):
        with pytest.raises(OperationalError, match=f"process {os.getpid()} holds it"):
            impatient.enter()
        threads.add(threading.active_count())
    assert len(threads) == 1  # one waiting thread a connection, however often it gives up
    holder.leave()
    third.enter()
    third.leave()
    impatient.enter()
    impatient.leave()
    for gate in (holder, impatient, third):
        gate.close()
