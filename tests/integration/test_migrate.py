"""``celeriac migrate`` between servers, killed at every step and at random moments, and begun again."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
import uuid
from collections import Counter
from collections.abc import Callable, Collection
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

import pytest

import celeriac
from celeriac.contrib.conformance import helpers
from celeriac.engines import create
from celeriac.engines.base import (
    DeadLetter,
    Engine,
    Hold,
    Incarnation,
    NodeInfo,
    Outcome,
    Publication,
    Unique,
)
from celeriac.message import Message, decode_envelope, encode_envelope
from celeriac.moving import ledger
from celeriac.moving import mover as moving
from celeriac.moving.mover import Mover, Wanted
from celeriac.routing.queues import Binding
from celeriac.worker.node import host_identity, process_lives, process_start
from tests.integration.test_celery_interop import InteropSite
from tests.servers import RabbitServer, RedisServer

DUE = float(int(time.time()) + 40_000)
"""When the delayed ones are due."""
QUEUES = ("news", "mail")
EFFECTS = (
    "publish", "purge", "bring_forward", "purge_dead", "bury", "bind", "revoke", "recover", "beat", "attach",
    "leave", "exchange", "close",
)  # fmt: skip

HOPS = (("sqlite", "redis"), ("redis", "postgres"), ("postgres", "rabbitmq"), ("rabbitmq", "sqlite"))


class Place(NamedTuple):
    """A store to move from or to."""

    name: str
    url: str

    @property
    def path(self) -> str:
        """SQLite's file."""
        return self.url.removeprefix("sqlite:///").partition("?")[0]

    def open(self) -> Engine:
        return create(self.url, {"exact_prefetch": True} if self.name == "rabbitmq" else {})


@pytest.fixture
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[str], Place]:
    """Make an empty store of an engine."""

    def make(name: str) -> Place:
        if name == "sqlite":
            return Place(name, f"sqlite:///{tmp_path}/{uuid.uuid4().hex}.db?synchronous=NORMAL")
        server: Any = request.getfixturevalue({"redis": "redis_server", "postgres": "postgres_server"}.get(
            name, "rabbit_server"
        ))  # fmt: skip
        if name == "rabbitmq":
            return Place(name, str(server.fresh_url()))
        if name == "postgres":
            server.empty()
            return Place(name, str(server.url()))
        import redis

        with redis.Redis.from_url(server.url()) as client:
            client.flushall()
        return Place(name, str(server.url()))

    return make


def made(task_id: str, **headers: Any) -> Message:
    return Message(
        {"lang": "py", "task": "t.add", "id": task_id, "retries": 0, **headers},
        {"correlation_id": task_id, "delivery_mode": 2, "delivery_tag": task_id},
        b"[[], {}, {}]",
    )


def fill(store: Place) -> None:
    """Messages of every kind: 24 ready in two queues, 8 delayed, 2 with unique keys, 5 dead ones."""
    engine = store.open()
    now = time.time()
    ready = [Publication(made(f"r{n}"), QUEUES[n % 2]) for n in range(24)]
    delayed = [
        Publication(made(f"d{n}", eta="2000-01-01T00:00:00+00:00", celeriac={"held": True}), QUEUES[n % 2],
                    due=DUE + n)
        for n in range(8)
    ]  # fmt: skip
    single = [
        Publication(
            made(f"u{n}", celeriac={"unique": f"key{n}"}), "news", unique=Unique(f"key{n}", 900.0, Hold.ENDED)
        )
        for n in range(2)
    ]
    engine.publish([*ready, *delayed, *single])
    for n in range(5):
        payload = encode_envelope(made(f"x{n}"))
        letter = DeadLetter("", "mail", "failed", f"no {n}", now - 100 + n, "t.add", f"x{n}", payload)
        engine.bury([letter])
    engine.bind([Binding("post", "direct", "letters", "mail"), Binding("news", "direct", "news", "news")])
    engine.close()


def move(source: Place, destination: Place, only: Collection[str] = (), **wanted: Any) -> moving.Report:
    """One run in this process."""
    here, there = source.open(), destination.open()
    queues = {name: name for name in only or (QUEUES if source.name == "rabbitmq" else ())}
    try:
        return Mover(here, there, node(), process_lives, Wanted(queues, timeout=0.0, **wanted)).run()
    finally:
        here.close()
        there.close()


def node() -> NodeInfo:
    pid = os.getpid()
    return NodeInfo(f"migrate/{pid}/{time.time_ns()}", "migrate", host_identity(), pid, process_start(pid))


def killed(source: Place, destination: Place, step: int, after: str = "", seconds: float = 0.0) -> bool:
    """Run in a child that is killed: before its effect number ``step``; or after the ``step``-th of the kind
    ``after``; or after so many seconds. Whether it was."""
    pid = os.fork()
    if not pid:
        try:
            if seconds:
                signal.setitimer(signal.ITIMER_REAL, seconds)
                signal.signal(signal.SIGALRM, lambda *about: os.kill(os.getpid(), signal.SIGKILL))
            _die_at(step, after)
            move(source, destination)
            os._exit(0)
        except BaseException as error:
            print(f"step {step}: {error!r}", file=sys.__stderr__)
            os._exit(1)
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    assert status in (0, -signal.SIGKILL)
    return status != 0


def _die_at(step: int, after: str) -> None:
    """Kill this process at an effect on one of the stores that a mover is made for from now on."""
    count = 0

    def counted(name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def effect(*arguments: Any, **named: Any) -> Any:
            nonlocal count
            count += not after or name == after
            if not after and count == step:
                os.kill(os.getpid(), signal.SIGKILL)
            answer = call(*arguments, **named)
            if name == after and count == step:
                os.kill(os.getpid(), signal.SIGKILL)
            if hasattr(answer, "exchange"):
                watch(answer)
            return answer

        return effect

    def watch(store: Any) -> None:
        for name in EFFECTS:
            if hasattr(store, name):
                setattr(store, name, counted(name, getattr(store, name)))

    begin = Mover.__init__

    def watched(self: Mover, source: Any, destination: Any, *rest: Any) -> None:
        watch(source)
        watch(destination)
        begin(self, source, destination, *rest)

    Mover.__init__ = watched  # type: ignore[method-assign]


def contents(store: Place) -> dict[str, Any]:
    """All that is in a store that can be looked at (not RabbitMQ), and what was noted of it."""
    engine = store.open()
    found: dict[str, Any] = {"dead": [], "ready": {}, "due": {}}
    for queue in QUEUES:
        found["ready"][queue] = [_id(one) for one in engine.peek(queue, 0, 1000)]
        engine.bring_forward(queue, 1000)
        rest = engine.peek(queue, 0, 1000)[len(found["ready"][queue]) :]
        for one in rest:
            eta = datetime.fromisoformat(decode_envelope(one).headers["eta"]).timestamp()
            # Redis sets equal due times a microsecond apart, RabbitMQ counts whole seconds, up.
            found["due"].setdefault(queue, []).append((_id(one), round(eta - DUE)))
        letters = engine.dead_letters(queue, 0, 1000)
        found["dead"] += [(x.task_id, x.queue, x.reason, x.detail, round(x.at, 2)) for x in letters]
    found["keys"] = [engine.holder(f"key{n}") for n in range(2)]
    found["ties"] = sorted(tie for tie in engine.ties() if tie.exchange in ("post", "news"))
    found["rest"] = {name: engine.depth([name])[name].ready for name in engine.queues() if name not in QUEUES}
    engine.close()
    return found


def _id(payload: bytes) -> str:
    return str(decode_envelope(payload).headers["id"])


def check(store: Place, doubled: int = 0, noted: bool = False) -> None:
    """All that :func:`fill` made is there, in order, as it was; up to ``doubled`` messages are there twice.

    ``noted``: notes of a killed run may be there still.
    """
    found = contents(store)
    every = [
        *(task_id for ids in found["ready"].values() for task_id in ids),
        *(task_id for ids in found["due"].values() for task_id, _ in ids),
    ]
    counted = Counter(every)
    assert set(counted) == {*(f"r{n}" for n in range(24)), *(f"d{n}" for n in range(8)), "u0", "u1"}
    assert len(every) - len(counted) <= doubled, [name for name, count in counted.items() if count > 1]
    for queue in QUEUES:
        once = list(dict.fromkeys(task_id for task_id in found["ready"][queue] if task_id[0] == "r"))
        assert once == [f"r{n}" for n in range(24) if QUEUES[n % 2] == queue]
        due = sorted(set(found["due"][queue]))
        assert due == [(f"d{n}", n) for n in range(8) if QUEUES[n % 2] == queue]
    letters = sorted(found["dead"])
    assert [(x[0], x[1], x[2], x[3]) for x in letters] == [
        (f"x{n}", "mail", "failed", f"no {n}") for n in range(5)
    ]
    assert [x[4] for x in letters] == sorted(x[4] for x in letters)
    assert found["keys"] == ["u0", "u1"]
    assert not found["rest"].get("celeriac.migrating.unique")
    assert not found["rest"].get("celeriac.migrating") or noted


def test_what_is_moved_from_server_to_server_comes_back_as_it_was(place: Callable[[str], Place]) -> None:
    last = place("sqlite")
    fill(last)
    for _, goal in HOPS:
        following = place(goal)
        report = move(last, following)
        assert report.total == 24 + 8 + 2 + 5, (goal, report)
        assert not report.left
        assert move(last, following).total == 0
        last = following
    check(last)


def test_killed_at_every_step_it_goes_on_where_it_was(
    place: Callable[[str], Place], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(moving, "BATCH", 10)
    filled, step = place("sqlite"), 0
    fill(filled)
    while True:
        step += 1
        source, destination = place("sqlite"), place("sqlite")
        shutil.copy(filled.path, source.path)
        if not killed(source, destination, step):
            break
        move(source, destination)
        check(destination)
    assert step > 30


@pytest.mark.parametrize("hop", HOPS, ids=["-".join(hop) for hop in HOPS])
def test_killed_again_and_again_it_loses_and_doubles_nothing(
    place: Callable[[str], Place], hop: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(moving, "BATCH", 10)
    chance = random.Random(str(hop))
    origin = place("sqlite")
    fill(origin)
    source = origin if hop[0] == "sqlite" else place(hop[0])
    if source is not origin:
        move(origin, source)
    destination = place(hop[1])
    kills = 0
    for effect in ("publish", "bring_forward", "publish", "exchange", "bury"):
        kills += killed(source, destination, chance.randint(1, 2), effect)
    for _ in range(5):
        kills += killed(source, destination, 0, seconds=chance.uniform(0.02, 0.3))
    move(source, destination)
    assert move(source, destination).total == 0
    assert kills
    last = destination
    if hop[1] == "rabbitmq":  # it cannot be looked at
        last = place("sqlite")
        move(destination, last)
    # RabbitMQ does not tell whether it still takes somebody else to hold something.
    check(last, doubled=kills if "rabbitmq" in hop else 0, noted=hop[0] == "rabbitmq")


@pytest.mark.parametrize("source_name", ["sqlite", "rabbitmq"])
def test_the_notes_of_a_killed_run_go_with_the_next_though_queues_are_named(
    place: Callable[[str], Place], source_name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(moving, "BATCH", 10)
    origin, destination = place("sqlite"), place("sqlite")
    fill(origin)
    source = origin if source_name == "sqlite" else place(source_name)
    if source is not origin:
        move(origin, source)
    assert killed(source, destination, 3, "publish")
    move(source, destination, only=("news",))
    engine = destination.open()

    def notes() -> int:
        return engine.depth([ledger.QUEUE])[ledger.QUEUE].ready

    assert notes()
    done = command("-b", destination.url, "status", folder=tmp_path)
    assert "has not come to its end (celeriac.migrating): run it again" in done.stdout
    assert "-Q celeriac.migrating" not in done.stdout
    move(source, destination, only=QUEUES)
    if source_name == "rabbitmq":
        assert notes(), "the server may still hide a message"
        monkeypatch.setattr(ledger, "_HIDDEN_AT_MOST", 0.0)
        move(source, destination, only=QUEUES)
    engine.close()
    check(destination, doubled=source_name == "rabbitmq")


# -- the command ------------------------------------------------------------------------------------------


def command(*arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "celeriac", *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(Path(celeriac.__file__).parents[1])},
        capture_output=True,
        text=True,
        timeout=60,
    )


@pytest.fixture
def two(place: Callable[[str], Place]) -> tuple[Place, Place]:
    """A filled SQLite store and an empty one."""
    source, destination = place("sqlite"), place("sqlite")
    fill(source)
    return source, destination


def test_the_command_moves_all_and_tells_what(two: tuple[Place, Place], tmp_path: Path) -> None:
    done = command("migrate", two[0].url, two[1].url, "-t", "0", "--json", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["total"] == 39
    assert told["moved"]["mail"] == {"ready": 12, "delayed": 4, "dead": 5}
    check(two[1])


def test_a_queue_may_get_another_name(two: tuple[Place, Place], tmp_path: Path) -> None:
    done = command("migrate", two[0].url, two[1].url, "-t", "0", "-Q", "mail:post", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    engine = two[1].open()
    assert engine.depth(["post", "news"])["post"][:5] == (12, 4, 0, 0, 5)
    assert engine.depth(["news"])["news"].ready == 0
    assert [tie.queue for tie in engine.ties()] == ["post"]
    engine.close()


def test_no_more_are_moved_than_the_limit(two: tuple[Place, Place], tmp_path: Path) -> None:
    done = command("migrate", two[0].url, two[1].url, "-n", "7", "-t", "0", folder=tmp_path)
    assert done.stdout.endswith("Moved 7 messages.\n"), done.stderr
    again = command("migrate", two[0].url, two[1].url, "-t", "0", folder=tmp_path)
    assert again.stdout.endswith("Moved 32 messages.\n")
    check(two[1])


def test_messages_of_other_tasks_stay_where_they_are(two: tuple[Place, Place], tmp_path: Path) -> None:
    engine = two[0].open()
    other = Publication(made("o1", task="t.other"), "news")
    later = Publication(made("o2", task="t.other", celeriac={"held": True}), "mail", due=DUE)
    engine.publish([other, later])
    before = [engine.peek("news"), engine.peek("mail", state="delayed")]
    done = command("migrate", two[0].url, two[1].url, "-t", "0", "-T", "t.other", "-a", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "Moved 2 messages." in done.stdout
    assert engine.peek("news") == [one for one in before[0] if _id(one) != "o1"]
    assert engine.peek("mail", state="delayed") == [one for one in before[1] if _id(one) != "o2"]
    engine.close()


def test_what_a_worker_holds_is_left_and_named(two: tuple[Place, Place], tmp_path: Path) -> None:
    engine = two[0].open()
    worker = NodeInfo("w", "celery@shop", "elsewhere", 1, 1.0, 600.0, ["news"], {})
    engine.beat(worker)
    held = engine.attach(Incarnation("w", 1, 1))
    (delivery,) = held.exchange([], ["news"], 1).deliveries
    done = command("migrate", two[0].url, two[1].url, "-t", "0", folder=tmp_path)
    assert done.returncode == 1
    assert "Left in news: 1 leased by celery@shop" in done.stderr
    held.exchange([Outcome(delivery.token, "news")], [], 0)
    engine.close()


def test_a_paused_queue_is_left_and_named(two: tuple[Place, Place], tmp_path: Path) -> None:
    engine = two[0].open()
    engine.pause("mail")
    done = command("migrate", two[0].url, two[1].url, "-t", "0", folder=tmp_path)
    assert done.returncode == 1
    assert "Left in mail: " in done.stderr
    assert "celeriac queues resume mail" in done.stderr
    engine.close()


def test_a_message_whose_key_is_held_there_waits_and_is_named(
    two: tuple[Place, Place], tmp_path: Path
) -> None:
    there = two[1].open()
    there.publish([Publication(made("v"), "news", unique=Unique("key0", 900.0, Hold.ENDED))])
    done = command("migrate", two[0].url, two[1].url, "-t", "0", folder=tmp_path)
    assert done.returncode == 1
    assert "'key0' is held there by task v" in done.stderr
    worker = there.attach(Incarnation("w", 1, 1))
    first = worker.exchange([], ["news"], 1).deliveries[0]
    worker.exchange([Outcome(first.token, "news", unique="key0", task_id="v")], [], 0)
    again = command("migrate", two[0].url, two[1].url, "-t", "0", folder=tmp_path)
    assert again.returncode == 0, again.stderr
    assert there.holder("key0") == "u0"
    there.close()


def test_revoked_ids_and_what_cannot_be_read_go_along(two: tuple[Place, Place]) -> None:
    here, there = two[0].open(), two[1].open()
    here.revoke(["r3"], 900.0)
    with sqlite3.connect(two[0].path) as file:
        file.execute("UPDATE payload SET body = CAST('garbage' AS BLOB) WHERE instr(body, ?)", (b'"r4"',))
    file.close()
    assert move(*two).dead["news"] == 1
    assert there.control(0).revoked == ["r3"]
    (letter,) = there.dead_letters("news")
    assert (letter.reason, letter.payload) == ("undecodable", b"garbage")
    here.close()
    there.close()


def test_forever_goes_on_until_ctrl_c(two: tuple[Place, Place], tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "celeriac", "migrate", two[0].url, two[1].url, "-F", "-t", "0.1"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(Path(celeriac.__file__).parents[1])},
        stdout=subprocess.PIPE,
        text=True,
    )
    engines = [two[0].open(), two[1].open()]
    try:
        _until(lambda: engines[1].depth(["news"])["news"].ready == 14)
        engines[0].publish([Publication(made("late"), "news")])
        _until(lambda: engines[1].depth(["news"])["news"].ready == 15)
        process.send_signal(signal.SIGINT)
        told, _ = process.communicate(timeout=30)
        assert process.returncode == 0
        assert "Moved 40 messages." in told
    finally:
        process.kill()
        for engine in engines:
            engine.close()


def _until(condition: Callable[[], bool]) -> None:
    """Wait for what another process does (there is no event for it)."""
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("memory://a", "sqlite:///b.db"), "SOURCE: the memory of another process cannot be reached"),
        (("sqlite:///a.db", "memory://b"), "DESTINATION: the memory of another process"),
        (("sqlite:///a.db", "sqlite:///a.db"), "the same store"),
        (("a.db", "sqlite:///b.db"), "is no URL"),
        (("sqs://x", "sqlite:///b.db"), "no engine for URLs of the kind 'sqs'"),
        (("sqlite:///a.db", "sqlite:///b.db", "-Q", ":x"), "names no queue"),
    ],
)
def test_what_cannot_be_done_is_said(arguments: tuple[str, ...], says: str, tmp_path: Path) -> None:
    done = command("migrate", *arguments, folder=tmp_path)
    assert done.returncode in (1, 2)
    assert says in done.stderr


def test_rabbitmq_s_queues_must_be_named(rabbit_server: RabbitServer, tmp_path: Path) -> None:
    done = command("migrate", rabbit_server.fresh_url(), "sqlite:///b.db", folder=tmp_path)
    assert done.returncode == 1
    assert "name them with -Q" in done.stderr


def test_one_server_under_two_names_is_no_place_to_move_to(
    rabbit_server: RabbitServer, tmp_path: Path
) -> None:
    url, other = rabbit_server.fresh_url(), rabbit_server.fresh_url()
    engine = create(url)
    assert not engine.shares_store(create(other))  # type: ignore[attr-defined]
    engine.publish([helpers.pub("a")])
    again = url.replace("127.0.0.1", "localhost")
    done = command("migrate", url, again, "-Q", "q", "-t", "0", folder=tmp_path)
    assert (done.returncode, "are the same store" in done.stderr) == (1, True), done.stderr
    engine.close()


def test_the_application_s_workers_are_none_of_rabbitmq_s(
    rabbit_server: RabbitServer, tmp_path: Path
) -> None:
    """They are known to the result backend, and RabbitMQ's queues to the application."""
    url = rabbit_server.fresh_url()
    (tmp_path / "shop.py").write_text(
        f"from celeriac import Celeriac\napp = Celeriac('shop', broker={url!r}, backend='sqlite:///r.db')\n"
    )
    store, engine = create(f"sqlite:///{tmp_path}/r.db"), create(url)
    store.beat(helpers.node())
    engine.publish([helpers.pub("a", "celery")])
    done = command("-A", "shop", "migrate", url, "sqlite:///b.db", "-t", "0", folder=tmp_path)
    assert (done.returncode, done.stdout.splitlines()[-1:]) == (0, ["Moved 1 message."]), done.stderr
    engine.close()
    store.close()


# -- Celery's own queues ----------------------------------------------------------------------------------


def test_celery_s_queues_move_from_redis_to_rabbitmq_and_back(
    rabbit_server: RabbitServer, tmp_path: Path
) -> None:
    with RedisServer() as redis_server:
        rabbit = rabbit_server.fresh_url()
        site = InteropSite(redis_server, tmp_path)
        later = InteropSite(redis_server, tmp_path, rabbit)
        try:
            site.client("celery").run(
                """
                for n in range(20):
                    mark.apply_async((f"m{n}",), queue="moved", priority=n % 2)
                mark.apply_async(("soon",), queue="moved", countdown=1.5)
                answer = None
                """
            )
            done = command("migrate", redis_server.url(), rabbit, "-t", "0", folder=tmp_path)
            assert "Moved 21 messages." in done.stdout, done.stderr
            back = command("migrate", rabbit, redis_server.url(), "-Q", "moved", "-t", "0", folder=tmp_path)
            assert "Moved 21 messages." in back.stdout, back.stderr
            command("migrate", redis_server.url(), rabbit, "-t", "0", folder=tmp_path)
            later.worker("celery", "moved", "-c", "1")
            later.await_true(lambda: len(later.journal()) == 21)
            assert Counter(later.journal()) == Counter([*(f"celery m{n}" for n in range(20)), "celery soon"])
        finally:
            site.close()
            later.close()
