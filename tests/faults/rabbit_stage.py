"""The field on RabbitMQ, with results in Redis: what the server does with a lost connection is not ours to
fence, so the judgement is its own: every acknowledged task has a result, and none that must run once ran
twice.
"""

from __future__ import annotations

import contextlib
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from celeriac import Celeriac
from tests.faults.field import Field
from tests.faults.ledger import Entry, runs_once
from tests.proxy import Proxy
from tests.servers import RabbitServer, RedisServer


class RabbitField(Field):
    """Two nodes and the producers, each with its own way to the server."""

    def __init__(
        self, server: RabbitServer, ways: list[Proxy], backend: str, folder: Path, seed: int
    ) -> None:
        urls = [server.url(), *(server.url(port=way.port) for way in ways)]
        conf = {
            "result_backend": backend,
            "broker_heartbeat": 2,
            "broker_transport_options": {"read_timeout": 2.0, "connect_timeout": 1.0},
        }
        super().__init__(urls, folder, seed, "rabbitmq", **conf)
        self.server = server
        self.ways = ways
        self.app.close()
        self.app = Celeriac("suite", broker=urls[0], backend=backend, set_as_current=False)

    def close_connections(self) -> None:
        """Let the server close every connection, as an operator can."""
        self.note("connections closed by the server")
        self.server.control("close_all_connections", "a test")

    def restart_server(self) -> None:
        """Kill the server and start it again with what it had on disk."""
        self.note("server killed")
        self.server.restart()

    def cut(self) -> None:
        """Close the connections of one node, or of the producers, on their way."""
        self.note("connections cut")
        self.rng.choice(self.ways).cut()

    def hole(self) -> None:
        """Let nothing pass to or from one node for longer than its patience; what was on its way is lost."""
        self.note("black hole")
        way = self.rng.choice(self.ways[1:])
        way.black_hole()
        time.sleep(4.0)
        way.cut()
        way.black_hole(False)

    def _waiting(self) -> int:
        """How many acknowledged tasks have no result yet."""
        keys = self.acknowledged()
        return len(keys) - len(self._results(keys))

    def _judge(self, expected_dead: dict[str, int]) -> None:
        self.journal.read()
        acknowledged = set(self.acknowledged())
        results = self._results(sorted(acknowledged))
        runs = Counter(run.key for run in self.journal.starts)
        entry = self.entry
        entry.acknowledged, entry.faults = len(acknowledged), len(self.faults)
        entry.lost = len(acknowledged - results.keys())
        entry.notes += [f"lost: {key}" for key in sorted(acknowledged - results.keys())]
        entry.repeated = sum(runs.values()) - len(runs)
        twice = [key for key, count in runs.items() if count > 1 and runs_once(key)]
        entry.unexplained = len(twice)
        entry.notes += [f"ran {runs[key]} times: {key}" for key in twice]
        entry.given_up = sum(1 for key, token in results.items() if token == 0)
        entry.dead = len(self.app.broker.dead_letters(limit=10_000))


def rabbitmq(engine: str, seed: int, tasks: int) -> Entry:
    """Children, agents and nodes are killed, the server closes all connections or is killed, ways are cut or
    black-holed; results are in Redis. (A repeat is unexplained only if the task must never run twice.)"""
    with _opened(seed) as field:
        field.produce(tasks)
        plan: list[Callable[[], Any]] = [
            field.kill_child, field.kill_agent, field.close_connections, field.cut, field.kill_node,
            field.hole, field.restart_server,
        ]  # fmt: skip
        rest = [field.kill_child] * 6 + [field.kill_node, field.close_connections, field.cut]
        while field.await_starts(max(50, tasks // 25)) or plan:
            (plan.pop(0) if plan else field.rng.choice(rest))()
    return field.entry


@contextlib.contextmanager
def _opened(seed: int) -> Iterator[RabbitField]:
    from tests.faults.field import Stuck

    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="celeriac-faults-")))
        server = stack.enter_context(RabbitServer())
        redis = stack.enter_context(RedisServer())
        ways = [stack.enter_context(Proxy(server.host, server.port)) for _ in range(3)]
        field = RabbitField(server, ways, redis.url(), folder, seed)
        try:
            field.start()
            yield field
            field.drain()
        except Stuck as stuck:
            field.entry.notes.append(f"stuck: {stuck}")
            field.entry.stuck = True
        finally:
            field.close()
