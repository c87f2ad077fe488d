"""What a worker answers, command by command; compared with what Celery 5.7's worker has answered."""

from __future__ import annotations

import json
import socket
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from celeriac import Celeriac
from celeriac.engines.base import Delivery
from celeriac.engines.remote import NO_REPLY, Order
from celeriac.message import encode_envelope, new_id
from celeriac.worker import state
from celeriac.worker.agent import Agent
from celeriac.worker.board import Board
from celeriac.worker.channel import Autoscale, Channel, Message, Replace, Resize, Stop, Terminate, Wake
from celeriac.worker.child import Seat
from celeriac.worker.control import Panel, control_command, inspect_command
from celeriac.worker.control.service import Service
from celeriac.worker.holdings import Holdings
from celeriac.worker.node import new_node
from celeriac.worker.notice import Notice, read
from celeriac.worker.options import resolve
from celeriac.worker.worker import _store_notes

CELERY: dict[str, Any] = json.loads((Path(__file__).parent.parent / "data/control_replies.json").read_text())
"""What Celery 5.7's worker answered to the same, by name of the command (with a suffix for a variant)."""


INSPECT = {
    *("active", "active_queues", "clock", "conf", "hello", "memdump", "memsample", "objgraph", "ping"),
    *("query_task", "registered", "report", "reserved", "revoked", "scheduled", "stats"),
}
CONTROL = {
    *("add_consumer", "autoscale", "cancel_consumer", "disable_events", "election", "enable_events"),
    *("heartbeat", "pool_grow", "pool_restart", "pool_shrink", "rate_limit", "revoke", "shutdown"),
    *("revoke_by_stamped_headers", "terminate", "time_limit"),
}
ALIASES = {"dump_conf", "dump_tasks", "dump_active", "dump_reserved", "dump_schedule", "dump_revoked"}


class Wire(Channel):
    """Keeps what the agent says to the supervisor."""

    def __init__(self) -> None:
        super().__init__(socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)[0])
        self.said: list[Message] = []

    def send(self, message: Message) -> None:
        self.said.append(message)


class Rig:
    """A node that is not running, and its remote control."""

    def __init__(self, pool: str = "prefork", board: Board | None = None, **flags: Any) -> None:
        self.app = Celeriac(
            "rig", broker=f"memory://{new_id()}", set_as_current=False, worker_pool_restarts=True
        )

        @self.app.task(name="cap.add", rate_limit="100/s")
        def add(x: int, y: int, password: str = "") -> int:
            return x + y

        @self.app.task(name="cap.sleep")
        def sleep(seconds: float) -> None: ...

        self.app.finalize()
        self.options = resolve(self.app, {"hostname": "w1@vm", "concurrency": 2, "pool": pool, **flags})
        self.board = board or Board(self.options.room, self.options.slots)
        self.board.used = self.board.wanted = 2 if pool == "prefork" else 1
        self.board.autoscale = self.options.autoscale
        self.wire = Wire()
        self.agent = Agent(
            self.app, self.options, self.board, new_node(self.app, self.options, "1"), self.wire
        )
        self.service = Service(self.agent)

    def ask(self, method: str, **arguments: Any) -> Any:
        return self.service.handle(Order(method, arguments))

    def claim(self, child: int, *calls: tuple[str, str, tuple[Any, ...], dict[str, Any]]) -> None:
        """Let a child claim these calls (task, id, args, kwargs) and start the first one."""
        record = self.board.child(child)
        record.reset(1)
        record.pid = 4000 + child
        deliveries = []
        for token, (name, task_id, args, kwargs) in enumerate(calls, 10 * child + 1):
            task = self.app.tasks[name]
            stamps = kwargs.pop("stamps", {})
            built = self.app.publisher.build(name, args, kwargs, task=task, task_id=task_id, priority=3)
            built.message.headers.update({"stamps": stamps} if stamps else {})
            deliveries.append(Delivery(token, "celery", encode_envelope(built.message)))
        Holdings(self.board, child).hold(0, deliveries)
        record.note_claims([(each.token, 0) for each in deliveries])
        record.start_claim(0, deliveries[0].token, 0, calls[0][1], calls[0][0], (0.0, 0.0), False)
        Holdings(self.board, child).count(calls[0][0])

    @property
    def told(self) -> Notice:
        return read(self.board)


@pytest.fixture
def rig() -> Rig:
    return Rig()


def shape(value: Any) -> Any:
    """The keys of an answer, whatever its values."""
    if isinstance(value, dict):
        return {key: shape(each) for key, each in value.items()}
    return [shape(each) for each in value[:1]] if isinstance(value, list) and value else None


def same_keys(ours: Any, celerys: Any, path: str = "") -> None:
    """Everything that Celery's answer has, ours has too."""
    if isinstance(celerys, dict):
        assert isinstance(ours, dict), path
        for key, value in celerys.items():
            assert key in ours, f"{path}/{key}"
            same_keys(ours[key], value, f"{path}/{key}")
    elif isinstance(celerys, list) and celerys and isinstance(ours, list) and ours:
        same_keys(ours[0], celerys[0], f"{path}[]")


# -- looking -------------------------------------------------------------------------------------------


def test_every_command_of_celery_is_there() -> None:
    assert {name for name, info in Panel.meta.items() if info.type == "inspect"} >= INSPECT
    assert {name for name, info in Panel.meta.items() if info.type == "control"} >= CONTROL
    assert set(Panel.data) >= INSPECT | CONTROL | ALIASES
    assert not Panel.meta["hello"].visible
    assert all(info.help for info in Panel.meta.values())


def test_ping_and_clock(rig: Rig) -> None:
    assert rig.ask("ping") == CELERY["ping"]
    before = rig.app.clock.value
    order = Order("clock", clock=before + 100)
    assert rig.service.handle(order)["clock"] > before + 100
    assert order.clock == rig.app.clock.value


def test_what_runs_has_celery_s_fields_and_no_secrets(rig: Rig) -> None:
    rig.claim(0, ("cap.add", "id-1", (1, 2), {"password": "hush"}))
    (record,) = rig.ask("active")
    assert shape(record["delivery_info"]) == shape(CELERY["active"][0]["delivery_info"])
    assert set(record) == set(CELERY["active"][0])
    assert (record["id"], record["name"], record["type"], record["hostname"]) == (
        "id-1",
        "cap.add",
        "cap.add",
        "w1@vm",
    )
    assert (record["args"], record["kwargs"]) == ([1, 2], {"password": "***"})
    assert abs(record["time_start"] - time.time()) < 60
    assert (record["worker_pid"], record["acknowledged"]) == (4000, False)
    assert record["delivery_info"] == {
        "exchange": "", "routing_key": "celery", "priority": 3, "redelivered": False,
    }  # fmt: skip
    (safe,) = rig.ask("active", safe=True)
    assert (safe["args"], safe["kwargs"]) == ("(1, 2)", "{'password': '***'}")


def test_what_waits_behind_it_is_reserved(rig: Rig) -> None:
    rig.claim(0, ("cap.add", "a", (1, 2), {}), ("cap.add", "b", (3, 4), {}), ("cap.sleep", "c", (5,), {}))
    rig.claim(1, ("cap.sleep", "d", (6,), {}))
    assert [record["id"] for record in rig.ask("active")] == ["a", "d"]
    reserved = rig.ask("reserved")
    assert [(record["id"], record["args"]) for record in reserved] == [("b", [3, 4]), ("c", [5])]
    assert set(reserved[0]) == set(CELERY["reserved"][0])
    assert (reserved[0]["time_start"], reserved[0]["worker_pid"]) == (None, None)
    rig.board.child(0).withdraw()
    assert rig.ask("reserved") == []
    found = rig.ask("query_task", ids=["a", "b", "nowhere"])
    assert found.keys() == {"a"}
    assert found["a"][0] == "active"


def test_delayed_tasks_are_scheduled(rig: Rig) -> None:
    result = rig.app.tasks["cap.add"].apply_async((1, 2), countdown=300, priority=3)
    (entry,) = rig.ask("scheduled")
    celerys = CELERY["scheduled"][0]
    assert (set(entry), set(entry["request"])) == (set(celerys), set(celerys["request"]))
    assert entry["eta"] > "2000"
    assert (entry["request"]["id"], entry["request"]["args"], entry["priority"]) == (result.id, [1, 2], 3)
    (state, record) = rig.ask("query_task", ids=result.id)[result.id]
    assert (state, record["id"]) == ("scheduled", result.id)


def test_what_the_worker_holds_can_be_read_where_celery_s_is(rig: Rig) -> None:
    rig.claim(0, ("cap.add", "a", (1, 2), {"password": "hunter2"}), ("cap.add", "b", (2, 2), {}))
    rig.ask("revoke", task_id="gone")
    found = [(each.id, each.task_name) for each in state.active_requests if each.worker_pid == 4000]
    assert ("a", "cap.add") in found
    (active,) = [each for each in state.active_requests if each.kwargs]
    assert (active.task_id, active.kwargs, active.hostname) == ("a", {"password": "***"}, "w1@vm")
    assert "b" in [each.id for each in state.reserved_requests]
    assert state.total_count["cap.add"] >= 1
    assert "gone" in state.revoked


def test_stats_has_all_that_celery_s_has(rig: Rig) -> None:
    rig.claim(0, ("cap.add", "a", (1, 2), {}))
    rig.claim(1, ("cap.sleep", "b", (1,), {}))
    rig.claim(1, ("cap.sleep", "c", (1,), {}))
    stats = rig.ask("stats")
    theirs = {**CELERY["stats"], "total": {}}
    theirs["broker"] = {key: value for key, value in theirs["broker"].items() if key != "credential_provider"}
    same_keys(stats, theirs)
    assert stats["total"] == {"cap.add": 1, "cap.sleep": 2}
    assert isinstance(stats["clock"], str)
    assert (stats["pool"]["max-concurrency"], stats["pool"]["processes"]) == (2, [4000, 4001])
    assert stats["pool"]["writes"]["raw"] == "1, 2"
    json.dumps(stats)


def test_active_queues_are_described_as_kombu_does(rig: Rig) -> None:
    assert rig.ask("active_queues") == CELERY["active_queues"]


def test_registered_tasks(rig: Rig) -> None:
    ours = [task for task in rig.ask("registered") if task.startswith("cap.")]
    assert ours == [task for task in CELERY["registered"] if task.startswith("cap.")]
    assert rig.ask("registered") == rig.ask("dump_tasks")
    both = rig.ask("registered", taskinfoitems=["max_retries", "serializer"], builtins=True)
    assert set(both) >= set(CELERY["registered2"])  # other tests of this process may have added some


def test_settings_are_shown_without_secrets() -> None:
    app = Rig().app
    app.conf.update(broker_transport_options={"password": "hush"}, result_backend="redis://:hush@localhost/0")
    rig = Rig()
    rig.service.app = rig.service.state.app = app
    shown = rig.ask("conf", with_defaults="true")
    assert "hush" not in json.dumps(shown)
    assert shown["task_default_queue"] == "celery"
    assert "task_default_queue" not in rig.ask("dump_conf")


def test_memory_and_report(rig: Rig, monkeypatch: Any) -> None:
    assert rig.ask("memsample").endswith("MB")
    assert "rss:" in rig.ask("memdump")
    assert "celeriac:" in rig.ask("report")["ok"]
    monkeypatch.setitem(sys.modules, "objgraph", None)
    assert rig.ask("objgraph") == CELERY["objgraph"]


# -- tasks ---------------------------------------------------------------------------------------------


def test_a_revoke_is_kept_in_the_store_once(rig: Rig) -> None:
    delayed = rig.app.tasks["cap.add"].apply_async((1, 2), countdown=300)
    assert rig.ask("revoke", task_id=["abc", delayed.id])["ok"].endswith("flagged as revoked")
    assert sorted(rig.ask("revoked")) == sorted(["abc", delayed.id])
    assert (delayed.state, rig.ask("scheduled")) == ("REVOKED", [])
    version = rig.app.coordinator.control(0).version  # type: ignore[union-attr]
    assert rig.ask("revoke", task_id="abc") == CELERY["revoke"]
    assert rig.app.coordinator.control(0).version == version  # type: ignore[union-attr]


def test_events_tell_of_delayed_tasks_that_are_revoked(rig: Rig, monkeypatch: Any) -> None:
    """No child ever sees them: the agent tells, of what it ends itself or is named to tell of."""
    told: list[Any] = []
    monkeypatch.setattr(rig.app.events, "publish", lambda key, events: told.extend(events))

    def revoke_delayed() -> str:
        delayed = rig.app.tasks["cap.add"].apply_async((1, 2), countdown=300)
        rig.ask("revoke", task_id=delayed.id)
        return str(delayed.id)

    revoke_delayed()
    assert told == []  # events are off
    rig.agent.tell_children(events=True)
    ended = revoke_delayed()
    rig.ask("revoke", task_id="theirs", ended={"theirs": "far.task"}, teller="w1@vm")
    rig.ask("revoke", task_id="other", ended={"other": "far.task"}, teller="w2@vm")
    fields = ("type", "uuid", "name", "hostname", "terminated", "expired")
    assert [tuple(event[field] for field in fields) for event in told] == [
        ("task-revoked", ended, "cap.add", "w1@vm", False, False),
        ("task-revoked", "theirs", "far.task", "w1@vm", False, False),
    ]
    rig.app.tasks["cap.add"].send_events = False
    revoke_delayed()
    assert len(told) == 2


def test_children_ask_for_orders_that_no_answer_of_the_broker_tells_of(rig: Rig, monkeypatch: Any) -> None:
    before = rig.board.notice_version
    rig.ask("rate_limit", task_name="cap.add", rate_limit="1/m")
    assert rig.board.notice_version == before  # the next exchange brings it
    other = Celeriac("other", broker=f"memory://{new_id()}", set_as_current=False).coordinator
    monkeypatch.setattr(Celeriac, "coordinator", property(lambda app: other))
    rig.ask("rate_limit", task_name="cap.add", rate_limit="2/m")
    assert rig.board.notice_version > before
    assert rig.wire.said == [Wake()]
    rig.ask("revoke", task_id="abc")
    rig.ask(
        "revoke", task_id="abc"
    )  # known already, because its sender has stored it: to be told all the same
    assert rig.wire.said == [Wake()] * 3


def test_a_child_that_is_told_to_asks_with_its_next_exchange(rig: Rig, monkeypatch: Any) -> None:
    monkeypatch.setattr("celeriac.worker.line.ORDERS_INTERVAL", 3600.0)
    other = Celeriac("other", broker=f"memory://{new_id()}", set_as_current=False).coordinator
    assert other is not None
    monkeypatch.setattr(Celeriac, "coordinator", property(lambda app: other))
    seat = Seat(rig.app, rig.options, rig.board.child(0), rig.agent.node.id, 1)
    known = seat.line.exchange([], 1).version
    other.limit_rate("cap.add", "1/m")
    assert seat.line.exchange([], 1).version == known
    rig.agent.announce_orders()
    seat.heed()
    assert seat.line.exchange([], 1).version > known
    seat.close()


def test_a_revoke_with_terminate_kills_what_runs_here(rig: Rig) -> None:
    rig.claim(1, ("cap.sleep", "long", (60,), {}))
    assert rig.ask("revoke", task_id="zzz", terminate=True) == CELERY["revoke_term_unk"]
    assert rig.wire.said == []
    assert rig.ask("terminate", signal="KILL", task_id="long") == {"ok": "terminate: long"}
    assert rig.wire.said == [Terminate(1, 11, "SIGKILL")]
    assert rig.app.coordinator.control(0).terminate["long"] == "SIGKILL"  # type: ignore[union-attr]
    assert "NOSUCH" in rig.ask("terminate", signal="NOSUCH", task_id="long")["error"]


def test_tasks_are_revoked_by_their_stamps(rig: Rig) -> None:
    assert rig.ask("revoke_by_stamped_headers", headers={"a": ["b"]}) == CELERY["stamped"]
    assert rig.ask("revoke_by_stamped_headers", headers=["a=b"], terminate=True)["ok"].endswith(
        "not terminated"
    )
    assert rig.ask("revoked") == []
    assert rig.app.coordinator.control(0).revoked == ['stamp:["a", "b"]']  # type: ignore[union-attr]
    long = "an id of a task that is longer than what the board shows of it"
    rig.claim(0, ("cap.sleep", long, (60,), {"stamps": {"a": "b"}}))
    answer = rig.ask("revoke_by_stamped_headers", headers={"a": ["b"]}, terminate=True, signal="SIGKILL")
    assert answer["ok"].endswith("revoked")
    assert rig.wire.said == [Terminate(0, 1, "SIGKILL")]
    assert rig.ask("revoked") == [long]


def test_registered_tasks_show_the_rate_limit_by_order(rig: Rig) -> None:
    def shown() -> str:
        return next(line for line in rig.ask("registered") if line.startswith("cap.add"))

    assert shown() == "cap.add [rate_limit=100/s]"
    rig.ask("rate_limit", task_name="cap.add", rate_limit="7/m")
    assert shown() == "cap.add [rate_limit=7/m]"
    rig.ask("rate_limit", task_name="cap.add", rate_limit=0)
    assert shown() == "cap.add"


def test_rate_limits_are_kept_in_the_store(rig: Rig) -> None:
    def kept() -> dict[str, str]:
        return rig.app.coordinator.control(0).rate_limits  # type: ignore[union-attr]

    for arguments, celery in (
        (("cap.add", "10/m"), "rate_limit"),
        (("cap.add", 0), "rate_limit_0"),
        (("cap.no", "1/m"), "rate_limit_unk"),
    ):
        assert rig.ask("rate_limit", task_name=arguments[0], rate_limit=arguments[1]) == CELERY[celery]
    assert kept() == {"cap.add": ""}
    assert "10/s" in rig.ask("rate_limit", task_name="cap.add", rate_limit="x/y")["error"]
    rig.ask("rate_limit", task_name="cap.add", rate_limit=None)
    assert kept() == {}


def test_time_limits_are_told_to_the_children(rig: Rig) -> None:
    assert rig.ask("time_limit", task_name="cap.no", hard=2) == CELERY["time_limit_unk"]
    assert rig.ask("time_limit", task_name="cap.add", soft=1, hard=2) == CELERY["time_limit"]
    rig.ask("time_limit", task_name="cap.sleep", hard=5)
    assert rig.told.limits == {"cap.add": (1.0, 2.0), "cap.sleep": (None, 5.0)}
    assert rig.wire.said == [Wake(), Wake()]


def test_time_limits_that_a_pool_cannot_keep_are_named() -> None:
    for pool, said in (("solo", "keeps none"), ("threads", "no hard ones")):
        assert said in Rig(pool).ask("time_limit", task_name="cap.add", hard=2)["ok"]


def test_what_no_store_keeps_is_refused_but_what_runs_is_killed(rig: Rig, monkeypatch: Any) -> None:
    monkeypatch.setattr(Celeriac, "coordinator", None)
    rig.claim(0, ("cap.sleep", "long", (60,), {"stamps": {"a": "b"}}))
    assert "result_backend" in rig.ask("revoke", task_id="long", terminate=True)["error"]
    assert rig.wire.said == [Terminate(0, 1, "SIGTERM")]
    answer = rig.ask("revoke_by_stamped_headers", headers={"a": "b"}, terminate=True, signal="SIGKILL")
    assert "result_backend" in answer["error"]
    assert rig.wire.said[1:] == [Terminate(0, 1, "SIGKILL")]
    assert "result_backend" in rig.ask("rate_limit", task_name="cap.add", rate_limit="1/m")["error"]
    assert rig.ask("revoked") == []


def test_events_where_the_broker_carries_none(rig: Rig) -> None:
    assert "event dispatcher unavailable" in rig.ask("enable_events")["error"]
    assert rig.ask("heartbeat") is None
    assert "elections" in rig.ask("election", id="1", topic="t")["error"]


def test_hello_tells_and_keeps_what_is_revoked(rig: Rig) -> None:
    rig.ask("revoke", task_id="ours")
    answer = rig.ask("hello", from_node="celery@other", revoked=["theirs"])
    assert (answer["revoked"], type(answer["clock"])) == (["ours"], int)
    assert sorted(rig.ask("revoked")) == ["ours", "theirs"]
    assert rig.ask("hello", from_node="w1@vm") is None


def test_a_broker_that_carries_no_orders_is_named_at_start_up(rig: Rig, monkeypatch: Any) -> None:
    assert not any("remote control" in note for note in _store_notes(rig.app, rig.options))
    monkeypatch.setattr(Celeriac, "broker", object())
    assert any("carries no remote control" in note for note in _store_notes(rig.app, rig.options))
    near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    rig.service.serve(near.fileno())  # nothing to do, nothing to wait for
    far.close()
    near.close()


# -- the pool ------------------------------------------------------------------------------------------


def test_the_pool_grows_and_shrinks_within_its_room(rig: Rig) -> None:
    assert rig.ask("pool_grow") == CELERY["pool_grow"]
    assert rig.ask("pool_shrink", n=1) == CELERY["pool_shrink"]
    assert "cannot shrink to 0" in rig.ask("pool_shrink", n=2)["error"]
    assert "cannot grow to 1002" in rig.ask("pool_grow", n=1000)["error"]
    assert rig.wire.said == [Resize(1), Resize(-1)]
    assert "Autoscale not enabled" in rig.ask("autoscale", max=3)["error"]


def test_autoscaling_changes_its_range() -> None:
    rig = Rig(autoscale="4,2")
    assert "autoscaling" in rig.ask("pool_grow")["error"]
    assert rig.ask("autoscale", max=6) == {"ok": "autoscale now max=6 min=2"}
    assert "not possible" in rig.ask("autoscale", min=5)["error"]
    assert rig.wire.said == [Autoscale(6, 2)]
    assert rig.ask("stats")["autoscaler"] == {"max": 4, "min": 2, "current": 2, "qty": 0}


@pytest.mark.parametrize("pool", ["threads", "solo", "asyncio"])
def test_other_pools_say_that_they_cannot(pool: str) -> None:
    rig = Rig(pool)
    assert f"the {pool} pool cannot grow" in rig.ask("pool_grow")["error"]
    assert f"the {pool} pool cannot shrink" in rig.ask("pool_shrink")["error"]


def test_a_restart_of_the_pool_has_to_be_allowed(rig: Rig) -> None:
    assert rig.ask("pool_restart", modules=None, reload=False, reloader=None) == CELERY["pool_restart"]
    assert "no_such_module" in rig.ask("pool_restart", modules=["no_such_module"])["error"]
    assert rig.told.modules == []
    rig.ask("pool_restart", modules=["json"], reload=True)
    assert (rig.told.modules, rig.told.reload) == (["json"], True)
    assert rig.wire.said == [Replace(), Wake(), Replace()]
    rig.app.conf.worker_pool_restarts = False
    assert "worker_pool_restarts" in rig.ask("pool_restart")["error"]


def test_shutdown(rig: Rig) -> None:
    rig.ask("shutdown")
    assert rig.wire.said == [Stop("remote")]


# -- queues --------------------------------------------------------------------------------------------


def test_queues_come_and_go_and_keep_their_places(rig: Rig) -> None:
    assert (
        rig.ask("add_consumer", queue="extra", exchange=None, exchange_type="direct")
        == CELERY["add_consumer"]
    )
    rig.ask("add_consumer", queue="more", exchange="x", exchange_type="topic", routing_key="a.#")
    assert rig.ask("cancel_consumer", queue="extra") == CELERY["cancel_consumer"]
    assert rig.ask("cancel_consumer", queue="never")["ok"] == "no longer consuming from never"
    assert rig.told.queues(["celery"]) == ["celery", "extra", "more"]
    assert rig.told.consumed(["celery"]) == ["celery", "more"]
    queues = {queue["name"]: queue for queue in rig.ask("active_queues")}
    assert queues.keys() == {"celery", "more"}
    assert (queues["more"]["exchange"]["name"], queues["more"]["exchange"]["type"]) == ("x", "topic")
    rig.ask("add_consumer", queue="extra")
    assert rig.told.queues(["celery"]) == ["celery", "extra", "more"]
    assert rig.told.consumed(["celery"]) == ["celery", "extra", "more"]
    rig.ask("cancel_consumer", queue="celery")
    assert [queue["name"] for queue in rig.ask("active_queues")] == ["extra", "more"]


def test_an_agent_that_takes_over_knows_the_changes(rig: Rig) -> None:
    rig.ask("add_consumer", queue="more", exchange="x", exchange_type="topic", routing_key="a.#")
    rig.ask("cancel_consumer", queue="celery")
    rig.ask("time_limit", task_name="cap.add", hard=2)
    another = Rig(board=rig.board)
    (queue,) = another.ask("active_queues")
    assert (queue["name"], queue["exchange"]["type"], queue["routing_key"]) == ("more", "topic", "a.#")
    another.ask("time_limit", task_name="cap.sleep", hard=3)
    assert set(another.told.limits) == {"cap.add", "cap.sleep"}


def test_a_broadcast_queue_is_the_node_s_own(rig: Rig) -> None:
    rig.ask("add_consumer", queue="news", exchange="news", exchange_type="fanout")
    (own,) = rig.told.added
    assert own.startswith("bcast.news.")
    assert [(tie.exchange, tie.type, tie.queue) for tie in rig.agent.own_bindings] == [
        ("news", "fanout", own)
    ]
    assert {q["name"]: q["alias"] for q in rig.ask("active_queues")} == {"celery": None, own: "news"}
    rig.ask("cancel_consumer", queue="news")
    assert rig.told.cancelled == [own]


def test_a_notice_that_gets_too_long_is_refused_and_changes_nothing(rig: Rig) -> None:
    assert "too much has been changed" in rig.ask("add_consumer", queue="q" * 70_000)["error"]
    assert rig.agent.consumed == ["celery"]


# -- commands in general -------------------------------------------------------------------------------


def test_only_who_is_meant_answers(rig: Rig) -> None:
    def handle(**fields: Any) -> Any:
        return rig.service.handle(Order("ping", **fields))

    pong = {"ok": "pong"}
    assert handle(destination=["w1@vm", "w2@vm"]) == pong
    assert handle(destination=["w2@vm"]) is NO_REPLY
    assert handle(pattern="w*@vm", matcher="glob") == pong
    assert handle(pattern="x*", matcher="glob") is NO_REPLY
    assert handle(pattern=r"w\d@", matcher="pcre") == pong


def test_a_command_that_fails_is_answered(rig: Rig) -> None:
    assert rig.ask("nosuch")["error"].startswith(CELERY["nosuch"]["error"])
    assert "did you mean 'ping'" in rig.ask("pin")["error"]
    assert rig.ask("rate_limit", x=1) == CELERY["badargs"]


def test_custom_commands(rig: Rig, monkeypatch: Any) -> None:
    monkeypatch.setattr(Panel, "data", dict(Panel.data))
    monkeypatch.setattr(Panel, "meta", dict(Panel.meta))

    @inspect_command(alias="df", args=[("path", str)], signature="[path]")
    def disk_free(state: Any, path: str = "/") -> Any:
        """How much room there is."""
        return {"path": path, "on": state.hostname, "kinds": {1, 2}, "raw": b"x", "when": object}

    @control_command(name="explode")
    def explode(state: Any) -> Any:
        raise RuntimeError("no")

    assert Panel.meta["disk_free"].help == "How much room there is."
    answer = rig.ask("df", path="/tmp")
    assert (answer["path"], answer["on"], answer["kinds"]) == ("/tmp", "w1@vm", [1, 2])
    json.dumps(answer)
    assert rig.ask("explode") == {"error": "RuntimeError('no')"}


def test_a_command_that_reaches_for_what_is_not_there_is_told_so(rig: Rig) -> None:
    with pytest.raises(AttributeError, match="has no 'consumer'"):
        _ = rig.service.state.consumer
