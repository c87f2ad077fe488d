"""SQLite: several processes, killed, stopped and forked ones, a locked, full, damaged or foreign file."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from celeriac.engines import create
from celeriac.engines.base import Incarnation, Outcome, Publication, Verdict
from celeriac.engines.results import ResultRecord
from celeriac.engines.sqlite import SQLiteEngine
from celeriac.engines.sqlite.store import Store
from celeriac.exceptions import OperationalError, SchemaError, StoreFull
from celeriac.message import Message, decode_envelope

PROCESSES = Path(__file__).with_name("sqlite_processes.py")


def pub(task_id: str, queue: str = "q", body: bytes = b"[[], {}, {}]") -> Publication:
    return Publication(Message({"id": task_id, "task": "t"}, {}, body), queue)


def path_of(engine: SQLiteEngine) -> Path:
    return Path(engine.url.removeprefix("sqlite:///").partition("?")[0])


def integrity(path: Path) -> str:
    with closing(sqlite3.connect(path)) as handle:
        return str(handle.execute("PRAGMA integrity_check").fetchone()[0])


@contextmanager
def process(role: str, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """Run a role of sqlite_processes.py; it has printed its first line when this begins."""
    command = [sys.executable, str(PROCESSES), role, *arguments]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=os.environ)
    try:
        assert child.stdout is not None
        assert child.stdout.readline()
        yield child
    finally:
        child.kill()
        child.wait()
        child.stdout.close()


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[SQLiteEngine]:
    engine = create(f"sqlite:///{tmp_path / 'store.db'}", {})
    assert isinstance(engine, SQLiteEngine)
    yield engine
    engine.close()


def test_killed_workers_lose_nothing(engine: SQLiteEngine) -> None:
    ids = {f"task-{number}" for number in range(3000)}
    engine.publish([pub(task_id) for task_id in ids])
    for child in range(1, 6):
        with process("work", engine.url, str(child)) as worker:
            # Killed in mid-run, once it has moved something: no sleep says when that is.
            while (left := engine.depth(["q"])["q"].ready) > 3000 - child * 300 and worker.poll() is None:
                pass
            worker.send_signal(signal.SIGKILL)
        assert left or child == 5
    assert integrity(path_of(engine)) == "ok"
    leased = engine.depth(["q"])["q"].leased
    assert leased
    assert sum(engine.release(f"node:{child}:1", {}) for child in range(1, 6)) == leased
    with process("work", engine.url, "9") as worker:
        worker.wait(60)
    assert set(engine.fetch(list(ids))) == ids
    assert engine.depth(["q"])["q"]._replace(age=None) == (0, 0, 0, 0, 0, None)


def test_two_processes_claim_disjoint_sets(engine: SQLiteEngine) -> None:
    engine.publish([pub(f"task-{number}") for number in range(2000)])
    with process("work", engine.url, "1") as first, process("work", engine.url, "2") as second:
        counts = [int(worker.stdout.readline()) for worker in (first, second) if worker.stdout]
    assert sum(counts) == 2000
    assert len(engine.fetch([f"task-{number}" for number in range(2000)])) == 2000


def test_a_stopped_writer_is_named_after_a_bounded_wait(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'store.db'}?lock_timeout=0.3"
    engine = create(url, {})
    assert engine.queues() == []
    with process("stop_in_transaction", url) as holder:
        os.waitid(os.P_PID, holder.pid, os.WSTOPPED | os.WNOWAIT)
        for _ in range(2):
            with pytest.raises(OperationalError, match=rf"process {holder.pid} holds it and is stopped"):
                engine.publish([pub("a")])
        assert engine.depth(["q"])["q"].ready == 0  # reading goes on
        holder.send_signal(signal.SIGCONT)
        holder.wait(10)
    engine.publish([pub("a")])
    assert engine.depth(["q"])["q"].ready == 1
    engine.close()


def test_a_killed_writer_leaves_the_gate_open(engine: SQLiteEngine) -> None:
    with process("stop_in_transaction", engine.url) as holder:
        holder.kill()
        holder.wait()
    engine.publish([pub("a")])
    assert engine.depth(["q"])["q"].ready == 1


def test_a_foreign_programs_lock_is_waited_for(engine: SQLiteEngine) -> None:
    engine.publish([pub("a")])
    with process("lock_from_outside", engine.url, "0.2"):
        engine.publish([pub("b")])
    assert engine.depth(["q"])["q"].ready == 2


def test_a_foreign_programs_lock_is_an_error_in_the_end(tmp_path: Path) -> None:
    engine = create(f"sqlite:///{tmp_path / 'store.db'}?lock_timeout=0.2", {})
    engine.publish([pub("a")])
    with (
        process("lock_from_outside", engine.url, "60"),
        pytest.raises(OperationalError, match=r"store\.db is locked by another program.*lock_timeout"),
    ):
        engine.publish([pub("b")])
    engine.close()


def in_fork(work: Callable[[], None]) -> int:
    """Run ``work`` in a forked child; return its exit code."""
    if (pid := os.fork()) == 0:
        try:
            work()
        except BaseException as error:
            print(repr(error), file=sys.stderr, flush=True)
            os._exit(1)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def open_handles(engine: SQLiteEngine) -> int:
    return sum(connection.handle is not None for connection in engine._store._all)


def test_no_handle_crosses_a_fork(engine: SQLiteEngine) -> None:
    engine.publish([pub("a")])
    consumer = engine.attach(Incarnation("n", 1, 1))
    assert open_handles(engine) == 1
    consumer.exchange([], ["q"], 0)
    assert open_handles(engine) == 2

    def child() -> None:
        assert open_handles(engine) == 0
        assert not [link for link in open_files() if str(path_of(engine)) in link]
        engine.publish([pub("b")])

    assert in_fork(child) == 0
    assert open_handles(engine) == 0
    assert len(consumer.exchange([], ["q"], 10).deliveries) == 2
    consumer.close()


def open_files() -> list[str]:
    links = []
    for name in os.listdir("/proc/self/fd"):
        try:
            links.append(os.readlink(f"/proc/self/fd/{name}"))
        except FileNotFoundError:
            pass
    return links


def test_a_childs_commit_survives_its_parents_close(engine: SQLiteEngine) -> None:
    """The last handle to close deletes the log: a parent must not believe it is the last."""
    engine.publish([pub("a")])
    ready, go = os.pipe(), os.pipe()

    def child() -> None:
        engine.publish([pub("b")])
        os.write(ready[1], b".")
        os.read(go[0], 1)
        engine.publish([pub("c")])

    if (pid := os.fork()) == 0:
        child()
        os._exit(0)
    os.read(ready[0], 1)
    engine.publish([pub("d")])
    engine.close()
    os.write(go[1], b".")
    assert os.waitpid(pid, 0)[1] == 0
    assert engine.depth(["q"])["q"].ready == 4
    assert integrity(path_of(engine)) == "ok"


def test_a_fork_inside_a_transaction_shuts_the_file_for_the_child(tmp_path: Path) -> None:
    engine = create(f"sqlite:///{tmp_path / 'store.db'}?lock_timeout=0.1", {})
    assert isinstance(engine, SQLiteEngine)
    engine.publish([pub("a")])
    inside, leave = threading.Event(), threading.Event()

    def hold() -> None:
        with engine._store.write():
            inside.set()
            leave.wait(10)

    thread = threading.Thread(target=hold)
    thread.start()
    inside.wait(10)

    def child() -> None:
        with pytest.raises(OperationalError, match="forked while its parent had the file open"):
            engine.publish([pub("b")])

    assert in_fork(child) == 0
    leave.set()
    thread.join()
    assert engine.depth(["q"])["q"].ready == 1
    engine.close()


def test_a_result_reaches_a_subscriber_after_a_fork(engine: SQLiteEngine) -> None:
    engine.publish([pub("a")])
    address = engine.reply_address()

    def child() -> None:
        assert engine.reply_address() != address
        arrived = threading.Event()
        engine.subscribe(["x"], lambda *_: arrived.set())
        engine.store([ResultRecord("x", "SUCCESS", b"1")])
        assert arrived.wait(10)
        engine.close()

    assert in_fork(child) == 0
    assert engine.reply_address() == address


def test_a_killed_listeners_pipe_is_removed(engine: SQLiteEngine) -> None:
    engine.publish([pub("a")])

    def child() -> None:
        engine.reply_address()
        os.kill(os.getpid(), signal.SIGKILL)

    assert in_fork(child) == -signal.SIGKILL
    pipes = list(engine._store.location.folder.glob("results-*"))
    assert len(pipes) == 1
    engine.store([ResultRecord("x", "SUCCESS", b"1")])
    assert not pipes[0].exists()


# -- a full disk ---------------------------------------------------------------------------------------


def limit_pages(monkeypatch: pytest.MonkeyPatch, pages: int) -> None:
    """Let SQLite find the disk full beyond so many pages."""
    opener = Store._open

    def limited(store: Store) -> Any:
        handle, gate = opener(store)
        handle.execute(f"PRAGMA max_page_count={pages}")
        return handle, gate

    monkeypatch.setattr(Store, "_open", limited)


def test_a_full_file_refuses_publishes_and_keeps_what_it_has(
    engine: SQLiteEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    limit_pages(monkeypatch, 200)
    published = 0

    def publish_until_full() -> None:
        nonlocal published
        while True:
            engine.publish([pub(f"task-{published}", body=b"x" * 10_000)])
            published += 1

    with pytest.raises(StoreFull, match=r"store\.db has no room left.*Free some space"):
        publish_until_full()
    assert published > 10
    assert engine.depth(["q"])["q"].ready == published
    assert integrity(path_of(engine)) == "ok"


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 3 MiB."""
    command = ["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", str(tmp_path)]
    try:
        mounted = subprocess.run(command, capture_output=True, text=True)
    except FileNotFoundError:
        pytest.skip("there is no mount command")
    if mounted.returncode:
        pytest.skip(f"a small disk needs the right to mount one: {mounted.stderr.strip()}")
    yield tmp_path
    subprocess.run(["umount", str(tmp_path)], check=True)


def test_a_full_disk_is_drained_from_the_reserve(small_disk: Path) -> None:
    engine = create(f"sqlite:///{small_disk / 'store.db'}?reserve=1000000", {})
    assert isinstance(engine, SQLiteEngine)
    published = 40
    engine.publish([pub(f"task-{number}", body=b"x" * 10_000) for number in range(published)])
    consumer = engine.attach(Incarnation("n", 1, 1))
    (small_disk / "ballast").write_bytes(b"x" * free_bytes(small_disk))  # other programs fill the disk
    with pytest.raises(StoreFull, match=r"store\.db has no room left"):
        engine.publish([pub(f"too-much-{number}", body=b"x" * 10_000) for number in range(100)])
    outcomes: list[Outcome] = []
    results = []
    while answer := consumer.exchange(outcomes, ["q"], 8):
        assert not answer.refused
        outcomes = []
        for delivery in answer.deliveries:
            task_id = decode_envelope(delivery.payload).headers["id"]
            results.append(task_id)
            record = ResultRecord(task_id, "SUCCESS", b"1")
            outcomes.append(Outcome(delivery.token, "q", Verdict.ACK, record))
        if not outcomes:
            break
    assert results == [f"task-{number}" for number in range(published)]
    assert set(engine.fetch(results)) == set(results)
    # Whoever publishes waits until the reserve is there again.
    with pytest.raises(StoreFull, match="nothing is published until there is room again"):
        engine.publish([pub("late")])
    (small_disk / "ballast").unlink()
    engine.publish([pub("late")])
    assert len(consumer.exchange([], ["q"], 8).deliveries) == 1
    consumer.close()
    engine.close()


def free_bytes(path: Path) -> int:
    status = os.statvfs(path)
    return status.f_bavail * status.f_frsize


# -- files that are not ours, or not well ----------------------------------------------------------------


def open_at(path: Path) -> None:
    create(f"sqlite:///{path}", {}).publish([pub("a")])


def test_a_missing_directory_is_named(tmp_path: Path) -> None:
    with pytest.raises(OperationalError, match=r"the directory .*/missing does not exist. Create it"):
        open_at(tmp_path / "missing" / "store.db")


def test_text_is_not_a_database(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    path.write_bytes(b"these are my notes" * 100)
    with pytest.raises(SchemaError, match=r"store\.db is not an SQLite database. Name another file"):
        open_at(path)
    assert path.read_bytes() == b"these are my notes" * 100


def test_another_programs_database_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    with closing(sqlite3.connect(path)) as handle:
        handle.execute("CREATE TABLE mine (a)")
    before = path.read_bytes()
    with pytest.raises(SchemaError, match="another program's SQLite database"):
        open_at(path)
    assert path.read_bytes() == before


def test_a_newer_schema_is_refused(engine: SQLiteEngine) -> None:
    engine.publish([pub("a")])
    engine.close()
    with closing(sqlite3.connect(path_of(engine))) as handle:
        handle.execute("PRAGMA user_version=99")
    with pytest.raises(SchemaError, match="schema version 99, written by a newer Celeriac"):
        open_at(path_of(engine))


def test_a_damaged_file_is_named(engine: SQLiteEngine) -> None:
    engine.publish([pub(f"task-{number}", body=b"x" * 3000) for number in range(100)])
    engine.close()
    path = path_of(engine)
    content = bytearray(path.read_bytes())
    content[4096 * 3 :] = b"\xff" * (len(content) - 4096 * 3)
    path.write_bytes(content)
    with pytest.raises(SchemaError, match=r"store\.db is damaged"):
        engine.attach(Incarnation("n", 1, 1)).exchange([], ["q"], 100)


def test_a_read_only_directory_is_named() -> None:
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o555)
        with (
            as_ordinary_user(),
            pytest.raises(OperationalError, match="check the directory's permissions"),
        ):
            open_at(Path(folder) / "store.db")
        os.chmod(folder, 0o700)


@contextmanager
def as_ordinary_user() -> Iterator[None]:
    """Be nobody for a moment if we are root, for whom nothing is read-only."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


def test_a_read_only_file_is_named(engine: SQLiteEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    opener = Store._open

    def read_only(store: Store) -> Any:
        handle, gate = opener(store)
        handle.execute("PRAGMA query_only=ON")
        return handle, gate

    monkeypatch.setattr(Store, "_open", read_only)
    with pytest.raises(OperationalError, match=r"store\.db is read-only for this user. Make the file"):
        engine.publish([pub("a")])
