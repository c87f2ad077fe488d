"""The list of what RabbitMQ cannot give is exact: its names exist, and its reasons can be seen."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from celeriac.contrib.conformance import helpers
from celeriac.contrib.conformance.helpers import always, claim, incarnation, node, pub
from celeriac.engines.base import Loss
from tests.conformance.cannot import RABBITMQ, RABBITMQ_HAS_NO, RABBITMQ_WAITS
from tests.conformance.rigs import RabbitRig

HERE = Path(helpers.__file__).parent


@pytest.fixture
def rabbit(request: pytest.FixtureRequest) -> Iterator[RabbitRig]:
    rig = RabbitRig(request)
    yield rig
    rig.close()


def test_what_is_listed_exists_once_and_has_a_reason() -> None:
    listed = [name for group in RABBITMQ for name in group.tests] + list(RABBITMQ_WAITS)
    assert len(listed) == len(set(listed))
    for name in listed:
        file, _, test = name.partition("::")
        text = (HERE / f"test_{file}.py").read_text()
        assert re.search(rf"^def test_{test.partition('[')[0]}\(", text, re.MULTILINE), name
    assert all(group.reason.endswith(".") for group in RABBITMQ)


def test_the_files_left_out_are_about_steps_that_it_has_not(rabbit: RabbitRig) -> None:
    engine = rabbit.open()
    for file, step in RABBITMQ_HAS_NO.items():
        assert (HERE / f"test_{file}.py").exists()
        assert not hasattr(engine, step), file


def test_nobody_else_gives_back_or_recovers_what_a_connection_holds(rabbit: RabbitRig) -> None:
    engine = rabbit.open()
    engine.beat(node(lease=0.01))
    consumer = engine.attach(incarnation())
    engine.publish([pub("a")])
    (delivery,) = claim(consumer)
    assert engine.give_back(consumer.owner.name, [("q", delivery.token)]) == 0
    assert engine.recover("host", always(False)) == []
    assert engine.release(consumer.owner.name, {delivery.token: Loss(task_id="a")}) == 0
    assert engine.depth(["q"])["q"].ready == 0, "it is still the connection's"
    consumer.close()


def test_every_module_of_the_suite_runs_on_our_engines() -> None:
    here = {path.name for path in Path(__file__).parent.glob("test_*.py")} - {"test_cannot.py"}
    assert here == {path.name for path in HERE.glob("test_*.py")}
