"""Fixtures of the conformance suite: every test runs once an engine, each time with an empty store."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from celeriac.engines.base import Consumer, Engine
from tests.conformance.cannot import CANNOT
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


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what an engine cannot give (``cannot.py``)."""
    left_out = [item for item in items if _cannot(item)]
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in set(left_out)]


def _cannot(item: pytest.Item) -> bool:
    values = item.callspec.params.values() if hasattr(item, "callspec") else ()
    engine = next((value for value in values if isinstance(value, str) and value in CANNOT), "")
    file = item.path.stem.removeprefix("test_")
    name = getattr(item, "originalname", item.name).removeprefix("test_")
    listed = CANNOT.get(str(engine), {})
    return item.path.parent.name == "conformance" and (file in listed or f"{file}::{name}" in listed)
