"""``celeriac amqp`` on a RabbitMQ, and where there is none."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator

import pytest

from celeriac import Celeriac
from celeriac.cli import root
from tests.servers import RabbitServer

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def app(rabbit_server: RabbitServer) -> Iterator[Celeriac]:
    with Celeriac("amqp", broker=rabbit_server.fresh_url(), set_as_current=False) as made:
        yield made


@pytest.fixture
def run(app: Celeriac, capsys: pytest.CaptureFixture[str]) -> Run:
    def run(*arguments: str) -> tuple[int, str, str]:
        capsys.readouterr()
        status = root.run(("amqp", *arguments), app)
        return (status, *capsys.readouterr())

    return run


def test_a_message_goes_its_way(run: Run) -> None:
    assert run("exchange.declare", "x", "topic") == (0, "OK.\n", "")
    assert run("queue.declare", "q", "false", "true")[1] == "queue:q messages:0 consumers:0\nOK.\n"
    assert run("queue.bind", "q", "x", "a.#")[0] == 0
    assert run("basic.get", "q")[1] == "There is no message in the queue.\nOK.\n"
    assert run("basic.publish", "hällo", "x", "a.b", "true")[0] == 0
    status, _, error = run("basic.publish", "lost", "x", "c", "true")
    assert (status, "reached no queue" in error) == (69, True)
    for no_ack, redelivered in (("false", False), ("true", True)):
        told = json.loads(run("basic.get", "q", no_ack)[1].removesuffix("OK.\n"))
        assert told["body"] == "hällo"
        assert told["delivery_info"] == {
            "exchange": "x", "routing_key": "a.b", "redelivered": redelivered, "message_count": 0,
        }  # fmt: skip
    run("basic.publish", "1", "", "q")
    run("basic.publish", "2", "", "q")
    assert run("queue.purge", "q")[1] == "2 messages deleted.\nOK.\n"
    assert run("queue.delete", "q")[1] == "0 messages deleted.\nOK.\n"
    assert run("exchange.delete", "x")[0] == 0


def test_mistakes_are_told_in_a_sentence(run: Run) -> None:
    status, _, error = run("queue.purge", "nothing-here")
    assert (status, "nothing-here" in error, "Traceback" in error) == (69, True, False)
    status, _, error = run("basic.ack", "1")
    assert (status, "goes back to its queue" in error) == (2, True)


def test_other_brokers_have_none(capsys: pytest.CaptureFixture[str]) -> None:
    with Celeriac("other", broker="memory://no-amqp", set_as_current=False) as app:
        assert root.run(("amqp", "queue.purge", "q"), app) == 1
    assert "the broker is memory://no-amqp" in capsys.readouterr().err
