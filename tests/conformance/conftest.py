"""The conformance suite on our own engines: every test runs once an engine, each time with an empty store.

The tests are those of ``celeriac.contrib.conformance``; the modules here import them, so that the fixtures of
this folder are theirs.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from celeriac.contrib.conformance.plugin import names_of
from tests.conformance.cannot import RABBITMQ, RABBITMQ_HAS_NO, RABBITMQ_WAITS
from tests.conformance.rigs import RIGS, Rig, consumer, engine

__all__ = ["consumer", "engine"]


@pytest.fixture(params=sorted(RIGS))
def rig(request: pytest.FixtureRequest) -> Iterator[Rig]:
    """The engine's rig, with a fresh store."""
    rig = RIGS[request.param](request)
    yield rig
    rig.close()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """What RabbitMQ cannot give (``cannot.py``) must fail as it is said there; whole files are left out."""
    left_out = []
    for item in items:
        if item.path.parent.name != "conformance" or "rabbitmq" not in item.name:
            continue
        file, test, case = names_of(item, "rabbitmq")
        if file in RABBITMQ_HAS_NO or {test, case} & RABBITMQ_WAITS.keys():
            left_out.append(item)
        elif (listed := _EXPECTED.get(case) or _EXPECTED.get(test)) is not None:
            item.add_marker(pytest.mark.xfail(reason=listed.reason, raises=listed.raises, strict=True))
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        gone = set(left_out)
        items[:] = [item for item in items if item not in gone]


_EXPECTED = {name: listed for listed in RABBITMQ for name in listed.tests}
