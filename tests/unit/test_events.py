"""Events: what is written, and what a monitor makes of it."""

from __future__ import annotations

import io
import json
import os
import pickle
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from celeriac import Celeriac
from celeriac.app.event import utcoffset
from celeriac.engines.base import Delivery
from celeriac.engines.history import Attempt
from celeriac.events import Event, EventReceiver, group_from
from celeriac.events.dumper import Dumper
from celeriac.events.snapshot import Polaroid
from celeriac.events.state import State, Worker, heartbeat_expires
from celeriac.exceptions import EncodeError, ImproperlyConfigured, OperationalError
from celeriac.lamport import LamportClock
from celeriac.message import encode_envelope
from celeriac.monitor.events.dumper import events_of
from celeriac.monitor.events.snapshot import seconds_between
from celeriac.worker.board import Board
from celeriac.worker.events import Recorder
from celeriac.worker.job import Job
from celeriac.worker.options import resolve
from celeriac.worker.runner import Runner
from celeriac.worker.sender import BATCH, BUFFERED, Sender
from celeriac.worker.tape import Tape
from tests.processes import wait_until
from tests.unit.event_streams import told


class Carrier:
    """A broker that carries events as far as a list."""

    url = "list://"

    def __init__(self) -> None:
        self.sent: list[tuple[str, Any]] = []
        self.away = False
        self.heard = True
        self.batches: list[list[dict[str, Any]]] = []

    def publish_events(self, routing_key: str, body: bytes, headers: Any) -> bool:
        if self.away:
            raise OperationalError("the broker is away")
        self.sent.append((routing_key, json.loads(body)))
        return self.heard

    def receive_events(self, routing_keys: Any, stop: int) -> Iterator[list[dict[str, Any]]]:
        yield from self.batches

    def events(self) -> list[dict[str, Any]]:
        return [e for _, body in self.sent for e in (body if isinstance(body, list) else [body])]


@pytest.fixture
def carrier() -> Carrier:
    return Carrier()


@pytest.fixture
def app(carrier: Carrier, monkeypatch: pytest.MonkeyPatch) -> Celeriac:
    app = Celeriac("events", broker="memory://", set_as_current=False)
    app._stores.write_broker = carrier  # type: ignore[assignment]
    monkeypatch.setattr(type(app), "broker", property(lambda self: carrier))
    return app


# -- sending ----------------------------------------------------------------------------------------------


def test_an_event_is_a_dictionary_with_a_time() -> None:
    before = time.time()
    event = Event("task-progress", done=1)
    assert event.pop("timestamp") >= before
    assert event == {"type": "task-progress", "done": 1}
    assert Event("a-b", {"x": 1, "timestamp": 5.0}, y=2) == {"x": 1, "timestamp": 5.0, "y": 2, "type": "a-b"}
    assert [group_from(each) for each in ("task-sent", "custom-my-event", "x")] == ["task", "custom", "x"]


def test_a_dispatcher_sends_under_the_type_s_routing_key(app: Celeriac, carrier: Carrier) -> None:
    with app.events.default_dispatcher(hostname="me@here") as dispatcher:
        dispatcher.send("shop-order-paid", amount=3)
    ((key, event),) = carrier.sent
    assert key == "shop.order.paid"
    assert (event["hostname"], event["pid"], event["amount"], event["clock"]) == (
        "me@here",
        os.getpid(),
        3,
        1,
    )
    dispatcher.send("shop-order-paid", amount=4)
    assert len(carrier.sent) == 1, "a closed dispatcher sends nothing"


def test_a_dispatcher_keeps_to_its_groups_and_batches(app: Celeriac, carrier: Carrier) -> None:
    dispatcher = app.events.Dispatcher(groups=["task"], buffer_group=["task"], buffer_limit=3)
    dispatcher.send("worker-online")
    for number in range(4):
        dispatcher.send("task-x", uuid=str(number))
    assert [(key, len(body)) for key, body in carrier.sent] == [("task.multi", 3)]
    dispatcher.flush()
    assert [event["uuid"] for event in carrier.events()] == ["0", "1", "2", "3"]


def test_a_dispatcher_keeps_what_it_cannot_send(app: Celeriac, carrier: Carrier) -> None:
    keeping, strict = app.events.Dispatcher(), app.events.Dispatcher(buffer_while_offline=False)
    carrier.away = True
    keeping.send("task-x", uuid="1")
    with pytest.raises(OperationalError):
        strict.send("task-x", uuid="2")
    carrier.away = False
    keeping.flush()
    assert [event["uuid"] for event in carrier.events()] == ["1"]


def test_what_json_cannot_carry_is_named(app: Celeriac) -> None:
    with pytest.raises(EncodeError, match="task-x"):
        app.events.tell("task-x", {"value": object()})


def test_a_task_outside_of_a_worker_sends_at_once(app: Celeriac, carrier: Carrier) -> None:
    @app.task(bind=True)
    def work(self: Any) -> None:
        self.send_event("task-progress", done=0.5)

    work.apply(task_id="one")
    ((key, event),) = carrier.sent
    assert (key, event["uuid"], event["done"], event["type"]) == (
        "task.progress",
        "one",
        0.5,
        "task-progress",
    )


def test_the_logical_clock_never_falls_behind() -> None:
    clock = LamportClock()
    assert [clock.forward(), clock.adjust(10), clock.adjust(3), clock.forward()] == [1, 11, 12, 13]


# -- the sender -------------------------------------------------------------------------------------------


@pytest.fixture
def sender(app: Celeriac, carrier: Carrier) -> Sender:
    from celeriac.engines.base import NodeInfo

    board = Board(2, 1)
    # The options look into the broker's queues, of which there are none here.
    options = resolve(Celeriac("x", broker="memory://", set_as_current=False), {"hostname": "w@h"})
    return Sender(app, options, board, NodeInfo("i", "w@h", "h", 7, 0.0), carrier)


def test_a_worker_tells_of_itself_as_celery_s_do(sender: Sender, carrier: Carrier) -> None:
    for record, count in zip(sender._records, (3, 4), strict=True):
        record.reset(1)
        record.processed = count
    sender.start()
    wait_until(lambda: carrier.sent)
    sender.beat_now()
    wait_until(lambda: len(carrier.sent) > 1)
    sender._records[0].reset(2)  # a new process: what the old one did still counts
    sender._records[0].processed = 1
    sender.stop()
    assert not sender.is_alive()
    assert carrier.sent[0][0] == "worker.online"
    assert carrier.sent[-1][0] == "worker.offline"
    assert {key for key, _ in carrier.sent[1:-1]} == {"worker.heartbeat"}
    event = carrier.sent[-1][1]
    assert set(event) == {
        "hostname", "utcoffset", "pid", "clock", "freq", "active", "processed", "loadavg", "sw_ident",
        "sw_ver", "sw_sys", "timestamp", "type",
    }  # fmt: skip
    assert (event["freq"], event["processed"], event["active"], event["pid"]) == (2.0, 8, 0, 7)
    clocks = [event["clock"] for event in carrier.events()]
    assert clocks == sorted(set(clocks))


def test_task_events_are_sent_in_bounded_batches(sender: Sender, carrier: Carrier) -> None:
    tape = Tape(_board_of(sender), 0)
    for number in range(5000):
        tape.append(b'{"type":"task-x","n":%d,"fill":"%b","clock":%d}' % (number, b"x" * 60, number + 1))
    sender._step()
    batches = [body for key, body in carrier.sent if key == "task.multi"]
    assert len(batches) > 1
    assert [event["n"] for batch in batches for event in batch] == list(range(5000))
    assert max(len(json.dumps(batch)) for batch in batches) < 2 * BATCH
    assert tape.tick() > 5000, "the node's clock has gone on, and the children know it"


def test_a_child_s_events_are_completed_by_the_agent(sender: Sender, carrier: Carrier) -> None:
    """Whatever the arguments look like, and where a header holds what JSON cannot carry."""
    app, tape = sender.app, Tape(_board_of(sender), 0)
    runner = Runner(app, "w@h", "owner", max_deliveries=3)
    recorder = Recorder(tape)
    recorder.keeping = True
    runner.record(recorder)

    @app.task(name="shop.add")
    def add(x: str) -> str:
        return x

    def run(*args: object, **headers: object) -> None:
        built = app.publisher.build("shop.add", args, {}, task=add, task_id="one")
        built.message.headers.update(headers)
        job = runner.prepare(Delivery(1, "celery", encode_envelope(built.message)))
        assert isinstance(job, Job)
        runner.run(job)

    run('{"~clock~":5}', group="g", stamps={"batch": "1"})
    run("b", shadow="\ud800")
    recorder.flush()
    sender._step()
    events = [event for event in carrier.events() if "uuid" in event]
    received, _, succeeded, *others = events
    common = {"hostname": "w@h", "utcoffset": utcoffset(), "pid": sender._pid}
    for event in events:
        assert {name: event[name] for name in common} == common
    assert [event["type"] for event in others] == ["task-received", "task-started", "task-succeeded"]
    clocks = [event["clock"] for event in events]
    assert clocks == sorted(set(clocks))
    assert (received["args"], received["group_id"], received["stamps"]) == (
        repr(('{"~clock~":5}',)), "g", {"batch": "1"},
    )  # fmt: skip
    assert succeeded["result"] == repr('{"~clock~":5}')
    assert received.keys() - {"group_id", "stamps"} == others[0].keys()
    assert others[0]["name"] == "\ud800"


def _board_of(sender: Sender) -> Board:
    return sender._records[0].board


def test_nothing_is_sent_to_nobody(sender: Sender, carrier: Carrier) -> None:
    carrier.heard = False
    tape = Tape(_board_of(sender), 0)
    for number in range(5000):
        tape.append(b'{"type":"task-x","n":%d,"clock":%d,"fill":"%b"}' % (number, number + 1, b"x" * 60))
    sender._step()
    assert len(carrier.events()) < 2000
    assert sender._tapes[0].waiting == 0
    assert sender._lost == 0
    carrier.sent.clear()
    carrier.heard = True
    tape.append(b'{"type":"task-x","n":-1,"clock":1}')
    sender._step()
    assert carrier.events()[-1]["n"] == -1


def test_a_broker_that_is_away_drops_the_oldest_and_is_said_once(
    sender: Sender, carrier: Carrier, caplog: pytest.LogCaptureFixture
) -> None:
    carrier.away = True
    tape = Tape(_board_of(sender), 0)
    fill = b"x" * 60_000
    total = 2 * BUFFERED // len(fill)
    for number in range(total):
        assert tape.append(b'{"type":"task-x","n":%d,"fill":"%b","clock":1}' % (number, fill))
        sender._step()
    assert sender._size <= BUFFERED
    assert sum("Cannot send events" in record.message for record in caplog.records) == 1
    carrier.away, sender._retry_at = False, 0.0
    sender._step()
    numbers = [event["n"] for event in carrier.events() if event["type"] == "task-x"]
    assert numbers == list(range(total - len(numbers), total))
    assert len(numbers) > total // 3
    assert any("events were dropped" in record.message for record in caplog.records)


# -- receiving --------------------------------------------------------------------------------------------


def test_a_receiver_calls_the_handler_of_a_type_or_the_one_for_all(app: Celeriac, carrier: Carrier) -> None:
    carrier.batches = [[], [{"type": "task-a", "clock": 7, "n": 1}, {"type": "task-b", "n": 2}], []]
    seen: list[Any] = []
    receiver = app.events.Receiver(
        app.connection(), handlers={"task-a": lambda e: seen.append(("a", e)), "*": lambda e: seen.append(e)}
    )
    receiver.capture(limit=None, timeout=None, wakeup=False)
    (kind, first), second = seen
    assert kind == "a"
    assert first["n"] == 1
    assert first["local_received"] <= time.time()
    assert (second["n"], second["clock"]) == (2, 9), "an event without a clock gets ours, which is ahead of 7"


def test_a_receiver_ends_at_its_limit(app: Celeriac, carrier: Carrier) -> None:
    carrier.batches = [[{"type": "task-a", "n": n}] for n in range(9)]
    seen: list[Any] = []
    app.events.Receiver(handlers={"*": seen.append}).capture(limit=3, wakeup=False)
    assert [event["n"] for event in seen] == [0, 1, 2]


def test_a_receiver_gives_up_after_its_timeout(app: Celeriac, carrier: Carrier) -> None:
    carrier.batches = [[{"type": "task-a"}], [], []]
    with pytest.raises(TimeoutError):
        app.events.Receiver(handlers={}).capture(timeout=1e-9, wakeup=False)


def test_a_broker_without_events_is_named() -> None:
    app = Celeriac("x", broker="memory://", set_as_current=False)
    with pytest.raises(ImproperlyConfigured, match="celeriac history"):
        app.events.Receiver(handlers={})
    app.events.tell("task-x", {})  # goes nowhere, as said


def test_the_receiver_is_a_class_of_ours(app: Celeriac) -> None:
    assert issubclass(app.events.Receiver, EventReceiver)
    assert issubclass(app.events.State, State)


# -- the state --------------------------------------------------------------------------------------------


def test_the_state_is_what_celery_s_makes_of_the_same_events() -> None:
    from tests.integration.test_celery_interop import celery_python

    seeds = range(8)
    script = Path(__file__).with_name("event_streams.py")
    theirs = subprocess.run(
        [celery_python(), str(script), *map(str, seeds)], capture_output=True, text=True, check=True
    ).stdout
    assert json.loads(json.dumps([told(State, seed) for seed in seeds])) == json.loads(theirs)


def test_a_worker_is_alive_for_twice_the_time_between_its_heartbeats() -> None:
    assert heartbeat_expires(100.0, 2.0) == 104.0
    worker, now = Worker("w@h", freq=2.0), time.time()
    worker.event("heartbeat", now - 5, now - 5)
    assert not worker.alive
    worker.event("heartbeat", now, now)
    assert worker.alive
    assert worker.status_string == "ONLINE"
    worker.event("offline", now, now)
    assert not worker.alive


def test_the_state_forgets_the_oldest_tasks_and_can_be_pickled() -> None:
    state = State(max_tasks_in_memory=10)
    for number in range(30):
        state.event(_received(f"t{number}", number))
    assert [uuid for uuid, _ in state.itertasks()] == [f"t{number}" for number in range(20, 30)]
    again = pickle.loads(pickle.dumps(state))
    assert [uuid for uuid, _ in again.tasks_by_time()] == [uuid for uuid, _ in state.tasks_by_time()]
    assert again.tasks["t25"].name == "add"
    assert {task.uuid for task in again.tasks_by_type["add"]} == {f"t{number}" for number in range(20, 30)}


def test_names_of_a_foreign_event_s_fields_break_nothing() -> None:
    state = State()
    state.event(
        {**_received("t", 1), "ready": 1, "children": 2, "cluster_state": 3, "event": 4, "queue": "q"}
    )
    task = state.tasks["t"]
    assert (task.ready, task.queue) == (False, "q")
    assert task.as_dict()["name"] == "add"


def _received(uuid: str, clock: int) -> dict[str, Any]:
    return {
        "type": "task-received", "uuid": uuid, "hostname": "w@h", "timestamp": 1.0 * clock, "clock": clock,
        "local_received": 1.0 * clock, "name": "add", "args": "()", "kwargs": "{}",
    }  # fmt: skip


def test_a_camera_takes_pictures_until_it_is_cancelled() -> None:
    taken = threading.Semaphore(0)
    seen: list[int] = []

    class Camera(Polaroid):
        clear_after = True

        def on_shutter(self, state: Any) -> None:
            seen.append(state.event_count)
            taken.release()

    state = State()
    for number in range(3):
        state.event(_received(str(number), number + 1))
    with Camera(state, freq=0.01):
        assert taken.acquire(timeout=20)
        assert taken.acquire(timeout=20)
    assert seen[0] == 3
    assert seen[1] == 0, "it was cleared"


@pytest.mark.parametrize(
    ("rate", "seconds"), [("10/m", 6.0), (2, 0.5), ("2", 0.5), (None, 0.0), ("1/h", 3600.0)]
)
def test_a_camera_s_rate(rate: Any, seconds: float) -> None:
    assert seconds_between(rate) == seconds


@pytest.mark.parametrize("rate", ["often", "3/x", "0/m", "-1"])
def test_a_camera_s_rate_that_is_none(rate: str) -> None:
    with pytest.raises(ValueError, match="rate"):
        seconds_between(rate)


@pytest.mark.parametrize(
    ("state", "type", "told"),
    [
        ("SUCCESS", "task-succeeded", {"result": "3", "runtime": 0.5}),
        ("FAILURE", "task-failed", {"exception": "ValueError: no"}),
        ("RETRY", "task-retried", {"exception": "ValueError: no"}),
        ("REVOKED", "task-revoked", {"exception": "ValueError: no"}),
        ("LOST", "task-failed", {"state": "LOST", "exception": "ValueError: no"}),
    ],
)
def test_an_attempt_of_the_history_becomes_its_events(state: str, type: str, told: dict[str, Any]) -> None:
    error = "" if state == "SUCCESS" else "ValueError: no"
    times = {"received": 1.0, "started": 2.0, "ended": 2.5, "runtime": 0.5}
    attempt = Attempt("t1", "add", state, "q", "w@h", pid=7, args="(1, 2)", result="3", error=error, **times)
    received, started, ended = events_of(attempt)
    assert (received["type"], received["timestamp"], received["name"]) == ("task-received", 1.0, "add")
    assert (started["type"], started["timestamp"]) == ("task-started", 2.0)
    about = {"uuid": "t1", "hostname": "w@h", "pid": 7, "queue": "q"}
    assert ended == {"type": type, "timestamp": 2.5, **about, **told}
    attempt.started = 0.0
    assert [event["type"] for event in events_of(attempt)] == ["task-received", type]


def test_the_dump_has_celery_s_form() -> None:
    out = io.StringIO()
    dumper = Dumper(out)
    dumper.on_event({**_received("t1", 7), "queue": "q"})
    dumper.on_event({"type": "task-started", "uuid": "t1", "hostname": "w@h", "timestamp": 2.5, "clock": 8})
    dumper.on_event({"type": "worker-heartbeat", "hostname": "w@h", "timestamp": 3.0, "freq": 2.0})
    assert out.getvalue().splitlines() == [
        "w@h [1970-01-01 00:00:07+00:00] task received: add(t1) args=() kwargs={} clock=7, "
        "local_received=7.0, queue=q",
        "w@h [1970-01-01 00:00:02.500000+00:00] task started: add(t1) args=() kwargs={} clock=8",
        "w@h [1970-01-01 00:00:03+00:00] heartbeat: freq=2.0",
    ]


def test_the_table_shows_workers_and_the_newest_tasks_and_no_markup_of_theirs() -> None:
    from rich.console import Console

    from celeriac.cli.live import picture

    state = State()
    now = time.time()
    beat = {
        "type": "worker-heartbeat",
        "hostname": "w@h",
        "timestamp": now,
        "local_received": now,
        "freq": 2.0,
    }
    state.event({**beat, "active": 1, "processed": 7, "loadavg": [0.5, 0.25, 0.1], "sw_ident": "py-celeriac"})
    for number in range(40):
        state.event({**_received(f"t{number}", number + 1), "name": f"[red]add{number}\x1b[2J"})
    state.event({"type": "task-succeeded", "uuid": "t39", "hostname": "w@h", "timestamp": now, "clock": 50,
                 "result": "1", "runtime": 0.25})  # fmt: skip
    console = Console(file=io.StringIO(), width=120, height=30)
    console.print(picture(state, "trouble", console))
    shown = console.file.getvalue()  # type: ignore[attr-defined]
    lines = shown.splitlines()
    assert "42 events, 40 tasks, 1 workers" in lines[0]
    assert any(line.split()[:4] == ["w@h", "ONLINE", "1", "7"] for line in lines)
    assert "trouble" in shown
    assert "[red]add39?[2J" in shown
    assert "SUCCESS" in shown
    assert "0.250 s" in shown
    assert "add1?" not in shown, "there is room for the newest only"
    assert len(lines) <= 30
