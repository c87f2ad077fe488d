"""Fixtures of the conformance suite: every test runs once an engine, each time with an empty store."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from celeriac.engines.base import Consumer, Engine
from tests.conformance.helpers import incarnation
from tests.conformance.rigs import RIGS, Rig


@pytest.fixture(params=sorted(RIGS))
def rig(request: pytest.FixtureRequest) -> Iterator[Rig]:
    """The engine's rig, with a fresh store."""
    rig = RIGS[request.param](request)
    yield rig
    rig.close()


@pytest.fixture
def engine(rig: Rig) -> Engine:
    """The engine, opened once."""
    return rig.open()


@pytest.fixture
def consumer(engine: Engine) -> Iterator[Consumer]:
    """A consumer with one slot, of child 1 of node ``n``."""
    consumer = engine.attach(incarnation())
    yield consumer
    consumer.close()
