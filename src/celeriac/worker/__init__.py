"""The worker: a node of supervisor, agent and children (docs/design/architecture.md)."""

from celeriac.worker.worker import Worker

WorkController = Worker

__all__ = ["WorkController", "Worker"]
