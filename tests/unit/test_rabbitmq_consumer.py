"""How a child takes messages from RabbitMQ: how many are pushed, how it acks, queues that are deleted."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from celeriac.contrib.conformance.helpers import claim, ids_of, incarnation, outcome, pubs, settle
from celeriac.engines import create
from celeriac.engines.rabbitmq.broker import RabbitBroker
from tests.processes import wait_until
from tests.servers import RabbitServer


@pytest.fixture
def engine(rabbit_server: RabbitServer) -> Iterator[RabbitBroker]:
    engine = create(rabbit_server.fresh_url())
    assert isinstance(engine, RabbitBroker)
    yield engine
    engine.close()


@pytest.mark.parametrize(
    ("slots", "limit", "pushed"),
    [(1, 1, 1), (4, 4, 4), (1, 8, 16), (1, 32, 64)],
    ids=["prefetch-1", "four-slots", "batch-8", "batch-32"],
)
def test_so_many_are_pushed_as_fill_two_batches_or_the_slots(
    engine: RabbitBroker, slots: int, limit: int, pushed: int
) -> None:
    engine.publish(pubs([str(number) for number in range(100)]))
    consumer = engine.attach(incarnation(slots=slots))
    claim(consumer, limit)
    wait_until(lambda: engine.depth(["q"])["q"].ready <= 100 - pushed)
    settle(consumer)  # a round trip: more would have come before its answer
    assert engine.depth(["q"])["q"].ready == 100 - pushed
    consumer.close()


def test_what_is_settled_without_a_gap_is_acked_by_one_frame(
    engine: RabbitBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    consumer: Any = engine.attach(incarnation())
    engine.publish(pubs("abcdefgh"))
    held: list[Any] = []
    wait_until(lambda: held.extend(claim(consumer, 8)) or len(held) == 8)
    frames: list[tuple[int, bool]] = []
    send = consumer._channel.send_method

    def noted(method: Any, form: Any = None, arguments: Any = None, *rest: Any, **named: Any) -> Any:
        if form == "Lb":
            frames.append(arguments)
        return send(method, form, arguments, *rest, **named)

    monkeypatch.setattr(consumer._channel, "send_method", noted)
    a, b, c, d, e, f, g, h = held
    assert settle(consumer, *map(outcome, (c, a, b, e))) == []
    assert frames == [(3, True), (5, False)], "d runs still"
    assert settle(consumer, *map(outcome, (d, f, g, h))) == []
    assert frames[2:] == [(8, True)]
    consumer.close()
    assert engine.depth(["q"])["q"].ready == 0


def test_a_queue_that_is_deleted_is_declared_again(engine: RabbitBroker) -> None:
    consumer = engine.attach(incarnation())
    found: list[str] = []

    def comes(task_id: str) -> bool:
        deliveries = claim(consumer)
        settle(consumer, *map(outcome, deliveries))
        found.extend(ids_of(deliveries))
        return task_id in found

    for task_id in "abc":
        engine.publish(pubs(task_id))
        wait_until(lambda: consumer.wait(["q"], 1.0) and comes(task_id))  # noqa: B023
        with engine.session("delete it") as session:
            session.desk.queue_delete("q")
    assert found == ["a", "b", "c"]
    consumer.close()
