"""Bad input: what people see, and that nothing is lost, with real workers and clients on every store."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from celeriac import Celeriac
from celeriac.exceptions import EncodeError, OperationalError
from celeriac.message import encode_envelope
from tests.integration.conftest import Site
from tests.servers import RedisServer, free_port

pytestmark = pytest.mark.timeout(90)

BAD = ("-I", "tests.integration.bad_tasks")


def put(site: Site, payload: bytes) -> None:
    """Put bytes into the queue as a foreign program would."""
    if site.broker.startswith("redis"):
        import redis

        redis.Redis.from_url(site.broker).lpush("celery", payload)
        return
    if site.broker.startswith("amqp"):
        site.put(payload)
        return
    site.app.broker.queues()  # there are tables
    if site.broker.startswith("postgresql"):
        import psycopg

        with psycopg.connect(site.broker, autocommit=True) as connection:
            connection.execute(
                "SELECT celeriac.add('{celery}', '{0}', '{}', '{}', ARRAY[%s], '{}', '{}', "
                "'{celery}', false)",
                (payload,),
            )
        return
    with closing(sqlite3.connect(database(site), timeout=10, isolation_level=None)) as handle:
        handle.execute("BEGIN IMMEDIATE")
        (serial,) = handle.execute("UPDATE state SET serial = serial + 2 RETURNING serial").fetchone()
        handle.execute("INSERT INTO payload (id, body) VALUES (?, ?)", (serial, payload))
        handle.execute(
            "INSERT INTO ready (queue, rank, seq, id, since, admitted) VALUES ('celery', 0, ?, ?, ?, 0)",
            (serial - 1, serial, time.time()),
        )
        handle.execute("COMMIT")


def database(site: Site) -> Path:
    return Path(site.broker.removeprefix("sqlite:///"))


def envelope(site: Site, *args: Any) -> bytes:
    """A good message, as it is stored."""
    publication = site.app.publisher.build("tests.integration.project.mark", args)
    publication.message.properties.setdefault("delivery_info", {"exchange": "", "routing_key": "celery"})
    return encode_envelope(publication.message)


def await_letters(site: Site, count: int) -> list[Any]:
    site.await_true(lambda: len(site.app.broker.dead_letters()) >= count)
    return list(site.app.broker.dead_letters())


# -- messages ----------------------------------------------------------------------------------------------


def test_what_is_no_message_is_kept_as_a_dead_letter(site: Site) -> None:
    whole = envelope(site, "cut")
    garbage = [
        b"plain text",
        b"",
        b"\xff\xfe\x00",
        b"{}",
        b"[1, 2]",
        b"null",
        whole[: len(whole) // 2],
        whole[:-1],
        whole.replace(b"application/json", b"application/x-what"),
        b'{"body": "!!!", "headers": {}, "properties": {}}',
        b'{"body": 7, "headers": [], "properties": "x"}',
        b'{"body": "W10=", "headers": {"task": 5, "id": {}}, "content-type": "application/json",'
        b' "content-encoding": "utf-8", "properties": {"body_encoding": "base64"}}',
    ]
    before = site.send("mark", "before")
    for payload in garbage:
        put(site, payload)
    after = site.send("mark", "after")
    worker = site.worker("-c", "1")
    assert (before.get(timeout=10), after.get(timeout=10)) == ("before", "after")
    letters = await_letters(site, len(garbage))
    assert sorted(letter.payload for letter in letters) == sorted(garbage)
    assert {letter.reason for letter in letters} == {"undecodable"}
    assert all(letter.detail for letter in letters)
    said = "Cannot read a message from 'celery', now a dead letter"
    site.await_true(lambda: worker.log.count(said) == len(garbage))
    assert "Traceback" not in worker.log
    assert worker.children()
    assert site.journal() == ["before", "after"]


def test_pickle_is_refused_and_named(site: Site) -> None:
    site.app.conf.accept_content = ["json", "pickle"]
    result = site.send("mark", "x", serializer="pickle")
    site.worker("-c", "1")
    with pytest.raises(Exception, match="pickle"):
        result.get(timeout=10)
    (letter,) = await_letters(site, 1)
    assert (letter.reason, letter.task_id) == ("undecodable", result.id)
    assert "pickle" in letter.detail
    assert "accept_content" in letter.detail


def test_an_oversized_call_fails_where_it_is_made(site: Site) -> None:
    site.app.conf.message_max_size = 1000
    with pytest.raises(EncodeError, match=r"mark take 5\d\d\d bytes.*message_max_size.*\(1000\).*reference"):
        site.send("mark", "x" * 5000)
    assert site.app.broker.depth(["celery"])["celery"].ready == 0


def test_an_oversized_message_is_a_dead_letter_and_a_failure(site: Site) -> None:
    site.worker("-c", "1", message_max_size=2000)
    result = site.send("mark", "x" * 5000)
    with pytest.raises(Exception, match="message_max_size"):
        result.get(timeout=10)
    (letter,) = await_letters(site, 1)
    assert (letter.reason, letter.task_id) == ("undecodable", result.id)
    assert len(letter.payload) > 5000
    assert site.send("mark", "small").get(timeout=10) == "small"


def test_a_dead_letter_replayed_to_a_worker_that_knows_the_task_runs(site: Site) -> None:
    first = site.worker("-c", "1")
    result = site.app.send_task("tests.integration.bad_tasks.large", (3,))
    with pytest.raises(Exception, match="large"):
        result.get(timeout=10)
    await_letters(site, 1)
    first.stop()
    result.forget()
    assert site.app.broker.replay() == 1
    site.worker("-c", "1", *BAD)
    assert site.app.AsyncResult(result.id).get(timeout=10) == "xxx"
    assert site.app.broker.dead_letters() == []


# -- calls -------------------------------------------------------------------------------------------------


def test_wrong_arguments_fail_where_the_call_is_made(site: Site) -> None:
    @site.app.task(name="tests.integration.project.add")
    def add(x: int, y: int) -> int:
        return x + y

    call: Any = add.delay  # mypy would find both mistakes
    with pytest.raises(TypeError, match=r"add\(x.*missing a required argument: 'y'"):
        call(1)
    with pytest.raises(TypeError, match=r"add\(x.*unexpected keyword argument 'z'"):
        call(1, 2, z=3)
    assert site.app.broker.depth(["celery"])["celery"].ready == 0


def test_wrong_arguments_by_name_fail_in_the_worker(site: Site) -> None:
    site.worker("-c", "1")
    with pytest.raises(TypeError, match=r"missing 1 required positional argument: 'y'"):
        site.send("add", 1).get(timeout=10)
    assert site.send("add", 1, 2).get(timeout=10) == 3


def test_an_argument_that_cannot_be_serialised_is_named(site: Site) -> None:
    with pytest.raises(EncodeError, match=r"args\[1\]"):
        site.send("add", 1, object())
    with pytest.raises(EncodeError, match=r"args\[0\]"):
        site.send("mark", {"deep": [object()]})
    assert site.app.broker.depth(["celery"])["celery"].ready == 0


# -- results -----------------------------------------------------------------------------------------------


def test_a_result_too_large_is_a_failure_that_says_so(site: Site) -> None:
    site.worker("-c", "1", *BAD, result_max_size=1000)
    result = site.app.send_task("tests.integration.bad_tasks.large", (5000,))
    with pytest.raises(Exception, match=r"the result takes 5\d\d\d bytes, more than result_max_size"):
        result.get(timeout=10)
    assert result.state == "FAILURE"
    assert site.send("add", 1, 2).get(timeout=10) == 3


@pytest.mark.parametrize(
    ("name", "kind", "text"),
    [
        ("raise_odd", "OddError", "object object at"),
        ("raise_unshowable", "OddError", "Unrepresentable"),
        ("circular", "EncodeError", r"result"),
        ("deep", "EncodeError", r"result"),
    ],
)
def test_what_cannot_be_stored_ends_in_a_failure(site: Site, name: str, kind: str, text: str) -> None:
    worker = site.worker("-c", "1", *BAD)
    args = (100_000,) if name == "deep" else ()
    result = site.app.send_task(f"tests.integration.bad_tasks.{name}", args)
    after = site.send("mark", "after")
    assert after.get(timeout=15) == "after"
    site.await_true(lambda: result.ready())
    assert result.state == "FAILURE"
    with pytest.raises(Exception, match=text) as raised:
        result.get(timeout=5)
    assert type(raised.value).__name__ == kind
    assert "lost its process" not in worker.log


# -- a broker that is away ---------------------------------------------------------------------------------


@pytest.fixture
def durable(tmp_path: Path) -> Iterator[RedisServer]:
    """A Redis of the test's own with a password, that keeps what it has acknowledged."""
    with RedisServer("aof-always", password="hush-hush") as server:
        yield server


@pytest.fixture
def redis_site(durable: RedisServer, tmp_path: Path) -> Iterator[Site]:
    site = Site(durable.url(), tmp_path)
    yield site
    site.close()


def test_a_broker_that_is_down_at_publish_is_a_clear_error_in_time(tmp_path: Path) -> None:
    port = free_port()
    app = Celeriac("client", broker=f"redis://me:hush-hush@127.0.0.1:{port}/0", set_as_current=False)
    app.conf.broker_publish_timeout = 1.0
    began = time.monotonic()
    with pytest.raises(OperationalError) as raised:
        app.send_task("tests.integration.project.mark", ("x",))
    assert time.monotonic() - began < 2
    text = str(raised.value)
    assert f"127.0.0.1:{port}" in text
    assert "Check that the broker runs" in text
    assert "hush-hush" not in text
    app.close()


def test_a_broker_that_does_not_answer_at_publish_is_an_error_in_time(
    redis_site: Site, durable: RedisServer
) -> None:
    redis_site.app.conf.broker_publish_timeout = 1.0
    redis_site.send("mark", "first")
    durable.freeze()
    began = time.monotonic()
    try:
        with pytest.raises(OperationalError, match="may have been stored") as raised:
            redis_site.send("mark", "x")
        assert time.monotonic() - began < 3
        assert "hush-hush" not in str(raised.value)
    finally:
        durable.resume()


def test_a_worker_that_starts_before_its_broker_waits_for_it(tmp_path: Path) -> None:
    port = free_port()
    server = RedisServer("aof-always", password="hush-hush", port=port)
    site = Site(server.url(), tmp_path)
    try:
        worker = site.worker("-c", "1", ready=False)
        line = worker.await_line("Cannot attach yet, trying on")
        assert f"127.0.0.1:{port}" in line
        with server:
            assert site.send("mark", "x").get(timeout=20) == "x"
            assert "hush-hush" not in worker.log
            assert "Traceback" not in worker.log
            site.close()
    finally:
        site.close()


def test_a_broker_lost_while_idle_is_found_again(redis_site: Site, durable: RedisServer) -> None:
    worker = redis_site.worker("-c", "2")
    assert redis_site.send("mark", "1").get(timeout=10) == "1"
    durable.kill()
    worker.await_line("Lost the broker")
    durable.start()
    assert redis_site.send("mark", "2").get(timeout=20) == "2"
    assert redis_site.journal() == ["1", "2"]
    assert "hush-hush" not in worker.log
    assert "Traceback" not in worker.log


def test_a_broker_lost_while_a_task_runs_gets_its_result_once(redis_site: Site, durable: RedisServer) -> None:
    worker = redis_site.worker("-c", "1")
    result = redis_site.send("nap", 1.0, "x")
    waiting = [redis_site.send("mark", str(number)) for number in range(20)]
    redis_site.await_journal(lambda lines: lines == ["start x"])
    durable.kill()
    redis_site.await_journal(lambda lines: lines == ["start x", "end x"])
    worker.await_line("Lost the broker")
    durable.start()
    assert result.get(timeout=20) == "x"
    assert [one.get(timeout=20) for one in waiting] == [str(number) for number in range(20)]
    assert sorted(redis_site.journal()) == sorted(["start x", "end x", *map(str, range(20))])


# -- a file that cannot be written -------------------------------------------------------------------------


@pytest.fixture
def file_site(tmp_path: Path) -> Iterator[Site]:
    site = Site(f"sqlite:///{tmp_path}/queue.db", tmp_path)
    yield site
    site.close()


LOCKER = """
import sqlite3, sys
handle = sqlite3.connect(sys.argv[1], timeout=10, isolation_level=None)
handle.execute("BEGIN EXCLUSIVE")
print("locked", flush=True)
sys.stdin.read()
"""


@contextmanager
def locked(site: Site) -> Iterator[None]:
    """Another program holds the file."""
    process = subprocess.Popen(
        [sys.executable, "-c", LOCKER, str(database(site))], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        assert process.stdout.readline() == b"locked\n"
        yield
    finally:
        process.stdin.close()
        process.wait(10)
        process.stdout.close()


def test_a_locked_file_is_a_clear_error_at_publish_in_time(tmp_path: Path) -> None:
    site = Site(f"sqlite:///{tmp_path}/queue.db", tmp_path)
    site.app.conf.broker_publish_timeout = 1.0
    site.send("mark", "before")
    with locked(site):
        began = time.monotonic()
        with pytest.raises(OperationalError, match=r"queue\.db is locked by another program.*Close what"):
            site.send("mark", "x")
        assert time.monotonic() - began < 3
    assert site.app.broker.depth(["celery"])["celery"].ready == 1
    site.close()


def test_a_worker_waits_for_a_locked_file_and_loses_nothing(tmp_path: Path) -> None:
    site = Site(f"sqlite:///{tmp_path}/queue.db?lock_timeout=0.2", tmp_path)
    try:
        site.broker = f"sqlite:///{tmp_path}/queue.db"
        worker = site.worker("-c", "1")
        result = site.send("nap", 0.5, "x")
        site.await_journal(lambda lines: lines == ["start x"])
        with locked(site):
            worker.await_line("is locked by another program")
        assert result.get(timeout=20) == "x"
        assert site.send("mark", "y").get(timeout=10) == "y"
        assert site.journal() == ["start x", "end x", "y"]
        assert "Traceback" not in worker.log
    finally:
        site.close()


@contextmanager
def powerless() -> Iterator[None]:
    """Root may write anywhere: be nobody for the time of the block."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.fixture
def open_path(tmp_path: Path) -> Path:
    """A folder that every user can look into."""
    for folder in (tmp_path, *tmp_path.parents):
        if folder.owner() == tmp_path.owner() and folder != Path("/"):
            folder.chmod(folder.stat().st_mode | 0o055)
        if folder == Path("/tmp"):
            break
    return tmp_path


def test_a_read_only_file_is_a_clear_error_and_keeps_what_it_has(open_path: Path) -> None:
    url = f"sqlite:///{open_path}/queue.db"
    site = Site(url, open_path)
    site.send("mark", "kept")
    site.app.close()
    open_path.chmod(0o555)
    for path in (open_path / "queue.db", open_path / "queue.db.d"):
        path.chmod(0o555 if path.is_dir() else 0o444)
    reader = Celeriac("reader", broker=url, set_as_current=False)
    reader.conf.broker_publish_timeout = 1.0
    try:
        with powerless(), pytest.raises(OperationalError, match=r"queue\.db.*[Cc]heck|Make") as raised:
            reader.send_task("tests.integration.project.mark", ("x",))
        assert "permi" in str(raised.value).lower() or "read-only" in str(raised.value)
    finally:
        open_path.chmod(0o755)
        (open_path / "queue.db").chmod(0o644)
        (open_path / "queue.db.d").chmod(0o755)
        reader.close()
    site = Site(url, open_path)
    site.worker("-c", "1")
    site.await_journal(lambda lines: lines == ["kept"])
    site.close()


def test_a_full_file_is_a_clear_error_and_keeps_what_it_has(file_site: Site) -> None:
    """The file may not grow (``ulimit -f``), as on a full disk; then it may again."""
    site = file_site
    results = [site.send("mark", str(number)) for number in range(20)]
    script = f"""
import resource, signal
from celeriac import Celeriac
from celeriac.exceptions import OperationalError
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
app = Celeriac("full", broker={site.broker!r}, set_as_current=False)
app.conf.broker_publish_timeout = 0.5
app.broker.queues()
resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, resource.RLIM_INFINITY))
sent = 0
try:
    while sent < 1000:
        app.send_task("tests.integration.project.mark", ("x" * 50_000,))
        sent += 1
except OperationalError as error:
    print(sent, error)
"""
    told = subprocess.run([sys.executable, "-c", script], env=site.env, capture_output=True, text=True)
    assert "queue.db" in told.stdout, told
    sent = int(told.stdout.split()[0])
    site.worker("-c", "1")
    assert [result.get(timeout=20) for result in results] == [str(number) for number in range(20)]
    site.await_journal(lambda lines: len(lines) == 20 + sent)
