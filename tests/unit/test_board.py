"""The board: what a node's processes see of each other, and the fence between start and give-back."""

from __future__ import annotations

import os
import random
import signal
import time

import pytest

from celeriac.worker.board import ANNEXES, Board, Order, barrier


def test_a_started_message_is_seen_by_another_process() -> None:
    board = Board(children=2, slots=1)
    pid = os.fork()
    if pid == 0:
        record = Board(2, 1, board.fd).child(1)
        record.note_start(0, 77, 1, "some-id", "tasks.add", (1.0, 2.0), once=True)
        record.processed = 5
        os._exit(0)
    os.waitpid(pid, 0)
    (run,) = board.child(1).running()
    assert (run.token, run.queue, run.task_id, run.task, run.once) == (77, 1, "some-id", "tasks.add", True)
    assert run.soft - run.since == 1.0
    assert run.hard - run.since == 2.0
    assert board.child(1).processed == 5
    assert not board.child(0).busy
    board.child(1).note_end(0)
    assert not board.child(1).busy


def test_a_notice_is_read_by_another_process() -> None:
    board = Board(children=2, slots=1)
    assert (board.notice_version, board.notice()) == (0, b"")
    pid = os.fork()
    if pid == 0:
        Board(2, 1, board.fd).post_notice(b'{"events": true}')
        os._exit(0)
    os.waitpid(pid, 0)
    assert (board.notice_version, board.notice()) == (1, b'{"events": true}')
    with pytest.raises(ValueError, match="too long"):
        board.post_notice(bytes(1 << 20))


def test_the_areas_of_children_do_not_overlap() -> None:
    board = Board(children=2, slots=1)
    board.post_notice(b"n" * 1000)
    areas = [board.annex(name, child) for child in (0, 1) for name in ANNEXES]
    for start, size in areas:
        board.memory[start : start + size] = b"x" * size
    assert board.notice() == b"n" * 1000
    assert not board.child(1).busy
    assert sum(size for _, size in areas) == len({byte for a, n in areas for byte in range(a, a + n)})


def test_an_order_reaches_the_child() -> None:
    record = Board(1, 1).child(0)
    record.reset(3)
    assert (record.epoch, record.quitting) == (3, False)
    record.order = Order.QUIT
    assert record.quitting


def test_what_is_withdrawn_does_not_start() -> None:
    board = Board(1, 1)
    child, agent = board.child(0), board.child(0)
    child.note_claims([(1, 0), (2, 0), (3, 1)])
    assert child.start_claim(0, 1, 0, "a", "t", (0.0, 0.0), False)
    assert agent.unstarted == 2
    assert agent.withdraw() == [(2, 0), (3, 1)]
    assert not child.start_claim(0, 2, 0, "b", "t", (0.0, 0.0), False)
    assert agent.withdraw() == []
    assert agent.unstarted == 0


@pytest.mark.parametrize("with_barrier", [True, False])
def test_start_and_withdraw_never_both_get_a_message(
    with_barrier: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two processes race for many batches of eight: each message is either started or withdrawn."""
    rounds = 150 if with_barrier else 500
    if with_barrier:
        assert barrier() is not None, "this system has no membarrier"
    else:
        monkeypatch.setattr("celeriac.worker.board.barrier", lambda: None)
    board = Board(1, 1)
    read, write = os.pipe()
    go_read, go_write = os.pipe()
    pid = os.fork()
    if pid == 0:
        record = board.child(0)
        for _ in range(rounds):
            os.read(go_read, 1)
            time.sleep(0 if with_barrier else random.uniform(0, 0.0005))
            taken = b"".join(token.to_bytes(4, "little") for token, _ in record.withdraw())
            os.write(write, len(taken).to_bytes(4, "little") + taken)
        os._exit(0)
    record, split = board.child(0), 0
    for number in range(rounds):
        tokens = [number * 8 + i + 1 for i in range(8)]
        record.note_claims([(token, 0) for token in tokens])
        os.write(go_write, b"!")
        started = []
        for token in tokens:
            # A barrier takes some 10 ms, a lock some us: let it fall anywhere.
            time.sleep(random.uniform(0, 0.003 if with_barrier else 0.00005))
            if not record.start_claim(0, token, 0, "", "", (0.0, 0.0), False):
                break
            started.append(token)
        size = int.from_bytes(os.read(read, 4), "little")
        raw = os.read(read, size) if size else b""
        withdrawn = [int.from_bytes(raw[i : i + 4], "little") for i in range(0, size, 4)]
        assert started + withdrawn == tokens
        split += 0 < len(withdrawn) < 8
    os.waitpid(pid, 0)
    assert split > rounds / 20, "the two hardly ever met: this proves nothing"


def test_a_fence_is_free_again_when_its_holder_is_killed() -> None:
    board = Board(1, 1)
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        with board.child(0).fence():
            os.write(write, b"!")
            signal.pause()
        os._exit(0)
    os.read(read, 1)
    os.kill(pid, 9)
    os.waitpid(pid, 0)
    record = board.child(0)
    record.note_claims([(1, 0)])
    assert record.start_claim(0, 1, 0, "", "", (0.0, 0.0), False)
