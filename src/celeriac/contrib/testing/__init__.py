"""Tools for tests: a worker inside the test's process, draining queues, a clock to be driven, applications.

``docs/testing.md`` shows how they are used.
"""

from __future__ import annotations

from celeriac.contrib.testing.clock import Clock, frozen
from celeriac.contrib.testing.draining import Drained, drain

__all__ = ["Clock", "Drained", "drain", "frozen"]
