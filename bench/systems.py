"""The systems under test: how each is started, called, and how its finished tasks are counted."""

from __future__ import annotations

import atexit
import json
import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import cache, cached_property
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from tests.servers import RabbitServer

from bench.server import Server

ROOT = Path(__file__).parent.parent
OURS = Path(sys.executable)
THEIRS = Path(os.environ.get("BENCH_PYTHON", ROOT / ".bench-venv/bin/python"))

Count = Callable[["Stores", int], int]
"""How many of the tasks sent are done."""


class Stores:
    """Where one measurement's messages and results are kept; made fresh for each."""

    def __init__(
        self, broker: str, results: str, server: Server | None = None, pids: tuple[int, ...] = ()
    ) -> None:
        self.server = server
        self.pids = pids
        """The processes of the servers, without those that they have started."""
        self.environment = {"BENCH_BROKER": broker, "BENCH_RESULTS": results}

    @cached_property
    def _clients(self) -> dict[int, Any]:
        assert self.server is not None
        return {database: self.server.client(database) for database in (0, 1)}

    def redis(self, database: int) -> Any:
        """A client of one of the server's databases."""
        return self._clients[database]

    @cached_property
    def engine(self) -> Any:
        """Our own engine on these stores, for the counts that every engine can tell."""
        from celeriac.engines import create

        return create(self.environment["BENCH_BROKER"])

    @cached_property
    def database(self) -> Any:
        """A connection to PostgreSQL of its own: counting must not wait for anything."""
        import psycopg

        return psycopg.connect(self.environment["BENCH_BROKER"], autocommit=True)


class Reply(NamedTuple):
    """What a client's call took, in seconds: elapsed and of its processor time; and what it returned."""

    seconds: float
    cpu: float
    returned: Any


@dataclass(frozen=True)
class System:
    """One queue in one configuration."""

    name: str
    module: str
    """Its module in ``bench.peers``."""
    python: Path
    worker: tuple[str, ...]
    """The arguments of Python that start a worker of two processes; ``{BENCH_BROKER}`` stands for the URL."""
    done: Count
    guess: int
    """Tasks a second it may do, so that the backlog lasts long enough to be measured."""
    note: str = ""
    package: str = ""
    sqlite: str | None = None
    """For ours: the query of the SQLite URL to run on instead of Redis."""
    postgres: str | None = None
    """The ``synchronous_commit`` of the PostgreSQL to run on instead of Redis."""
    prepare: bool = False
    """Whether its module's ``prepare`` must be called before anything else."""
    rabbitmq: bool = False
    """Messages are on RabbitMQ; results stay in Redis."""
    heard: bool = False
    """Somebody listens to the worker's events (on Redis), and throws them away."""

    @property
    def ours(self) -> bool:
        return self.module == "celeriac_app"

    def call(self, stores: Stores, function: str, count: int, warm: int = 0) -> Reply:
        """Run a function of the client's side in a process of its own."""
        command = [
            str(self.python),
            "-m",
            "bench.driver",
            self.module,
            function,
            str(count),
            "--warm",
            str(warm),
        ]
        done = subprocess.run(
            command, cwd=ROOT, env=self._environment(stores), capture_output=True, text=True
        )
        if done.returncode:
            raise RuntimeError(f"{self.name}: {function}({count}) failed:\n{done.stderr[-2000:]}")
        return Reply(**json.loads(done.stdout.splitlines()[-1]))

    @contextmanager
    def running(self, stores: Stores) -> Iterator[subprocess.Popen[bytes]]:
        """Run a worker for the length of the block, in a process group that ends with it."""
        with tempfile.TemporaryFile() as log, listener(stores) if self.heard else nullcontext():
            process = subprocess.Popen(
                [str(self.python), *(part.format(**stores.environment) for part in self.worker)],
                cwd=ROOT,
                env=self._environment(stores),
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            try:
                yield process
            except TimeoutError as error:
                log.seek(0)
                raise RuntimeError(f"{self.name}: {error}\n{log.read()[-2000:].decode()}") from None
            finally:
                _stop(process)

    def version(self) -> str:
        """The version of the package in the system's environment."""
        package = self.package or self.name
        code = f"import importlib.metadata as m; print(m.version({package!r}))"
        return subprocess.run([str(self.python), "-c", code], capture_output=True, text=True).stdout.strip()

    def _environment(self, stores: Stores) -> dict[str, str]:
        return {
            **os.environ,
            **stores.environment,
            "PYTHONPATH": os.pathsep.join((str(ROOT), str(ROOT / "src"))),
        }


@contextmanager
def listener(stores: Stores) -> Iterator[None]:
    """Take all events as fast as they come: what a monitor makes of them is its own business."""
    url = urlsplit(stores.environment["BENCH_BROKER"])
    with socket.create_connection((url.hostname, url.port or 6379)) as connection:
        connection.sendall(b"PSUBSCRIBE /0.celeryev/*\r\n")
        assert connection.recv(1024).startswith(b"*3"), "the server does not let us listen"

        def listen() -> None:
            room = bytearray(1 << 20)
            while connection.recv_into(room):
                pass

        thread = threading.Thread(target=listen)
        thread.start()
        try:
            yield
        finally:
            connection.shutdown(socket.SHUT_RDWR)
            thread.join()


def _stop(process: subprocess.Popen[bytes]) -> None:
    # A short grace: what a worker does at its end is not measured, and its stores are thrown away.
    process.terminate()
    try:
        process.wait(2)
    except subprocess.TimeoutExpired:
        pass
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
    process.wait()


@contextmanager
def fresh_stores(system: System, server: Server | None, port: int | None = None) -> Iterator[Stores]:
    """Empty stores for a measurement of ``system``; through a proxy's ``port`` if given."""
    if system.sqlite is not None:
        with tempfile.TemporaryDirectory(prefix="celeriac-bench-") as folder:
            url = f"sqlite:///{folder}/celeriac.db{system.sqlite}"
            yield Stores(url, url)
        return
    if system.postgres is not None:
        from tests.servers import PostgresServer

        with PostgresServer(durable=True, config={"synchronous_commit": system.postgres}) as postgres:
            url = postgres.url()
            assert postgres.process is not None
            stores = Stores(url, url, pids=(postgres.process.pid,))
            if system.prepare:
                system.call(stores, "prepare", 1)
            yield stores
        return
    assert server is not None
    server.client().flushall()
    broker = server.url(0, port)
    pids: tuple[int, ...] = (server.pid,)
    if system.rabbitmq:
        rabbit = _rabbit()
        assert rabbit.process is not None
        broker, pids = rabbit.fresh_url(), (server.pid, rabbit.process.pid)
    yield Stores(broker, server.url(1, port), server, pids)


@cache
def _rabbit() -> RabbitServer:
    """A private RabbitMQ for all measurements that want one; each takes a virtual host of its own."""
    server = RabbitServer()
    server.start()
    atexit.register(server.stop)
    return server


# -- how many are done -------------------------------------------------------------------------------


def _result_keys(stores: Stores, sent: int) -> int:
    return int(stores.redis(1).dbsize())


def _huey_results(stores: Stores, sent: int) -> int:
    return int(stores.redis(0).hlen("huey.results.bench"))


def _saq_complete(stores: Stores, sent: int) -> int:
    return sent - int(stores.redis(0).zcard("saq:default:incomplete"))


def _rq_finished(stores: Stores, sent: int) -> int:
    return int(stores.redis(0).zcard("rq:finished:bench"))


def _no_longer_waiting(stores: Stores, sent: int) -> int:
    depth = stores.engine.depth(["celery"])["celery"]
    return sent - int(depth.ready) - int(depth.leased)


def _sqlite_results(stores: Stores, sent: int) -> int:
    path = stores.environment["BENCH_BROKER"].removeprefix("sqlite:///").partition("?")[0]
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as handle:
        return int(handle.execute("SELECT count(*) FROM result WHERE payload IS NOT NULL").fetchone()[0])


def _postgres_results(stores: Stores, sent: int) -> int:
    return int(
        stores.database.execute("SELECT count(*) FROM celeriac.result WHERE payload IS NOT NULL").fetchone()[
            0
        ]
    )


def _procrastinate_done(stores: Stores, sent: int) -> int:
    sql = "SELECT count(*) FROM procrastinate_jobs WHERE status IN ('todo', 'doing')"
    return sent - int(stores.database.execute(sql).fetchone()[0])


# -- the systems -------------------------------------------------------------------------------------

_CELERIAC = ("-m", "celeriac", "-A", "bench.peers.celeriac_app", "worker", "-c", "2", "-l", "ERROR")
_CELERY = ("-m", "celery", "-A", "bench.peers.celery_app", "worker", "-c", "2", "-l", "ERROR")
_CELERY_QUIET = ("--without-gossip", "--without-mingle", "--without-heartbeat")


def _ours(
    name: str,
    guess: int,
    *options: str,
    module: str = "celeriac_app",
    sqlite: str | None = None,
    postgres: str | None = None,
    note: str = "",
) -> System:
    done = _result_keys if module == "celeriac_app" else _no_longer_waiting
    if sqlite is not None:
        done = _sqlite_results
    if postgres is not None:
        done = _postgres_results
    command = tuple(word.replace("celeriac_app", module) for word in _CELERIAC)
    return System(
        name,
        module,
        OURS,
        command + options,
        done,
        guess,
        note=note,
        package="celeriac",
        sqlite=sqlite,
        postgres=postgres,
    )


def _procrastinate(name: str, commit: str) -> System:
    # A worker is one process: two of them, ended with their process group.
    worker = "from procrastinate.cli import main; import sys; sys.argv[0] = 'procrastinate'; main()"
    twice = f"import os; os.fork(); {worker}"
    return System(
        name,
        "procrastinate_app",
        THEIRS,
        ("-c", twice, "--app", "bench.peers.procrastinate_app.app", "worker", "-q", "bench", "-c", "10"),
        _procrastinate_done,
        500,
        note=f"PostgreSQL, synchronous_commit={commit}; 2 processes of 10 coroutines; keeps no results",
        package="procrastinate",
        postgres=commit,
        prepare=True,
    )


SYSTEMS = {
    system.name: system
    for system in (
        _ours("celeriac", 20_000, note='prefetch "auto"'),
        _ours("celeriac-prefetch-1", 10_000, "--prefetch-multiplier", "1", note="prefetch 1"),
        replace(_ours("celeriac-events", 20_000, "-E", note="task events on, and heard"), heard=True),
        _ours("celeriac-tracked", 15_000, module="celeriac_tracked_app", note="task_track_queued on"),
        _ours(
            "celeriac-sqlite", 15_000, sqlite="", note="SQLite as it comes: publishers FULL, workers NORMAL"
        ),
        _ours("celeriac-postgres", 30_000, postgres="off", note="PostgreSQL, synchronous_commit=off"),
        _ours("celeriac-postgres-sync", 20_000, postgres="on", note="PostgreSQL, synchronous_commit=on"),
        replace(_ours("celeriac-rabbitmq", 8_000, note="RabbitMQ, results in Redis"), rabbitmq=True),
        System(
            "celery-rabbitmq",
            "celery_app",
            THEIRS,
            _CELERY + _CELERY_QUIET,
            _result_keys,
            1000,
            note="RabbitMQ, results in Redis; prefork, acks late",
            package="celery",
            rabbitmq=True,
        ),
        _ours("celeriac-sqlite-full", 8_000, sqlite="?synchronous=FULL", note="SQLite, all at FULL"),
        System(
            "celery",
            "celery_app",
            THEIRS,
            _CELERY + _CELERY_QUIET,
            _result_keys,
            1000,
            note="prefork, acks late",
        ),
        System(
            "huey",
            "huey_app",
            THEIRS,
            (
                "-m",
                "huey.bin.huey_consumer",
                "bench.peers.huey_app.huey",
                "-k",
                "process",
                "-w",
                "2",
                "-q",
                "-n",
            ),
            _huey_results,
            4000,
            note="no acknowledgement",
        ),
        System(
            "dramatiq",
            "dramatiq_app",
            THEIRS,
            ("-m", "dramatiq", "bench.peers.dramatiq_app", "-p", "2", "-t", "8", "--skip-logging"),
            _result_keys,
            1500,
            note="2 processes of 8 threads",
        ),
        System(
            "taskiq",
            "taskiq_app",
            THEIRS,
            (
                "-m",
                "taskiq",
                "worker",
                "bench.peers.taskiq_app:broker",
                "--workers",
                "2",
                "--log-level",
                "ERROR",
            ),
            _result_keys,
            3000,
            note="Redis streams",
        ),
        System(
            "saq",
            "saq_app",
            THEIRS,
            ("-m", "saq", "bench.peers.saq_app.settings", "--workers", "2", "-q"),
            _saq_complete,
            1500,
            note="2 processes of 10 coroutines",
        ),
        System(
            "rq",
            "rq_app",
            THEIRS,
            (
                *(
                    str(THEIRS.with_name("rq")),
                    "worker-pool",
                    "bench",
                    "-n",
                    "2",
                    "-q",
                    "-u",
                    "{BENCH_BROKER}",
                ),
                *("-w", "rq.worker.SimpleWorker", "-S", "rq.serializers.JSONSerializer"),
            ),
            _rq_finished,
            500,
            note="SimpleWorker (does not fork)",
        ),
        _procrastinate("procrastinate", "off"),
        _procrastinate("procrastinate-sync", "on"),
    )
}
PEERS = (
    "celery", "celery-rabbitmq", "huey", "dramatiq", "taskiq", "saq", "rq",
    "procrastinate", "procrastinate-sync",
)  # fmt: skip


def check_environments(systems: list[System]) -> None:
    """Fail early if an environment is missing."""
    for python in {system.python for system in systems}:
        if not shutil.which(str(python)):
            raise SystemExit(f"{python} is missing; `make bench` creates it.")
