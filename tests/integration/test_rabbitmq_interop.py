"""Celeriac and the real Celery on one RabbitMQ, results in Redis: each other's clients, workers and bytes."""

from __future__ import annotations

import json
import signal
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.integration.test_celery_interop import (
    InteropSite,
    Pair,
    site,
    test_a_call_comes_back_with_its_result,
    test_a_callback_gets_the_result,
    test_a_delay_is_kept,
    test_a_failure_comes_back_as_its_exception,
    test_a_header_is_seen_by_the_task,
    test_an_error_callback_is_called,
    test_an_expired_call_is_revoked,
    test_children_are_known_to_the_client,
    test_compressed_arguments_arrive,
    test_retries_go_round_until_it_succeeds,
    test_types_beyond_json_arrive_as_they_were_sent,
)
from tests.servers import RabbitServer, RedisServer

pytestmark = pytest.mark.timeout(90)

__all__ = [
    "site",
    "test_a_call_comes_back_with_its_result",
    "test_a_callback_gets_the_result",
    "test_a_delay_is_kept",
    "test_a_failure_comes_back_as_its_exception",
    "test_a_header_is_seen_by_the_task",
    "test_an_error_callback_is_called",
    "test_an_expired_call_is_revoked",
    "test_children_are_known_to_the_client",
    "test_compressed_arguments_arrive",
    "test_retries_go_round_until_it_succeeds",
    "test_types_beyond_json_arrive_as_they_were_sent",
]


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory, rabbit_server: RabbitServer) -> Iterator[InteropSite]:
    """A RabbitMQ with one client of each library; results in a Redis."""
    with RedisServer() as redis:
        site = InteropSite(redis, tmp_path_factory.mktemp("interop"), rabbit_server.fresh_url())
        yield site
        site.close()


@pytest.fixture(scope="module", params=["celery-celeriac", "celeriac-celery"])
def pair(request: pytest.FixtureRequest, shared: InteropSite) -> Iterator[Pair]:
    """A client of one library and a worker of the other."""
    client, _, library = request.param.partition("-")
    process = shared.worker(library, library, "-c", "2", result_extended=True, task_track_started=False)
    yield Pair(shared, client, library)
    process.signal(signal.SIGQUIT)
    process.process.wait(10)


def test_a_mixed_fleet_drains_one_queue_with_chains_that_cross(site: InteropSite) -> None:
    site.worker("celery", "fleet", "-c", "1", worker_prefetch_multiplier=1)
    site.worker("celeriac", "fleet", "-c", "1", worker_prefetch_multiplier=1)
    code = """
        chains = [
            library.chain(
                echo.si(n).set(queue=Q), add.s(1).set(queue=Q), add.s(1).set(queue=Q), add.s(1).set(queue=Q),
                mark.s().set(queue=Q),
            ).apply_async(queue=Q)
            for n in range(60)
        ]
        answer = sorted(r.get(timeout=30) for r in chains)
    """
    for library in ("celery", "celeriac"):
        assert site.client(library).run(code, "fleet") == list(range(3, 63))
    who = Counter(line.split()[0] for line in site.journal())
    assert min(who["celery"], who["celeriac"]) > 0, who


@pytest.mark.parametrize("kind", ["plain", "everything"])
def test_messages_are_the_same_bytes(site: InteropSite, kind: str) -> None:
    """What both clients write for one call: queue, exchange, properties and headers, type by type."""
    options = {
        "plain": "",
        "everything": ", priority=3, headers={'my': 'header', 'n': [1, 2.5, None, {'a': True}]}, "
        "time_limit=10, soft_time_limit=5, shadow='s', link=echo.s().set(task_id='cb'), ignore_result=True, "
        "task_id='fixed', compression='gzip'",
    }[kind]
    messages = []
    for library in ("celery", "celeriac"):
        queue = f"bytes-{kind}-{library}"
        site.client(library).run(f"add.apply_async((1,), {{'y': 2}}, queue=Q{options})", queue)
        messages.append(_take(site.broker, queue))
    theirs, ours = messages
    assert ours["headers"].pop("celeriac", None) is not None
    # Notes of ours, which Celery's workers leave alone; all else is Celery's.
    for message in messages:
        if "compression" in message["headers"]:
            message["body"] = None
    assert _typed(ours) == _typed(theirs)


def _take(url: str, queue: str) -> dict[str, Any]:
    """The message at the head of a queue, with everything that the server tells of it."""
    from celeriac.engines.rabbitmq.address import parse
    from celeriac.engines.rabbitmq.connection import Dialler

    link = Dialler(parse(url, {})).dial()
    channel = link.channel()
    channel.auto_decode = False
    got = channel.basic_get(queue, no_ack=True)
    # The queue and the exchange that goes with it are as Celery declares them, or this would fail.
    channel.queue_declare(queue, durable=True, auto_delete=False)
    channel.exchange_declare(queue, "direct", durable=True, auto_delete=False)
    properties = dict(got.properties)
    headers = properties.pop("application_headers")
    place = {key: got.delivery_info[key] for key in ("exchange", "routing_key")}
    link.end()
    body: Any = got.body
    if "compression" not in headers:
        body = json.loads(body)  # Celery puts spaces between the parts
    return {"headers": headers, "properties": properties, "place": place, "body": body}


def _typed(value: Any) -> Any:
    """A value with the types of everything in it, and what differs from call to call left out."""
    if isinstance(value, dict):
        changing = ("id", "root_id", "correlation_id", "reply_to", "origin", "routing_key")
        return {key: type(item).__name__ if key in changing else _typed(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_typed(item) for item in value]
    return type(value).__name__, value


@pytest.mark.parametrize(("client", "worker"), [("celery", "celeriac"), ("celeriac", "celery")])
def test_results_by_rpc_reach_the_other_librarys_client(
    rabbit_server: RabbitServer, tmp_path: Path, client: str, worker: str
) -> None:
    with RedisServer() as redis:
        site = InteropSite(redis, tmp_path, rabbit_server.fresh_url())
        site.backend = "rpc://"
        try:
            site.worker(worker, "rpc", "-c", "1")
            code = """
                results = [call(add, n, n) for n in range(30)]
                values = [r.get(timeout=10) for r in results]
                failed = call(boom, "x")
                try:
                    failed.get(timeout=10)
                except ValueError as exc:
                    values.append(str(exc))
                answer = values
            """
            assert site.client(client).run(code, "rpc") == [2 * n for n in range(30)] + ["x"]
        finally:
            site.close()
