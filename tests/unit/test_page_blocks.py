"""No block of the README or of docs/ stands there unread: who runs each is listed, and its commands exist."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Final, NamedTuple

import click
import pytest

from celeriac import probe
from celeriac.cli.root import celeriac

ROOT: Final = Path(__file__).parents[2]
COMMANDS: Final = "commands"
"""Lines of the command line: that they can be read is tested here."""
PAGES: Final = "unit/test_pages.py"

BLOCKS: Final[dict[str, list[tuple[str, str]]]] = {
    "README.md": [
        ("", "integration/test_demo.py"),
        *[("python", "integration/test_readme.py"), ("", "integration/test_readme.py")],
        *[("python", "integration/test_readme.py"), ("python", "integration/test_readme.py")],
        ("", "integration/test_readme.py"),
        ("", COMMANDS),
    ],
    "docs/beat.md": [("", COMMANDS), ("python", PAGES), ("python", PAGES), ("", PAGES)],
    "docs/bench.md": [("", "unit/test_bench_report.py")],
    "docs/canvas.md": [("python", PAGES), ("", PAGES)],
    "docs/cli.md": [("", COMMANDS), ("", COMMANDS)],
    "docs/deployment.md": [
        (language, "unit/test_deployment_page.py") for language in ("ini", "yaml", "yaml")
    ],
    "docs/engines.md": [
        (language, "integration/test_third_party_engine.py") for language in ("toml", "python", "", "python")
    ],
    "docs/extending.md": [("python", PAGES)] * 3,
    "docs/migrating.md": [
        ("", COMMANDS),
        ("", "integration/test_tutorial.py"),
        ("", COMMANDS),
        ("", "not run: it is Flower's own; the mixed fleets start it so"),
    ],
    "docs/monitoring.md": [
        *[("python", PAGES)] * 3,
        *[("console", COMMANDS), ("", COMMANDS)],
        ("python", PAGES),
    ],
    "docs/postgresql.md": [
        *[("python", "unit/test_postgres_page.py"), ("sql", "unit/test_postgres_faults.py")],
        *[("python", "unit/test_postgres_page.py")] * 3,
    ],
    "docs/results.md": [("python", PAGES)] * 3,
    "docs/routing.md": [("python", "unit/test_routing_docs.py")] * 7,
    "docs/schedules.md": [("python", "unit/test_schedules_page.py")] * 4,
    "docs/security.md": [("python", PAGES)] * 3,
    "docs/tasks.md": [("python", PAGES)] * 5,
    "docs/testing.md": [
        *[("python", "unit/test_testing_page.py")] * 6,
        ("", "unit/test_contrib_pytest.py"),
        *[("python", "unit/test_testing_page.py")] * 2,
    ],
    "docs/design/architecture.md": [("", "not run: a picture")] * 3,
    "docs/design/guarantees.md": [("", "not run: a picture")],
}


class Block(NamedTuple):
    language: str
    text: str


def blocks(page: str) -> list[Block]:
    found = re.findall(r"^```(\w*)\n(.*?)^```$", (ROOT / page).read_text(), re.MULTILINE | re.DOTALL)
    return [Block(*one) for one in found]


def pages() -> list[str]:
    paths = [ROOT / "README.md", *sorted((ROOT / "docs").glob("**/*.md"))]
    return [str(path.relative_to(ROOT)) for path in paths]


def lines() -> list[tuple[str, str]]:
    """Page and command, for each line of a block or of the text that is one of ours."""
    found = []
    for page in pages():
        for block in blocks(page):
            if block.language in ("", "console", "sh"):
                text = block.text.replace("\\\n", " ")
                found += [(page, line.removeprefix("$ ")) for line in text.splitlines()]
        found += [(page, span) for span in re.findall(r"`(celeriac [^`]*)`", (ROOT / page).read_text())]
    return [(page, line) for page, line in found if line.startswith("celeriac ")]


def read(line: str) -> None:
    """Let the command line read a line, without running it. Raises ``click.UsageError``."""
    words = shlex.split(line, comments=True)[1:]
    if words[0] == "probe":
        probe._read(words[1:])
        return
    with celeriac.make_context("celeriac", words) as context:
        descend(celeriac, context)


def descend(group: click.Group, context: click.Context) -> None:
    name, command, rest = group.resolve_command(context, context._protected_args + context.args)
    assert command is not None
    if not rest:
        return  # it is only named
    inner = command.make_context(name, rest, parent=context)
    if isinstance(command, click.Group):
        descend(command, inner)


@pytest.mark.parametrize("page", pages())
def test_every_block_is_somebody_s(page: str) -> None:
    listed = BLOCKS.get(page, [])
    found = [block.language for block in blocks(page)]
    assert found == [language for language, _ in listed], "a new block needs a test, and a line above"
    for _, by in listed:
        assert by == COMMANDS or by.startswith("not run: ") or (ROOT / "tests" / by).exists(), by


def test_no_page_is_listed_that_is_gone() -> None:
    assert set(BLOCKS) <= set(pages())


ALTERNATIVES: Final = {
    "celeriac COMMAND --help",
    "celeriac [global options] COMMAND [options]",
    "celeriac -A proj schedule show | pause | resume | run | remove nightly",
}
"""Lines that are no command as they stand. The last one is taken apart and run by ``test_pages.py``."""


@pytest.mark.parametrize(
    ("page", "line"), sorted({*lines()} - {(p, x) for p in pages() for x in ALTERNATIVES})
)
def test_every_command_can_be_read(page: str, line: str) -> None:
    read(line)


def test_a_command_that_does_not_exist_would_be_found() -> None:
    for line in ("celeriac -A x statsu", "celeriac schedule lst", "celeriac history --sinces 2h"):
        with pytest.raises(click.UsageError):
            read(line)
