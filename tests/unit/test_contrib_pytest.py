"""The pytest plugin: Celery's fixtures and marker, in a pytest session of its own each time."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

SRC = Path(__file__).parents[2] / "src"


def run(folder: Path, test: str, conftest: str = "", *options: str, env: dict[str, str] | None = None) -> str:
    """Run pytest on a file with this text; return what it prints. All must pass."""
    (folder / "test_it.py").write_text(test)
    (folder / "conftest.py").write_text(conftest)
    (folder / "pytest.ini").write_text("[pytest]\naddopts = --strict-markers\n")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *options],
        cwd=folder,
        env={
            **os.environ,
            "PYTHONPATH": str(SRC),
            "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
            **(env or {}),
        },
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "warning" not in done.stdout, done.stdout
    return done.stdout


CELERY = ("-p", "celeriac.contrib.pytest")

FIXTURES = """
import pytest

def test_a_task_of_this_test(celery_app, celery_worker):
    @celery_app.task
    def mul(x, y):
        return x * y

    celery_worker.reload()
    assert mul.delay(4, 4).get(timeout=10) == 16

@pytest.mark.celery(result_extended=True, task_default_queue="marked")
def test_the_marker(celery_app, celery_worker):
    assert celery_app.conf.result_extended is True
    assert celery_worker.options.queues == ["marked"]
    assert celery_app.conf.timezone == "Europe/Rome", "celery_config holds as well"

def test_each_test_has_its_own(celery_app):
    assert celery_app.conf.task_default_queue == "celery"
    assert not [name for name in celery_app.tasks if name.endswith("mul")]

def test_includes_and_class_tasks(celery_app, celery_worker):
    from project_tasks import hello
    assert hello.delay("you").get(timeout=10) == "hello you"
    assert celery_app.tasks["classy"].delay(1).get(timeout=10) == 2
    assert celery_worker.options.pool == "threads"
    assert celery_worker.concurrency == 3
    assert celery_app.main == "named"

def test_the_current_application(depends_on_current_app, celery_app):
    from celeriac import current_app
    assert current_app._get_current_object() is celery_app

def test_the_session_worker(celery_session_app, celery_session_worker):
    from project_tasks import hello
    assert hello.delay("all").get(timeout=10) == "hello all"

def test_the_session_worker_again(celery_session_app, celery_session_worker):
    from celeriac import current_app
    from project_tasks import hello
    assert current_app._get_current_object() is celery_session_app
    assert hello.delay("all").get(timeout=10) == "hello all"
"""

CONFTEST = """
import pytest
from celeriac import Task

class Classy(Task):
    name = "classy"
    def run(self, x):
        return x + 1

@pytest.fixture(scope="session")
def celery_config():
    return {"timezone": "Europe/Rome"}

@pytest.fixture(scope="session")
def celery_parameters():
    return {"name": "named"}

@pytest.fixture(scope="session")
def celery_includes():
    return ["project_tasks"]

@pytest.fixture(scope="session")
def celery_class_tasks():
    return [Classy]

@pytest.fixture(scope="session")
def celery_worker_pool():
    return "threads"

@pytest.fixture(scope="session")
def celery_worker_parameters():
    return {"concurrency": 3}
"""

TASKS = """
from celeriac import shared_task

@shared_task
def hello(name):
    return f"hello {name}"
"""


def test_celerys_names(tmp_path: Path) -> None:
    (tmp_path / "project_tasks.py").write_text(TASKS)
    assert "7 passed" in run(tmp_path, FIXTURES, CONFTEST, *CELERY)


def test_our_names(tmp_path: Path) -> None:
    (tmp_path / "project_tasks.py").write_text(TASKS)
    test = FIXTURES.replace("celery_", "celeriac_").replace("mark.celery", "mark.celeriac")
    test = test.replace("depends_on_current_app, celeriac_app", "celeriac_app").replace(
        "    assert current_app._get_current_object() is celeriac_app\n", ""
    )
    conftest = CONFTEST.replace("celery_", "celeriac_")
    assert "7 passed" in run(tmp_path, test, conftest, "-p", "celeriac.contrib.pytest_celeriac")


def test_enabled_by_the_conftest(tmp_path: Path) -> None:
    conftest = "pytest_plugins = ('celeriac.contrib.pytest',)\n"
    test = "def test_it(celery_app, celery_worker, celeriac_app): assert celery_app is not celeriac_app\n"
    assert "1 passed" in run(tmp_path, test, conftest)


def test_the_trap(tmp_path: Path) -> None:
    conftest = """
import pytest
@pytest.fixture(scope="session")
def use_celery_app_trap():
    return True
"""
    test = """
import pytest
from celeriac import current_app

def test_the_current_application_is_not_to_be_used(celery_app):
    with pytest.raises(RuntimeError, match="current_app.conf"):
        current_app.conf
"""
    assert "1 passed" in run(tmp_path, test, conftest, *CELERY)


def test_without_workers(tmp_path: Path) -> None:
    test = "def test_it(celery_worker): assert celery_worker is None\n"
    assert "1 passed" in run(tmp_path, test, "", *CELERY, env={"NO_WORKER": "1"})


def test_pytest_imports_no_more_than_the_package(tmp_path: Path) -> None:
    """Loaded for everybody who has Celeriac installed, it must not load the worker or a server's library."""
    test = """
import sys
def test_it():
    heavy = ("celeriac.worker", "celeriac.cli", "celeriac.contrib.testing", "celeriac.engines.redis")
    assert [name for name in heavy if name in sys.modules] == []
"""
    assert "1 passed" in run(tmp_path, test, "", "-p", "celeriac.contrib.pytest_celeriac")


@pytest.mark.parametrize(
    "order", [("celery.contrib.pytest", CELERY[1]), (CELERY[1], "celery.contrib.pytest")]
)
def test_beside_celerys_own_plugin_the_last_one_named_wins(tmp_path: Path, order: tuple[str, str]) -> None:
    """Celery's plugin, as far as pytest can see it: a module with fixtures of the same names."""
    fake = tmp_path / "celery" / "contrib"
    fake.mkdir(parents=True)
    for package in (fake, fake.parent):
        (package / "__init__.py").write_text("")
    (fake / "pytest.py").write_text(
        "import pytest\n@pytest.fixture\ndef celery_app():\n    return 'theirs'\n"
    )
    ours = order[1] == CELERY[1]
    test = f"def test_it(celery_app, celeriac_app): assert (celery_app != 'theirs') is {ours}\n"
    assert "1 passed" in run(tmp_path, test, "", "-p", order[0], "-p", order[1])
