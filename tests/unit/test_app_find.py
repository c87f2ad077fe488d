"""Finding the application that -A names."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from celeriac.app.find import find_app
from celeriac.exceptions import ImproperlyConfigured

APP = "from celeriac import Celeriac\n{name} = Celeriac('{main}', set_as_current=False)\n"


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        if name.startswith("found_"):
            del sys.modules[name]


def write(path: Path, text: str) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)


@pytest.mark.parametrize("name", ["app", "celery", "celeriac", "anything"])
def test_a_module_with_an_application_of_any_name(project: Path, name: str) -> None:
    write(project / f"found_{name}.py", APP.format(name=name, main="m"))
    assert find_app(f"found_{name}").main == "m"


def test_app_goes_before_others(project: Path) -> None:
    write(project / "found_two.py", APP.format(name="other", main="o") + APP.format(name="app", main="a"))
    assert find_app("found_two").main == "a"
    assert find_app("found_two:other").main == "o"
    assert find_app("found_two.other").main == "o"


def test_a_package_with_a_module_celery(project: Path) -> None:
    write(project / "found_pkg" / "__init__.py", "")
    write(project / "found_pkg" / "celery.py", APP.format(name="app", main="p"))
    assert find_app("found_pkg").main == "p"
    assert find_app("found_pkg.celery").main == "p"
    assert find_app("found_pkg.celery:app").main == "p"


def test_what_is_missing_is_named(project: Path) -> None:
    write(project / "found_none.py", "x = 1\n")
    with pytest.raises(ImproperlyConfigured, match=r"found_none.*looked for the attributes app, celery"):
        find_app("found_none")
    with pytest.raises(ImproperlyConfigured, match="no module 'found_missing'"):
        find_app("found_missing")
    with pytest.raises(ImproperlyConfigured, match="no attribute 'nope'"):
        find_app("found_none:nope")
    with pytest.raises(ImproperlyConfigured, match="not an application but a int"):
        find_app("found_none:x")


def test_an_import_that_fails_inside_the_module_comes_through(project: Path) -> None:
    write(project / "found_bad.py", "import there_is_no_such_module\n")
    with pytest.raises(ModuleNotFoundError, match="there_is_no_such_module"):
        find_app("found_bad")
    write(project / "found_worse" / "__init__.py", "")
    write(project / "found_worse" / "celery.py", "import there_is_no_such_module\n")
    with pytest.raises(ModuleNotFoundError, match="there_is_no_such_module"):
        find_app("found_worse")
