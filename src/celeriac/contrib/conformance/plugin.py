"""The pytest plugin: runs the suite's tests on each rig that ``--celeriac-rig`` names, with a fresh store."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from celeriac.contrib.conformance.helpers import incarnation
from celeriac.contrib.conformance.rig import Rig
from celeriac.engines.base import Consumer, Engine


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the option that names rigs."""
    parser.addoption(
        "--celeriac-rig",
        action="append",
        default=[],
        metavar="MODULE:CLASS",
        help="A rig (celeriac.contrib.conformance.rig.Rig) of an engine to run the conformance suite on.",
    )


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run each test of the suite once a rig."""
    if "rig" in metafunc.fixturenames:
        rigs = [load(text) for text in metafunc.config.getoption("--celeriac-rig")]
        if not rigs:
            raise pytest.UsageError("the conformance suite needs --celeriac-rig=package.module:Class")
        metafunc.parametrize("rig", rigs, ids=[rig.name for rig in rigs], indirect=True)


@pytest.fixture
def rig(request: pytest.FixtureRequest) -> Iterator[Rig]:
    """The engine's rig, with a fresh store."""
    rig: Rig = request.param(request)
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
    """What an engine cannot give (``Rig.cannot``) must fail; whole files of the suite are left out."""
    left_out = []
    for item in items:
        kind = getattr(getattr(item, "callspec", None), "params", {}).get("rig")
        if not (isinstance(kind, type) and issubclass(kind, Rig)):
            continue
        file, test, case = names_of(item, kind.name)
        if file in kind.cannot:
            left_out.append(item)
        elif reason := kind.cannot.get(case) or kind.cannot.get(test):
            item.add_marker(pytest.mark.xfail(reason=reason, strict=True))
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in left_out]


def names_of(item: pytest.Item, rig: str) -> tuple[str, str, str]:
    """A test's file, ``file::test`` and ``file::test[parameter]``, as lists of what cannot be have them."""
    file = item.path.stem.removeprefix("test_")
    name, _, parameters = item.name.partition("[")
    others = [one for one in parameters.rstrip("]").split("-") if one != rig]
    test = f"{file}::{name.removeprefix('test_')}"
    return file, test, f"{test}[{'-'.join(others)}]"


def load(text: str) -> type[Rig]:
    """The class that ``package.module:Class`` names. Raises ``pytest.UsageError`` saying what is wrong."""
    module, colon, name = text.partition(":")
    try:
        found = getattr(importlib.import_module(module), name) if colon else None
    except (ImportError, AttributeError) as error:
        raise pytest.UsageError(f"--celeriac-rig={text}: {error}") from error
    if not (isinstance(found, type) and issubclass(found, Rig)):
        raise pytest.UsageError(
            f"--celeriac-rig={text}: name a subclass of {Rig.__module__}.Rig as MODULE:CLASS"
        )
    if unknown := [name for name in found.cannot if not _in_the_suite(name)]:
        raise pytest.UsageError(
            f"--celeriac-rig={text}: the suite has no {', '.join(unknown)}. Correct the rig's 'cannot': its "
            "names are file or file::test, without 'test_'"
        )
    return found


def _in_the_suite(name: str) -> bool:
    file, _, test = name.partition("::")
    path = Path(__file__).with_name(f"test_{file}.py")
    return path.exists() and (not test or f"\ndef test_{test.partition('[')[0]}(" in path.read_text())
