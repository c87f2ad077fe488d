"""Stand-ins for the current application and the running task."""

from __future__ import annotations

from typing import Any

from celeriac.app import state
from celeriac.local import Proxy

current_app: Any = Proxy(state.get_current_app)
"""The current application."""

current_task: Any = Proxy(state.get_current_task)
"""The task that is running here; false if there is none."""
