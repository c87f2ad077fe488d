"""What a child has claimed, as another process reads it, however fast it changes."""

from __future__ import annotations

import os
import time

from celeriac.engines.base import Delivery
from celeriac.message import Message, decode_envelope, encode_envelope
from celeriac.worker import holdings as module
from celeriac.worker.board import ANNEXES, Board
from celeriac.worker.holdings import NAMES, OTHERS, Holdings


def delivery(token: int, body: bytes = b"[[1], {}, {}]", **headers: str) -> Delivery:
    given = {"id": f"id-{token}", "task": "t", "argsrepr": "(1,)", "kwargsrepr": "{}", **headers}
    return Delivery(token, "celery", encode_envelope(Message(dict(given), {}, body)))


def ids(held: dict[int, bytes]) -> dict[int, str]:
    return {token: decode_envelope(payload).headers["id"] for token, payload in held.items()}


def test_another_process_reads_what_was_claimed_and_counted() -> None:
    board = Board(2, 1)
    pid = os.fork()
    if pid == 0:
        own = Holdings(Board(2, 1, board.fd), 1)
        own.hold(0, [delivery(7), delivery(8)])
        own.count("a")
        own.count("b")
        own.count("a")
        os._exit(0)
    os.waitpid(pid, 0)
    seen = Holdings(board, 1)
    assert ids(seen.held()) == {7: "id-7", 8: "id-8"}
    assert seen.totals() == {"a": 2, "b": 1}
    assert Holdings(board, 0).held() == Holdings(board, 0).totals() == {}


def test_the_next_batch_takes_the_place_of_the_last() -> None:
    holdings = Holdings(Board(1, 1), 0)
    holdings.hold(0, [delivery(1), delivery(2)])
    holdings.hold(0, [delivery(3)])
    assert ids(holdings.held()) == {3: "id-3"}


def test_each_slot_has_a_place_of_its_own() -> None:
    holdings = Holdings(Board(1, 100), 0)
    for slot in range(100):
        holdings.hold(slot, [delivery(slot + 1)])
    holdings.hold(50, [delivery(777)])
    assert sorted(ids(holdings.held())) == sorted({*range(1, 101), 777} - {51})


def test_counts_go_on_in_the_next_life_of_a_child() -> None:
    board = Board(1, 1)
    first = Holdings(board, 0)
    for _ in range(3):
        first.count("a")
    first.count("b")
    second = Holdings(board, 0)
    second.count("b")
    second.count("c")
    assert second.totals() == {"a": 3, "b": 2, "c": 1}


def test_very_many_names_are_counted_together_at_last() -> None:
    holdings = Holdings(Board(1, 1), 0)
    for number in range(NAMES + 10):
        holdings.count(f"task{number}")
    totals = holdings.totals()
    assert len(totals) == NAMES
    assert totals[OTHERS] == 11
    assert sum(totals.values()) == NAMES + 10


def test_a_message_that_is_too_long_is_kept_without_its_body() -> None:
    holdings = Holdings(Board(1, 1), 0)
    long = delivery(1, b"x" * ANNEXES["holdings"], argsrepr="y" * 5000)
    holdings.hold(0, [long, delivery(2), delivery(3, argsrepr="(3,)")])
    held = holdings.held()
    message = decode_envelope(held[1])
    assert (message.headers["id"], message.headers["task"], message.body) == ("id-1", "t", b"")
    assert 100 < len(message.headers["argsrepr"]) < 2000
    assert decode_envelope(held[3]).body == b"[[1], {}, {}]"
    holdings.hold(0, [delivery(4, b"\xff" * ANNEXES["holdings"])])
    assert ids(holdings.held()) == {4: "id-4"}


def test_a_reader_never_takes_half_of_a_writing() -> None:
    """One process writes as fast as it can, the other reads: what comes is whole, or nothing."""
    board = Board(1, 1)
    ready_read, ready_write = os.pipe()
    pid = os.fork()
    if pid == 0:
        own = Holdings(Board(1, 1, board.fd), 0)
        batches = [[delivery(10 * n + i, b"%d" % n * 50 * n) for i in range(n)] for n in (1, 2, 5, 9)]
        os.write(ready_write, b"!")
        while os.getppid() != 1:
            for batch in batches:
                own.hold(0, batch)
        os._exit(0)
    try:
        os.read(ready_read, 1)
        seen = Holdings(board, 0)
        end, reads = time.monotonic() + 0.5, 0
        while time.monotonic() < end or reads < 50:
            held = seen.held()
            reads += bool(held)
            numbers = {token // 10 for token in held}
            assert len(numbers) <= 1
            assert len(held) == next(iter(numbers), 0)
            for token, payload in held.items():
                n = token // 10
                assert decode_envelope(payload).body == b"%d" % n * 50 * n
    finally:
        os.kill(pid, 9)
        os.waitpid(pid, 0)


def test_a_writer_that_died_over_it_leaves_nothing_and_does_no_harm() -> None:
    board = Board(1, 1)
    holdings = Holdings(board, 0)
    holdings.hold(0, [delivery(1)])
    start, _ = board.annex("holdings", 0)
    at = start + module._TOTALS_SIZE
    board.memory[at] |= 1  # in the middle of the next writing
    assert holdings.held() == {}
    board.memory[at] &= 0xFE
    board.memory[at + 4 : at + 8] = b"\xff" * 4  # a number that cannot be
    assert holdings.held() == {}
    Holdings(board, 0).hold(0, [delivery(2)])
    assert ids(holdings.held()) == {2: "id-2"}
