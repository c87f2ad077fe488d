"""How many processes a node is to have, and how the supervisor follows what it is told of remote control."""

from __future__ import annotations

import os
import select
import signal
from collections.abc import Iterator
from typing import Any

import pytest

from celeriac import Celeriac
from celeriac.message import new_id
from celeriac.worker import sizing as module
from celeriac.worker.board import Life
from celeriac.worker.options import Options, resolve
from celeriac.worker.supervisor import Supervisor
from tests.processes import PATIENCE


def supervisor(**flags: Any) -> Supervisor:
    """One that has not begun: it has no processes."""
    app = Celeriac("sizes", broker=f"memory://{new_id()}", set_as_current=False)
    options: Options = resolve(app, {"hostname": "w@h", "pool": "prefork", "app_spec": "any", **flags})
    return Supervisor(app, options)


@pytest.fixture
def sleeper() -> Iterator[tuple[int, int]]:
    """A process that writes a byte for each SIGUSR2: its pid, and where to read them."""
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        signal.signal(signal.SIGUSR2, lambda *_: os.write(write, b"!"))
        os.write(write, b".")
        while True:
            signal.pause()
    assert os.read(read, 1) == b"."
    yield pid, read
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    os.close(read)
    os.close(write)


def test_the_number_stays_within_the_room() -> None:
    node = supervisor(concurrency=2)
    assert (node.sizing.wanted, node.board.used) == (2, 2)
    node.sizing.resize(3)
    assert node.sizing.wanted == 5
    node.sizing.resize(-100)
    assert node.sizing.wanted == 1
    node.sizing.resize(10_000)
    assert node.sizing.wanted == node.board.children == len(node.children)


def test_who_is_more_than_wanted_is_told_to_leave_and_stays_known_until_it_has() -> None:
    node = supervisor(concurrency=3)
    for number, child in enumerate(node.children[:3]):
        child.pid = 100_000_000 + number
    node.sizing.resize(-2)
    assert node.sizing.settle(node.children) == node.children[1:3]
    assert node.board.used == 3  # the agent still looks at what they run
    node.children[2].pid = 0
    node.sizing.settle(node.children)
    assert node.board.used == 2


def test_a_new_range_moves_the_number_into_it() -> None:
    node = supervisor(autoscale="4,2")
    assert (node.sizing.wanted, node.board.autoscale) == (2, (4, 2))
    node.sizing.set_range(8, 5)
    assert (node.sizing.wanted, node.board.autoscale) == (5, (8, 5))
    node.sizing.set_range(3, 1)
    assert (node.sizing.wanted, node.board.autoscale) == (3, (3, 1))


def test_autoscaling_follows_the_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "AUTOSCALE_KEEPALIVE", 10.0)
    node = supervisor(autoscale="3,1")
    node.board.note_backlog(5)
    node.sizing.follow(node.children, 100.0)
    assert node.sizing.wanted == 1  # it is idle: it takes them itself
    node.children[0].record.note_start(0, 7, 0, "id", "t")
    node.sizing.follow(node.children, 101.0)
    assert node.sizing.wanted == 2
    node.board.note_backlog(0)
    node.sizing.follow(node.children, 102.0)
    node.sizing.follow(node.children, 111.0)
    assert node.sizing.wanted == 2
    node.sizing.follow(node.children, 112.5)
    assert node.sizing.wanted == 1


def test_children_that_sleep_are_woken_and_those_that_start_are_left_alone(sleeper: tuple[int, int]) -> None:
    """A child that has not come far enough would be ended by the signal."""
    pid, ear = sleeper
    node = supervisor(concurrency=1)
    node.children[0].pid = pid
    node._wake()
    assert select.select([ear], [], [], 0.05)[0] == []
    node.children[0].record.life = Life.READY
    node._wake()
    assert select.select([ear], [], [], PATIENCE)[0] == [ear]
