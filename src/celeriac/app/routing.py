"""The queues and the router of an application, as its settings are now."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from celeriac.routing import Queues, Router
from celeriac.routing.queues import SETTINGS as QUEUE_SETTINGS

if TYPE_CHECKING:
    from celeriac.app.base import Celeriac

SETTINGS = (*QUEUE_SETTINGS, "task_routes")
"""The settings on which queues and routes depend."""


class Routes(NamedTuple):
    """What was made of which settings."""

    settings: Mapping[str, Any]
    queues: Queues
    router: Router


class Routing:
    """Makes queues and router when they are first asked for, and anew when their settings have changed."""

    def __init__(self, app: Celeriac) -> None:
        self._app = app
        self._made: Routes | None = None

    def current(self) -> Routes:
        """The queues and the router of the settings as they are now."""
        values = self._app.conf.resolved
        made = self._made
        if made is not None and made.settings is values:
            return made
        if made is not None and all(values[name] is made.settings[name] for name in SETTINGS):
            # What was selected, and the queues found on the way, outlive a change that is not theirs.
            self._made = made = made._replace(settings=values)
            return made
        queues = Queues.of_settings(values)
        router = Router(
            values["task_routes"], queues, lambda exchange: self._app.write_broker.bindings(exchange)
        )
        self._made = made = Routes(values, queues, router)
        return made
