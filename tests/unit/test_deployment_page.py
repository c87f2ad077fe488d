"""The units and manifests of docs/deployment.md: they can be read, and their commands exist."""

from __future__ import annotations

import re
import shlex
from configparser import ConfigParser
from pathlib import Path
from typing import Any

import click
import pytest
import yaml

from celeriac import probe
from celeriac.cli.root import celeriac

PAGE = (Path(__file__).parents[2] / "docs" / "deployment.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)


def parsed(command: list[str]) -> None:
    """Let the command line read it, without running it. Raises ``click.UsageError``."""
    assert command[0].endswith("celeriac")
    rest = command[1:]
    if rest[0] == "probe":
        probe._read(rest[1:])
        return
    with celeriac.make_context("celeriac", rest[:]) as context:
        name, found, arguments = celeriac.resolve_command(context, context._protected_args + context.args)
        assert found is not None
        found.make_context(name, arguments, parent=context)


def test_the_unit() -> None:
    (unit,) = blocks("ini")
    read = ConfigParser(interpolation=None, strict=False)
    read.optionxform = str  # type: ignore[assignment,method-assign]
    read.read_string(unit)
    service = read["Service"]
    assert service["Type"] == "notify"
    assert int(service["TimeoutStopSec"]) > 25, "longer than the grace"
    assert "%%" in service["ExecStart"], "systemd takes one percent sign for itself"
    parsed(shlex.split(service["ExecStart"].replace("%%", "%")))


def commands(node: Any) -> list[list[str]]:
    """All commands of ours in a manifest."""
    if isinstance(node, dict):
        return [found for value in node.values() for found in commands(value)]
    if isinstance(node, list) and all(isinstance(each, str) for each in node):
        words = node[1:] if node[:1] == ["CMD"] else node
        return [words] if words[:1] == ["celeriac"] else []
    if isinstance(node, list):
        return [found for value in node for found in commands(value)]
    return [shlex.split(node)] if isinstance(node, str) and node.startswith("celeriac ") else []


@pytest.mark.parametrize(("number", "count"), [(0, 4), (1, 1)], ids=["compose", "kubernetes"])
def test_the_manifests(number: int, count: int) -> None:
    found = commands(yaml.safe_load(blocks("yaml")[number]))
    assert len(found) == count
    for command in found:
        parsed(command)


def test_a_command_that_does_not_exist_would_be_found() -> None:
    with pytest.raises(click.UsageError):
        parsed(["celeriac", "-A", "shop", "worker", "--healthy", "1"])
