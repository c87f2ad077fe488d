"""The tape: what a child writes, the agent reads, whatever happens to either."""

from __future__ import annotations

import os
import signal
import struct
import threading

import pytest

from celeriac.worker.board import Board
from celeriac.worker.tape import Tape, TapeReader


@pytest.fixture
def board(monkeypatch: pytest.MonkeyPatch) -> Board:
    """With tapes of 8 KiB, which wrap around soon."""
    monkeypatch.setattr("celeriac.worker.board.ANNEXES", {"tape": 8 * 1024 + 64, "holdings": 64})
    return Board(2, 1)


def test_records_come_out_as_they_went_in_round_and_round(board: Board) -> None:
    tape, reader = Tape(board, 1), TapeReader(board, 1)
    written, read = [], []
    for number in range(2000):
        record = str(number).encode() * (1 + number % 37)
        written.append(record)
        assert tape.append(record)
        if number % 3 == 0:
            read += reader.take(1 << 20)
    read += reader.take(1 << 20)
    assert read == written
    start, size = board.annex("holdings", 1)
    assert board.memory[start : start + size] == bytes(size), "it wrote beyond its end"
    assert reader.newly_dropped() == 0
    assert reader.damaged == 0


def test_a_full_tape_drops_what_is_new_and_counts_it(board: Board) -> None:
    tape, reader = Tape(board, 0), TapeReader(board, 0)
    record = b"x" * 1000
    kept = 0
    while tape.append(record, 3):
        kept += 1
    assert kept == 8
    assert not tape.append(record, 3)
    assert reader.newly_dropped() == 6
    assert reader.newly_dropped() == 0
    assert len(reader.take(1 << 20)) == kept
    assert tape.append(record)


def test_a_record_that_is_too_long_is_dropped_and_harms_no_other(board: Board) -> None:
    tape, reader = Tape(board, 0), TapeReader(board, 0)
    assert not tape.append(b"x" * (tape.longest + 1))
    assert tape.append(b"y" * tape.longest)
    assert reader.take(1 << 20) == [b"y" * tape.longest]


def test_it_takes_no_more_than_asked_for(board: Board) -> None:
    tape, reader = Tape(board, 0), TapeReader(board, 0)
    for _ in range(5):
        tape.append(b"x" * 100)
    assert len(reader.take(250)) == 3
    assert reader.waiting > 0
    reader.skip()
    assert reader.waiting == 0
    assert reader.take(250) == []


def test_a_writer_that_is_killed_in_the_middle_leaves_whole_records_only(board: Board) -> None:
    reader = TapeReader(board, 0)
    for _ in range(3):
        pid = os.fork()
        if pid == 0:
            tape = Tape(board, 0)
            tape.append(b"whole")
            at = tape._data + tape._head % tape._size
            board.memory[at : at + 8] = struct.pack("@II", 4, 4 ^ 0x5EA1C0DE)
            board.memory[at + 8 : at + 10] = b"to"  # of "torn"; the head is moved last
            os.kill(os.getpid(), signal.SIGKILL)
        assert os.waitpid(pid, 0)[1] == signal.SIGKILL
    Tape(board, 0).append(b"next")
    assert reader.take(1 << 20) == [b"whole"] * 3 + [b"next"]
    assert reader.damaged == 0


def test_a_damaged_frame_is_skipped(board: Board) -> None:
    tape, reader = Tape(board, 0), TapeReader(board, 0)
    tape.append(b"good")
    at = board.annex("tape", 0)[0] + 64
    board.memory[at : at + 4] = b"\xff\x00\x00\x01"
    assert reader.take(1 << 20) == []
    assert reader.damaged == 1
    tape.append(b"later")
    assert reader.take(1 << 20) == [b"later"]


def test_threads_of_one_writer_do_not_mix_their_records(board: Board) -> None:
    tape, reader = Tape(board, 0), TapeReader(board, 0)
    records: list[bytes] = []

    def write(letter: bytes) -> None:
        for _ in range(300):
            while not tape.append(letter * 50):
                pass

    threads = [threading.Thread(target=write, args=(bytes([65 + n]),)) for n in range(4)]
    for thread in threads:
        thread.start()
    while len(records) < 1200:
        records += reader.take(1 << 20)
    for thread in threads:
        thread.join()
    assert all(len(set(record)) == 1 and len(record) == 50 for record in records)


def test_the_clock_is_ahead_of_all_that_was_heard(board: Board) -> None:
    tape, reader = Tape(board, 0), TapeReader(board, 0)
    assert [tape.tick(), tape.tick(3), tape.tick()] == [1, 2, 5]
    reader.note_clock(100)
    assert tape.tick() == 101
    reader.note_clock(50)
    assert tape.tick() == 102
