"""The scenarios: which faults, in which order, on which store."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from celeriac.exceptions import StoreFull
from celeriac.message import encode_envelope
from tests.faults.beat_stage import Beats
from tests.faults.chord_stage import Stage
from tests.faults.field import LEASE, Field, Stuck, await_true
from tests.faults.ledger import Entry
from tests.faults.project import job, poison
from tests.proxy import Proxy
from tests.servers import RedisServer

QUEUE = "celery"
UNCLAIMED = "unclaimed"
DISK_MIB = 48


def processes(engine: str, seed: int, tasks: int) -> Entry:
    """Children, agents and whole nodes are killed, and nodes frozen past their lease, while tasks run."""
    with _field(engine, "processes", seed) as (field, _):
        for part in (tasks // 2, tasks - tasks // 2):
            field.produce(part)

        def sure(freeze: Callable[[], bool]) -> None:
            for _attempt in range(30):
                if freeze():
                    return
                if field.is_done():
                    field.produce(500)
            raise Stuck("nothing could be frozen while it ran a task")

        # Every kind is met however few the tasks are; then by chance, a child most often.
        kills: list[Callable[[], Any]] = [field.kill_child, field.kill_agent, field.kill_node]
        freezes = [field.freeze_node, field.freeze_agent, field.freeze_child]
        plan = [*kills, *(partial(sure, freeze) for freeze in freezes)]
        while field.await_starts(field.rng.randrange(50, 250)) or plan:
            if plan:
                plan.pop(0)()
            elif field.rng.random() < 0.92:
                field.rng.choices(kills, (8, 2, 2))[0]()
            else:
                sure(field.rng.choice(freezes))
    return field.entry


def threads(engine: str, seed: int, tasks: int) -> Entry:
    """Nodes with one process of two threads are killed in whole or in part."""
    with _field(engine, "threads pool", seed, worker_pool="threads") as (field, _):
        field.produce(tasks)
        plan = [field.kill_child, field.kill_agent, field.kill_node]
        while field.await_starts(field.rng.randrange(50, 250)) or plan:
            (plan.pop(0) if plan else field.rng.choice((field.kill_child, field.kill_node)))()
    return field.entry


def server(engine: str, seed: int, tasks: int) -> Entry:
    """The server is killed, stopped in order, and away for longer than a lease; no worker is to blame.

    So every repeat counts as unexplained.
    """
    with _field(engine, "server restarts", seed) as (field, redis):
        assert redis is not None

        def crash() -> None:
            field.note("server killed")
            redis.restart()

        def restart() -> None:
            field.note("server restarted")
            assert redis.process is not None
            redis.process.terminate()
            redis.process.wait()
            redis.start()

        def outage() -> None:
            field.note("server away")
            redis.kill()
            time.sleep(1.5 * LEASE)
            redis.start()

        field.produce(tasks)
        plan = [crash, restart, outage]
        while field.await_starts(max(100, tasks // 12)):
            (plan.pop(0) if plan else field.rng.choice((crash, restart)))()
    return field.entry


def network(engine: str, seed: int, tasks: int) -> Entry:
    """Connections are cut, black-holed, slow, and lose only the reply to what the server has carried out.

    The suite, the producers and the two nodes have a way to the server each. Only a node that is out of reach
    for longer than its lease may have its tasks repeated.
    """
    options = {"broker_transport_options": {"socket_timeout": 1.0, "socket_connect_timeout": 1.0}}
    with contextlib.ExitStack() as stack:
        redis = stack.enter_context(RedisServer("aof-always"))
        ways = [stack.enter_context(Proxy(redis.host, redis.port)) for _ in range(3)]
        urls = [redis.url(), *(way.url() for way in ways)]
        field = stack.enter_context(_opened(urls, "network", seed, **options))
        net = _Network(field, ways)
        field.produce(tasks)
        plan = [net.cut, net.drop_replies, net.drop_publish_replies, net.slow, net.short_hole, net.long_hole]
        while field.await_starts(max(50, tasks // 40)):
            (
                plan.pop(0)
                if plan
                else field.rng.choice((net.cut, net.drop_replies, net.drop_publish_replies))
            )()
        if plan:
            raise Stuck(f"{len(plan)} kinds of fault were not met: too few tasks")
    return field.entry


class _Network:
    """What can be done to the ways of producers and nodes."""

    def __init__(self, field: Field, ways: Sequence[Proxy]) -> None:
        self.field = field
        self.producers, *self.nodes = ways

    def cut(self) -> None:
        self.field.note("connections cut")
        self.field.rng.choice([self.producers, *self.nodes]).cut()

    def drop_replies(self) -> None:
        self._drop(self.field.rng.choice(self.nodes), "reply dropped")

    def drop_publish_replies(self) -> None:
        self._drop(self.producers, "publish's reply dropped")

    def _drop(self, way: Proxy, kind: str) -> None:
        field, before = self.field, way.dropped
        if self._nobody_asks(way):
            return
        field.note(kind)
        way.drop_replies(1)
        await_true(lambda: way.dropped > before or self._nobody_asks(way), "a reply is dropped")
        way.drop_replies(0)

    def _nobody_asks(self, way: Proxy) -> bool:
        return way is self.producers and all(p.poll() is not None for p in self.field.producers)

    def slow(self) -> None:
        self.field.note("5 ms latency")
        for way in (self.producers, *self.nodes):
            way.latency = 0.005
        self.field.await_starts(50)
        for way in (self.producers, *self.nodes):
            way.latency = 0.0

    def short_hole(self) -> None:
        """Out of reach, and back within the lease: nobody may take over."""
        self.field.note("black hole of half a lease")
        way = self.field.rng.choice(self.nodes)
        way.black_hole()
        time.sleep(LEASE / 2)
        way.black_hole(False)
        way.cut()

    def long_hole(self) -> None:
        """Out of reach until the other node has taken over."""
        number = self.field.rng.randrange(2)
        node, other, way = self.field.nodes[number], self.field.nodes[1 - number], self.nodes[number]
        other.forget_log()
        node.forget_log()
        children = node.children()
        self.field.note("black hole past the lease", children, taken_over=True)
        way.black_hole()
        other.await_line("Recovered")
        way.black_hole(False)
        way.cut()
        await_true(lambda: not set(children) & set(node.children()), "the node starts anew")


def producers(engine: str, seed: int, tasks: int) -> Entry:
    """Producers are killed in mid-publish; what was acknowledged to them is done."""
    with _field(engine, "producers", seed) as (field, _):
        while len(field.acknowledged()) < tasks:
            producer = field.produce(tasks)
            enough = len(field.acknowledged()) + field.rng.randrange(20, max(21, tasks // 4))
            await_true(
                lambda enough=enough, producer=producer: (
                    len(field.acknowledged()) >= enough or producer.poll() is not None
                ),
                "a producer publishes",
            )
            field.kill_producer()
    return field.entry


def messages(engine: str, seed: int, tasks: int) -> Entry:
    """Garbage, unknown tasks and tasks that kill their process lie between the others."""
    poisoned, unknown = 3, 5
    garbage = _garbage()
    with _field(engine, "messages", seed, {"undecodable": len(garbage), "deliveries": poisoned,
                                           "unknown": unknown}) as (field, redis):  # fmt: skip
        field.produce(tasks)
        field.await_starts(tasks // 10)
        for payload in garbage:
            field.note("garbage")
            if redis is not None:
                redis.command("LPUSH", QUEUE, payload)
            else:
                _insert(field.folder / "store.db", payload)
        for number in range(unknown):
            field.note("unknown task")
            field.app.send_task("tests.faults.project.nowhere", (number,))
        for number in range(poisoned):
            poison_key = f"poison-{number}"
            field.note("poison")
            field.expect_deaths(poison_key)
            field.app.send_task(poison.name, (poison_key,), task_id=poison_key)
    return field.entry


def memory(engine: str, seed: int, tasks: int) -> Entry:
    """Redis reaches its ``maxmemory`` and has room again later: workers go on, publishes are refused."""
    with _field(engine, "memory full", seed) as (field, redis):
        assert redis is not None
        field.produce(tasks)
        met = 0
        while field.await_starts(tasks // 8) or not met:
            field.note("memory full")
            redis.command("CONFIG", "SET", "maxmemory", "1000000")
            await_true(lambda: _publish_fails(field), "a publish at maxmemory fails")
            met += 1
            time.sleep(0.3)
            redis.command("CONFIG", "SET", "maxmemory", "0")
            await_true(lambda: not _publish_fails(field), "a publish succeeds again")
            field.app.broker.purge([UNCLAIMED])
    return field.entry


def disk(engine: str, seed: int, tasks: int) -> Entry:
    """The disk fills up under an SQLite file, and has room again later."""
    with tempfile.TemporaryDirectory(prefix="celeriac-disk-") as name:
        if subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={DISK_MIB}m", "tmpfs", name],
                          capture_output=True).returncode:  # fmt: skip
            entry = Entry("disk full")
            entry.notes.append("not run: a small disk cannot be mounted here (it needs root)")
            return entry
        try:
            with _opened([f"sqlite:///{name}/store.db"], "disk full", seed) as field:
                _fill_again_and_again(field, Path(name), tasks)
        finally:
            subprocess.run(["umount", name], check=True)
    return field.entry


def _fill_again_and_again(field: Field, place: Path, tasks: int) -> None:
    filler = place / "filler"
    field.produce(tasks)
    met = 0
    while field.await_starts(tasks // 5) or not met:
        field.note("disk full")
        # Suppressed around the file: on a full disk closing it, and even making it, fails.
        with contextlib.suppress(OSError), filler.open("wb", buffering=0) as file:
            while True:
                file.write(bytes(1 << 16))
                file.flush()
        await_true(lambda: _publish_fails(field), "a publish on a full disk fails")
        met += 1
        filler.unlink()
        await_true(lambda: _purged(field), "what filled the disk is purged")
        await_true(lambda: not _publish_fails(field), "a publish succeeds again")
        field.app.broker.purge([UNCLAIMED])


def _purged(field: Field) -> bool:
    """Delete what :func:`_publish_fails` could still publish, if anything; whether the store had room to."""
    try:
        field.app.broker.purge([UNCLAIMED])
    except StoreFull:
        return False
    return True


def _publish_fails(field: Field) -> bool:
    """Publish a large message that nobody claims; whether the store said that it is full."""
    try:
        field.app.send_task(job.name, ("x" * 100_000, 0.0), retry=False, queue=UNCLAIMED)
    except StoreFull:
        return True
    except Exception as error:
        if isinstance(error.__cause__, StoreFull):
            return True
        raise
    return False


def _garbage() -> list[bytes]:
    """What is not a message of ours."""
    whole = encode_envelope(job.app.publisher.build(job.name, ("cut", 0.0), task=job).message)
    return [
        b"plain text",
        b"",
        b"\xff\xfe\x00\x01",
        b"{}",
        b"[1, 2, 3]",
        b"null",
        whole[: len(whole) // 2],
        whole[:-1],
        whole.replace(b"application/json", b"application/x-unheard-of"),
        b'{"body": "!!!not base64", "headers": {}, "properties": {}}',
    ]


def _insert(path: Path, payload: bytes) -> None:
    """Put a message into an SQLite file by hand, as no client of ours would."""
    with contextlib.closing(sqlite3.connect(path, timeout=30, isolation_level=None)) as handle:
        handle.execute("BEGIN IMMEDIATE")
        (serial,) = handle.execute("UPDATE state SET serial = serial + 2 RETURNING serial").fetchone()
        handle.execute("INSERT INTO payload (id, body) VALUES (?, ?)", (serial, payload))
        handle.execute(
            "INSERT INTO ready (queue, rank, seq, id, since, admitted) VALUES (?, 0, ?, ?, ?, 0)",
            (QUEUE, serial - 1, serial, time.time()),
        )
        handle.execute("COMMIT")


def chords(engine: str, seed: int, tasks: int) -> Entry:
    """Chords of three tasks, half of them with one that fails, for each of which a process is killed: in a
    header task, before or after the last part is stored, while the body is taken, before and after it is
    sent, in the body or the error callback, and in the agent that sends it after such a death. Each must end
    in exactly one body or exactly one error callback. (The numbers are those of the chords.)"""
    entry = Entry("chords")
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="celeriac-faults-")))
        if engine == "sqlite":
            broker = f"sqlite:///{folder}/store.db"
        else:
            broker = stack.enter_context(RedisServer("aof-always")).url()
        stage = Stage(broker, None, folder)
        stack.callback(stage.close)
        stage.play(entry, tasks)
    return entry


def two_beats(engine: str, seed: int, tasks: int) -> Entry:
    """Two beats are killed, and frozen for longer than a term, while an entry is due 50 times a second: each
    tick must be sent once, and in order. (The numbers are those of the ticks; standstill is the longest time
    without one.)"""
    return _beats(engine, "2 beats", 2, seed, tasks)


def three_beats(engine: str, seed: int, tasks: int) -> Entry:
    """The same with three."""
    return _beats(engine, "3 beats", 3, seed, tasks)


def _beats(engine: str, scenario: str, count: int, seed: int, ticks: int) -> Entry:
    entry = Entry(scenario)
    with contextlib.ExitStack() as stack:
        if engine == "sqlite":
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="celeriac-faults-"))
            broker = f"sqlite:///{folder}/store.db"
        else:
            broker = stack.enter_context(RedisServer("aof-always")).url()
        beats = Beats(broker, count, seed)
        stack.callback(beats.close)
        beats.play(entry, ticks)
    return entry


@contextlib.contextmanager
def _field(
    engine: str, scenario: str, seed: int, dead: dict[str, int] | None = None, **conf: Any
) -> Iterator[tuple[Field, RedisServer | None]]:
    """Two nodes on a fresh store: an SQLite file, or a private Redis that fsyncs every write."""
    if engine == "sqlite":
        with (
            tempfile.TemporaryDirectory(prefix="celeriac-faults-") as name,
            _opened([f"sqlite:///{name}/store.db"], scenario, seed, dead, name, **conf) as field,
        ):
            yield field, None
    else:
        with (
            RedisServer("aof-always") as server,
            _opened([server.url()], scenario, seed, dead, **conf) as field,
        ):
            yield field, server


@contextlib.contextmanager
def _opened(
    urls: Sequence[str],
    scenario: str,
    seed: int,
    dead: dict[str, int] | None = None,
    folder: str | None = None,
    **conf: Any,
) -> Iterator[Field]:
    """The field; at the end of the block everything is drained, stopped and judged."""
    with contextlib.ExitStack() as stack:
        folder = folder or stack.enter_context(tempfile.TemporaryDirectory(prefix="celeriac-faults-"))
        field = Field(urls, Path(folder), seed, scenario, **conf)
        try:
            field.start()
            yield field
            field.drain()
        except Stuck as stuck:
            field.entry.notes.append(f"stuck: {stuck}")
            field.entry.stuck = True
        finally:
            field.close(dead)
            if keep := os.environ.get("FAULTS_KEEP"):
                subprocess.run(
                    ["cp", "-r", folder, f"{keep}/{scenario}-{seed}-{time.monotonic_ns()}"], check=True
                )


SCENARIOS: dict[str, list[tuple[Callable[[str, int, int], Entry], int]]] = {
    "sqlite": [
        (processes, 50_000),
        (threads, 5_000),
        (producers, 5_000),
        (messages, 2_000),
        (disk, 10_000),
        (chords, 600),
        (two_beats, 2_000),
        (three_beats, 2_000),
    ],
    "redis": [
        (processes, 50_000),
        (threads, 5_000),
        (server, 10_000),
        (network, 10_000),
        (memory, 10_000),
        (producers, 5_000),
        (messages, 2_000),
        (chords, 600),
        (two_beats, 2_000),
        (three_beats, 2_000),
    ],
}
"""For each engine: scenario and number of tasks of the long form."""
