"""The scenarios of servers that go away, and of the ways to them."""

from __future__ import annotations

import contextlib
import random
import re
import time
from collections.abc import Sequence

from tests.faults.field import LEASE, Field
from tests.faults.ledger import Entry
from tests.faults.node import Node, await_true
from tests.faults.places import Server, field_on, opened, place
from tests.proxy import Proxy
from tests.servers import PostgresServer, RabbitServer, RedisServer


def server(engine: str, seed: int, tasks: int) -> Entry:
    """The server is killed, stopped in order, and away for longer than a lease; no worker is to blame.

    So every repeat counts as unexplained (but on RabbitMQ, where what ran while the server was away is run
    again).
    """
    with field_on(engine, "server restarts", seed) as (field, here):
        assert here.server is not None
        restarts = _Restarts(field, here.server)
        field.produce(tasks)
        plan = [restarts.crash, restarts.in_order, restarts.outage]
        while field.await_starts(max(100, tasks // 12)):
            (plan.pop(0) if plan else field.rng.choice((restarts.crash, restarts.in_order)))()
    return field.entry


class _Restarts:
    """How a server goes away and comes back."""

    def __init__(self, field: Field, server: Server) -> None:
        self.field = field
        self.server = server

    def crash(self) -> None:
        with self.field.cutting("server killed", self.field.nodes):
            self.server.restart()

    def in_order(self) -> None:
        with self.field.cutting("server restarted", self.field.nodes):
            self.server.shut_down()
            self.server.start()

    def outage(self) -> None:
        with self.field.cutting("server away", self.field.nodes):
            self.server.kill()
            time.sleep(1.5 * LEASE)
            self.server.start()


def quorum(engine: str, seed: int, tasks: int) -> Entry:
    """Quorum queues: the server is killed and stopped in order, it ends connections, and children are
    killed."""
    with field_on(engine, "quorum queues", seed, task_default_queue_type="quorum") as (field, here):
        assert here.server is not None
        restarts, ends = _Restarts(field, here.server), _Ends(here.server, field.rng)

        def closed() -> None:
            with field.cutting("connections killed", field.nodes):
                field.rng.choice((ends.some, ends.all))()

        field.produce(tasks)
        plan = [restarts.crash, closed, field.kill_child, restarts.in_order, field.kill_agent]
        while field.await_starts(max(50, tasks // 30)) or plan:
            (plan.pop(0) if plan else field.rng.choice((closed, field.kill_child, field.kill_child)))()
    return field.entry


def connections(engine: str, seed: int, tasks: int) -> Entry:
    """The server ends connections, one by one or all at once, as an operator or a failover does."""
    with field_on(engine, "connections killed", seed) as (field, here):
        field.produce(tasks)
        assert here.server is not None
        ends = _Ends(here.server, field.rng)
        while field.await_starts(max(20, tasks // 40)) or ends.plan:
            with field.cutting("connections killed", field.nodes):
                (ends.plan.pop(0) if ends.plan else field.rng.choice((ends.some, ends.some, ends.all)))()
    return field.entry


class _Ends:
    """How a server ends its clients' connections."""

    def __init__(self, server: Server, rng: random.Random) -> None:
        self.server = server
        self.rng = rng
        self.plan = [self.all, self.some]

    def all(self) -> None:
        """End them all."""
        match self.server:
            case PostgresServer():
                self.server.run(_TERMINATE.format(least=0))
            case RabbitServer():
                self.server.control("close_all_connections", "a test")
            case RedisServer():
                for kind in ("normal", "pubsub"):
                    self.server.command("CLIENT", "KILL", "TYPE", kind)

    def some(self) -> None:
        """End about a third."""
        match self.server:
            case PostgresServer():
                self.server.run(_TERMINATE.format(least=0.67))
            case RabbitServer():
                self.server.eval(_CLOSE_SOME)
            case RedisServer():
                listed = self.server.command("CLIENT", "LIST").decode()
                for number in re.findall(r"^id=(\d+)", listed, re.MULTILINE):
                    if self.rng.random() < 0.33:
                        self.server.command("CLIENT", "KILL", "ID", number)


_TERMINATE = """SELECT pg_terminate_backend(pid) FROM pg_stat_activity
WHERE application_name = 'celeriac' AND random() >= {least}"""
_CLOSE_SOME = """[spawn(fun() -> rabbit_networking:close_connection(C, <<"a test">>) end)
|| C <- rabbit_networking:connections(), rand:uniform(3) =:= 1]."""


def network(engine: str, seed: int, tasks: int) -> Entry:
    """Connections are cut, black-holed, slow, and lose only the reply to what the server has carried out.

    The suite, the producers and the two nodes have a way to the server each. Only a node that is out of reach
    for longer than its lease may have its tasks repeated; on RabbitMQ, also one that was cut off.
    """
    options = {"broker_transport_options": {"socket_timeout": 1.0, "socket_connect_timeout": 1.0}}
    with contextlib.ExitStack() as stack:
        here = stack.enter_context(place(engine))
        assert here.server is not None
        ways = [stack.enter_context(Proxy(here.server.host, here.server.port)) for _ in range(3)]
        field = stack.enter_context(opened(here, "network", seed, ways=ways, **options))
        net = _Network(field, ways)
        field.produce(tasks)
        plan = [net.cut, net.drop_replies, net.drop_publish_replies, net.slow, net.short_hole, net.long_hole]
        while field.await_starts(max(50, tasks // 40)) or plan:
            if field.is_done():  # every kind is met, however few the tasks are
                field.produce(100)
            (
                plan.pop(0)
                if plan
                else field.rng.choice((net.cut, net.drop_replies, net.drop_publish_replies))
            )()
    return field.entry


class _Network:
    """What can be done to the ways of producers and nodes."""

    def __init__(self, field: Field, ways: Sequence[Proxy]) -> None:
        self.field = field
        self.producers, *self.nodes = ways

    def cut(self) -> None:
        way = self.field.rng.choice([self.producers, *self.nodes])
        with self.field.cutting("connections cut", self._behind(way)):
            way.cut()

    def drop_replies(self) -> None:
        self._drop(self.field.rng.choice(self.nodes), "reply dropped")

    def drop_publish_replies(self) -> None:
        self._drop(self.producers, "publish's reply dropped")

    def _behind(self, way: Proxy) -> list[Node]:
        return [node for node, its in zip(self.field.nodes, self.nodes, strict=True) if its is way]

    def _drop(self, way: Proxy, kind: str) -> None:
        field, before = self.field, way.dropped
        if self._nobody_asks(way):
            return
        with field.cutting(kind, self._behind(way)):
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
        way = self.field.rng.choice(self.nodes)
        with self.field.cutting("black hole of half a lease", self._behind(way)):
            way.black_hole()
            time.sleep(LEASE / 2)
            way.black_hole(False)
            way.cut()

    def long_hole(self) -> None:
        """Out of reach until the other node has taken over."""
        number = self.field.rng.randrange(2)
        node, other = self.field.nodes[number], self.field.nodes[1 - number]
        self.field.hole_past_lease(node, other, self.nodes[number])
