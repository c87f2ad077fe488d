"""What an exchange costs on PostgreSQL: with much finished history, and while an old transaction stays open.

``python -m bench.postgres_claims [--rows 10000,1000000,5000000] [--tasks 80000]`` starts a server of its own
and prints, for each number of results kept (and attempts in the history, whose bound is a million), the
milliseconds of an exchange that settles 32 tasks with their results and attempts and claims 32: at the
beginning, and after so many tasks. First as usual, then while another session holds a snapshot, which keeps
every row that goes from being vacuumed, then while one has written and not committed, and then with 100,000
messages delayed in the same queue. Beside it stand how many entries of the messages' indexes an exchange has
read on average, and its processor time in the server, which say the same on a machine that is busy with other
things.
"""

from __future__ import annotations

import argparse
import statistics
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
from tests.servers import PostgresServer

from bench import machine
from celeriac.engines import create
from celeriac.engines.base import Delivery, Engine, Incarnation, NodeInfo, Outcome, Publication
from celeriac.engines.history import Attempt
from celeriac.engines.results import ResultRecord
from celeriac.message import Message

BATCH = 32
_HISTORY = """INSERT INTO celeriac.result (id, state, payload, expires)
SELECT gen_random_uuid()::text, 'SUCCESS', convert_to(repeat('x', 150), 'UTF8'), 1e12
FROM generate_series(1, %s)"""
_ATTEMPTS = """INSERT INTO celeriac.attempt (id, at, count, marks, body)
SELECT n * 32, 1e9, 32, convert_to(repeat('x', 300), 'UTF8'), convert_to(repeat('x', 6000), 'UTF8')
FROM generate_series(1, %s / 32) n"""
_NUMBER_ON = "SELECT setval('celeriac.attempts', (SELECT max(id) FROM celeriac.attempt))"
_ATTEMPTS_KEPT = 1_000_000
DELAYED = 100_000
_OLD = {
    "as usual": (),
    "a snapshot": ("BEGIN ISOLATION LEVEL REPEATABLE READ", "SELECT 1 FROM pg_class"),
    "a write": ("BEGIN", "SELECT txid_current()"),
}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.postgres_claims")
    parser.add_argument("--rows", default="10000,1000000,5000000", help="finished results kept")
    parser.add_argument("--tasks", type=int, default=80_000, help="worked off in each measurement")
    options = parser.parse_args()
    print(
        f"{'kept':>10}  {'besides':>15}  {'first ms':>8}  {'last ms':>8}  {'ratio':>5}  {'entries':>7}"
        f"  {'CPU ms':>6}"
    )
    config = {"synchronous_commit": "off", "max_wal_size": "4GB"}
    for rows in [int(text) for text in options.rows.split(",")]:
        with PostgresServer(durable=True, config=config) as server:
            engine = create(server.url())
            engine.queues()  # makes the tables
            _run(server, _HISTORY, rows)
            _run(server, _ATTEMPTS, min(rows, _ATTEMPTS_KEPT))
            _run(server, _NUMBER_ON)
            _run(server, "VACUUM ANALYZE")
            for name, statements in _OLD.items():
                with _held_open(server, statements):
                    _measure(server, engine, options.tasks, rows, name)
            for start in range(0, DELAYED, 1000):
                engine.publish(
                    [Publication(_message(n), "q", delay=3600.0) for n in range(start, start + 1000)]
                )
            _measure(server, engine, options.tasks, rows, f"{DELAYED:,} delayed")
            engine.close()


def _measure(server: PostgresServer, engine: Engine, tasks: int, rows: int, besides: str) -> None:
    """Work off so many tasks, and print what an exchange took."""
    before = _entries_read(server)
    first, last, processor = _work_off(server, engine, tasks)
    read = (_entries_read(server) - before) / (tasks / BATCH)
    times = f"{first:8.2f}  {last:8.2f}  {last / first:5.1f}"
    print(f"{rows:10,}  {besides:>15}  {times}  {read:7,.0f}  {processor:6.2f}", flush=True)


def _work_off(server: PostgresServer, engine: Engine, tasks: int) -> tuple[float, float, float]:
    """Work off so many tasks.

    Return the ms of the quick exchanges of the first and the last twentieth, and the server's processor time
    for each, all its processes together.
    """
    consumer = engine.attach(Incarnation("bench", 1, time.monotonic_ns()))
    for start in range(0, tasks, 1000):
        engine.publish([Publication(_message(number), "q") for number in range(start, start + 1000)])
    assert server.process is not None
    used = machine.cpu(machine.tree(server.process.pid))
    times: list[float] = []
    done: list[Outcome] = []
    swept = time.monotonic()
    while True:
        started = time.perf_counter()
        answer = consumer.exchange(done, ["q"], BATCH)
        times.append((time.perf_counter() - started) * 1000)
        if not answer.deliveries:
            break
        done = [_outcome(delivery) for delivery in answer.deliveries]
        if time.monotonic() - swept > 4:  # as a node does
            engine.beat(NodeInfo("bench", "bench@host", "host", 1, 1.0))
            engine.recover("", lambda pid, started: True)
            swept = time.monotonic()
    used = machine.cpu(machine.tree(server.process.pid)) - used
    consumer.close()
    part = max(10, len(times) // 20)
    # The quickest tenth: what other programs on the machine take is not asked for.
    first, last = (
        statistics.quantiles(some, n=10)[0] for some in (times[1 : part + 1], times[-part - 1 : -1])
    )
    return first, last, used / len(times) * 1000


def _entries_read(server: PostgresServer) -> int:
    """All that sessions have read which have ended since: so much is known of them."""
    time.sleep(1)
    sql = "SELECT sum(idx_tup_read)::bigint FROM pg_stat_user_indexes WHERE relname = 'message'"
    rows: Any = server.run(sql)
    return int(rows[0][0] or 0)


def _message(number: int) -> Message:
    return Message({"task": "bench.noop", "id": str(uuid.uuid4())}, {}, b"[[%d], {}, {}]" % number)


def _outcome(delivery: Delivery) -> Outcome:
    id = str(uuid.uuid4())
    record = ResultRecord(id, "SUCCESS", b'{"status": "SUCCESS"}', 86400.0)
    attempt = Attempt(id, "bench.noop", "SUCCESS", "q", "bench@host", time.time())
    return Outcome(delivery.token, delivery.queue, result=record, attempt=attempt)


def _run(server: PostgresServer, sql: str, *arguments: Any) -> None:
    with psycopg.connect(server.url(), autocommit=True) as connection:
        connection.execute(sql.encode(), arguments)


@contextmanager
def _held_open(server: PostgresServer, statements: tuple[str, ...]) -> Iterator[None]:
    with psycopg.connect(server.url(), autocommit=True) as connection:
        for statement in statements:
            connection.execute(statement.encode())
        yield
        if statements:
            connection.execute("ROLLBACK")


if __name__ == "__main__":
    main()
