"""The examples of docs/postgresql.md run, with a server's address and with SQL in the place of their dots."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import psycopg
import pytest

from celeriac import Celeriac
from celeriac.contrib.testing.worker import start_worker
from tests.servers import PostgresServer

PAGE = Path(__file__).parents[2] / "docs" / "postgresql.md"


@pytest.fixture
def blocks() -> list[str]:
    found = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert len(found) == 4
    return found


@pytest.fixture
def app(postgres_server: PostgresServer) -> Iterator[Celeriac]:
    postgres_server.empty()
    postgres_server.run(
        "DROP TABLE IF EXISTS orders, account; CREATE TABLE orders (id int); CREATE TABLE account (name text,"
        " balance int); INSERT INTO account VALUES ('a', 10)"
    )
    with Celeriac("page", broker=postgres_server.url(), set_as_current=False) as app:
        yield app


def filled(block: str, **places: str) -> str:
    """The block with something in the place of each of its dots."""
    for dots, text in places.items():
        old = {"connect": "connect(...)", "insert": "INSERT INTO orders ...", "update": "account SET ..."}[
            dots
        ]
        assert old in block
        block = block.replace(old, text)
    assert "..." not in block
    return block


@pytest.mark.parametrize("number", [0, 1])
def test_the_addresses_are_understood(blocks: list[str], number: int) -> None:
    names: dict[str, Any] = {"Celeriac": partial(Celeriac, set_as_current=False)}
    exec(blocks[number], names)
    app: Celeriac = names["app"]
    assert app.broker.url.startswith("postgresql://shop:**@")


def test_a_call_in_one_s_own_transaction(
    blocks: list[str], app: Celeriac, postgres_server: PostgresServer
) -> None:
    @app.task
    def send_invoice(order: int) -> int:
        return order

    block = filled(
        blocks[2], connect=f"connect({postgres_server.url()!r})", insert="INSERT INTO orders VALUES (7)"
    )
    exec(block, {"psycopg": psycopg, "send_invoice": send_invoice, "order_id": 7})
    assert app.broker.depth(["celery"])["celery"].ready == 1
    broken = f"{block}    connection.execute('SELECT * FROM nowhere')"
    with pytest.raises(psycopg.errors.UndefinedTable):
        exec(broken, {"psycopg": psycopg, "send_invoice": send_invoice, "order_id": 8})
    assert app.broker.depth(["celery"])["celery"].ready == 1


def test_effects_that_commit_with_the_result(
    blocks: list[str], app: Celeriac, postgres_server: PostgresServer
) -> None:
    names: dict[str, Any] = {"app": app}
    exec(filled(blocks[3], update="account SET balance = balance - 3"), names)
    with start_worker(app):
        assert names["transfer"].delay("a", "b", 3).get(timeout=20) is None
    with psycopg.connect(postgres_server.url()) as connection:
        assert connection.execute("SELECT balance FROM account").fetchone() == (7,)
