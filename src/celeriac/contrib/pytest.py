"""The pytest plugin with Celery's names: ``celery_app``, ``celery_worker``, ``@pytest.mark.celery(...)``.

Enable it by ``-p celeriac.contrib.pytest``, or in the top ``conftest.py`` by
``pytest_plugins = ("celeriac.contrib.pytest",)``. It has the same fixtures under the names ``celeriac_*``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from celeriac.contrib.fixtures import add_marker, fixtures

if TYPE_CHECKING:
    from celeriac.app.base import Celeriac

globals().update(fixtures("celery"))
globals().update(fixtures("celeriac"))


def pytest_configure(config: pytest.Config) -> None:
    """Make the markers known."""
    add_marker(config, "celery")
    add_marker(config, "celeriac")


@pytest.fixture
def depends_on_current_app(celery_app: Celeriac) -> None:
    """Make the test's application the current one."""
    celery_app.set_current()
