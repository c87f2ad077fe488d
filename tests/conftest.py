"""Fixtures that every test folder uses."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest

from tests.servers import PostgresServer, RabbitServer, RedisServer


@pytest.fixture(autouse=True)
def restored_environment() -> Iterator[None]:
    """The command line hands its options on in the environment: what a test leaves there is no other's."""
    before = dict(os.environ)
    yield
    if os.environ != before:
        os.environ.clear()
        os.environ.update(before)


@pytest.fixture(autouse=True, scope="session")
def heeded_signals() -> None:
    """What tests start heeds Ctrl-C and hang-ups, also if these tests run in the background."""
    for number, handler in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL)):
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, handler)


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
