"""Fleets of Celery 5.4 to 5.7 and ours on Redis."""

from __future__ import annotations

import pytest

from tests.fleet.scenarios import *  # noqa: F403

BROKER = "redis"

pytestmark = pytest.mark.timeout(120)
