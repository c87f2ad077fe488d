"""``celeriac migrate`` between servers, killed at every step and at random moments, and begun again."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
import uuid
from collections import Counter
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

import pytest

import celeriac
from celeriac.engines import create
from celeriac.engines.base import DeadLetter, Engine, Hold, Incarnation, NodeInfo, Outcome, Publication, Unique
from celeriac.message import Message, decode_envelope, encode_envelope
from celeriac.moving import mover as moving
from celeriac.moving.mover import Mover, Wanted
from celeriac.routing.queues import Binding
from celeriac.worker.node import host_identity, process_lives, process_start
from tests.servers import PostgresServer, RabbitServer, RedisServer

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

    def open(self) -> Engine:
        return create(self.url, {"exact_prefetch": True} if self.name == "rabbitmq" else {})


@pytest.fixture
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[str], Place]:
    """Make an empty store of an engine."""

    def make(name: str) -> Place:
        if name == "sqlite":
            return Place(name, f"sqlite:///{tmp_path}/{uuid.uuid4().hex}.db")
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
        Publication(made(f"u{n}", celeriac={"unique": f"key{n}"}), "news", unique=Unique(f"key{n}", 900.0, Hold.ENDED))
        for n in range(2)
    ]  # fmt: skip
    engine.publish([*ready, *delayed, *single])
    engine.bury(
        [
            DeadLetter("", "mail", "failed", f"no {n}", now - 100 + n, "t.add", f"x{n}", encode_envelope(made(f"x{n}")))
            for n in range(5)
        ]
    )  # fmt: skip
    engine.bind([Binding("post", "direct", "letters", "mail"), Binding("news", "direct", "news", "news")])
    engine.close()


def move(source: Place, destination: Place, **wanted: Any) -> moving.Report:
    """One run in this process."""
    here, there = source.open(), destination.open()
    queues = {name: name for name in QUEUES} if source.name == "rabbitmq" else {}
    try:
        return Mover(here, there, node(), process_lives, Wanted(queues, timeout=0.0, **wanted)).run()
    finally:
        here.close()
        there.close()


def node() -> NodeInfo:
    pid = os.getpid()
    return NodeInfo(f"migrate/{pid}/{time.time_ns()}", "migrate", host_identity(), pid, process_start(pid))


def killed(source: Place, destination: Place, step: int, seconds: float = 0.0) -> bool:
    """Run in a child that is killed before its effect number ``step``, or after so many seconds; whether it was."""
    pid = os.fork()
    if not pid:
        try:
            if seconds:
                signal.setitimer(signal.ITIMER_REAL, seconds)
                signal.signal(signal.SIGALRM, lambda *about: os.kill(os.getpid(), signal.SIGKILL))
            _die_at(step)
            move(source, destination)
            os._exit(0)
        except BaseException as error:
            print(f"step {step}: {error!r}", file=sys.__stderr__)
            os._exit(1)
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    assert status in (0, -signal.SIGKILL)
    return status != 0


def _die_at(step: int) -> None:
    """Kill this process before its ``step``-th effect on a store. Engines opened from now on count."""
    count = 0

    def counted(call: Callable[..., Any]) -> Callable[..., Any]:
        def effect(*arguments: Any, **named: Any) -> Any:
            nonlocal count
            count += 1
            if count == step:
                os.kill(os.getpid(), signal.SIGKILL)
            answer = call(*arguments, **named)
            if hasattr(answer, "exchange"):
                watch(answer)
            return answer

        return effect

    def watch(store: Any) -> None:
        for name in EFFECTS:
            if hasattr(store, name):
                setattr(store, name, counted(getattr(store, name)))

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
    every = [*sum(found["ready"].values(), []), *(task_id for ids in found["due"].values() for task_id, _ in ids)]
    counted = Counter(every)
    assert set(counted) == {*(f"r{n}" for n in range(24)), *(f"d{n}" for n in range(8)), "u0", "u1"}
    assert len(every) - len(counted) <= doubled, [name for name, count in counted.items() if count > 1]
    for queue in QUEUES:
        once = list(dict.fromkeys(task_id for task_id in found["ready"][queue] if task_id[0] == "r"))
        assert once == [f"r{n}" for n in range(24) if QUEUES[n % 2] == queue]
        due = sorted(set(found["due"][queue]))
        assert due == [(f"d{n}", n) for n in range(8) if QUEUES[n % 2] == queue]
    letters = sorted(found["dead"])
    assert [(x[0], x[1], x[2], x[3]) for x in letters] == [(f"x{n}", "mail", "failed", f"no {n}") for n in range(5)]
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
    step = 0
    while True:
        step += 1
        source, destination = place("sqlite"), place("sqlite")
        fill(source)
        if not killed(source, destination, step):
            break
        move(source, destination)
        check(destination)
        assert move(source, destination).total == 0
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
    for _ in range(5):
        kills += killed(source, destination, chance.randint(5, 30))
    for _ in range(4):
        kills += killed(source, destination, 0, chance.uniform(0.02, 0.3))
    move(source, destination)
    assert move(source, destination).total == 0
    assert kills > 3
    last = destination
    if hop[1] == "rabbitmq":  # it cannot be looked at
        last = place("sqlite")
        move(destination, last)
    # RabbitMQ does not tell whether it still takes somebody else to hold something.
    check(last, doubled=kills if "rabbitmq" in hop else 0, noted=hop[0] == "rabbitmq")
