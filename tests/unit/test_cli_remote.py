"""``celeriac inspect``, ``control`` and ``list bindings``: what they send, and how answers are shown."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from celeriac import Celeriac
from celeriac.contrib.conformance.helpers import eventually
from celeriac.contrib.conformance.listening import Handle, Node
from celeriac.engines.remote import Order
from celeriac.worker.control import Panel, control_command, inspect_command
from tests.unit.test_cli import Run, app, run

__all__ = ["app", "run"]

Start = Callable[..., list[Order]]


@pytest.fixture
def start(app: Celeriac) -> Iterator[Start]:
    """Starts a worker of this name that listens; returns the orders it has taken."""
    nodes: list[Node] = []

    def start(name: str, handle: Handle | None = None) -> list[Order]:
        broker: Any = app.broker
        nodes.append(Node(broker, name, handle))
        eventually(lambda: name in [box.node for box in broker.state.boxes])
        return nodes[-1].taken

    yield start
    for node in nodes:
        node.stop()


@pytest.fixture
def own_commands() -> Iterator[None]:
    """The application's own commands, one of each kind."""

    @inspect_command(args=[("path", str), ("depth", int)], signature="[path [depth]]")
    def disk_free(state: Any, path: str = "/", depth: int = 1) -> None:
        """How much room there is.

        In bytes.
        """

    @control_command(variadic="names")
    def rename(state: Any, names: list[str]) -> None:
        """Rename things."""

    yield
    for name in ("disk_free", "rename"):
        del Panel.data[name], Panel.meta[name]


def test_answers_are_shown_as_celery_shows_them(run: Run, start: Start) -> None:
    answers: dict[str, Any] = {
        "ping": {"ok": "pong"},
        "revoked": ["id-1", {"b": 1, "a": "ä"}],
        "active": [],
        "stats": {"total": {}, "pid": 3},
        "conf": {"error": "no\x1b[31m"},
        "heartbeat": None,
    }
    start("w@h", lambda order: answers[order.method])
    assert run("inspect", "ping").out == "->  w@h: OK\n        pong\n\n1 node online.\n"
    assert run("inspect", "revoked", "-q").out == '->  w@h: OK\n    * id-1\n    * {"a": "ä", "b": 1}\n'
    assert run("inspect", "active", "-q").out == "->  w@h: OK\n    - empty -\n"
    assert run("inspect", "stats", "-q").out == (
        '->  w@h: OK\n    {\n        "pid": 3,\n        "total": {}\n    }\n'
    )
    assert run("control", "heartbeat").out == "->  w@h: OK\n"
    ran = run("inspect", "conf", "-q")
    assert (ran.status, ran.out) == (0, "->  w@h: ERROR\n        no?[31m\n")


def test_json_is_one_object_by_node(run: Run, start: Start) -> None:
    for name in ("a@h", "b@h"):
        start(name)
    ran = run("inspect", "ping", "--json")
    assert json.loads(ran.out) == {"a@h": {"ok": {}}, "b@h": {"ok": {}}}
    assert json.loads(run("control", "pool_grow", "2", "-j").out)["a@h"] == {"ok": {"n": 2}}


def test_only_the_chosen_are_asked(run: Run, start: Start) -> None:
    taken = {name: start(name) for name in ("a1@h", "a2@h", "b@h")}
    run("inspect", "ping", "-d", "a1@h,b@h")
    run("inspect", "ping", "--pattern", "a*")
    run("inspect", "ping", "--pattern", r"\w2", "--matcher", "pcre")
    assert {name: len(orders) for name, orders in taken.items()} == {"a1@h": 2, "a2@h": 2, "b@h": 1}


@pytest.mark.parametrize(
    ("line", "method", "arguments"),
    [
        ("inspect query_task a b", "query_task", {"ids": ["a", "b"]}),
        ("inspect conf yes", "conf", {"with_defaults": True}),
        ("inspect dump_reserved", "reserved", {}),
        ("inspect disk_free /tmp 3", "disk_free", {"path": "/tmp", "depth": 3}),
        ("inspect hello w1@h", "hello", {"from_node": "w1@h"}),
        ("control rename x y", "rename", {"names": ["x", "y"]}),
        ("control time_limit t 1 2.5", "time_limit", {"task_name": "t", "soft": 1.0, "hard": 2.5}),
        ("control add_consumer q -t 3", "add_consumer", {"queue": "q"}),
        ("control autoscale 8 2", "autoscale", {"max": 8, "min": 2}),
    ],
)
def test_words_become_arguments(
    run: Run, start: Start, own_commands: None, line: str, method: str, arguments: dict[str, Any]
) -> None:
    taken = start("w@h")
    assert run(*line.split()).status == 0
    assert [(order.method, order.arguments) for order in taken] == [(method, arguments)]


def test_kept_orders_are_stored_even_if_nobody_listens(run: Run, app: Celeriac, start: Start) -> None:
    assert app.coordinator is not None
    ran = run("control", "terminate", "KILL", "id-1")
    assert (ran.status, ran.out) == (69, "")
    assert "No nodes replied within time constraint. The order is stored" in ran.err
    start("w@h")
    assert run("control", "revoke", "id-2").status == 0
    assert run("control", "rate_limit", "shop.add", "3/m").status == 0
    control = app.coordinator.control()
    assert (sorted(control.revoked), control.terminate) == (["id-1", "id-2"], {"id-1": "SIGKILL"})
    assert control.rate_limits == {"shop.add": "3/m"}


def test_the_list_names_all_and_the_application_s_own(run: Run, own_commands: None) -> None:
    shown = run("inspect", "--list").out
    assert "disk_free [path [depth]]" in shown
    assert "How much room there is." in shown
    assert "hello" not in shown
    listed = json.loads(run("control", "--list", "--json").out)
    assert listed["rename"] == {"arguments": "", "help": "Rename things."}
    assert {"revoke", "pool_grow", "shutdown"} < listed.keys()


def test_list_bindings(run: Run, app: Celeriac) -> None:
    app.conf.task_default_exchange = "shop"
    app.conf.task_default_routing_key = "shop.#"
    lines = run("list", "bindings").out.splitlines()
    assert [line.split() for line in lines[1:]] == [["celery", "shop", "direct", "shop.#"]]
    assert json.loads(run("list", "bindings", "-j").out)[0]["queue"] == "celery"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("control rate_limit proj.add often", "'often'"),
        ("control terminate NOSUCH id", "NOSUCH"),
        ("inspect ping --pattern ( --matcher pcre", "'(' is no regular expression"),
        ("inspect hello", "hello takes <node>"),
        ("control time_limit", "time_limit takes <task_name>"),
    ],
)
def test_what_cannot_be_sent_is_told_and_not_sent(run: Run, start: Start, arguments: str, said: str) -> None:
    taken = start("w@h")
    ran = run(*arguments.split())
    assert ran.status in (1, 2)
    assert said in ran.err
    assert not taken
