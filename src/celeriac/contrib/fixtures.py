"""Making the pytest fixtures, once for the names ``celery_*`` and once for ``celeriac_*``.

A project redefines, in its ``conftest.py``, those that only say what the others are to be made of
(:func:`choices`). Nothing heavy is imported before a fixture is used.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import import_module
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from celeriac.app.base import Celeriac
    from celeriac.contrib.testing.worker import TestWorker

Fixtures = dict[str, Callable[..., Any]]


def add_marker(config: pytest.Config, name: str) -> None:
    """Make the marker ``name`` known."""
    config.addinivalue_line(
        "markers", f"{name}(**settings): settings for the application that {name}_app makes for this test"
    )


def fixtures(prefix: str) -> Fixtures:
    """All fixtures, by name, for names that begin with ``prefix``."""
    return {**choices(prefix), **applications(prefix), **workers(prefix)}


def choices(prefix: str) -> Fixtures:
    """The fixtures that a project redefines."""
    session = pytest.fixture(scope="session")

    @session
    def config() -> Mapping[str, Any]:
        """Settings of the test application. Redefine it."""
        return {}

    @session
    def parameters() -> Mapping[str, Any]:
        """Keyword arguments of the test application's class. Redefine it."""
        return {}

    @session
    def enable_logging() -> bool:
        """Whether workers of the test application may set logging up. Redefine it."""
        return False

    @session
    def includes() -> Sequence[str]:
        """Modules to be imported before a worker starts. Redefine it."""
        return ()

    @session
    def class_tasks() -> Sequence[Any]:
        """Class-based tasks to be registered before a worker starts. Redefine it."""
        return ()

    @session
    def worker_pool() -> str:
        """The pool of the workers. Redefine it."""
        return "solo"

    @session
    def worker_parameters() -> Mapping[str, Any]:
        """Keyword arguments of ``start_worker``. Redefine it."""
        return {}

    @session
    def app_trap() -> bool:
        """Whether the use of the current application is an error while a test application lives."""
        return False

    return {
        f"{prefix}_config": config,
        f"{prefix}_parameters": parameters,
        f"{prefix}_enable_logging": enable_logging,
        f"{prefix}_includes": includes,
        f"{prefix}_class_tasks": class_tasks,
        f"{prefix}_worker_pool": worker_pool,
        f"{prefix}_worker_parameters": worker_parameters,
        f"use_{prefix}_app_trap": app_trap,
    }


def applications(prefix: str) -> Fixtures:
    """The fixtures that make applications."""

    @pytest.fixture
    def app(request: pytest.FixtureRequest) -> Iterator[Celeriac]:
        """An application of this test's own, with a memory store of its own."""
        with _application(request, prefix) as made:
            yield made

    @pytest.fixture(scope="session")
    def session_app(request: pytest.FixtureRequest) -> Iterator[Celeriac]:
        """An application for the whole session. It is the current one."""
        with _application(request, prefix) as made:
            if not request.getfixturevalue(f"use_{prefix}_app_trap"):
                made.set_default()
                made.set_current()
            yield made

    return {f"{prefix}_app": app, f"{prefix}_session_app": session_app}


def workers(prefix: str) -> Fixtures:
    """The fixtures that run workers, in a thread of this process. ``NO_WORKER=1`` runs none."""

    @pytest.fixture
    def worker(request: pytest.FixtureRequest) -> Iterator[TestWorker | None]:
        """A worker for the length of the test."""
        with _worker(request, prefix, request.getfixturevalue(f"{prefix}_app")) as started:
            yield started

    @pytest.fixture(scope="session")
    def session_worker(request: pytest.FixtureRequest) -> Iterator[TestWorker | None]:
        """A worker for the whole session."""
        with _worker(request, prefix, request.getfixturevalue(f"{prefix}_session_app")) as started:
            yield started

    return {f"{prefix}_worker": worker, f"{prefix}_session_worker": session_worker}


@contextmanager
def _application(request: pytest.FixtureRequest, prefix: str) -> Iterator[Celeriac]:
    from celeriac.contrib.testing.app import TestApp, setup_default_app
    from celeriac.engines import memory

    marker = request.node.get_closest_marker(prefix)
    config = {**request.getfixturevalue(f"{prefix}_config"), **(marker.kwargs if marker else {})}
    app = TestApp(
        config=config,
        enable_logging=request.getfixturevalue(f"{prefix}_enable_logging"),
        **request.getfixturevalue(f"{prefix}_parameters"),
    )
    with setup_default_app(app, use_trap=request.getfixturevalue(f"use_{prefix}_app_trap")):
        yield app
    url = app.broker_url
    app.close()
    if url.startswith("memory://test-"):
        memory.forget(url)


@contextmanager
def _worker(request: pytest.FixtureRequest, prefix: str, app: Celeriac) -> Iterator[TestWorker | None]:
    if os.environ.get("NO_WORKER"):
        yield None
        return
    from celeriac.contrib.testing.worker import start_worker

    for module in request.getfixturevalue(f"{prefix}_includes"):
        import_module(module)
    for task in request.getfixturevalue(f"{prefix}_class_tasks"):
        app.register_task(task)
    options = {
        "pool": request.getfixturevalue(f"{prefix}_worker_pool"),
        **request.getfixturevalue(f"{prefix}_worker_parameters"),
    }
    with start_worker(app, **options) as worker:
        yield worker
