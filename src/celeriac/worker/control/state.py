"""The state: the worker as its commands see it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from celeriac.exceptions import ImproperlyConfigured

if TYPE_CHECKING:
    from celeriac.engines.coordinator import Coordinator
    from celeriac.worker.agent import Agent


class State:
    """What a command is given first."""

    def __init__(self, agent: Agent) -> None:
        self.agent = agent
        """The node's voice, for commands that are part of Celeriac."""
        self.app = agent.app
        self.hostname: str = agent.options.name
        """The node's name."""
        self.pool: str = agent.options.pool
        """The pool's name."""
        self.pid: int = agent.node.pid
        """The process id of the worker's main process."""

    @property
    def queues(self) -> list[str]:
        """The queues that messages are taken from."""
        return self.agent.consumed

    def coordinator(self, order: str) -> Coordinator:
        """The store that keeps orders. Raises ``ImproperlyConfigured`` if there is none."""
        found = self.app.coordinator
        if found is None:
            raise ImproperlyConfigured(
                f"{order} needs a store that keeps orders, which {self.app.broker_shown} is not: "
                "set result_backend to SQLite, PostgreSQL or Redis"
            )
        return found

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(
            f"the worker that Celeriac gives to commands has no {name!r}: "
            "it has app, hostname, pool, pid and queues"
        )
