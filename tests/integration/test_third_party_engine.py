"""An engine of another package: found by its entry point, and held to the contract by the suite."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import celeriac

ENGINE = """
from celeriac.engines.memory import MemoryEngine


class ToyEngine(MemoryEngine):
    scheme = "toy"


def create(url, options):
    return ToyEngine(url.replace("toy://", "memory://"), options)
"""

RIG = """
import uuid

from celeriac.contrib.conformance.rig import Rig


class ToyRig(Rig):
    name = "toy"
    urgent, lax = 9, 0
    unit = 10.0
    drives_clock = True
    shared = False

    def __init__(self, request):
        super().__init__(request)
        self._name = uuid.uuid4().hex
        self._now = 1_800_000_000.0

    def url(self):
        return f"toy://{self._name}"

    def options(self):
        return {"clock": lambda: self._now}

    def advance(self, seconds):
        self._now += seconds

    def set_back(self, seconds):
        self._now -= seconds


class PoorRig(ToyRig):
    cannot = {
        "claim": "no reason",
        "settle::ack_makes_it_gone": "it is said to stay",
        "settle::a_token_that_is_not_held_changes_nothing[0]": "it is said to change",
    }


class WrongRig(ToyRig):
    cannot = {"claim": "no reason", "settle::ack_is_nothing": "", "mail": ""}
"""

PAGE = Path(__file__).parents[2] / "docs" / "engines.md"


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """A folder with the package as it is when it is installed."""
    folder = tmp_path / "site"
    about = folder / "celeriac_toy-1.0.dist-info"
    about.mkdir(parents=True)
    (folder / "celeriac_toy.py").write_text(ENGINE)
    (folder / "toy_rig.py").write_text(RIG)
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: celeriac-toy\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text(
        "[celeriac.engines]\ntoy = celeriac_toy:create\nbad = nowhere:create\n"
    )
    return folder


def python(package: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    paths = [str(Path(celeriac.__file__).parents[1]), str(package)]
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=package.parent,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
        capture_output=True,
        text=True,
        timeout=110,
    )


def suite(package: Path, rig: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return python(
        package,
        *("-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "celeriac.contrib.conformance.plugin"),
        *("--celeriac-rig", rig, "--pyargs", "celeriac.contrib.conformance", *arguments),
    )


def test_an_application_uses_it_by_its_url(package: Path) -> None:
    code = (
        "from celeriac import Celeriac\n"
        "app = Celeriac('x', broker='toy://a')\n"
        "app.send_task('t', queue='q')\n"
        "print(type(app.broker).__name__, app.broker.depth(['q'])['q'].ready)\n"
    )
    done = python(package, "-c", code)
    assert done.stdout == "ToyEngine 1\n", done.stderr


def test_the_suite_holds_it_to_the_contract(package: Path) -> None:
    chosen = "settle or dead_letters"
    done = suite(package, "toy_rig:ToyRig", "-k", chosen)
    assert done.returncode == 0, done.stdout + done.stderr
    assert " passed" in done.stdout
    assert "skipped" not in done.stdout


def test_what_it_cannot_give_is_left_out_or_must_fail(package: Path) -> None:
    chosen = "test_claim or ack_makes_it_gone or a_token_that_is_not_held"
    done = suite(package, "toy_rig:PoorRig", "-k", chosen)
    assert done.returncode == 1
    assert "[XPASS(strict)] it is said to stay" in done.stdout
    assert "[XPASS(strict)] it is said to change" in done.stdout
    assert "2 failed, 5 passed" in done.stdout, "one parameter of a test, and not the others"


def test_what_it_cannot_give_must_exist(package: Path) -> None:
    done = suite(package, "toy_rig:WrongRig", "-k", "ack_makes_it_gone")
    assert done.returncode != 0
    assert "the suite has no settle::ack_is_nothing, mail." in done.stdout + done.stderr


def test_the_page_s_lines_work_as_printed(package: Path) -> None:
    page = PAGE.read_text()
    (point,) = re.findall(r"```toml\n(.*?)```", page, re.DOTALL)
    rig, cannot = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    installed, command = re.findall(r"```\n(pip .*?)```", page, re.DOTALL)[0].splitlines()
    assert tomllib.loads(point)["project"]["entry-points"] == {
        "celeriac.engines": {"toy": "celeriac_toy:create"}
    }
    assert {"pytest", "hypothesis"} <= set(shlex.split(installed))
    (package / "celeriac_toy.py").rename(package / "toy_engine.py")
    (package / "celeriac_toy").mkdir()
    (package / "celeriac_toy" / "__init__.py").write_text("from toy_engine import create\n")
    (package / "celeriac_toy" / "rig.py").write_text(rig)
    program, *arguments = shlex.split(command)
    assert program == "pytest"
    (quoted,) = re.findall(r'`-k "(.*?)"`', page)
    chosen = ["-q", "-p", "no:cacheprovider", "-k", quoted]
    done = python(package, "-m", "pytest", *arguments, *chosen)
    assert done.returncode == 0, done.stdout + done.stderr
    assert " passed" in done.stdout
    (package / "celeriac_toy" / "rig.py").write_text(rig + cannot.replace("(Rig)", "(ToyRig)"))
    done = python(
        package, "-m", "pytest", *arguments, *chosen[:3], "-k", "test_schedules or test_wait or pause"
    )
    assert "2 failed" in done.stdout, "an engine that can, in fact"
    assert "[XPASS(strict)] It cannot pause a queue." in done.stdout
    assert "[XPASS(strict)] The same." in done.stdout
    assert "test_schedules.py" not in done.stdout


def test_a_wrong_engine_fails_in_the_suite(package: Path) -> None:
    wrong = ENGINE.replace("    scheme", "    def cancel(self, ids):\n        return list(ids)\n\n    scheme")
    (package / "celeriac_toy.py").write_text(wrong)
    done = suite(package, "toy_rig:ToyRig", "-k", "cancel_finds")
    assert done.returncode == 1, done.stdout


def test_an_unknown_scheme_names_those_of_packages_too(package: Path) -> None:
    done = python(package, "-c", "from celeriac.engines import create; create('tpy://a')")
    assert "no engine for URLs of the kind 'tpy'" in done.stderr
    assert "toy" in done.stderr


def test_an_engine_that_cannot_be_loaded_is_named(package: Path) -> None:
    done = python(package, "-c", "from celeriac.engines import create; create('bad://a')")
    assert "the engine for bad:// (nowhere:create of celeriac-toy) cannot be loaded" in done.stderr


def test_two_packages_for_one_scheme_are_an_error(package: Path) -> None:
    other = package / "other-1.0.dist-info"
    other.mkdir()
    (other / "METADATA").write_text("Metadata-Version: 2.1\nName: other\nVersion: 1.0\n")
    (other / "entry_points.txt").write_text("[celeriac.engines]\ntoy = other:create\n")
    done = python(package, "-c", "from celeriac.engines import create; create('toy://a')")
    assert "two packages bring an engine for toy://" in done.stderr


@pytest.mark.parametrize("rig", ["nowhere:Rig", "toy_rig", "toy_rig:uuid"])
def test_a_rig_that_is_none_is_said(package: Path, rig: str) -> None:
    done = suite(package, rig, "-k", "ack_makes_it_gone")
    assert done.returncode != 0
    assert f"--celeriac-rig={rig}" in done.stdout + done.stderr
