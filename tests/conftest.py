"""Fixtures that every test folder uses."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.servers import PostgresServer, RabbitServer, RedisServer


@pytest.fixture(scope="session")
def redis_server() -> Iterator[RedisServer]:
    """A private Redis for the whole session, without persistence; tests clean up after themselves."""
    with RedisServer() as server:
        yield server


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    """A private PostgreSQL for the whole session, without fsync; tests use schemas of their own."""
    with PostgresServer(config={"max_prepared_transactions": "2"}) as server:
        yield server


@pytest.fixture(scope="session")
def rabbit_server() -> Iterator[RabbitServer]:
    """A private RabbitMQ for the whole session; each test takes a virtual host of its own."""
    with RabbitServer() as server:
        yield server
