"""The fixtures ``celeriac_*`` alone: what pytest loads by itself where Celeriac is installed.

It defines fixtures and a marker and does nothing else, and its names are nobody else's.
:mod:`celeriac.contrib.pytest` adds Celery's names.
"""

from __future__ import annotations

import pytest

from celeriac.contrib.fixtures import add_marker, fixtures

globals().update(fixtures("celeriac"))


def pytest_configure(config: pytest.Config) -> None:
    """Make the marker known."""
    add_marker(config, "celeriac")
